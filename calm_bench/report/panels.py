"""Plots as data, and the one place where they are drawn, as PNG and SVG.

A picture has a title and a caption, and can stand alone. The same panels give the same bytes.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Self

from calm_bench.core.progress import waiting
from calm_bench.report.looks import GREY, LINES, Look
from calm_bench.store.results import Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_STAGES = {
    "backbone": ("#c4c4c4", ""),
    "head": ("#5e3c99", ""),
    "codec": ("#f1e3b5", "..."),
    "other": ("#ffffff", ""),
}
"""Colours that no system has, and that differ in a print in grey."""
_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.hashsalt": "calm-bench",
    "text.parse_math": False,  # a label may hold a dollar sign
}
_WIDTH, _HEIGHT = 4.6, 3.2  # inches of a panel with numbers along both axes
_NARROW = 2.4  # inches of a panel with names along y
_LETTERS_PER_INCH = 15  # of a caption
_BESIDE = 0.25  # of the distance between points, over which those of several lines are spread
_SIDE_BY_SIDE = "points that share a place along x stand side by side there"
_LEAST = 0.3  # of the smallest value: what a logarithmic axis shows of a bar that reaches 0
_KEYS: Any = {"columnspacing": 1.2, "handlelength": 2.0, "handletextpad": 0.6, "alignment": "left"}

Interval = tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A point with its intervals, and what is written beside it."""

    x: float
    y: float
    note: str = ""
    x_interval: Interval = None
    y_interval: Interval = None

    @classmethod
    def of(cls, x: float | Value, y: float | Value, note: str = "") -> Self:
        """A point whose coordinates are numbers of a run, with their intervals, or places."""
        (x, x_interval), (y, y_interval) = (
            (at.value or 0.0, interval_of(at)) if isinstance(at, Value) else (at, None)
            for at in (x, y)
        )
        return cls(x=x, y=y, note=note, x_interval=x_interval, y_interval=y_interval)


