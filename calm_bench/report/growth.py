"""How time and memory grow: along a long generation, and with the batch. Flat is good.

From growth.jsonl, and from the columns of each batch size; a row without a value is not drawn.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from calm_bench.report.drawing import (
    GREY,
    STYLE,
    add_legend,
    encode,
    looks_of,
    new_figure,
    system_name,
)
from calm_bench.store.records import GrowthRecord, Row, Stage, swept
from calm_bench.store.results import Results, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS: tuple[tuple[Stage, str], ...] = (
    ("backbone", "backbone, ms per frame"),
    ("head", "head, ms per frame"),
    ("codec", "codec, ms per frame"),
)
_BATCH_PANELS = (
    ("step_ms", "step, ms"),
    ("rows_per_s", "frames per second, all clips"),
    ("peak_mb", "peak memory, MB"),
)

Points = Mapping[str, Sequence[tuple[float, float, float, float]]]
"""By row, x, y, and the ends of a bar."""


def render_growth(results: Results, growth: Sequence[GrowthRecord]) -> dict[str, bytes]:
    """The growth plots that the run has values for, by file name, each as PNG and SVG."""
    from matplotlib import rc_context

    files: dict[str, bytes] = {}
    with rc_context(STYLE):
        figures = {
            "growth_position": _by_position(results, growth),
            "growth_batch": _by_batch(results),
        }
        for name, figure in figures.items():
            if figure is not None:
                files |= {f"{name}.{kind}": data for kind, data in encode(figure).items()}
    return files


def _by_position(results: Results, growth: Sequence[GrowthRecord]) -> "Figure | None":
    """Stages and memory against seconds generated, a line for each row."""
    if not growth:
        return None
    figure, axes = new_figure(2, 2, (9.0, 7.0))
    for axis, (stage, title) in zip(axes, _PANELS, strict=False):
        _draw(axis, results, times_along(growth, stage))
        axis.set_title(title, loc="left", fontweight="bold")
    _draw(axes[3], results, _memory(growth))
    axes[3].set_title("kept between steps, MB", loc="left", fontweight="bold")
    for axis in axes:
        _positions(axis, sorted({record.seconds for record in growth}))
        axis.set_xlabel("seconds of audio generated")
    return _finished(
        figure,
        axes,
        results,
        "points: lower quartile of the frames there, bars: fastest to median\n"
        "(whatever else runs on the machine only adds time)",
    )


def _by_batch(results: Results) -> "Figure | None":
    """A step's time, its yield and its memory against how many clips share it."""
    found = [_of_batches(results, name) for name, _ in _BATCH_PANELS]
    if max((len(line) for line in found[0].values()), default=0) < 2:
        return None
    figure, axes = new_figure(1, 3, (11.5, 3.9))
    for axis, points, (_, title) in zip(axes, found, _BATCH_PANELS, strict=True):
        _draw(axis, results, points)
        axis.set_title(title, loc="left", fontweight="bold")
        _positions(axis, sorted({x for line in points.values() for x, *_ in line}))
        axis.set_xlabel("clips in a batch")
    return _finished(figure, axes, results, "bars: 95 % intervals over rounds")


def _finished(figure: "Figure", axes: Sequence["Axes"], results: Results, caption: str) -> "Figure":
    names = [_name(results, row) for row in results.cells]
    add_legend(figure, axes, names, 2)
    figure.supxlabel(caption, fontsize=8, color=GREY)
    return figure


def _name(results: Results, row: Row) -> str:
    return system_name(row, row.label in swept(results.cells))


def _draw(axis: "Axes", results: Results, points: Points) -> None:
    """A line with bars for each row that has points; from zero, so that flat looks flat."""
    looks = looks_of(results)
    highest = 0.0
    for row in results.cells:
        line = points.get(row.cell_id, ())
        if not line:
            continue
        name = _name(results, row)
        look = looks[name]
        xs, ys = [x for x, *_ in line], [y for _, y, *_ in line]
        bars = [[max(0.0, y - a) for _, y, a, _ in line], [max(0.0, b - y) for _, y, _, b in line]]
        style: Any = {"color": look.color, "marker": look.marker, "ls": look.line, "ms": 5}
        axis.errorbar(xs, ys, bars, capsize=2, lw=1.2, label=name, **style)
        highest = max(highest, *ys)
    if highest:
        axis.set_ylim(0, 1.15 * highest)


def _positions(axis: "Axes", values: Sequence[float]) -> None:
    """Numbers where points are; what grows evenly is straight."""
    shown = apart(values)
    axis.set_xticks(shown, [f"{value:g}" for value in shown])


def apart(values: Sequence[float]) -> list[float]:
    """Of numbers along an axis, those that do not touch, the largest first."""
    shown: list[float] = []
    for value in sorted(values, reverse=True):
        if not shown or shown[-1] - value > 0.06 * (max(values) - min(values)):
            shown.append(value)
    return shown


def times_along(growth: Sequence[GrowthRecord], stage: Stage) -> Points:
    """Seconds, lower quartile, fastest and median of a stage's milliseconds; rows that have any."""
    found: dict[tuple[str, float], list[float]] = defaultdict(list)
    for record in growth:
        found[record.cell_id, record.seconds] += [ns / 1e6 for ns in record.stage_ns[stage]]
    lines: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for (cell_id, seconds), times in sorted(found.items()):
        ordered = sorted(times)
        quarter = len(ordered) // 4
        point = (seconds, ordered[quarter], ordered[0], median(ordered))
        lines[cell_id].append(point)
    return lines


def _memory(growth: Sequence[GrowthRecord]) -> Points:
    lines: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for record in sorted(growth, key=lambda record: record.seconds):
        if record.state_bytes is not None:
            size = record.state_bytes / 1e6
            lines[record.cell_id].append((record.seconds, size, size, size))
    return lines


def _of_batches(results: Results, name: str) -> Points:
    lines: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for value in results.rows:
        base, at, batch = value.metric.partition("@b")
        if base == name and at and value.value is not None:
            lines[value.cell_id].append((float(batch), value.value, *_ends(value)))
    return {cell_id: sorted(line) for cell_id, line in lines.items()}


def _ends(value: Value) -> tuple[float, float]:
    middle, low, high = value.value or 0.0, value.low, value.high
    return (middle if low is None else low), (middle if high is None else high)
