"""Tables of paired differences: what temperature, head steps, precision and a system change.

Held-out text loss, on which temperature has no bearing, has a table of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from calm_bench.report.columns import Shown, shown_columns
from calm_bench.report.numbers import interval_text, signed, value_text
from calm_bench.report.tables import INTERVALS, NO_REASON, Table, Text
from calm_bench.store.records import Row, steps_text, swept, temperature_text
from calm_bench.store.results import Difference, Results, Value

PAIRED = (
    "paired over shared prompts and seeds; n needed: clips at which the interval would just leave "
    "zero if the observed difference were the true one, — where it has left zero or there is none"
)

HELD_OUT = (
    "what each text stream expects of the words that the recordings really say after the prompt; "
    "nothing is sampled, so a system's number holds at all its temperatures"
)

Naming = Callable[[Row, Row], tuple[str, ...]]


def difference_tables(results: Results) -> list[Table]:
    """What its settings change within a system, and systems against the baseline and each other."""
    several = swept(results.cells)

    def system(row: Row) -> str:
        steps = f", {steps_text(row)}" if row.label in several else ""
        return row.label + steps + _trained(row)

    def sweep(a: Row, b: Row) -> tuple[str, ...]:
        return system(a), f"{_temperatures(b)} → {_temperatures(a)}"

    def steps(a: Row, b: Row) -> tuple[str, ...]:
        return a.label + _trained(a), f"{b.head_steps} → {a.head_steps}", _between(a, b)

    def systems(a: Row, b: Row) -> tuple[str, ...]:
        return system(a), system(b), _between(a, b)

    pair = ("System", "minus", "temp")
    tables = [
        _table(results, "What temperature changes", ("System", "temp"), sweep, "temperature"),
        _table(results, "What head steps change", ("System", "steps", "temp"), steps, "steps"),
        _table(results, "What precision changes", pair, systems, "precision"),
        _table(results, "Against the baseline", pair, systems, "baseline"),
        _table(results, "Against another system", pair, systems, "system"),
    ]
    return [table for table in tables if table.rows]


def held_out_table(results: Results) -> Table:
    """Each system's held-out text loss and its paired difference; no rows where none is known."""
    table = Table(title="Held-out text, nats per token", notes=[HELD_OUT, INTERVALS])
    for name in ("System", "loss ↓", "minus", "difference", "n"):
        table.add_column(name, left=name in ("System", "minus"))
    for shown in shown_columns(results, everything=True):
        if shown.column.name == "text_nll":
            _add_losses(table, results, shown)
    return table


def _add_losses(table: Table, results: Results, shown: Shown) -> None:
    """A line for each model under one recipe, which is one tokenizer."""
    rows = {row.cell_id: row for row in results.cells}
    models: set[str | None] = set()
    for row in results.cells:
        value = shown.values.get(row.cell_id)
        if value is None or value.value is None or row.model in models:
            continue
        models.add(row.model)
        line = [Text(text=row.label + _trained(row))]
        line.append(table.text(value_text(value, shown.column, shown.decimals), shown.note))
        gap = _to_another_model(results, rows, value)
        against = rows[gap.baseline_cell_id] if gap else None
        line.append(Text(text=against.label + _trained(against) if against else ""))
        line.append(_gap(table, gap, shown) if gap else Text(text=""))
        table.rows.append([*line, Text(text=str(value.n))])


def _to_another_model(results: Results, rows: Mapping[str, Row], value: Value) -> Difference | None:
    """The difference of a row that is not one between its own temperatures."""
    key, model = (value.metric, value.recipe_id, value.cell_id), rows[value.cell_id].model
    for found in results.differences:
        other = rows[found.baseline_cell_id].model
        if (found.metric, found.recipe_id, found.cell_id) == key and other != model:
            return found
    return None


def _trained(row: Row) -> str:
    """The step of a checkpoint, as it follows a name."""
    return f", training step {row.training_step}" if row.training_step else ""


def _temperatures(row: Row) -> str:
    text = temperature_text(row.temperature) or "–"
    if row.text_temperature in (None, row.temperature):
        return text
    return f"{text} (text {temperature_text(row.text_temperature)})"


def _between(a: Row, b: Row) -> str:
    """The temperature of both rows, or their difference."""
    before, after = _temperatures(b), _temperatures(a)
    return after if after == before else f"{after} − {before}"


def _kind(a: Row, b: Row) -> str:
    """What tells two compared rows apart."""
    if (a.model, a.head_steps) != (b.model, b.head_steps):
        if b.baseline and not a.baseline:
            return "baseline"
        return "steps" if (a.model, a.label) == (b.model, b.label) else "system"
    if a.precision != b.precision:
        return "precision"
    if a.label == b.label:
        return "temperature"
    return "baseline" if b.baseline else "system"


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


def _chosen(results: Results, kind: str) -> Iterator[tuple[Row, Row, Difference, Shown]]:
    """The differences of one kind, of shown columns."""
    rows = {row.cell_id: row for row in results.cells}
    columns = {(shown.column.name, shown.recipe_id): shown for shown in shown_columns(results)}
    by_name = {shown.column.name: shown for shown in columns.values()}
    for difference in results.differences:
        a, b = rows[difference.cell_id], rows[difference.baseline_cell_id]
        shown = columns.get((difference.metric, difference.recipe_id))
        if shown is None and difference.value is None:
            shown = by_name.get(difference.metric)
        if shown is not None and _kind(a, b) == kind:
            yield a, b, difference, shown


def _fields(table: Table, difference: Difference, shown: Shown) -> list[Text]:
    needed = "—" if difference.n_needed is None else str(difference.n_needed)
    counts = [Text(text=str(difference.n)), Text(text=needed)]
    return [_gap(table, difference, shown), *counts]


def _gap(table: Table, difference: Difference, shown: Shown) -> Text:
    """A difference with its interval, or why there is none."""
    if difference.value is None:
        return table.text("—", difference.reason or NO_REASON)
    value = signed(difference.value, shown.decimals)
    return Text(text=value + interval_text(difference, shown.decimals, sign=True))
