"""What a run says of a claim: the effect with its interval and verdict, or what is missing.

A difference is the run's own paired one wherever it stores it. Two rows it does not pair are
compared by the outer ends of their intervals, [a.low - b.high, a.high - b.low]: at least as wide
as any interval of the difference would be, whatever the correlation, and marked as not paired.

Where a run holds several trainings of its models, rows are compared within each of them, and the
effect is that over trainings.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from operator import sub, truediv
from statistics import fmean

from calm_bench.core.inference import Effect, over_trainings
from calm_bench.errors import InputError
from calm_bench.numbers.parameters import parameters
from calm_bench.numbers.trainings import effect_of
from calm_bench.report.paper.claims import COUNTED, Claim, Selector
from calm_bench.report.paper.runs import (
    OF_THE_MODEL,
    SPEED_METRICS,
    ModelName,
    Scale,
    StoredRun,
    rows_for,
    scale_of,
)
from calm_bench.report.paper.verdicts import Verdict, capped, judge
from calm_bench.store.records import Row
from calm_bench.store.results import UNFIT, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A claim's effect in one run, by one recipe.

    Attributes:
        effect: On the scale that is judged: logarithms, of factors. An order's is its weakest link.
        link: Which link of an order that is, from 0.
        p: Of the verdict, two-sided.
        values: The numbers that were compared; of several trainings their means.
        trainings: How many of the model that has the fewest.
        alike: Whether scale and device are those of the published number.
        without: By training and instrument that the run holds and that have no part in it, why.
    """

    effect: Effect
    link: int
    verdict: Verdict
    p: float
    values: tuple[Value, ...]
    trainings: int
    alike: bool
    without: Mapping[str, str] = field(default_factory=dict)


class Missing(Exception):
    """Why a run does not measure a claim, and how many of the claim's rows it lacks.

    It is -1 of a run that would measure it at a scale that the claim is not about.
    """

    def __init__(self, reason: str, lacks: int = 0) -> None:
        """Say why."""
        super().__init__(reason)
        self.lacks = lacks


def measure(claim: Claim, run: StoredRun, scale: Scale) -> list[Measured]:
    """What a run's rows of one scale say of a claim, for each recipe they were made by.

    Raises:
        Missing: If they say nothing of it.
        InputError: If a selector of the claim fits several rows of the run.
    """
    # A time is of no training: all rows of a model share it.
    parts = {"": run} if claim.family == "times" else run.by_training()
    found: dict[str | None, dict[tuple[str, ...], _Compared]] = {}
    problems: dict[str, Missing] = {}
    unheard: dict[str | None, dict[str, Missing]] = {}
    for name, part in parts.items():
        try:
            compared = _compared(claim, part, scale)
        except Missing as missing:
            problems[name] = missing
            continue
        for recipe_id, one in compared.items():
            if isinstance(one, Missing):
                unheard.setdefault(recipe_id, {})[name] = one
            else:
                # What has no training, such as a codec, is the same in all of them.
                names = tuple(value.cell_id for value in one.values)
                found.setdefault(recipe_id, {})[names] = one
    if not found:
        reasons = [*problems.values(), *(r for by in unheard.values() for r in by.values())]
        raise min(reasons, key=lambda missing: missing.lacks)
    if scale not in claim.scales:
        about = f"the claim is about scale {' or '.join(claim.scales)}"
        raise Missing(f"{run.name} is of scale {scale}; {about}", lacks=-1)
    by_none = {
        run.instrument(recipe_id) or f"recipe {str(recipe_id)[:8]}": next(iter(reasons.values()))
        for recipe_id, reasons in unheard.items()
        if recipe_id not in found
    }
    measured = []
    for recipe_id, seen in found.items():
        without = problems | unheard.get(recipe_id, {}) | by_none
        whole = _measured(claim, run, scale, list(seen.values()))
        measured.append(replace(whole, without={name: str(m) for name, m in without.items()}))
    return measured


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """The rows of one training: their values, and the effects that the claim is about."""

    values: tuple[Value, ...]
    links: tuple[Effect, ...]


def _compared(
    claim: Claim, run: StoredRun, scale: Scale
) -> dict[str | None, "_Compared | Missing"]:
    """By each recipe of any of the rows, what they say or why nothing."""
    if absent := [row for row in claim.rows if not _rows(row, run, scale)]:
        raise Missing(f"{run.name} has no row {absent[0]}", len(absent))
    found = [find_rows(selector, run, scale) for selector in claim.rows]
    results: dict[str | None, _Compared | Missing] = {}
    for key in dict.fromkeys(chain.from_iterable(found)):
        try:
            values = tuple(_known(of_row.get(key)) for of_row in found)
            results[key] = _Compared(values=values, links=tuple(_links(claim, run, values)))
        except Missing as missing:
            results[key] = missing
    return results


def _known(value: Value | None) -> Value:
    if value is None:
        raise Missing("its rows were made by different recipes")
    number_of(value)
    return value


