"""The paper's tables: what was published, and below it what each stored run measured.

Both parts pass through one function from numbers to text, so a published cell and ours are written
alike. What was measured by another instrument (a language model, an embedding), or by other code or
another recipe than in the oldest run, stands in a column of its own. A number that a run lacks is
"—" with its reason; one nobody published is "–".
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product

from calm_bench.report.numbers import TIMES, interval_text, plain_number
from calm_bench.report.paper.claims import Selector
from calm_bench.report.paper.layout import ColumnSpec, RowSpec, TableSpec
from calm_bench.report.paper.measure import Missing, find_rows
from calm_bench.report.paper.names import SPEED_METRICS, values_for
from calm_bench.report.paper.runs import Scale, StoredRun
from calm_bench.report.tables import Table, Text
from calm_bench.store.records import temperature_text
from calm_bench.store.results import Value

UNPUBLISHED = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A column by one instrument: the paper's, another, or None where all are measured alike.

    `apart` says by which code or recipe, where it is not that of the oldest run.
    """

    column: ColumnSpec
    instrument: str | None = None
    apart: str = ""

    @property
    def key(self) -> str:
        """What its cells are found by; published ones by the column's own key."""
        own = self.instrument is None or self.instrument == self.column.by
        return self.column.key + ("" if own else f"@{self.instrument}") + self.mark

    @property
    def mark(self) -> str:
        """What its keys end on where it stands apart."""
        return f"@{self.apart}" if self.apart else ""

    @property
    def heading(self) -> str:
        """The column's heading with its instrument."""
        by = ", ".join(filter(None, (self.instrument, self.apart)))
        return self.column.heading + (f" ({by})" if by else "")

    def takes(self, instrument: str | None, apart: str) -> bool:
        """Whether numbers of an instrument belong here."""
        if self.apart != apart:
            return False
        if self.instrument is None or instrument is None:
            return True
        return _alike(self.instrument, instrument)


def _alike(known: str, instrument: str) -> bool:
    return known.lower() in instrument.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The rows of one table by one source: by row and column key, a number or why there is none.

    `step` is the mode and precision they were timed in, where a run has several.
    """

    source: str
    scale: str
    cells: Mapping[tuple[int, str], Value | str]
    notes: tuple[str, ...] = ()
    step: str = ""

    def number(self, row: int, key: str) -> Value | None:
        """The number in a cell."""
        found = self.cells.get((row, key))
        return found if isinstance(found, Value) and found.value is not None else None


def shown(spec: TableSpec, runs: Sequence[StoredRun]) -> list[Shown]:
    """The columns of a table: the paper's, and one for every other way the runs measured it."""
    columns: list[Shown] = []
    for column in spec.columns:
        ways = sorted({way for run in runs for way in _ways(spec, column, run)})
        columns += _by_instrument(column, [by for by, apart in ways if by and not apart])
        others = [(by or None, apart) for by, apart in ways if apart]
        columns += [Shown(column=column, instrument=by, apart=apart) for by, apart in others]
    return columns


def _by_instrument(column: ColumnSpec, used: Sequence[str]) -> Iterator[Shown]:
    """The paper's column, and one for every other instrument."""
    if column.by:
        yield Shown(column=column, instrument=column.by)
    elif not used or (len(used) == 1 and not column.ours):
        yield Shown(column=column)
        return
    for instrument in used:
        if not (column.by and _alike(column.by, instrument)):
            yield Shown(column=column, instrument=instrument)


def _ways(spec: TableSpec, column: ColumnSpec, run: StoredRun) -> Iterator[tuple[str, str]]:
    """By which instrument a run measured a column, "" for none, and what keeps it apart."""
    for row, scale in product(spec.rows, run.scales):
        with suppress(Missing):
            for number in find_rows(_selector(row, column), run, scale).values():
                yield run.instrument(number) or "", run.apart(number)


def _selector(row: RowSpec, column: ColumnSpec) -> Selector:
    model = column.model or row.model or ""
    return Selector(metric=column.metric, model=model, temp=row.temp, steps=row.steps)


