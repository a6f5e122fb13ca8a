"""How runs name what claims, tables and figures speak of: the one place that knows.

What is asked for is looked up by its name; a few names stand for what a run stores under another:

    fad_first, fad_last   FAD over time, of the first and the last segment of the continuations
    fad_half_trained      FAD of the last checkpoint kept before half of the training
    seconds_for_30s       thirty times the RTF
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from calm_bench.numbers.speed import SPEED_COLUMNS
from calm_bench.store.records import Row
from calm_bench.store.results import Results, Value

STORED_AS = {
    "fad_first": "fad",
    "fad_half_trained": "fad",
    "fad_last": "fad",
    "seconds_for_30s": "rtf",
}
SPEED_METRICS = frozenset(column.name for column in SPEED_COLUMNS) | {"seconds_for_30s"}
"""What random weights measure as well as trained ones."""

OF_THE_MODEL = SPEED_METRICS | {"text_nll"}
"""One number for all temperatures: a temperature changes neither shapes nor the text's loss."""

_SEGMENT = re.compile(r"fad@(?P<start>\d+(?:\.\d+)?)-(?P<end>\d+(?:\.\d+)?)s")
_MODEL = re.compile(r"(?P<base>.+?)(-(?P<scale>tiny|paper|debug))?(@(?P<step>\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """The parts of a model's name: calm-music-tiny@2000 is calm-music, tiny, after 2,000 steps."""

    base: str
    scale: str | None
    step: int | None

    @classmethod
    def of(cls, model: str) -> "ModelName":
        """The parts of a name or of a folder's path."""
        found = _MODEL.fullmatch(Path(model).name)
        if found is None:
            return cls(base=model, scale=None, step=None)
        step = found["step"]
        return cls(base=found["base"], scale=found["scale"], step=int(step) if step else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A row with where it lies: a second of the clip."""

    x: float
    value: Value


def segments(values: Iterable[Value]) -> list[Point]:
    """The FAD of successive segments, each at its middle in seconds, in order of time."""
    found = []
    for value in values:
        if (match := _SEGMENT.fullmatch(value.metric)) is not None:
            found.append(Point(x=(float(match["start"]) + float(match["end"])) / 2, value=value))
    return sorted(found, key=lambda point: point.x)


def is_part(row: Row) -> bool:
    """Whether a row is of part of a model: a checkpoint on the way, or a codec's first levels."""
    on_the_way = row.model is not None and ModelName.of(row.model).step is not None
    return on_the_way or row.levels is not None


def rows_for(metric: str, rows: Sequence[Row]) -> list[Row]:
    """Those of a model's rows that a metric is about: the whole model, or a half-trained one."""
    if metric != "fad_half_trained":
        return [row for row in rows if not is_part(row)]
    steps = {ModelName.of(row.model).step or 0: row for row in rows if row.model is not None}
    early = [step for step in steps if 0 < step <= max(steps) / 2]
    return [steps[max(early)]] if early else []


def values_for(metric: str, results: Results, row: Row) -> list[Value]:
    """A row's values of a metric, by each recipe, under whatever name the run stores them."""
    values = [value for value in results.rows if value.cell_id == row.cell_id]
    if metric in ("fad_first", "fad_last"):
        points = segments(values)
        at = {point.x for point in points}
        if len(at) < 2:
            return []
        wanted = min(at) if metric == "fad_first" else max(at)
        return [point.value for point in points if point.x == wanted]
    found = [value for value in values if value.metric == STORED_AS.get(metric, metric)]
    return [_thirty_seconds(rtf) for rtf in found] if metric == "seconds_for_30s" else found


def _thirty_seconds(rtf: Value) -> Value:
    ends = {name: getattr(rtf, name) for name in ("value", "low", "high")}
    times = {name: None if x is None else 30 * x for name, x in ends.items()}
    return rtf.model_copy(update={"metric": "seconds_for_30s", "unit": "s", **times})
