"""Plots of a run: quality against temperature, time per frame by stage, and words against sense.

A row without a value is not drawn, and the caption below the axes says so. The other plots are in
`curves` and `timeline`, what all share in `drawing`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import TYPE_CHECKING, Any

from calm_bench.report.columns import Shown, shown_columns
from calm_bench.report.curves import draw_against_time, draw_against_training, draw_by_row
from calm_bench.report.drawing import (
    GREY,
    GREY_LINES,
    GREY_MARKERS,
    STYLE,
    Look,
    add_caption,
    add_legend,
    encode,
    looks_of,
    new_figure,
    references_of,
    spread_of,
    system_name,
)
from calm_bench.report.timeline import draw_over_time
from calm_bench.store.records import LatencyRecord, Row, row_title, swept
from calm_bench.store.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_PARTS = ("backbone", "head", "codec")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Milliseconds by stage; "other" is what the total holds beyond the three stages.

    Attributes:
        per: What they are for: a frame, or a second of audio where frames differ in length.
    """

    name: str
    ms: Mapping[str, float]
    per: str = "frame"


def stage_times(rows: Sequence[Row], records: Sequence[LatencyRecord]) -> list[StageTimes]:
    """Per row timed at batch 1, and per mode, the median over its rounds of each stage's mean time.

    It is the time of a frame, or of a second of audio where systems differ in frame rate.
    """
    arms: dict[tuple[str, str], list[LatencyRecord]] = defaultdict(list)
    for record in records:
        if not record.control and record.batch == 1:
            arms[record.cell_id, record.mode].append(record)
    modes = list(dict.fromkeys(mode for _, mode in arms))
    # Where a mode is what a row is about, the row's name has it.
    several_modes = len(modes) > 1 and all(row.mode is None for row in rows)
    several_steps = swept(rows)
    lengths = {record.frame_ns for rounds in arms.values() for record in rounds}
    per_second = len(lengths) > 1 and None not in lengths
    times = []
    for row in rows:
        for mode in modes:
            if rounds := arms.get((row.cell_id, mode)):
                name = row_title(row, several_steps=row.label in several_steps)
                name += f" ({mode})" if several_modes else ""
                ms = _means(rounds, per_second=per_second)
                per = "second of audio" if per_second else "frame"
                times.append(StageTimes(name=name, ms=ms, per=per))
    return times


def _means(rounds: Sequence[LatencyRecord], *, per_second: bool) -> dict[str, float]:
    means: dict[str, list[float]] = defaultdict(list)
    for record in rounds:
        nanoseconds = 1e-3 * record.frame_ns if per_second and record.frame_ns else 1e6
        per_stage: dict[str, float] = {
            stage: sum(values) / len(values) / nanoseconds
            for stage, values in record.stage_ns.items()
            if values
        }
        total = per_stage.pop("total", None)
        if total is not None:
            per_stage["other"] = max(0.0, total - sum(per_stage.values()))
        for stage, value in per_stage.items():
            means[stage].append(value)
    return {stage: median(means[stage]) for stage in (*_PARTS, "other") if stage in means}


_STAGES = {"backbone": "#999999", "head": "#D55E00", "codec": "#56B4E9", "other": "#d9d9d9"}
_FILLS = ("full", "none", "left", "bottom", "right", "top")


def render_plots(results: Results, times: Sequence[StageTimes]) -> dict[str, bytes]:
    """The plots that the run has values for, by file name, each as PNG and SVG."""
    from matplotlib import rc_context

    files: dict[str, bytes] = {}
    with rc_context(STYLE):
        figures = {
            "quality_vs_temperature": _quality(results),
            "quality_by_row": draw_by_row(results),
            "quality_over_time": draw_over_time(results),
            "quality_vs_head_time": draw_against_time(results),
            "quality_vs_training_step": draw_against_training(results),
            "time_per_frame": _stages(times),
            "wer_vs_ppx": _trade_off(results),
        }
        for name, figure in figures.items():
            if figure is not None:
                files |= {f"{name}.{kind}": data for kind, data in encode(figure).items()}
    return files


