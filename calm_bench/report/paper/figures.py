"""The paper's figures drawn: colours, markers and hatches that survive grey print, same bytes.

A figure without data in any stored run is not drawn: it is listed with the command that makes it.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from calm_bench.report.drawing import COLORS, GREY, GREY_LINES, MARKERS, STYLE, encode, new_figure
from calm_bench.report.growth import apart
from calm_bench.report.paper.catalogue import FIGURES
from calm_bench.report.paper.names import ModelName
from calm_bench.report.paper.panels import Line, Panel
from calm_bench.report.paper.runs import StoredRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One look per system in all figures; what is ablated is never in a figure with other baselines.
_LOOKS = {
    "calm-speech": 0,
    "calm-music": 0,
    "rq-speech": 1,
    "rq32-music": 1,
    "trigflow-music": 2,
    "rq16-music": 3,
    "musicgen-music": 5,
    "calm-music-none": 1,
    "calm-music-no-noise": 2,
    "calm-music-no-multiplier": 3,
    "calm-music-no-short": 5,
}
_FILLS = ("full", "none", "left", "right", "top", "bottom")
_STAGES = {
    "backbone": ("#bdbdbd", ""),
    "head": ("#D55E00", "///"),
    "codec": ("#56B4E9", "..."),
    "other": ("#f0f0f0", ""),
}
_WIDTH, _HEIGHT = 4.6, 3.5
_WIDE = 3.0  # a span of x beyond which a logarithmic axis pays
_TICKS = 8
_BELOW: dict[str, Any] = {
    "loc": "upper center", "bbox_to_anchor": (0.45, -0.2), "ncols": 2, "fontsize": 8,
    "frameon": False, "columnspacing": 1.0, "handlelength": 1.4, "handletextpad": 0.5,
}  # fmt: skip
"""A panel's own legend."""


def draw_figures(runs: Sequence[StoredRun]) -> dict[str, dict[str, bytes] | None]:
    """By figure, its files by suffix; None where no stored run has its data."""
    from matplotlib import rc_context

    drawn: dict[str, dict[str, bytes] | None] = {}
    with rc_context(STYLE):
        for spec in FIGURES:
            panels = [panel for run in runs for panel in spec.panels(run)]
            drawn[spec.name] = encode(_draw(panels)) if panels else None
    return drawn


def _draw(panels: Sequence[Panel]) -> "Figure":
    figure, axes = _bar_axes(panels) if panels[0].stages else _line_axes(panels)
    for axis, panel in zip(axes, panels, strict=False):
        (_bars if panel.stages else _lines)(axis, panel)
        axis.set_title(panel.title, loc="left", fontweight="bold")
        axis.set_xlabel(panel.x_label)
    for axis in axes[len(panels) :]:
        axis.remove()
    axes = axes[: len(panels)]
    if panels[0].stages or looks_agree(panels):
        _shared_legend(figure, axes, panels)
    else:
        for axis in axes:
            axis.legend(**_BELOW)
    captions = dict.fromkeys(panel.caption for panel in panels)
    figure.supxlabel("\n".join(captions), fontsize=8, color=GREY)
    return figure


def _bar_axes(panels: Sequence[Panel]) -> tuple["Figure", list["Axes"]]:
    """One panel below the other, bars equally thick in all."""
    heights = [0.8 + 0.42 * len(panel.stages) for panel in panels]
    figure, axes = new_figure(len(panels), 1, (7.4, sum(heights) + 0.8))
    grid = axes[0].get_gridspec()
    if grid is not None:
        grid.set_height_ratios(heights)
    return figure, axes


