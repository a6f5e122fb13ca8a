"""What a run says of a claim: the effect with its interval, or what is missing.

A difference is the run's own paired one wherever it stores it. Two rows it does not pair are
compared by the outer ends of their intervals, [a.low - b.high, a.high - b.low]: at least as wide
as any interval of the difference would be, whatever the correlation, and marked as not paired.

An order is as strong as its weakest link: the link whose lower end (seen from the claimed side) is
lowest bounds the effect from below, the one whose upper end is lowest from above.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from calm_bench.errors import InputError
from calm_bench.report.paper.claims import Claim
from calm_bench.report.paper.expressions import Selector
from calm_bench.report.paper.names import (
    OF_THE_MODEL,
    SPEED_METRICS,
    UNFIT,
    ModelName,
    rows_for,
    values_for,
)
from calm_bench.report.paper.runs import Scale, StoredRun, scale_of
from calm_bench.report.paper.verdicts import Verdict, clips_needed, judge
from calm_bench.store.records import Row
from calm_bench.store.results import Difference, Value


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
        rows: The rows that were compared.
        needed: At which n an inconclusive interval would leave the null; None where none would.
    """

    effect: Effect
    verdict: Verdict
    needed: int | None
    values: tuple[Value, ...]
    recipe: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Why a run does not measure a claim, and how many of the claim's rows it has."""

    reason: str
    n_found: int = 0


Found = Mapping[str | None, tuple[Row, Value]]
"""By recipe, a row and its row."""


def measure(claim: Claim, run: StoredRun, scale: Scale) -> list[Measured] | Missing:
    """What a run's rows of one scale say of a claim, for each recipe they were made by.

    Raises:
        InputError: If a selector of the claim fits several rows of the run.
    """
    rows = claim.expression.rows
    absent = [row for row in rows if not _rows(row, run, scale)]
    if absent:
        reason = f"{run.name} has no row {absent[0]}"
        return Missing(reason=reason, n_found=len(rows) - len(absent))
    looked = [find_rows(selector, run, scale) for selector in rows]
    problems = [result for result in looked if isinstance(result, str)]
    if problems:
        return Missing(reason=problems[0], n_found=len(rows))
    found = [result for result in looked if not isinstance(result, str)]
    shared = [key for key in found[0] if all(key in rows for rows in found)]
    if not shared:
        return Missing(reason="its rows were made by different recipes", n_found=len(found))
    fit = [key for key in shared if _fits(claim, run.results.recipes.get(key or "", {}))]
    if not fit:
        wanted = ", ".join(f"{key} {value}" for key, value in claim.needs.items())
        given = "; ".join(_described(claim, run, key) for key in shared)
        return Missing(reason=f"needs {wanted}; {run.name} has {given}", n_found=len(found))
    results = [_measured(claim, run, [rows[key] for rows in found], key) for key in fit]
    good = [result for result in results if isinstance(result, Measured)]
    return good or next(result for result in results if isinstance(result, Missing))


def find_rows(selector: Selector, run: StoredRun, scale: Scale | None) -> Found | str:
    """A selector's row under each recipe that gave it a value, or what is missing.

    Raises:
        InputError: If several rows fit that were not timed together.
    """
    rows = _rows(selector, run, scale)
    if not rows:
        return f"{run.name} has no row {selector}"
    if selector.metric in SPEED_METRICS and any(n.startswith(UNFIT) for n in run.results.notes):
        return f"{run.name} was timed on a machine unfit for it: {UNFIT}"
    for row in rows if selector.metric not in SPEED_METRICS else ():
        if row.model is not None and run.has_random_weights(row.model):
            return f"the weights of {row.model} are random: only its speed means something"
    metric, results = selector.metric, run.results
    numbers = [(row, value) for row in rows for value in values_for(metric, results, row)]
    found: dict[str | None, tuple[Row, Value]] = {}
    for row, value in numbers:
        known = found.setdefault(value.recipe_id, (row, value)) if value.value is not None else None
        if known is not None and known[0] != row and selector.metric not in OF_THE_MODEL:
            raise InputError(
                f"{selector.metric}[{selector}] fits several rows of {run.name} "
                f"({known[0].cell_id}, {row.cell_id}): the claim must say temp= or steps="
            )
    if found:
        return found
    reasons = [value.reason or "no reason was recorded" for _, value in numbers]
    return reasons[0] if reasons else f"{run.name} stores no {selector.metric} of {selector}"


