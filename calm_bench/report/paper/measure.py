"""What a run says of a claim: the effect with its interval, or what is missing.

A difference is the run's own paired one wherever it stores it. Two rows it does not pair are
compared by the outer ends of their intervals, [a.low - b.high, a.high - b.low]: at least as wide
as any interval of the difference would be, whatever the correlation, and marked as not paired.

An order is as strong as its weakest link: the link whose lower end (seen from the claimed side) is
lowest bounds the effect from below, the one whose upper end is lowest from above.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import sub, truediv
from typing import Any

from calm_bench.errors import InputError
from calm_bench.report.paper.claims import Claim, Selector
from calm_bench.report.paper.runs import (
    OF_THE_MODEL,
    SPEED_METRICS,
    ModelName,
    Scale,
    StoredRun,
    rows_for,
    scale_of,
)
from calm_bench.report.paper.verdicts import Verdict, clips_needed, judge
from calm_bench.store.records import Row
from calm_bench.store.results import UNFIT, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A difference, ratio or value with its 95 % interval; n counts clips, or rounds of timing."""

    value: float
    low: float
    high: float
    n: int
    paired: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A claim's effect in one run, by one recipe.

    Attributes:
        values: The numbers that were compared.
        needed: At which n an inconclusive interval would leave the null; None where none would.
    """

    effect: Effect
    verdict: Verdict
    needed: int | None
    values: tuple[Value, ...]


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
    absent = [row for row in claim.rows if not _rows(row, run, scale)]
    if absent:
        raise Missing(f"{run.name} has no row {absent[0]}", len(absent))
    found = [find_rows(selector, run, scale) for selector in claim.rows]
    shared = [key for key in found[0] if all(key in values for values in found)]
    if not shared:
        raise Missing("its rows were made by different recipes")
    fit = [key for key in shared if _fits(claim, run.recipe(key))]
    if not fit:
        wanted = ", ".join(f"{key} {value}" for key, value in claim.needs.items())
        given = "; ".join(_described(claim, run.recipe(key)) for key in shared)
        raise Missing(f"needs {wanted}; {run.name} has {given}")
    results, problems = [], []
    for key in fit:
        try:
            results.append(_measured(claim, run, tuple(values[key] for values in found)))
        except Missing as missing:
            problems.append(missing)
    if not results:
        raise problems[0]
    if scale not in claim.scales:
        wanted = " or ".join(claim.scales)
        reason = f"{run.name} is of scale {scale}; the claim is about scale {wanted}"
        raise Missing(reason, lacks=-1)
    return results


def find_rows(selector: Selector, run: StoredRun, scale: Scale | None) -> dict[str | None, Value]:
    """A selector's number under each recipe that gave it one.

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
        if row.model is not None and run.has_random_weights(row.model):
            raise Missing(f"the weights of {row.model} are random: only its speed means something")
    values = [value for row in rows for value in run.values(metric, row)]
    found: dict[str | None, Value] = {}
    for value in values:
        known = value if value.value is None else found.setdefault(value.recipe_id, value)
        if known.cell_id != value.cell_id and metric not in OF_THE_MODEL:
            raise InputError(
                f"{metric} of {selector} fits several rows of {run.name} "
                f"({known.cell_id}, {value.cell_id}): the claim must say temp or steps"
            )
    if found:
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


def _fits(claim: Claim, recipe: Mapping[str, Any]) -> bool:
    return all(
        value.lower() in str(recipe.get(key, "")).lower() for key, value in claim.needs.items()
    )


def _described(claim: Claim, recipe: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {recipe.get(key, 'not recorded')}" for key in claim.needs)


def _measured(claim: Claim, run: StoredRun, values: tuple[Value, ...]) -> Measured:
    log, null = claim.is_factor, claim.null
    effects = _effects(claim, run, values)
    if log and min(effect.low for effect in effects) <= 0:
        raise Missing("a ratio's interval reaches 0")
    assert claim.side is not None
    effect = _weakest(effects, claim.side == "above")
    open_ones = [e for e in effects if e.low <= null <= e.high]
    counts = [clips_needed(e.value, e.low, e.high, e.n, null=null, log=log) for e in open_ones]
    needed = [count for count in counts if count is not None]
    return Measured(
        effect=effect,
        verdict=judge(effect.low, effect.high, side=claim.side, null=null, number=claim.number),
        needed=max(needed, default=None) if len(needed) == len(counts) else None,
        values=values,
    )


def _effects(claim: Claim, run: StoredRun, values: Sequence[Value]) -> list[Effect]:
    if claim.measure == "value":
        return [_of_one(values[0])]
    if claim.measure == "ratio":
        return [_ratio(values[0], values[1])]
    if claim.measure == "difference":
        return [_difference(run, values[0], values[1])]
    return [_difference(run, after, before) for before, after in pairwise(values)]


def _of_one(value: Value) -> Effect:
    if value.value is None or value.low is None or value.high is None:
        why = f": {value.reason}" if value.reason else ""
        raise Missing(f"{value.metric} of {value.cell_id} has no interval{why}")
    return Effect(value=value.value, low=value.low, high=value.high, n=value.n)


def _difference(run: StoredRun, a: Value, b: Value) -> Effect:
    """A - b, as the run pairs them, else by the outer ends of both intervals."""
    if a.unit != b.unit:
        raise Missing(f"{a.metric} and {b.metric} have different units")
    if (stored := _stored(run, a, b)) is not None:
        return stored
    return _unpaired(sub, a, b)


def _stored(run: StoredRun, a: Value, b: Value) -> Effect | None:
    """A - b as the run pairs them, in either order; None if it does not."""
    for found in run.results.differences if a.metric == b.metric else ():
        same = (found.metric, found.recipe_id) == (a.metric, a.recipe_id)
        if not same or {found.cell_id, found.baseline_cell_id} != {a.cell_id, b.cell_id}:
            continue
        value, low, high = found.value, found.low, found.high
        if value is None or low is None or high is None:
            reason = found.reason or "no reason given"
            raise Missing(f"{found.metric}: no interval of the difference: {reason}")
        if found.cell_id != a.cell_id:
            value, low, high = -value, -high, -low
        return Effect(value=value, low=low, high=high, n=found.n, paired=True)
    return None


def _ratio(a: Value, b: Value) -> Effect:
    """A / b by the outer ends of both intervals, on the log scale."""
    if min(_of_one(a).low, _of_one(b).low) <= 0:
        raise Missing(f"{a.metric} reaches 0: no ratio can be taken")
    return _unpaired(truediv, a, b)


def _unpaired(of: Callable[[float, float], float], a: Value, b: Value) -> Effect:
    """A difference or ratio by the outer ends of both intervals."""
    x, y = _of_one(a), _of_one(b)
    low, high = of(x.low, y.high), of(x.high, y.low)
    return Effect(value=of(x.value, y.value), low=low, high=high, n=min(x.n, y.n), paired=False)


def _weakest(effects: Sequence[Effect], above: bool) -> Effect:
    """The bounds of the smallest effect, seen from the claimed side; see the module's text."""
    pick = min if above else max
    paired = {effect.paired for effect in effects}
    return Effect(
        value=pick(effect.value for effect in effects),
        low=pick(effect.low for effect in effects),
        high=pick(effect.high for effect in effects),
        n=min(effect.n for effect in effects),
        paired=paired.pop() if len(paired) == 1 else False,
    )