def number_of(value: Value) -> float:
    """A value's number.

    Raises:
        Missing: If it has none.
    """
    if value.value is None:
        raise Missing(f"{value.metric} of {value.cell_id}: {value.reason}")
    return value.value


def find_rows(selector: Selector, run: StoredRun, scale: Scale | None) -> dict[str | None, Value]:
    """A selector's number under each recipe, at least one of which gave it one.

    Raises:
        Missing: If there is none.
        InputError: If several rows fit that were not timed together.
    """
    rows, metric = _rows(selector, run, scale), selector.metric
    if not rows:
        raise Missing(f"{run.name} has no row {selector}")
    if metric in SPEED_METRICS and run.results.is_unfit:
        raise Missing(f"{run.name} was timed on a machine unfit for it: {UNFIT}")
    for row in rows if metric not in SPEED_METRICS else ():
        if row.model is not None and run.weights.get(row.model, "") is None:
            raise Missing(f"the weights of {row.model} are random: only its speed means something")
    values = [value for row in rows for value in run.values(metric, row)]
    found: dict[str | None, Value] = {}
    steps = {row.cell_id: row.head_steps for row in rows}
    for value in sorted(values, key=lambda value: value.value is None):
        known = found.setdefault(value.recipe_id, value)
        several = known.cell_id != value.cell_id and value.value is not None
        # A temperature changes no time, but head steps do; of text, neither changes the loss.
        timed_apart = metric in SPEED_METRICS and steps[known.cell_id] != steps[value.cell_id]
        if several and (timed_apart or metric not in OF_THE_MODEL):
            raise InputError(
                f"{metric} of {selector} fits several rows of {run.name} "
                f"({known.cell_id}, {value.cell_id}): the claim must say temp or steps"
            )
    if any(value.value is not None for value in found.values()):
        return found
    if values:
        raise Missing(values[0].reason or "no reason was recorded")
    raise Missing(f"{run.name} stores no {metric} of {selector}")


def _rows(selector: Selector, run: StoredRun, scale: Scale | None) -> list[Row]:
    found = [row for row in run.results.cells if _matches(selector, row, scale)]
    return rows_for(selector.metric, found)


def _matches(selector: Selector, row: Row, scale: Scale | None) -> bool:
    if row.model is None:
        return selector.model == row.kind
    return (
        ModelName.of(row.model).base == selector.model
        and (scale is None or scale_of(row) == scale)
        and selector.temp in (None, row.temperature)
        and selector.steps in (None, row.head_steps)
    )


def _measured(claim: Claim, run: StoredRun, scale: Scale, seen: Sequence[_Compared]) -> Measured:
    assert claim.side is not None
    links = [
        over_trainings([one.links[i] for one in seen], _prompt_error(claim, run, seen, i))
        for i in range(len(seen[0].links))
    ]
    values = tuple(
        of_row[0].model_copy(update={"value": fmean(map(number_of, of_row))})
        for of_row in zip(*(one.values for one in seen), strict=True)
    )
    null = math.log(claim.null) if claim.is_factor else claim.null
    verdict, p = judge(links, claim.side, null, _margin(claim, run, scale, values))
    published = claim.scales[0] if len(claim.scales) == 1 else "paper"
    here = claim.family == "quality" or _device(run).startswith(claim.device)
    alike = here and scale == published
    sign = 1 if claim.side == "above" else -1
    strength = [(-one.p_not(above=sign > 0, null=null), sign * (one.value - null)) for one in links]
    trainings = _trainings(run, seen)
    return Measured(
        effect=links[strength.index(min(strength))],
        link=strength.index(min(strength)),
        verdict=capped(
            verdict,
            elsewhere=claim.family == "times" and not alike,
            one_training=claim.family == "quality" and trainings == 1,
        ),
        p=p,
        values=values,
        trainings=trainings,
        alike=alike,
    )


def _trainings(run: StoredRun, seen: Sequence[_Compared]) -> int:
    """Of how many trainings each model is, at least; recordings have none."""
    recorded = {row.cell_id for row in run.results.cells if row.model is None}
    names = [
        {value.cell_id for value in row} for row in zip(*(one.values for one in seen), strict=True)
    ]
    return min((len(of_row) for of_row in names if not of_row & recorded), default=len(seen))


def _prompt_error(
    claim: Claim, run: StoredRun, seen: Sequence[_Compared], link: int
) -> float | None:
    """What the run says of how far prompts move the mean of a difference over trainings."""
    if len(seen) < 2 or claim.measure not in ("difference", "order"):
        return None
    a, b = (link + 1, link) if claim.measure == "order" else (0, 1)
    first = seen[0].values[a]
    if first.metric != seen[0].values[b].metric:
        return None
    pairs = {frozenset((one.values[a].cell_id, one.values[b].cell_id)) for one in seen}
    for found in run.results.pooled_differences:
        rows = zip(found.cell_ids, found.baseline_cell_ids, strict=True)
        about = found.metric, found.recipe_id, set(map(frozenset, rows))
        if about == (first.metric, first.recipe_id, pairs):
            return found.prompt_error
    return None