def published_block(spec: TableSpec) -> Block:
    """What the paper printed."""
    cells = {
        (index, key): _published(row, key, value)
        for index, row in enumerate(spec.rows)
        for key, value in row.values.items()
    }
    return Block(source=spec.source, scale="published", cells=cells)


def _published(row: RowSpec, key: str, value: float | tuple[float, float]) -> Value:
    center, half = value if isinstance(value, tuple) else (value, None)
    return Value(
        cell_id=row.label,
        system=row.label,
        metric=key,
        value=center,
        low=None if half is None else center - half,
        high=None if half is None else center + half,
    )


def _blocks(spec: TableSpec, runs: Sequence[StoredRun], columns: Sequence[Shown]) -> list[Block]:
    """What each stored run holds of a table, by scale; runs without any of its rows are left out.

    Raises:
        InputError: If a row is ambiguous in a run.
    """
    blocks = [
        replace(_block(spec, part, scale, columns), step=step)
        for run in runs
        for step, part in run.by_step().items()
        for scale in part.scales
    ]
    return [block for block in blocks if block.cells]


def _block(spec: TableSpec, run: StoredRun, scale: Scale, columns: Sequence[Shown]) -> Block:
    cells: dict[tuple[int, str], Value | str] = {}
    notes: dict[str, None] = {}
    for index, row in enumerate(spec.rows):
        found = {column.key: _measured(row, column, run, scale) for column in columns}
        numbers = [value for value in found.values() if isinstance(value, Value)]
        if numbers:
            cells |= {(index, key): value for key, value in found.items()}
        notes |= dict.fromkeys(text for number in numbers for text in _timing(run, number))
    # References alone are no table: a music run would put its silence into the speech table.
    systems = {i for i, _ in cells if spec.rows[i].model != "reference"}
    return Block(source=run.name, scale=scale, cells=cells if systems else {}, notes=tuple(notes))


def _measured(spec: RowSpec, column: Shown, run: StoredRun, scale: Scale) -> Value | str:
    metric = column.column.metric
    try:
        found = find_rows(_selector(spec, column.column), run, scale)
    except Missing as missing:
        stored = any(values_for(metric, run.results, row) for row in run.results.cells)
        return str(missing) if stored else f"the run stores no {metric}"
    for first in found.values():
        if column.takes(run.instrument(first), run.apart(first)):
            ends = {name: getattr(first, name) for name in ("value", "low", "high")}
            scaled = {k: None if x is None else x * column.column.scale for k, x in ends.items()}
            return first.model_copy(update=scaled)
    if column.apart:
        return f"the run has no number with {column.apart}"
    by = column.instrument
    return f"the run did not measure by {by}" if by else "by other code or recipe: see its column"


def _timing(run: StoredRun, value: Value) -> Iterator[str]:
    recipe = run.recipe(value.recipe_id)
    if recipe.get("metric") == "latency":
        words = (str(recipe[name]) for name in ("device", "dtype", "mode") if name in recipe)
        yield f"times of {run.name}: {', '.join(words)}"


def number_text(value: Value, column: ColumnSpec) -> str:
    """A number as the paper writes it: ×1.3, 26.7 %, 0.71 ± 0.05."""
    if value.value is None:
        return "—"
    decimals = column.decimals
    if decimals is None:
        decimals = max(0, (column.significant or 3) - len(str(int(abs(value.value)))))
    text = plain_number(value.value, decimals) + interval_text(value, decimals)
    if column.unit == TIMES:
        return TIMES + text
    return f"{text} {column.unit}".strip()


