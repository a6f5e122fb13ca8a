"""The paper's tables: what was published, and below it what each stored run measured.

benchmarks/published.yaml holds layout and published numbers. Both parts pass through one function
from numbers to text, so a published value and ours are written alike. What was measured by another
instrument (a language model, an embedding), or by other code or another recipe than in the oldest
run, stands in a column of its own. A number that a run lacks is "—" with its reason; one nobody
published is "–".
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from calm_bench.config import parse, read_yaml
from calm_bench.core import paths
from calm_bench.report.columns import MARKED, TIMES, interval_text, plain_number, two_figures
from calm_bench.report.paper.claims import Selector
from calm_bench.report.paper.measure import Missing, find_rows
from calm_bench.report.paper.runs import SPEED_METRICS, Scale, StoredRun
from calm_bench.report.tables import Table, Text, without_interval
from calm_bench.store.records import temperature_text
from calm_bench.store.results import Value
from calm_bench.types import StrictModel

UNPUBLISHED = "–"


class ColumnSpec(StrictModel):
    """One column: which metric, and how its numbers are written.

    Attributes:
        id: What the published values call it; the metric unless said.
        decimals: Fixed decimals; else `significant` figures.
        scale: What a stored value is multiplied with; published ones stand as they are shown.
        by: What the paper measured with, where numbers of another instrument would not compare.
        model: The system, for tables whose rows are settings.
        rank: Whether the column ranks the systems by the metric instead of showing it.
        ours: Whether the paper's table lacks the column.
    """

    metric: str
    heading: str
    id: str = ""
    decimals: int | None = None
    significant: int | None = None
    unit: str = ""
    scale: float = 1.0
    by: str | None = None
    model: str | None = None
    rank: bool = False
    ours: bool = False

    @property
    def key(self) -> str:
        """The column's name among the published values."""
        return self.id or self.metric

    @model_validator(mode="after")
    def _says_how_it_is_written(self) -> Self:
        if not self.rank and (self.decimals is None) == (self.significant is None):
            raise ValueError("give either decimals or significant figures")
        return self


class RowSpec(StrictModel):
    """One row: a system without its scale, drawn how, and what was published of it.

    Attributes:
        values: By column, a number, or one with the half-width of its interval.
    """

    label: str
    model: str | None = None
    temp: float | None = None
    steps: int | None = None
    values: dict[str, float | tuple[float, float]] = Field(default_factory=dict)


class TableSpec(StrictModel):
    """One table of the paper."""

    name: str
    title: str
    source: str
    command: str
    columns: tuple[ColumnSpec, ...]
    rows: tuple[RowSpec, ...]

    @model_validator(mode="after")
    def _knows_its_values(self) -> Self:
        keys = [column.key for column in self.columns]
        if len(set(keys)) < len(keys):
            raise ValueError("two columns have one id")
        for row in self.rows:
            for key in row.values:
                if key not in keys:
                    raise ValueError(f"row {row.label!r} has a value for {key!r}, no column does")
            if row.model is None and any(c.model is None for c in self.columns):
                raise ValueError(f"row {row.label!r} names no model")
        return self


class _File(StrictModel):
    tables: tuple[TableSpec, ...] = Field(min_length=1)


def load_tables(path: Path | None = None) -> tuple[TableSpec, ...]:
    """The tables of a file, in its order; by default those that are shipped.

    Raises:
        InputError: If the file is not valid.
    """
    path = path or paths.benchmarks_dir() / "published.yaml"
    return parse(_File, read_yaml(path), str(path)).tables


@dataclass(frozen=True, slots=True, kw_only=True)
class ByInstrument:
    """A column by one instrument: the paper's, another, or None where all are measured alike.

    `apart` says by which code or recipe, where it is not that of the oldest run.
    """

    column: ColumnSpec
    instrument: str | None = None
    apart: str = ""

    @property
    def key(self) -> str:
        """What its cells are found by: the column's own key, and what sets it apart."""
        own = self.instrument is None or self.instrument == self.column.by
        marks = (self.column.key, None if own else self.instrument, self.apart)
        return "@".join(filter(None, marks))

    @property
    def heading(self) -> str:
        """The column's heading with its instrument."""
        by = ", ".join(filter(None, (self.instrument, self.apart)))
        return self.column.heading + (f" ({by})" if by else "")

    def number(self, run: StoredRun, found: Sequence[Value] | str) -> Value | str:
        """The first of a run's numbers that belongs here, as it is shown, or why none does."""
        if isinstance(found, str):
            return found
        for value in found:
            by = run.instrument(value.recipe_id)
            alike = None in (self.instrument, by) or _alike(str(self.instrument), str(by))
            if alike and run.apart(value) == self.apart:
                return value.scaled(self.column.scale)
        if self.apart:
            return f"the run has no number with {self.apart}"
        if self.instrument:
            return f"the run did not measure by {self.instrument}"
        return "by other code or recipe: see its column"


