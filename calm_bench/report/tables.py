"""The tables of a report as rows of text, ready for any format; no number is made here.

The benchmark's own, then paired differences: what temperature, head steps, precision and a system
change, and what is known of that over several trainings. Held-out text loss, on which temperature
has no bearing, has a table of its own. A value that does not exist is "—" with a footnote that says
why.
"""

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from calm_bench.core.inference import ALPHA, PLANNED, Effect, range_needed
from calm_bench.numbers.trainings import effect_of, pooled_rows
from calm_bench.report.columns import (
    MARKED,
    TEMPERATURE_KINDS,
    Shown,
    interval_text,
    needed_text,
    plain_number,
    pooled_text,
    shown_columns,
    signed,
    value_text,
)
from calm_bench.store.records import (
    Row,
    row_title,
    swept,
    system_title,
    temperature_text,
    trained,
    weights_text,
)
from calm_bench.store.results import Difference, Pooled, Results, Value

INTERVALS = "± and [low, high] are 95 % intervals; ↑ higher is better, ↓ lower is better"
TRAININGS = (
    "mean of trainings: of the values in the rows above it, and in brackets the least and the "
    "greatest of them, which are no interval"
)
NO_REASON = "no reason was recorded"
_MANY_NOTES = 5  # that say the same of one file each
PAIRED = (
    "paired over shared prompts and seeds; n needed: clips that would show the observed difference "
    "with 80 % power, in brackets were it greater or smaller by its standard error, — where it has "
    "left zero or there is none"
)
_LEVEL = 0.1
LEVEL = (
    "level: two one-sided tests at 5 % find the difference within "
    f"{100 * _LEVEL:g} % of the value that it is from, for these weights"
)
OVER_TRAININGS = (
    "the mean of the differences within each training; its interval is over trainings and prompts, "
    "spread the standard deviation over trainings, detectable what so many trainings would show "
    "with 80 % power"
)
HELD_OUT = (
    "what each text stream expects of the words that the recordings really say after the prompt; "
    "nothing is sampled, so a system's number holds at all its temperatures"
)