def paper_table(spec: TableSpec, runs: Sequence[StoredRun]) -> Table | None:
    """The table with its published rows and ours; None if there are neither.

    Raises:
        InputError: If a row is ambiguous in a run.
    """
    columns = shown(spec, runs)
    ours = _blocks(spec, runs, columns)
    blocks = [block for block in (published_block(spec), *ours) if block.cells]
    if not blocks:
        return None
    columns = [c for c in columns if not c.column.ours or any(_has(b, spec, c) for b in ours)]
    has_temp = _temps_vary(spec)
    table = Table(title=f"{spec.title} ({spec.source})", keys=2 + has_temp)
    for heading in ("from", *(("temp",) if has_temp else ()), _row_heading(spec)):
        table.add_column(heading, left=heading != "temp")
    for column in columns:
        table.add_column(column.heading)
    for block, name in zip(blocks, _names(blocks), strict=True):
        if table.rows:
            table.groups.append(len(table.rows))
        table.rows += list(_lines(table, spec, block, name, columns))
        table.notes += block.notes
    if not ours:
        table.notes.append(f"not measured in any stored run; {spec.command} measures it")
    return table


def _row_heading(spec: TableSpec) -> str:
    return "head steps" if all(row.model is None for row in spec.rows) else "System"


def _temps_vary(spec: TableSpec) -> bool:
    return len({row.temp for row in spec.rows if row.temp is not None}) > 1


def _names(blocks: Sequence[Block]) -> list[str]:
    """Where each block's rows come from; runs of one scale are told apart by their ids."""
    scales = [(block.scale, block.step) for block in blocks]
    names = []
    for block in blocks:
        alone = scales.count((block.scale, block.step)) == 1
        ours = f"here, {block.scale}" if alone else f"{block.source}, {block.scale}"
        ours += f", {block.step}" if block.step else ""
        names.append("paper" if block.scale == "published" else ours)
    return names


def _has(block: Block, spec: TableSpec, column: Shown) -> bool:
    return any(block.number(index, column.key) for index in range(len(spec.rows)))


def _lines(
    table: Table, spec: TableSpec, block: Block, name: str, columns: Sequence[Shown]
) -> Iterator[list[Text]]:
    known = {index for index, _ in block.cells}
    for index, row in enumerate(spec.rows):
        if index in known:
            line = [Text(text=name)]
            line += [Text(text=temperature_text(row.temp))] if _temps_vary(spec) else []
            line.append(Text(text=row.label))
            yield line + [_cell(table, spec, block, index, column) for column in columns]


def _cell(table: Table, spec: TableSpec, block: Block, index: int, column: Shown) -> Text:
    if column.column.rank:
        return Text(text=_rank(spec, block, index, column.column.metric + column.mark))
    found = block.number(index, column.key)
    if found is not None:
        return Text(text=number_text(found, column.column))
    reason = block.cells.get((index, column.key))
    if column.column.metric in SPEED_METRICS and spec.rows[index].model == "reference":
        return Text(text=UNPUBLISHED)  # a recording has no head to be timed: nothing is missing
    if block.scale == "published" or not isinstance(reason, str):
        return Text(text=UNPUBLISHED)
    return table.text("—", reason)


def _rank(spec: TableSpec, block: Block, index: int, metric: str) -> str:
    """The place of a system among the systems, equal for equal numbers."""
    values = {}
    for i, row in enumerate(spec.rows):
        found = block.number(i, metric)
        if row.model != "reference" and found is not None and found.value is not None:
            values[i] = found.value
    if index not in values:
        return UNPUBLISHED
    return str(1 + sum(value > values[index] for value in values.values()))


def paper_csv(spec: TableSpec, runs: Sequence[StoredRun]) -> str:
    """Every number of a table, published and ours, one a line and unrounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = ["source", "scale", "row", "temp", "steps", "column", "value", "low", "high", "n"]
    writer.writerow(keys)
    for block in (published_block(spec), *_blocks(spec, runs, shown(spec, runs))):
        for (index, key), found in block.cells.items():
            if isinstance(found, Value):
                row = spec.rows[index]
                source = block.source + (f", {block.step}" if block.step else "")
                where = [source, block.scale, row.label, row.temp, row.steps, key]
                writer.writerow([*where, found.value, found.low, found.high, found.n])
    return out.getvalue()