def _device(run: StoredRun) -> str:
    return str(run.manifest.environment.get("device", "")) if run.manifest else ""


def _margin(
    claim: Claim, run: StoredRun, scale: Scale, values: Sequence[Value]
) -> tuple[float, float] | None:
    """What counts as the published number here, or as level with the second row."""
    if claim.delta is not None:
        reach = level_reach(claim, values)
        return claim.null - reach, claim.null + reach
    margin, by = claim.margin, claim.published.by if claim.published else None
    instrument = run.instrument(values[0].recipe_id) or ""
    if margin is None or (by and (scale != "paper" or by not in instrument)):
        return None
    return (math.log(margin[0]), math.log(margin[1])) if claim.is_factor else margin


def level_reach(claim: Claim, values: Sequence[Value]) -> float:
    """How far from nil an effect may lie that is level with the second row."""
    return (claim.delta or 0.0) * abs(number_of(values[1]))


def counted(claim: Claim) -> Measured:
    """The parameters of a part of a model, of the shapes that the paper's were made of.

    Raises:
        Missing: If there is no such model, or it has no such part.
    """
    (row,) = claim.rows
    assert claim.side is not None
    found = parameters(f"{row.model}-paper", COUNTED[row.metric])
    if found is None:
        raise Missing(f"{row.model}-paper has no {COUNTED[row.metric]}")
    effect = Effect(value=found, low=found, high=found, n=1, df=math.inf)
    verdict, p = judge([effect], claim.side, claim.null, claim.margin)
    value = Value(cell_id=row.model, system=row.model, metric=row.metric, value=found)
    return Measured(
        effect=effect, link=0, verdict=verdict, p=p, values=(value,), trainings=1, alike=True
    )


def _links(claim: Claim, run: StoredRun, values: Sequence[Value]) -> list[Effect]:
    """The effects that the claim is about, on the scale on which they are judged."""
    if claim.measure == "value":
        if values[0].metric == "rtf" and not _device(run).startswith(claim.device):
            raise Missing(
                f"{run.name} was timed on {_device(run) or 'an unknown device'}, and real time "
                f"was claimed of {claim.device}"
            )
        found = [_of_one(values[0])]
    elif claim.measure == "ratio":
        if min(_of_one(value).low for value in values) <= 0:
            raise Missing(f"{values[0].metric} reaches 0: no ratio can be taken")
        found = [_unpaired(truediv, values[0], values[1])]
    elif claim.measure == "difference":
        found = [_difference(run, values[0], values[1])]
    else:  # an order
        found = [_difference(run, after, before) for before, after in pairwise(values)]
    if claim.family == "quality":
        # What has an interval is of two prompts or more, however many of their clips failed.
        prompts = (max(2, run.prompts_behind(effect.n)) for effect in found)
        found = [replace(e, n=n, df=n - 1) for e, n in zip(found, prompts, strict=True)]
    if not claim.is_factor:
        return found
    if min(effect.low for effect in found) <= 0:
        raise Missing("a ratio's interval reaches 0")
    return [
        replace(e, value=math.log(e.value), low=math.log(e.low), high=math.log(e.high))
        for e in found
    ]


def _of_one(value: Value) -> Effect:
    effect = effect_of(value)
    if effect is None:
        why = f": {value.reason}" if value.reason else ""
        raise Missing(f"{value.metric} of {value.cell_id} has no interval{why}")
    return effect


def _difference(run: StoredRun, a: Value, b: Value) -> Effect:
    """A - b, as the run pairs them, else by the outer ends of both intervals."""
    if a.unit != b.unit:
        raise Missing(f"{a.metric} and {b.metric} have different units")
    for found in run.results.differences if a.metric == b.metric else ():
        same = (found.metric, found.recipe_id) == (a.metric, a.recipe_id)
        if not same or {found.cell_id, found.baseline_cell_id} != {a.cell_id, b.cell_id}:
            continue
        if (effect := effect_of(found)) is None:
            reason = found.reason or "no reason given"
            raise Missing(f"{found.metric}: no interval of the difference: {reason}")
        value, low, high = effect.value, effect.low, effect.high
        if found.cell_id != a.cell_id:
            value, low, high = -value, -high, -low
        return replace(effect, value=value, low=low, high=high, paired=True)
    return _unpaired(sub, a, b)


def _unpaired(of: Callable[[float, float], float], a: Value, b: Value) -> Effect:
    """A difference or ratio by the outer ends of both intervals."""
    x, y = _of_one(a), _of_one(b)
    low, high = of(x.low, y.high), of(x.high, y.low)
    fewer = min(x, y, key=lambda effect: effect.n)
    marked, value = x.marked or y.marked, of(x.value, y.value)
    return replace(fewer, value=value, low=low, high=high, marked=marked, paired=False)