Naming = Callable[[Row, Row], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Text:
    """One field of a table, and what a footnote says of it."""

    text: str
    footnote: str | None = None


@dataclass(slots=True, kw_only=True)
class Table:
    """Headings and rows; fields with the same footnote share it.

    Attributes:
        left: By column, whether it is text (left-aligned) and no number.
        ranks: By column, how soon it is left out where there is no room: the greatest first.
        keys: How many leading columns say what a row is, and always stand.
        aside: Whether it is about how numbers were made, and shows none of them.
        groups: Indices of the rows before which a rule is drawn.
        notes: What is said of the whole table.
    """

    title: str
    keys: int = 1
    aside: bool = False
    headings: list[Text] = field(default_factory=list)
    left: list[bool] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    rows: list[list[Text]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, title: str, headings: Iterable[str], left: Container[str]) -> Self:
        """A table without rows, of columns that are text if `left` names them."""
        table = cls(title=title)
        for heading in headings:
            table.add_column(heading, left=heading in left)
        return table

    def add_column(
        self, text: str, *, left: bool = False, footnote: str | None = None, rank: int = 2
    ) -> None:
        """Head the next column."""
        self.headings.append(Text(text, footnote))
        self.left.append(left)
        self.ranks.append(rank)

    def cut(self, columns: Sequence[int]) -> Self:
        """The table of these columns."""
        return replace(
            self,
            headings=[self.headings[column] for column in columns],
            rows=[[row[column] for column in columns] for row in self.rows],
            left=[self.left[column] for column in columns],
            ranks=[self.ranks[column] for column in columns],
        )

    def add_row(self, *fields: Text | str, ruled: bool = False) -> None:
        """The next row, below a rule if it is ruled."""
        if ruled:
            self.groups.append(len(self.rows))
        self.rows.append([Text(f) if isinstance(f, str) else f for f in fields])

    @property
    def footnotes(self) -> dict[str, str]:
        """What footnotes say, in the order of reading, each with its mark."""
        said = (text.footnote for line in (self.headings, *self.rows) for text in line)
        return {note: _mark(i) for i, note in enumerate(dict.fromkeys(filter(None, said)))}


def _mark(index: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return letters


def main_tables(results: Results) -> list[Table]:
    """The run's table, or each of its tables under a title of its own; notes below the last."""
    if not results.tables:
        return [main_table(results)]
    tables = []
    for title, names in results.tables.items():
        columns = tuple(column for column in results.columns if column.name in names)
        update = {"columns": columns, "table": names, "notes": (), "weights": {}}
        table = main_table(results.model_copy(update=update))
        table.title = title
        tables.append(table)
    tables[-1].notes.extend(_remarks(results))
    return tables


def main_table(results: Results) -> Table:
    """The benchmark's table: one row per system and temperature, one column per number."""
    table = Table(title=f"{results.benchmark} (version {results.benchmark_version})")
    rows = results.cells
    # Of several tables none is about temperatures: no time depends on them.
    settings = {} if results.tables else _settings(rows)
    columns = shown_columns(results)
    table.add_column("System", left=True)
    table.keys += "temp" in settings
    for name in settings:
        rank = 0 if name in ("head steps", "training step") else 4
        table.add_column(name, left=name == "temp is", rank=rank)
    kinds = [shown.is_speed for shown in columns]
    for index, shown in enumerate(columns):
        rank = 1 if shown.is_speed not in kinds[:index] else 3 if shown.is_speed else 2
        table.add_column(shown.heading, footnote=shown.note, rank=rank)
    if results.trials:
        table.add_column("n")
    last = {row.system: row.cell_id for row in rows}
    pools: dict[str, list[list[Row]]] = {}
    for group in pooled_rows(rows):
        pools.setdefault(last[group[0].system], []).append(group)
    for index, row in enumerate(rows):
        table.add_row(
            row.label + (" (baseline)" if row.baseline else ""),
            *(texts[index] for texts in settings.values()),
            *(_value(results, row, shown) for shown in columns),
            *([_clips(results, row)] if results.trials else []),
            ruled=bool(index) and (row.kind == "system") != (rows[index - 1].kind == "system"),
        )
        for group in pools.get(row.cell_id, ()):
            drawn = [texts[rows.index(group[0])] for texts in settings.values()]
            _add_pool(table, results, group, drawn, columns)
    if pools:
        table.notes.append(TRAININGS)
    _add_legend(table, [value for shown in columns for value in shown.values.values()])
    about = dict.fromkeys(shown.column.note for shown in columns if any(shown.values))
    table.notes.extend(filter(None, about))
    table.notes.extend(_remarks(results, table.footnotes))
    return table


def _add_legend(table: Table, shown: Iterable[Value | Difference | None]) -> None:
    """What intervals are, and what the mark beside some of them means."""
    intervals = [value for value in shown if value is not None and value.low is not None]
    if intervals:
        table.notes.append(INTERVALS)
    if any(value.marked for value in intervals):
        table.notes.append(MARKED)


def _add_pool(
    table: Table,
    results: Results,
    group: Sequence[Row],
    drawn: Sequence[str],
    columns: Sequence[Shown],
) -> None:
    """A row for the mean over trainings; times are those of the one that was timed."""
    first = group[0]
    numbers = {(p.metric, p.recipe_id): p for p in results.pooled if p.cell_ids[0] == first.cell_id}
    fields: list[Text | str] = []
    for shown in columns:
        found = numbers.get((shown.column.name, shown.recipe_id))
        if shown.is_speed:
            fields.append(_value(results, first, shown))
        elif found is None or found.value is None:
            fields.append(Text("—", found.reason if found else "of no training"))
        else:
            fields.append(pooled_text(found, shown.decimals))
    name = f"{first.system[1]}, mean of {len(group)} trainings"
    table.add_row(name, *drawn, *fields, *([_clips(results, *group)] if results.trials else []))


def _remarks(results: Results, footnotes: Container[str] = ()) -> Iterator[str]:
    """What is said of the run beside the footnotes, and which weights the numbers are of.

    Of many notes that say the same of one file each, the first three and how many more there are.
    """
    alike: dict[str, list[str]] = {}
    for note in (note for note in results.notes if note not in footnotes):
        said = re.sub(r"^.*?\.\w{2,4} ", "", note)
        alike.setdefault(re.sub(r"\d+", "#", said), []).append(note)
    for same in alike.values():
        if len(same) <= _MANY_NOTES:
            yield from same
        else:
            yield from same[:3]
            yield f"… and {len(same) - 3} more like it, all in results.json"
    if weights := weights_text(results.weights):
        yield f"weights: {weights}"


def counts_table(results: Results) -> Table:
    """What the metrics counted in each row: empty transcripts, flags, vectors; a line per count."""
    table = Table(title="Counts", aside=True)
    several = swept(results.cells)
    rows = [row for row in results.cells if results.counts.get(row.cell_id)]
    table.add_column("Count", left=True)
    for row in rows:  # there are many more counts than rows
        table.add_column(row_title(row, several))
    for name in sorted({name for row in rows for name in results.counts[row.cell_id]}):
        found = [results.counts[row.cell_id].get(name) for row in rows]
        table.add_row(name, *("" if count is None else _count(count) for count in found))
    return table


def _count(count: float) -> str:
    return f"{count:.0f}" if count.is_integer() else f"{count:g}"


def _settings(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The columns that say how a row was drawn, without those that are empty for every row."""
    columns = {
        "temp": [temperature_text(row.temperature) for row in rows],
        "temp is": [TEMPERATURE_KINDS[row.temperature_kind] for row in rows],
        "text temp": [temperature_text(row.text_temperature) for row in rows],
    }
    if swept(rows):
        columns["head steps"] = [str(row.head_steps or "") for row in rows]
    columns["training step"] = [str(row.training_step or "") for row in rows]
    return {name: texts for name, texts in columns.items() if any(texts)}


def _clips(results: Results, *rows: Row) -> str:
    """How many clips the rows have, of how many that were tried if some failed."""
    counts = [results.trials[row.cell_id] for row in rows if row.cell_id in results.trials]
    ok, failed = (sum(getattr(count, name) for count in counts) for name in ("ok", "failed"))
    return "" if not counts else f"{ok}/{ok + failed}" if failed else str(ok)


def _value(results: Results, row: Row, shown: Shown) -> Text | str:
    value = shown.values.get(row.cell_id)
    if shown.is_speed and row.kind != "system" and (value is None or value.value is None):
        return ""  # a recording has no head to be timed: nothing is missing
    if value is None:
        found = [r for r in results.rows if r.metric == shown.column.name]
        elsewhere = any(r.cell_id == row.cell_id for r in found)
        reason = "this row was made by another recipe" if elsewhere else "not measured in this run"
        return Text("—", reason)
    if is_of_votes(results, value):
        return Text(*rated_text(value, shown))
    if value.value is None:
        return Text("—", value.reason or NO_REASON)
    count = results.trials.get(row.cell_id)
    partial = not shown.is_speed and count is not None and value.n not in (0, count.ok)
    text = value_text(value, shown.column, shown.decimals)
    why = f": {value.reason}" if value.reason else ""
    return Text(text, f"n = {value.n}{why}" if partial else without_interval(value))


def without_interval(number: Value | Difference | Pooled) -> str | None:
    """Why a number has no interval, if that is known; None of one that has its own."""
    return number.reason if number.low is None else None


def is_of_votes(results: Results, value: Value) -> bool:
    """Whether a number is what listeners said."""
    return "votes" in results.recipes.get(value.recipe_id or "", {})


def rated_text(value: Value, shown: Shown) -> tuple[str, str]:
    """What listeners said with its interval, or a dash for it, and the votes and reason behind."""
    dash = "" if value.value is None or value.low is not None else " ± —"
    why = f": {value.reason}" if value.reason else ""
    return value_text(value, shown.column, shown.decimals) + dash, f"n = {value.n} votes{why}"


def difference_tables(results: Results) -> list[Table]:
    """What its settings change within a system, and systems against the baseline and each other."""
    several = swept(results.cells)

    def system(row: Row) -> str:
        return system_title(row, several) + _trained(row)

    def sweep(a: Row, b: Row) -> tuple[str, ...]:
        return system(a), f"{_temperatures(b)} → {_temperatures(a)}"

    def steps(a: Row, b: Row) -> tuple[str, ...]:
        return a.label + _trained(a), f"{b.head_steps} → {a.head_steps}", _between(a, b)

    def systems(a: Row, b: Row) -> tuple[str, ...]:
        return system(a), system(b), _between(a, b)

    pair = ("System", "minus", "temp")
    tables = (
        _table(results, "What temperature changes", ("System", "temp"), sweep, "temperature"),
        _table(results, "What head steps change", ("System", "steps", "temp"), steps, "steps"),
        _table(results, "What precision changes", pair, systems, "precision"),
        _table(results, "Against the baseline", pair, systems, "baseline"),
        _table(results, "Against another system", pair, systems, "system"),
        _over_trainings(results),
    )
    return [table for table in tables if table.rows]


def _over_trainings(results: Results) -> Table:
    """Differences of which several trainings are known, with their spread."""
    named = ("System", "minus", "temp", "in")
    planned = f"detectable with {' / '.join(map(str, PLANNED))}"
    headings = (*named, "difference", "spread", planned, "trainings")
    table = Table.of("Over several trainings", headings, left=named)
    table.keys = len(named)
    table.notes.append(OVER_TRAININGS)
    rows, several = {row.cell_id: row for row in results.cells}, swept(results.cells)
    columns = {(shown.column.name, shown.recipe_id): shown for shown in shown_columns(results)}
    last: tuple[str, ...] = ()
    for pool in results.pooled_differences:
        shown = columns.get((pool.metric, pool.recipe_id))
        if shown is None:
            continue
        a, b = rows[pool.cell_ids[0]], rows[pool.baseline_cell_ids[0]]
        titles = [system_title(row, several).replace(trained(row.training), "") for row in (a, b)]
        names = *titles, _between(a, b)
        spread = "—" if pool.sd is None else plain_number(pool.sd, shown.decimals + 1)
        effects = (plain_number(x, shown.decimals + 1) for x in pool.detectable.values())
        shown_by = "—" if pool.sd is None else " / ".join(effects) or "—"
        fields = (shown.heading, _gap(pool, shown), spread, shown_by, str(pool.n))
        table.add_row(*names, *fields, ruled=bool(last) and names != last)
        last = names
    return table


def held_out_table(results: Results) -> Table:
    """Each system's held-out text loss and its paired difference; no rows where none is known."""
    headings = ("System", "loss ↓", "minus", "difference", "n")
    table = Table.of("Held-out text, nats per token", headings, left=("System", "minus"))
    table.notes.append(HELD_OUT)
    losses = [s for s in shown_columns(results, everything=True) if s.column.name == "text_nll"]
    for shown in losses:
        _add_losses(table, results, shown)
    gaps = [found for found in results.differences if found.metric == "text_nll"]
    _add_legend(table, [*gaps, *(value for shown in losses for value in shown.values.values())])
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
        gap = _to_another_model(results, rows, value)
        against = rows[gap.baseline_cell_id] if gap else None
        table.add_row(
            row.label + _trained(row),
            Text(value_text(value, shown.column, shown.decimals), shown.note),
            against.label + _trained(against) if against else "",
            _gap(gap, shown) if gap else "",
            str(value.n),
        )


def _to_another_model(results: Results, rows: Mapping[str, Row], value: Value) -> Difference | None:
    """The difference of a row that is not one between its own temperatures."""
    key, model = (value.metric, value.recipe_id, value.cell_id), rows[value.cell_id].model
    own = (d for d in results.differences if (d.metric, d.recipe_id, d.cell_id) == key)
    return next((d for d in own if rows[d.baseline_cell_id].model != model), None)


def _trained(row: Row) -> str:
    return f", training step {row.training_step}" if row.training_step else ""


def _temperatures(row: Row) -> str:
    text, own = temperature_text(row.temperature) or "–", row.text_temperature
    return text if own in (None, row.temperature) else f"{text} (text {temperature_text(own)})"


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
    named = (*keys, "in")
    # Of a precision one wants to know that it changes nothing, which no open interval says.
    level = ("level",) if kind == "precision" else ()
    table = Table.of(title, (*named, "difference", "n", "n needed", *level), left=named)
    table.keys = len(named)
    table.notes += [PAIRED, LEVEL] if level else [PAIRED]
    last: tuple[str, ...] = ()
    chosen = list(_chosen(results, kind))
    if any(difference.marked for _, _, difference, _ in chosen):
        table.notes.append(MARKED)
    for a, b, difference, shown in chosen:
        names = naming(a, b)
        effect = effect_of(difference)
        is_open = effect is not None and effect.low <= 0 <= effect.high
        needed = needed_text(*range_needed(effect, 0.0)) if effect and is_open else "—"
        fields = [shown.heading, _gap(difference, shown), str(difference.n), needed]
        if level:
            fields.append(_level(effect, shown.values.get(difference.baseline_cell_id)))
        table.add_row(*names, *fields, ruled=bool(table.rows) and names != last)
        last = names
    return table


def _level(effect: Effect | None, base: Value | None) -> str:
    """Whether a difference is shown to be small beside the value it is from."""
    if effect is None or base is None or base.value is None:
        return "—"
    reach = _LEVEL * abs(base.value)
    return "yes" if effect.p_within(-reach, reach) <= ALPHA else "not shown"


def _chosen(results: Results, kind: str) -> Iterator[tuple[Row, Row, Difference, Shown]]:
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


def _gap(difference: Difference | Pooled, shown: Shown) -> Text | str:
    if difference.value is None:
        return Text("—", difference.reason or NO_REASON)
    text = signed(difference.value, shown.decimals)
    text += interval_text(difference, shown.decimals, sign=True)
    return Text(text, without_interval(difference))
