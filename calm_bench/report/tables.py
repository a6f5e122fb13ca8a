"""The tables of a report as rows of text, ready for any format; no number is made here.

A value that does not exist is "—" with a footnote that says why.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from calm_bench.report.columns import Shown, shown_columns
from calm_bench.report.numbers import TEMPERATURE_KINDS, value_text
from calm_bench.store.records import Row, row_title, steps_vary, swept, temperature_text
from calm_bench.store.results import Results

INTERVALS = "± and [low, high] are 95 % intervals; ↑ higher is better, ↓ lower is better"
NO_REASON = "no reason was recorded"
_MANY_NOTES = 5  # that say the same of one file each


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One field of a table: its text and the footnotes it refers to, counted from 0."""

    text: str
    footnotes: tuple[int, ...] = ()


@dataclass(slots=True, kw_only=True)
class Table:
    """Headings, rows and footnotes.

    Attributes:
        left: By column, whether it is text (left-aligned) and no number.
        keys: How many leading columns say what a row is; a table cut to fit repeats them.
        groups: Indices of the rows before which a rule is drawn.
        footnotes: What fields refer to.
        notes: What is said of the whole table.
    """

    title: str
    keys: int = 1
    headings: list[Text] = field(default_factory=list)
    left: list[bool] = field(default_factory=list)
    rows: list[list[Text]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    footnotes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_column(self, text: str, *, left: bool = False, footnote: str | None = None) -> None:
        """Head the next column."""
        self.headings.append(self.text(text, footnote))
        self.left.append(left)

    def text(self, text: str, footnote: str | None = None) -> Text:
        """A field with a footnote; the same words are one footnote."""
        if footnote is None:
            return Text(text=text)
        if footnote not in self.footnotes:
            self.footnotes.append(footnote)
        return Text(text=text, footnotes=(self.footnotes.index(footnote),))


def main_tables(results: Results) -> list[Table]:
    """The run's table, or each of its tables under a title of its own; notes below the last."""
    if not results.tables:
        return [main_table(results)]
    tables = []
    for title, names in results.tables.items():
        columns = tuple(column for column in results.columns if column.name in names)
        part = results.model_copy(update={"columns": columns, "table": names, "notes": ()})
        table = main_table(part)
        table.title = title
        tables.append(table)
    tables[-1].notes.extend(_folded(results.notes))
    return tables


def main_table(results: Results, *, everything: bool = False) -> Table:
    """The benchmark's table: one row per system and temperature, one column per number.

    With `everything`, not only the columns that the benchmark shows.
    """
    table = Table(title=f"{results.benchmark} (version {results.benchmark_version})")
    rows = results.cells
    # Of several tables none is about temperatures: no time depends on them.
    settings = {} if results.tables else _settings(rows)
    columns = shown_columns(results, everything=everything)
    table.add_column("System", left=True)
    table.keys += "temp" in settings
    for name in settings:
        table.add_column(name, left=name == "temp is")
    for shown in columns:
        table.add_column(shown.heading, footnote=shown.note)
    if results.trials:
        table.add_column("n")
    for index, row in enumerate(rows):
        if index and (row.kind == "system") != (rows[index - 1].kind == "system"):
            table.groups.append(index)
        line = [Text(text=row.label + (" (baseline)" if row.baseline else ""))]
        line += [Text(text=texts[index]) for texts in settings.values()]
        line += [_value(table, results, row, shown) for shown in columns]
        line += [Text(text=_clips(results, row))] if results.trials else []
        table.rows.append(line)
    if any(value.low is not None for shown in columns for value in shown.values.values()):
        table.notes.append(INTERVALS)
    table.notes.extend(_folded(note for note in results.notes if note not in table.footnotes))
    return table


def _folded(notes: Iterable[str]) -> Iterator[str]:
    """The notes; of many that say the same of one file each, the first three and how many more."""
    alike: dict[str, list[str]] = {}
    for note in notes:
        said = re.sub(r"^.*?\.\w{2,4} ", "", note)
        alike.setdefault(re.sub(r"\d+", "#", said), []).append(note)
    for same in alike.values():
        if len(same) <= _MANY_NOTES:
            yield from same
        else:
            yield from same[:3]
            yield f"… and {len(same) - 3} more like it, all in results.json"


def counts_table(results: Results) -> Table:
    """What the metrics counted in each row: empty transcripts, flags, vectors; a line per count."""
    table = Table(title="Counts")
    several = swept(results.cells)
    rows = [row for row in results.cells if results.counts.get(row.cell_id)]
    table.add_column("Count", left=True)
    for row in rows:  # there are many more counts than rows
        table.add_column(row_title(row, several_steps=row.label in several))
    for name in sorted({name for row in rows for name in results.counts[row.cell_id]}):
        found = [results.counts[row.cell_id].get(name) for row in rows]
        texts = ["" if count is None else f"{count:g}" for count in found]
        table.rows.append([Text(text=text) for text in (name, *texts)])
    return table


def _settings(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The columns that say how a row was drawn, without those that are empty for every row."""
    columns = {
        "temp": [temperature_text(row.temperature) for row in rows],
        "temp is": [TEMPERATURE_KINDS[row.temperature_kind] for row in rows],
        "text temp": [temperature_text(row.text_temperature) for row in rows],
    }
    if steps_vary(rows):
        columns["head steps"] = [str(row.head_steps or "") for row in rows]
    columns["training step"] = [str(row.training_step or "") for row in rows]
    return {name: texts for name, texts in columns.items() if any(texts)}


def _clips(results: Results, row: Row) -> str:
    """How many clips the row has, of how many that were tried if some failed."""
    count = results.trials.get(row.cell_id)
    if count is None:
        return ""
    return f"{count.ok}/{count.ok + count.failed}" if count.failed else str(count.ok)


def _value(table: Table, results: Results, row: Row, shown: Shown) -> Text:
    value = shown.values.get(row.cell_id)
    if shown.is_speed and row.kind != "system" and (value is None or value.value is None):
        return Text(text="")  # a recording has no head to be timed: nothing is missing
    if value is None:
        found = [r for r in results.rows if r.metric == shown.column.name]
        elsewhere = any(r.cell_id == row.cell_id for r in found)
        reason = "this row was made by another recipe" if elsewhere else "not measured in this run"
        return table.text("—", reason)
    if value.value is None:
        return table.text("—", value.reason or NO_REASON)
    count = results.trials.get(row.cell_id)
    partial = not shown.is_speed and count is not None and value.n not in (0, count.ok)
    text = value_text(value, shown.column, shown.decimals)
    why = f": {value.reason}" if value.reason else ""
    return table.text(text, f"n = {value.n}{why}" if partial else None)
