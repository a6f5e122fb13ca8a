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
    cells_for,
    rows_for,
)
from calm_bench.report.paper.runs import Scale, StoredRun, scale_of
from calm_bench.report.paper.verdicts import Verdict, clips_needed, judge
from calm_bench.store.records import Cell
from calm_bench.store.results import Difference, ResultRow


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
    rows: tuple[ResultRow, ...]
    recipe: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Why a run does not measure a claim, and how many of the claim's rows it has."""

    reason: str
    n_found: int = 0


Found = Mapping[str | None, tuple[Cell, ResultRow]]
"""By recipe, a row and its cell."""


def measure(claim: Claim, run: StoredRun, scale: Scale) -> list[Measured] | Missing:
    """What a run's rows of one scale say of a claim, for each recipe they were made by.

    Raises:
        InputError: If a selector of the claim fits several rows of the run.
    """
    rows = claim.expression.rows
    absent = [row for row in rows if not _cells(row, run, scale)]
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
    cells = _cells(selector, run, scale)
    if not cells:
        return f"{run.name} has no row {selector}"
    if selector.metric in SPEED_METRICS and any(n.startswith(UNFIT) for n in run.results.notes):
        return f"{run.name} was timed on a machine unfit for it: {UNFIT}"
    for cell in cells if selector.metric not in SPEED_METRICS else ():
        if cell.model is not None and run.has_random_weights(cell.model):
            return f"the weights of {cell.model} are random: only its speed means something"
    rows = [(cell, row) for cell in cells for row in rows_for(selector.metric, run.results, cell)]
    found: dict[str | None, tuple[Cell, ResultRow]] = {}
    for cell, row in rows:
        known = found.setdefault(row.recipe_id, (cell, row)) if row.value is not None else None
        if known is not None and known[0] != cell and selector.metric not in OF_THE_MODEL:
            raise InputError(
                f"{selector.metric}[{selector}] fits several rows of {run.name} "
                f"({known[0].cell_id}, {cell.cell_id}): the claim must say temp= or steps="
            )
    if found:
        return found
    reasons = [row.reason or "no reason was recorded" for _, row in rows]
    return reasons[0] if reasons else f"{run.name} stores no {selector.metric} of {selector}"


def _cells(selector: Selector, run: StoredRun, scale: Scale | None) -> list[Cell]:
    """The cells that fit a selector, of which its metric may pick."""
    found = [cell for cell in run.results.cells if _matches(selector, cell, scale)]
    return cells_for(selector.metric, found)


def _matches(selector: Selector, cell: Cell, scale: Scale | None) -> bool:
    if cell.model is None:
        return selector.model == cell.kind
    return (
        ModelName.of(cell.model).base == selector.model
        and (scale is None or scale_of(cell) == scale)
        and selector.temp in (None, cell.temperature)
        and selector.steps in (None, cell.head_steps)
    )


def _fits(claim: Claim, recipe: Mapping[str, Any]) -> bool:
    return all(
        value.lower() in str(recipe.get(key, "")).lower() for key, value in claim.needs.items()
    )


def _described(claim: Claim, run: StoredRun, recipe_id: str | None) -> str:
    recipe = run.results.recipes.get(recipe_id or "", {})
    return ", ".join(f"{key} {recipe.get(key, 'not recorded')}" for key in claim.needs)


def _measured(
    claim: Claim, run: StoredRun, found: Sequence[tuple[Cell, ResultRow]], recipe_id: str | None
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
    rows = tuple(row for _, row in found)
    recipe = run.results.recipes.get(recipe_id or "", {})
    return Measured(effect=effect, verdict=verdict, needed=needed, rows=rows, recipe=recipe)


def _of_one(row: ResultRow) -> Effect | str:
    if row.value is None or row.low is None or row.high is None:
        return _no_interval(row)
    return Effect(value=row.value, low=row.low, high=row.high, n=row.n)


def _no_interval(row: ResultRow) -> str:
    why = f": {row.reason}" if row.reason else ""
    return f"{row.metric} of {row.cell_id} has no interval{why}"


def _difference(
    run: StoredRun, a: tuple[Cell, ResultRow], b: tuple[Cell, ResultRow]
) -> Effect | str:
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


def _stored(
    differences: Sequence[Difference], row: ResultRow, a: Cell, b: Cell
) -> Difference | None:
    for found in differences:
        cells = {found.cell_id, found.baseline_cell_id}
        of_metric = (found.metric, found.recipe_id) == (row.metric, row.recipe_id)
        if of_metric and cells == {a.cell_id, b.cell_id}:
            return found
    return None


def _of_stored(found: Difference, *, reverse: bool) -> Effect | str:
    if found.value is None or found.low is None or found.high is None:
        return f"{found.metric}: no interval of the difference: {found.reason or 'no reason given'}"
    value, low, high = found.value, found.low, found.high
    if reverse:
        value, low, high = -value, -high, -low
    return Effect(value=value, low=low, high=high, n=found.n, paired=True)


def _ratio(a: ResultRow, b: ResultRow) -> Effect | str:
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