def interval_of(value: Value) -> Interval:
    """The interval of a number, if it has one."""
    return None if value.low is None or value.high is None else (value.low, value.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Points in order, joined; without a label, no legend names them."""

    label: str = ""
    look: Look
    dots: Sequence[Dot]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes.

    Attributes:
        levels: Grey lines across, by name: what stands beside the systems. One without a value is
            not drawn; its line's style is kept for it.
        uprights: Grey lines upwards, by name.
        stages: Instead of lines, per row the milliseconds of each stage.
        ends: Intervals of their sums.
        names: What stands along y from the top, at 0, 1, ..., instead of numbers.
        beyond: At some of the names, what is written for a value too far to the right, or none.
        from_zero: Whether y begins at 0, so that what is flat looks flat.
        shared_x: Whether lines have the same x: they stand a little beside each other, and ticks
            where the points are, if these are round numbers.
        ticks: Where the numbers along x stand instead.
        caption: What the numbers are of: n, instrument, run.
    """

    title: str = ""
    x_label: str = ""
    lines: Sequence[Line] = ()
    levels: Mapping[str, float | None] = field(default_factory=dict)
    uprights: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ends: Mapping[str, Interval] = field(default_factory=dict)
    names: Sequence[str] = ()
    beyond: Mapping[int, str] = field(default_factory=dict)
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = False
    shared_x: bool = False
    ticks: Sequence[float] = ()
    caption: str = ""

    @property
    def rows(self) -> Sequence[str]:
        """The names along y; none where y is a number."""
        return self.names or tuple(self.stages)


def far_apart(values: Iterable[float], times: float = 8.0) -> bool:
    """Whether an axis of these values is better logarithmic: the largest is many times the least.

    Never where one is not positive.
    """
    found = list(values)
    return bool(found) and min(found) > 0 and max(found) > times * min(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Panels under one title, their captions below."""

    title: str
    panels: Sequence[Panel]


def render(pictures: Mapping[str, Picture]) -> dict[str, bytes]:
    """The pictures by file name, each as PNG and SVG; one without panels has no file."""
    with waiting("loading matplotlib"):
        from matplotlib import rc_context
    files = {}
    with waiting("drawing plots"), rc_context(_STYLE):
        for name, picture in pictures.items():
            if picture.panels:
                figure = _draw(picture)
                # Without dates or versions in the files.
                for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                    out = io.BytesIO()
                    figure.savefig(out, format=kind, metadata=metadata, bbox_inches="tight")
                    files[f"{name}.{kind}"] = out.getvalue()
    return files


def _draw(picture: Picture) -> "Figure":
    from matplotlib.figure import Figure

    groups = by_legend(picture.panels)
    wide = max(map(_wide, groups))
    sizes = [_size(group, wide) for group in groups]
    width = max(across for across, _ in sizes)
    heights = [sum(rows) for _, rows in sizes]
    figure = Figure(figsize=(width, sum(heights) + 0.9), layout="constrained")
    left: Any = {"x": 0.01, "ha": "left"}
    figure.suptitle(picture.title, fontsize=12, fontweight="bold", **left)
    parts = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=heights).flat
    for part, group, (_, rows) in zip(parts, groups, sizes, strict=True):
        _draw_group(part, group, wide, rows)
    texts = dict.fromkeys(text for panel in picture.panels for text in panel.caption.splitlines())
    if any(panel.shared_x and len(panel.lines) > 1 for panel in picture.panels):
        texts[_SIDE_BY_SIDE] = None
    lines = [line for text in texts for line in wrap(text, int(_LETTERS_PER_INCH * width))]
    figure.supxlabel("\n".join(lines), fontsize=8, color=GREY, **left)
    return figure


def by_legend(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Successive panels in which a look means one system, so that one legend serves them all."""
    groups: list[list[Panel]] = []
    meant: dict[Look, str] = {}
    for panel in panels:
        own = {line.look: line.label for line in panel.lines if line.label and line.look.marker}
        if not groups or any(meant.get(key, label) != label for key, label in own.items()):
            groups.append([])
            meant = {}
        groups[-1].append(panel)
        meant |= own
    return groups


def _wide(panels: Sequence[Panel]) -> int:
    """How many panels stand beside each other: where names are along y, so that few are missing."""
    n = len(panels)
    if panels[0].names and n > 3:
        return min((3, 4, 2), key=lambda wide: -n % wide)
    return min(n, 3 if panels[0].names else 2)


def _size(panels: Sequence[Panel], wide: int) -> tuple[float, list[float]]:
    """The inches across, and of each row of panels."""
    longest = max((len(name) for panel in panels for name in panel.rows), default=0)
    rows = [panels[start : start + wide] for start in range(0, len(panels), wide)]
    if not longest:
        return max(_WIDTH * wide, 6.4), [_HEIGHT] * len(rows)
    beside = max(2.0, 0.08 * longest)  # a folder's path may be long
    each, thick = (max(_WIDTH, 6.0 / wide), 0.34) if panels[0].stages else (_NARROW, 0.24)
    heights = [0.9 + thick * max(len(panel.rows) for panel in row) for row in rows]
    return beside + each * wide, heights


def _draw_group(
    part: "SubFigure", panels: Sequence[Panel], wide: int, heights: Sequence[float]
) -> None:
    grid = part.subplots(len(heights), wide, squeeze=False, height_ratios=heights)
    axes, n = list(grid.flat), len(panels)
    for axis in axes[n:]:
        axis.set_axis_off()
    for index, (axis, panel) in enumerate(zip(axes[:n], panels, strict=True)):
        (_bars if panel.stages else _lines)(axis, panel)
        if panel.rows:
            said = index % wide and panel.rows == panels[index - 1].rows
            axis.set_yticks(range(len(panel.rows)), [] if said else panel.rows)
            axis.set_ylim(len(panel.rows) - 0.5, -0.5)
        axis.set_title(panel.title, loc="left", fontweight="bold")
        axis.set_xlabel(", ".join(filter(None, [panel.x_label, "log scale" * panel.log_x])))
        axis.set_ylabel("log scale" * panel.log_y)
    _legend(part, axes, panels)


def _legend(part: "SubFigure", axes: Sequence["Axes"], panels: Sequence[Panel]) -> None:
    """One legend for all panels, systems before levels: in an empty cell, or else above them."""
    handles: dict[str, Any] = {}
    for axis in axes:
        found, labels = axis.get_legend_handles_labels()
        for label, handle in zip(labels, found, strict=True):
            handles.setdefault(label, handle)
    most_first = sorted(panels, key=lambda panel: -len(panel.lines))
    order = [line.label for panel in most_first for line in panel.lines] + list(_STAGES)
    names = [name for name in dict.fromkeys(order) if name in handles]
    names += [name for name in handles if name not in names]
    if not names:
        return
    chosen = [handles[name] for name in names]
    if len(axes) > len(panels):
        axes[len(panels)].legend(chosen, names, loc="center left", **_KEYS)
    else:
        columns = int(part.bbox.width / part.figure.dpi / (0.9 + 0.075 * max(map(len, names))))
        part.legend(chosen, names, loc="outside upper left", ncols=max(1, columns), **_KEYS)


def _lines(axis: "Axes", panel: Panel) -> None:
    """Lines with bars at their points, and grey lines across and upwards."""
    dots = [dot for line in panel.lines for dot in line.dots]
    xs, ys = sorted({dot.x for dot in dots}), [dot.y for dot in dots]
    for index, line in enumerate(panel.lines):
        place = index - (len(panel.lines) - 1) / 2
        style = line.look
        axis.errorbar(
            _beside(panel, xs, [dot.x for dot in line.dots], place / len(panel.lines)),
            [dot.y for dot in line.dots],
            _bar_ends([(d.y, d.y_interval) for d in line.dots], ys if panel.log_y else ()),
            _bar_ends([(d.x, d.x_interval) for d in line.dots], xs if panel.log_x else ()),
            color=style.color,
            marker=style.marker,
            ls=style.line,
            fillstyle=style.fill,
            label=line.label,
            ms=6,
            capsize=3,
            lw=1.3,
            elinewidth=1.1,
        )
        for dot in (dot for dot in line.dots if dot.note):
            up = dot.y >= mean(other.y for other in dots if other.note == dot.note)
            near: Any = {"xytext": (5, 4 if up else -11), "textcoords": "offset points"}
            axis.annotate(dot.note, (dot.x, dot.y), fontsize=8, color=style.color, **near)
    for draw, places in ((axis.axhline, panel.levels), (axis.axvline, panel.uprights)):
        for index, (label, at) in enumerate(places.items(), 1):
            if at is not None:
                draw(at, color=GREY, lw=1.1, ls=LINES[index % len(LINES)], label=label)
    for y, text in panel.beyond.items():
        at_edge: Any = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "center"}
        axis.annotate(text, (1.0, y), color=GREY, **at_edge)
    axis.margins(x=0.12, y=0.12)
    _scales(axis, panel, xs, ys + [at for at in panel.levels.values() if at is not None])


def _beside(panel: Panel, all_x: Sequence[float], xs: Sequence[float], place: float) -> list[float]:
    """Where the points of a line stand, so that its bars do not hide those of others."""
    if not panel.shared_x or len(all_x) < 2:
        return list(xs)
    if panel.log_x:
        factor = min(b / a for a, b in pairwise(all_x)) ** (_BESIDE * place)
        return [x * factor for x in xs]
    shift = _BESIDE * place * min(b - a for a, b in pairwise(all_x))
    return [x + shift for x in xs]


def _bar_ends(
    points: Sequence[tuple[float, Interval]], logarithmic: Sequence[float]
) -> list[list[float]] | None:
    """Distances to the intervals' ends, as errorbar wants them; None if no point has any.

    `logarithmic` are the values along a logarithmic axis, on which a bar to 0 has no end.
    """
    if not any(interval for _, interval in points):
        return None
    least = _LEAST * min(logarithmic) if logarithmic else None
    below, above = [], []
    for value, interval in points:
        low, high = interval or (value, value)
        below.append(max(0.0, value - (low if least is None else max(low, least))))
        above.append(max(0.0, high - value))
    return [below, above]


def _scales(axis: "Axes", panel: Panel, xs: Sequence[float], ys: Sequence[float]) -> None:
    """Axes with plain numbers, with ticks where lines have their points in common."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    for name, side, logarithmic in (("x", axis.xaxis, panel.log_x), ("y", axis.yaxis, panel.log_y)):
        if not logarithmic:
            continue
        axis.set(**{f"{name}scale": "log"})
        low, high = side.get_view_interval()
        side.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 30 * low else (1, 2, 3, 5)))
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        side.set_minor_formatter(NullFormatter())
    at = panel.ticks or _apart(xs, logarithmic=panel.log_x)
    if panel.shared_x and all(float(x) == round(x, 2) for x in at):
        whole = all(float(x).is_integer() for x in at)
        axis.set_xticks(at, [f"{x:g}" if whole else str(round(x, 3)) for x in at])
        axis.xaxis.set_minor_locator(NullLocator())
    # An axis begins at 0 where that adds less than it shows, and hides no point.
    starts_low = bool(ys) and 0.0 < min(ys) < 0.6 * max(ys)
    if not panel.rows and not panel.log_y and (panel.from_zero or starts_low):
        axis.set_ylim(bottom=0.0)


def _apart(values: Sequence[float], *, logarithmic: bool) -> list[float]:
    """Of numbers along an axis, in order, those that do not touch; the largest is one of them."""
    places = dict(zip(values, map(math.log, values) if logarithmic else values, strict=True))
    shown: list[float] = []
    for value in reversed(values):
        span = places[values[-1]] - places[values[0]]
        if not shown or places[shown[-1]] - places[value] > 0.06 * span:
            shown.append(value)
    return shown[::-1]


def _bars(axis: "Axes", panel: Panel) -> None:
    """Stacked bars, a row per system, with the total and the head's share at the end."""
    sums = [0.0] * len(panel.stages)
    for stage, (color, hatch) in _STAGES.items():
        widths = [parts.get(stage, 0.0) for parts in panel.stages.values()]
        if any(widths):
            own: Any = {"color": color, "hatch": hatch, "edgecolor": "#333333", "linewidth": 0.6}
            axis.barh(range(len(widths)), widths, 0.62, sums, label=stage, **own)
        sums = [end + width for end, width in zip(sums, widths, strict=True)]
    tips = []
    for y, ((name, parts), end) in enumerate(zip(panel.stages.items(), sums, strict=True)):
        low, high = panel.ends.get(name) or (end, end)
        axis.plot([low, high], [y, y], color="black", marker="|", ms=6, lw=1.3)
        share = f", head {100 * parts['head'] / end:.0f} %" if parts.get("head") else ""
        # Three digits, or all before the point.
        time = f"{end:.3g}" if end < 999.5 else f"{end:,.0f}"
        place: Any = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(f"{time} ms{share}", (max(end, high), y), **place)
        tips.append(max(end, high))
    for label, at in panel.uprights.items():
        axis.axvline(at, color=GREY, lw=1.1, ls="--", label=label)
    axis.grid(visible=False, axis="y")
    axis.set_xlim(0, 1.45 * max(tips))
