"""The tables of a report as rows of text, ready for any format; no number is made here.

A value that does not exist is "—" with a footnote that says why.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from calm_bench.report.columns import Shown, shown_columns
from calm_bench.report.numbers import TEMPERATURE_KINDS, value_text
from calm_bench.store.records import Cell
from calm_bench.store.results import Results
from calm_bench.store.titles import cell_name, steps_vary, swept, temperature_text

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
    cells = results.cells
    # Of several tables none is about temperatures: no time depends on them.
    settings = {} if results.tables else _settings(cells)
    columns = shown_columns(results, everything=everything)
    table.add_column("System", left=True)
    table.keys += "temp" in settings
    for name in settings:
        table.add_column(name, left=name == "temp is")
    for shown in columns:
        table.add_column(shown.heading, footnote=shown.note)
    if results.trials:
        table.add_column("n")
    for index, cell in enumerate(cells):
        if index and (cell.kind == "system") != (cells[index - 1].kind == "system"):
            table.groups.append(index)
        row = [Text(text=cell.label + (" (baseline)" if cell.baseline else ""))]
        row += [Text(text=texts[index]) for texts in settings.values()]
        row += [_value(table, results, cell, shown) for shown in columns]
        row += [Text(text=_clips(results, cell))] if results.trials else []
        table.rows.append(row)
    if any(row.low is not None for shown in columns for row in shown.rows.values()):
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
    cells = [cell for cell in results.cells if results.counts.get(cell.cell_id)]
    table.add_column("Count", left=True)
    for cell in cells:  # there are many more counts than rows
        table.add_column(cell_name(cell, several_steps=cell.label in several))
    for name in sorted({name for cell in cells for name in results.counts[cell.cell_id]}):
        found = [results.counts[cell.cell_id].get(name) for cell in cells]
        texts = ["" if count is None else f"{count:g}" for count in found]
        table.rows.append([Text(text=text) for text in (name, *texts)])
    return table


def _settings(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """The columns that say how a row was drawn, without those that are empty for every row."""
    columns = {
        "temp": [temperature_text(cell.temperature) for cell in cells],
        "temp is": [TEMPERATURE_KINDS[cell.temperature_kind] for cell in cells],
        "text temp": [temperature_text(cell.text_temperature) for cell in cells],
    }
    if steps_vary(cells):
        columns["head steps"] = [str(cell.head_steps or "") for cell in cells]
    columns["training step"] = [str(cell.training_step or "") for cell in cells]
    return {name: texts for name, texts in columns.items() if any(texts)}


def _clips(results: Results, cell: Cell) -> str:
    """How many clips the row has, of how many that were tried if some failed."""
    count = results.trials.get(cell.cell_id)
    if count is None:
        return ""
    return f"{count.ok}/{count.ok + count.failed}" if count.failed else str(count.ok)


def _value(table: Table, results: Results, cell: Cell, shown: Shown) -> Text:
    row = shown.rows.get(cell.cell_id)
    if shown.is_speed and cell.kind != "system" and (row is None or row.value is None):
        return Text(text="")  # a recording has no head to be timed: nothing is missing
    if row is None:
        found = [r for r in results.rows if r.metric == shown.column.name]
        elsewhere = any(r.cell_id == cell.cell_id for r in found)
        reason = "this row was made by another recipe" if elsewhere else "not measured in this run"
        return table.text("—", reason)
    if row.value is None:
        return table.text("—", row.reason or NO_REASON)
    count = results.trials.get(cell.cell_id)
    partial = not shown.is_speed and count is not None and row.n not in (0, count.ok)
    text = value_text(row, shown.column, shown.decimals)
    why = f": {row.reason}" if row.reason else ""
    return table.text(text, f"n = {row.n}{why}" if partial else None)