def _rows(selector: Selector, run: StoredRun, scale: Scale | None) -> list[Row]:
    """The rows that fit a selector, of which its metric may pick."""
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


def _described(claim: Claim, run: StoredRun, recipe_id: str | None) -> str:
    recipe = run.results.recipes.get(recipe_id or "", {})
    return ", ".join(f"{key} {recipe.get(key, 'not recorded')}" for key in claim.needs)


def _measured(
    claim: Claim, run: StoredRun, found: Sequence[tuple[Row, Value]], recipe_id: str | None
) -> Measured | Missing:
    """The verdict on a claim from rows of one recipe."""
    function, log = claim.expression.function, claim.is_factor
    if function == "value":
        links = [_of_one(found[0][1])]
    elif function == "ratio":
        links = [_ratio(found[0][1], found[1][1])]
    elif function == "difference":
        links = [_difference(run, found[0], found[1])]
    else:
        links = [_difference(run, after, before) for before, after in pairwise(found)]
    for link in links:
        if isinstance(link, str):
            return Missing(reason=link, n_found=len(found))
    effects = [link for link in links if isinstance(link, Effect)]
    if log and min(effect.low for effect in effects) <= 0:
        return Missing(reason="a ratio's interval reaches 0", n_found=len(found))
    assert claim.side is not None
    effect = _weakest(effects, claim.side == "above")
    verdict = judge(effect.low, effect.high, side=claim.side, null=claim.null, number=claim.number)
    counts = [
        clips_needed(e.value, e.low, e.high, e.n, null=claim.null, log=log)
        for e in effects
        if e.low <= claim.null <= e.high
    ]
    needed = None if None in counts else max((c for c in counts if c is not None), default=None)
    values = tuple(value for _, value in found)
    recipe = run.results.recipes.get(recipe_id or "", {})
    return Measured(effect=effect, verdict=verdict, needed=needed, values=values, recipe=recipe)


def _of_one(value: Value) -> Effect | str:
    if value.value is None or value.low is None or value.high is None:
        return _no_interval(value)
    return Effect(value=value.value, low=value.low, high=value.high, n=value.n)


def _no_interval(value: Value) -> str:
    why = f": {value.reason}" if value.reason else ""
    return f"{value.metric} of {value.cell_id} has no interval{why}"


def _difference(run: StoredRun, a: tuple[Row, Value], b: tuple[Row, Value]) -> Effect | str:
    """A - b, as the run pairs them, else by the outer ends of both intervals."""
    (cell_a, row_a), (cell_b, row_b) = a, b
    if row_a.unit != row_b.unit:
        return f"{row_a.metric} and {row_b.metric} have different units"
    if row_a.metric == row_b.metric:
        stored = _stored(run.results.differences, row_a, cell_a, cell_b)
        if stored is not None:
            return _of_stored(stored, reverse=stored.cell_id != cell_a.cell_id)
    x, y = _of_one(row_a), _of_one(row_b)
    if isinstance(x, str) or isinstance(y, str):
        return x if isinstance(x, str) else str(y)
    return Effect(
        value=x.value - y.value,
        low=x.low - y.high,
        high=x.high - y.low,
        n=min(x.n, y.n),
        paired=False,
    )


def _stored(differences: Sequence[Difference], value: Value, a: Row, b: Row) -> Difference | None:
    for found in differences:
        rows = {found.cell_id, found.baseline_cell_id}
        of_metric = (found.metric, found.recipe_id) == (value.metric, value.recipe_id)
        if of_metric and rows == {a.cell_id, b.cell_id}:
            return found
    return None


def _of_stored(found: Difference, *, reverse: bool) -> Effect | str:
    if found.value is None or found.low is None or found.high is None:
        return f"{found.metric}: no interval of the difference: {found.reason or 'no reason given'}"
    value, low, high = found.value, found.low, found.high
    if reverse:
        value, low, high = -value, -high, -low
    return Effect(value=value, low=low, high=high, n=found.n, paired=True)


def _ratio(a: Value, b: Value) -> Effect | str:
    """A / b by the outer ends of both intervals, on the log scale."""
    x, y = _of_one(a), _of_one(b)
    if isinstance(x, str) or isinstance(y, str):
        return x if isinstance(x, str) else str(y)
    if min(x.low, y.low) <= 0:
        return f"{a.metric} reaches 0: no ratio can be taken"
    return Effect(
        value=x.value / y.value,
        low=x.low / y.high,
        high=x.high / y.low,
        n=min(x.n, y.n),
        paired=False,
    )


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