def _line_axes(panels: Sequence[Panel]) -> tuple["Figure", list["Axes"]]:
    wide = min(3, len(panels))
    high = -(-len(panels) // wide)
    return new_figure(high, wide, (max(_WIDTH * wide, 6.2), _HEIGHT * high + 0.8))


def looks_agree(panels: Sequence[Panel]) -> bool:
    """Whether a look means one system in all panels, so that one legend serves them all."""
    meant: dict[tuple[str, ...], set[str]] = {}
    for panel in panels:
        for line, look in zip(panel.lines, _looks(panel.lines), strict=True):
            meant.setdefault(tuple(map(str, look.values())), set()).add(line.label)
    return all(len(labels) == 1 for labels in meant.values())


def _shared_legend(figure: "Figure", axes: Sequence["Axes"], panels: Sequence[Panel]) -> None:
    """One legend for all panels, each name once: systems in the order of the table, then levels."""
    handles: dict[str, Any] = {}
    for axis in axes:
        found, labels = axis.get_legend_handles_labels()
        handles = dict(zip(labels, found, strict=True)) | handles
    order = [line.label for panel in panels for line in panel.lines]
    order += [*_STAGES, *(name for panel in panels for name in panel.levels)]
    names = [name for name in dict.fromkeys(order) if name in handles]
    columns = 4 if any(panel.stages for panel in panels) else max(2, min(3, len(panels)))
    chosen = [handles[name] for name in names]
    figure.legend(chosen, names, loc="outside upper left", ncols=columns)


def _looks(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """How each line is drawn: by its system, with other fillings where one comes twice."""
    styles: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    spare = [i for i in range(len(COLORS)) if i not in _LOOKS.values()]
    for line in lines:
        base = ModelName.of(line.model).base
        if base not in seen:
            seen[base] = 0
            if base not in _LOOKS:
                spare.append(spare.pop(0))
        index = _LOOKS.get(base, spare[-1])
        styles.append(
            {
                "color": COLORS[index],
                "marker": MARKERS[index],
                "fillstyle": _FILLS[seen[base] % len(_FILLS)],
                "ls": GREY_LINES[index % len(GREY_LINES)],
            }
        )
        seen[base] += 1
    return styles


def _lines(axis: "Axes", panel: Panel) -> None:
    """Lines with bars at their points, and levels across."""
    log_x = panel.log_x and _spans(panel) > _WIDE
    shifts, looks = _shifts(panel, log_x), _looks(panel.lines)
    for index, line in enumerate(panel.lines):
        look, shift = looks[index], shifts[index]
        ys = [dot.y for dot in line.dots]
        style = {"ms": 7, "capsize": 3, "lw": 1.4, "elinewidth": 1.1} | look
        axis.errorbar(
            [dot.x * shift if log_x else dot.x + shift for dot in line.dots],
            ys,
            _spread([(d.y, d.y_interval) for d in line.dots], positive=panel.log_y),
            _spread([(d.x, d.x_interval) for d in line.dots], positive=log_x),
            label=line.label,
            **style,
        )
        for dot in line.dots:
            above = (6, 5) if index % 2 else (6, -12)
            place: Any = {"xytext": above, "textcoords": "offset points", "fontsize": 8}
            axis.annotate(dot.note, (dot.x, dot.y), color=look["color"], **place)
    for index, (label, value) in enumerate(panel.levels.items()):
        style = {"color": GREY, "lw": 1.1, "ls": GREY_LINES[(index + 1) % len(GREY_LINES)]}
        axis.axhline(value, label=label, **style)
    _scales(axis, panel, log_x)
    axis.set_ylabel(panel.y_label)
    axis.margins(x=0.12, y=0.12)


def _spans(panel: Panel) -> float:
    """The largest x over the smallest."""
    xs = [dot.x for line in panel.lines for dot in line.dots]
    return max(xs) / min(xs) if min(xs) > 0 else math.inf


def _shifts(panel: Panel, log_x: bool) -> list[float]:
    """What is added to (or on a log axis, multiplied with) x, so that bars do not hide bars."""
    xs = [dot.x for line in panel.lines for dot in line.dots]
    n = len(panel.lines)
    if not panel.dodge:
        return [1.0 if log_x else 0.0] * n
    places = [0.015 * (index - (n - 1) / 2) for index in range(n)]
    if log_x:
        return [_spans(panel) ** place for place in places]
    return [(max(xs) - min(xs)) * place for place in places]


def _spread(
    points: Sequence[tuple[float, tuple[float, float] | None]], *, positive: bool
) -> list[list[float]] | None:
    """Distances to the intervals' ends, as errorbar wants them; None if no point has any."""
    if not any(interval for _, interval in points):
        return None
    below, above = [], []
    for value, interval in points:
        low, high = interval or (value, value)
        # A bar that reaches 0 has no end on a logarithmic axis; it stops just above.
        below.append(max(0.0, value - (max(low, 0.02 * value) if positive else low)))
        above.append(max(0.0, high - value))
    return [below, above]


def _scales(axis: "Axes", panel: Panel, log_x: bool) -> None:
    """Axes with plain numbers, and ticks where the points are."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    at = sorted({dot.x for line in panel.lines for dot in line.dots})
    whole = all(x.is_integer() for x in map(float, at))
    if log_x:
        axis.set_xscale("log")
    if len(at) <= _TICKS and (whole or not panel.log_x):
        at = at if log_x else apart(at)
        axis.set_xticks(at, [f"{x:g}" if whole else str(round(x, 3)) for x in at])
        axis.xaxis.set_minor_locator(NullLocator())
    elif log_x:
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    if panel.log_y:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    elif panel.from_zero or _starts_low(panel):
        axis.set_ylim(bottom=0.0)


def _starts_low(panel: Panel) -> bool:
    """Whether the axis should begin at 0: where it would cut off less than it shows."""
    ys = [dot.y for line in panel.lines for dot in line.dots] + list(panel.levels.values())
    return 0.0 <= min(ys) < 0.6 * max(ys)


def _bars(axis: "Axes", panel: Panel) -> None:
    """Stacked bars, a row per system, with the total at the end."""
    names = list(panel.stages)
    ends = [0.0] * len(names)
    for stage, (color, hatch) in _STAGES.items():
        widths = [panel.stages[name].get(stage, 0.0) for name in names]
        if not any(widths):
            continue
        axis.barh(
            range(len(names)),
            widths,
            0.62,
            ends,
            color=color,
            hatch=hatch,
            edgecolor="#333333",
            linewidth=0.6,
            label=stage,
        )
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for y, (name, end) in enumerate(zip(names, ends, strict=True)):
        place: Any = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        share = 100 * panel.stages[name].get("head", 0.0) / end if end else 0.0
        axis.annotate(f"{end:.3g} ms, head {share:.0f} %", (end, y), **place)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")
    axis.set_xlim(0, 1.35 * max(ends))