def _quality(results: Results) -> "Figure | None":
    """Each quality column against temperature, a line per system; None below two of them."""
    temperatures = {row.temperature for row in results.cells if row.kind == "system"}
    if len(temperatures) < 2:
        return None
    warm = [row.cell_id for row in results.cells if row.temperature is not None]
    columns = [
        shown
        for shown in shown_columns(results)
        if not shown.is_speed and any(shown.value(cell_id) is not None for cell_id in warm)
    ]
    if not columns:
        return None
    wide = min(2, len(columns))
    high = -(-len(columns) // wide)
    figure, axes = new_figure(high, wide, (4.2 * wide, 2.7 * high + 0.8))
    drawn: set[str] = set()
    for axis, shown in zip(axes, columns, strict=False):
        drawn |= _quality_lines(axis, results, shown)
    for axis in axes[len(columns) :]:
        axis.remove()
    references = [row.label for row in references_of(results)]
    add_legend(figure, axes[: len(columns)], [*looks_of(results), *references], 3)
    add_caption(figure, results, columns, drawn)
    return figure


def _quality_lines(axis: "Axes", results: Results, shown: Shown) -> set[str]:
    """Draw one column and return the ids of the rows that were drawn."""
    several, looks = swept(results.cells), looks_of(results)
    drawn = set()
    for index, (name, look) in enumerate(looks.items()):
        # Systems share their temperatures: a small shift keeps their bars from hiding each other.
        shift = 0.012 * (index - (len(looks) - 1) / 2)
        points = []
        for row in results.cells:
            found = spread_of(shown, row.cell_id)
            of_line = row.kind == "system" and system_name(row, row.label in several) == name
            if of_line and found is not None and row.temperature is not None:
                points.append((row.temperature + shift, *found))
                drawn.add(row.cell_id)
        points.sort(key=lambda point: point[0])
        axis.plot([x for x, _, _ in points], [y for _, y, _ in points], color=look.color, alpha=0.5)
        style: Any = {"color": look.color, "marker": look.marker, "ms": 6, "capsize": 3}
        for x, y, spread in points:
            axis.errorbar(x, y, spread, label=name, **style)
    for row, line in zip(references_of(results), cycle(GREY_LINES), strict=False):
        value = shown.value(row.cell_id)
        if row.kind != "silence" and value is not None:
            axis.axhline(value, color=GREY, ls=line, lw=1.1, label=row.label)
    axis.set_xticks(sorted({c.temperature for c in results.cells if c.temperature is not None}))
    axis.margins(x=0.15)
    axis.set_xlabel("temperature")
    axis.set_title(shown.heading, loc="left", fontweight="bold")
    return drawn


def _stages(times: Sequence[StageTimes]) -> "Figure | None":
    """Time per frame as stacked bars of backbone, head and codec; None if nothing was timed."""
    if not times:
        return None
    figure, (axis,) = new_figure(1, 1, (7.2, 1.1 + 0.5 * len(times)))
    ends = [0.0] * len(times)
    for stage, color in _STAGES.items():
        widths = [arm.ms.get(stage, 0.0) for arm in times]
        rows = range(len(times))
        axis.barh(rows, widths, 0.62, ends, color=color, edgecolor="white", label=stage)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for y, (arm, end) in enumerate(zip(times, ends, strict=True)):
        head = f", head {_digits(arm.ms['head'])} ms" if "head" in arm.ms else ""
        place: Any = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(f"{_digits(end)} ms{head}", (end, y), **place)
    axis.set_yticks(range(len(times)), [arm.name for arm in times])
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set_xlim(0, 1.32 * max(ends))
    axis.set_xlabel(f"milliseconds per {times[0].per} at batch 1, median over rounds")
    add_legend(figure, [axis], list(_STAGES), len(_STAGES))
    return figure


def _digits(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _trade_off(results: Results) -> "Figure | None":
    """Whether words come out right (WER) against whether they make sense (PPX), a point per row."""
    columns = [shown for shown in shown_columns(results) if not shown.is_speed]
    across = next((shown for shown in columns if shown.column.name.startswith("wer")), None)
    up = next((shown for shown in columns if shown.column.name.startswith("ppx")), None)
    if across is None or up is None:
        return None
    figure, (axis,) = new_figure(1, 1, (6.4, 4.4))
    looks, several = looks_of(results), swept(results.cells)
    pairs = zip(references_of(results), cycle(GREY_MARKERS), strict=False)
    greys = {row.cell_id: Look(color=GREY, marker=marker) for row, marker in pairs}
    lines: dict[str, list[tuple[float, float]]] = {name: [] for name in looks}
    names = []
    for row in results.cells:
        x, y = spread_of(across, row.cell_id), spread_of(up, row.cell_id)
        if x is None or y is None or row.kind == "silence":
            continue  # what a recogniser hears in silence would stretch the axes and say nothing
        look = greys.get(row.cell_id) or looks[system_name(row, row.label in several)]
        line = lines.setdefault(system_name(row, row.label in several), [])
        style: Any = {"color": look.color, "marker": look.marker, "ms": 8, "capsize": 3}
        style["fillstyle"] = _FILLS[len(line) % len(_FILLS)]  # one filling per temperature
        line.append((x[0], y[0]))
        names.append(
            (
                row.kind != "system",
                row_title(row, several_steps=row.label in several),
                row.cell_id,
            )
        )
        axis.errorbar(x[0], y[0], y[1], x[1], label=names[-1][1], **style)
    if not names:
        return None
    for name, look in looks.items():
        xs, ys = [x for x, _ in lines[name]], [y for _, y in lines[name]]
        axis.plot(xs, ys, color=look.color, alpha=0.4)
    axis.set_xlabel(across.heading)
    axis.set_ylabel(up.heading)
    add_legend(figure, [axis], [name for _, name, _ in sorted(names, key=lambda n: n[0])], 2)
    add_caption(figure, results, [across, up], {cell_id for _, _, cell_id in names})
    return figure
