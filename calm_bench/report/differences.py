"""Tables of paired differences: what temperature, precision and a system change."""

from collections.abc import Callable, Iterator, Sequence

from calm_bench.report.columns import Shown, shown_columns, swept
from calm_bench.report.numbers import interval_text, signed, steps_text, temperature_text
from calm_bench.report.tables import NO_REASON, Table, Text
from calm_bench.store import Cell, Difference, Results

__all__ = ["difference_tables"]

PAIRED = (
    "paired over shared prompts and seeds; n needed: clips at which the interval would just leave "
    "zero if the observed difference were the true one, — where it has left zero or there is none"
)

Naming = Callable[[Cell, Cell], tuple[str, ...]]


def difference_tables(results: Results) -> list[Table]:
    """What temperature and precision change within a system, and a system against the baseline."""
    several = swept(results.cells)

    def system(cell: Cell) -> str:
        steps = f", {steps_text(cell)}" if cell.label in several else ""
        trained = f", training step {cell.training_step}" if cell.training_step else ""
        return cell.label + steps + trained

    def sweep(a: Cell, b: Cell) -> tuple[str, ...]:
        return system(a), f"{_temperatures(b)} → {_temperatures(a)}"

    def baseline(a: Cell, b: Cell) -> tuple[str, ...]:
        before, after = _temperatures(b), _temperatures(a)
        return system(a), system(b), after if after == before else f"{after} − {before}"

    pair = ("System", "minus", "temp")
    tables = [
        _table(results, "What temperature changes", ("System", "temp"), sweep, "temperature"),
        _table(results, "What precision changes", pair, baseline, "precision"),
        _table(results, "Against the baseline", pair, baseline, "baseline"),
    ]
    return [table for table in tables if table.rows]


def _temperatures(cell: Cell) -> str:
    text = temperature_text(cell.temperature) or "–"
    if cell.text_temperature in (None, cell.temperature):
        return text
    return f"{text} (text {temperature_text(cell.text_temperature)})"


def _kind(a: Cell, b: Cell) -> str:
    """What tells two compared rows apart."""
    if (a.model, a.head_steps) != (b.model, b.head_steps):
        return "baseline"
    if a.precision != b.precision:
        return "precision"
    return "temperature" if a.label == b.label else "baseline"


def _table(results: Results, title: str, keys: Sequence[str], naming: Naming, kind: str) -> Table:
    table = Table(title=title, keys=len(keys) + 1, notes=[PAIRED])
    for name in (*keys, "in"):
        table.add_column(name, left=True)
    for name in ("difference", "n", "n needed"):
        table.add_column(name)
    last: tuple[str, ...] = ()
    for a, b, difference, shown in _chosen(results, kind):
        names = naming(a, b)
        if table.rows and names != last:
            table.groups.append(len(table.rows))
        texts = [Text(text=text) for text in (*names, shown.heading)]
        table.rows.append([*texts, *_fields(table, difference, shown)])
        last = names
    return table


def _chosen(results: Results, kind: str) -> Iterator[tuple[Cell, Cell, Difference, Shown]]:
    """The differences of one kind, of shown columns."""
    cells = {cell.cell_id: cell for cell in results.cells}
    columns = {(shown.column.name, shown.recipe_id): shown for shown in shown_columns(results)}
    by_name = {shown.column.name: shown for shown in columns.values()}
    for difference in results.differences:
        a, b = cells[difference.cell_id], cells[difference.baseline_cell_id]
        shown = columns.get((difference.metric, difference.recipe_id))
        if shown is None and difference.value is None:
            shown = by_name.get(difference.metric)
        if shown is not None and _kind(a, b) == kind:
            yield a, b, difference, shown


def _fields(table: Table, difference: Difference, shown: Shown) -> list[Text]:
    needed = "—" if difference.n_needed is None else str(difference.n_needed)
    counts = [Text(text=str(difference.n)), Text(text=needed)]
    if difference.value is None:
        return [table.text("—", difference.reason or NO_REASON), *counts]
    value = signed(difference.value, shown.decimals)
    value += interval_text(difference, shown.decimals, sign=True)
    return [Text(text=value), *counts]