def _alike(known: str, instrument: str) -> bool:
    return known.lower() in instrument.lower()


Found = dict[tuple[int, str], Sequence[Value] | str]
"""By row and column key, the numbers by each recipe, or why there are none."""


def _found(spec: TableSpec, run: StoredRun, scale: Scale) -> Found:
    """What a run holds of a table at one scale."""
    found: Found = {}
    for (index, row), column in product(enumerate(spec.rows), spec.columns):
        metric, model = column.metric, column.model or row.model or ""
        selector = Selector(metric=metric, model=model, temp=row.temp, steps=row.steps)
        try:
            known = find_rows(selector, run, scale).values()
            found[index, column.key] = [value for value in known if value.value is not None]
        except Missing as missing:
            stored = any(run.values(metric, cell) for cell in run.results.cells)
            found[index, column.key] = str(missing) if stored else f"the run stores no {metric}"
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a run holds of a table at one scale, in one mode and precision, over its trainings."""

    run: StoredRun
    scale: Scale
    step: str
    found: Found


def _shown(spec: TableSpec, parts: Sequence[Part]) -> Iterator[ByInstrument]:
    """The columns of a table: the paper's, and one for every other way the runs measured it."""
    for column in spec.columns:
        ways: set[tuple[str, str]] = set()
        for part in parts:
            lists = (part.found[index, column.key] for index in range(len(spec.rows)))
            values = [value for one in lists if not isinstance(one, str) for value in one]
            ways |= {(part.run.instrument(v.recipe_id) or "", part.run.apart(v)) for v in values}
        used = sorted(by for by, apart in ways if by and not apart)
        if column.by:
            yield ByInstrument(column=column, instrument=column.by)
            used = [by for by in used if not _alike(column.by, by)]
        elif not used or (len(used) == 1 and not column.ours):
            yield ByInstrument(column=column)
            used = []
        yield from (ByInstrument(column=column, instrument=by) for by in used)
        for by, apart in sorted(way for way in ways if way[1]):
            yield ByInstrument(column=column, instrument=by or None, apart=apart)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The rows of one table by one source, by index and column key: a number or why there is none.

    `step` is the mode and precision they were timed in, or that they are means of trainings.
    """

    source: str
    scale: str
    rows: Mapping[int, Mapping[str, Value | str]]
    notes: tuple[str, ...] = ()
    step: str = ""


def _published(spec: TableSpec) -> Block:
    rows: dict[int, dict[str, Value | str]] = {}
    for index, row in enumerate(spec.rows):
        for key, found in row.values.items():
            value, half = found if isinstance(found, tuple) else (found, None)
            low, high = (None, None) if half is None else (value - half, value + half)
            number = Value(
                cell_id=row.label, system=row.label, metric=key, value=value, low=low, high=high
            )
            rows.setdefault(index, {})[key] = number
    return Block(source=spec.source, scale="published", rows=rows)


def _measured(spec: TableSpec, part: Part, columns: Sequence[ByInstrument]) -> Block:
    run = part.run
    notes: dict[str, None] = {}
    rows: dict[int, dict[str, Value | str]] = {}
    for index in range(len(spec.rows)):
        line = {c.key: c.number(run, part.found[index, c.column.key]) for c in columns}
        numbers = [value for value in line.values() if isinstance(value, Value)]
        if numbers:
            rows[index] = line
        timed = (value for value in numbers if value.metric in SPEED_METRICS)
        notes |= dict.fromkeys(f"times of {run.name}: {run.timed_on(value)}" for value in timed)
    # References alone are no table: a music run would put its silence into the speech table.
    if all(spec.rows[index].model == "reference" for index in rows):
        rows = {}
    return Block(source=run.name, scale=part.scale, step=part.step, rows=rows, notes=tuple(notes))


def number_text(value: Value, column: ColumnSpec) -> str:
    """A number as the paper writes it: ×1.3, 26.7 %, 0.71 ± 0.05."""
    assert value.value is not None
    decimals = column.decimals
    if decimals is None:
        whole = len(str(int(abs(value.value))))
        decimals = two_figures(value.value, max(0, (column.significant or 3) - whole))
    text = plain_number(value.value, decimals) + interval_text(value, decimals)
    return TIMES + text if column.unit == TIMES else f"{text} {column.unit}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTable:
    """A table with its published rows, and below them those of the stored runs."""

    spec: TableSpec
    columns: tuple[ByInstrument, ...]
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, spec: TableSpec, runs: Sequence[StoredRun]) -> Self:
        """A table filled from stored runs.

        Raises:
            InputError: If a row is ambiguous in a run.
        """
        parts = [
            Part(
                run=run,
                scale=scale,
                step=", ".join(filter(None, (step, trained))),
                found=_found(spec, run, scale),
            )
            for whole in runs
            for step, timed in whole.by_step().items()
            for trained, run in timed.over_trainings().items()
            for scale in run.scales
        ]
        columns = tuple(_shown(spec, parts))
        blocks = (_published(spec), *(_measured(spec, part, columns) for part in parts))
        return cls(spec=spec, columns=columns, blocks=tuple(b for b in blocks if b.rows))

    def table(self) -> Table:
        """The table as text."""
        spec = self.spec
        temps = {row.temp for row in spec.rows if row.temp is not None}
        name = "System" if any(row.model for row in spec.rows) else "head steps"
        keys = ("from", "temp", name) if len(temps) > 1 else ("from", name)
        lines = [line for block in self.blocks for line in block.rows.values()]
        columns = [
            column
            for column in self.columns
            if not column.column.ours or any(isinstance(x.get(column.key), Value) for x in lines)
        ]
        headings = (*keys, *(column.heading for column in columns))
        table = Table.of(f"{spec.title} ({spec.source})", headings, left={*keys} - {"temp"})
        table.keys = len(keys)
        for block in self.blocks:
            if table.rows:
                table.groups.append(len(table.rows))
            for index in block.rows:
                row = spec.rows[index]
                texts = {"from": self._name(block), "temp": temperature_text(row.temp)}
                cells = (self._cell(block, index, column) for column in columns)
                table.add_row(*(texts.get(key, row.label) for key in keys), *cells)
            table.notes += [note for note in block.notes if note not in table.notes]
        if any(isinstance(x, Value) and x.marked for line in lines for x in line.values()):
            table.notes.append(MARKED)
        if all(block.scale == "published" for block in self.blocks):
            table.notes.append(f"not measured in any stored run; {spec.command} measures it")
        return table

    def _name(self, block: Block) -> str:
        """Where a block's rows come from; runs of one scale are told apart by their ids."""
        if block.scale == "published":
            return "paper"
        alike = [b for b in self.blocks if (b.scale, b.step) == (block.scale, block.step)]
        parts = ("here" if len(alike) == 1 else block.source, block.scale, block.step)
        return ", ".join(filter(None, parts))

    def _cell(self, block: Block, index: int, shown: ByInstrument) -> Text | str:
        column, model = shown.column, self.spec.rows[index].model
        if column.rank:
            return self._rank(block, index, column.metric + shown.key.removeprefix(column.key))
        found = block.rows[index].get(shown.key)
        if isinstance(found, Value):
            return Text(number_text(found, column), without_interval(found))
        # A recording has no head to be timed: nothing is missing.
        if found is None or (column.metric in SPEED_METRICS and model == "reference"):
            return UNPUBLISHED
        return Text("—", found)

    def _rank(self, block: Block, index: int, key: str) -> str:
        """The place of a system among those of its source, equal for equal numbers."""
        values = {
            (other.step, i): number.value or 0.0
            for other in self.blocks
            if (other.source, other.scale) == (block.source, block.scale)
            for i, line in other.rows.items()
            if self.spec.rows[i].model != "reference" and isinstance(number := line.get(key), Value)
        }
        if (place := (block.step, index)) not in values:
            return UNPUBLISHED
        return str(1 + sum(value > values[place] for value in values.values()))

    def csv(self) -> str:
        """Every number of the table, published and ours, one a line and unrounded."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        keys = ["source", "scale", "row", "temp", "steps", "column", "value", "low", "high", "n"]
        writer.writerow(keys)
        for block in self.blocks:
            source = ", ".join(filter(None, (block.source, block.step)))
            for index, line in block.rows.items():
                row = self.spec.rows[index]
                where = (source, block.scale, row.label, row.temp, row.steps)
                for key, x in line.items():
                    if isinstance(x, Value):
                        writer.writerow([*where, key, x.value, x.low, x.high, x.n])
        return out.getvalue()
