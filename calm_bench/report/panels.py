"""Plots as data, and the one place where they are drawn, as PNG and SVG.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; every system also has its
own marker and line, and every stage its own hatch, so that a print in grey can be read. The same
panels give the same bytes.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Self

from calm_bench.store.results import Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#6b6b6b"
GREY_MARKERS = ("*", "x", "P", "1", "2", "3", "4")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))
FILLS = ("full", "none", "left", "right", "top", "bottom")
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STAGES = {
    "backbone": ("#bdbdbd", ""),
    "head": ("#D55E00", "///"),
    "codec": ("#56B4E9", "..."),
    "other": ("#f0f0f0", ""),
}
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
_WIDTH, _HEIGHT = 4.5, 3.2  # inches of a panel with numbers along both axes
_LETTERS_PER_INCH = 14  # of a caption
_BESIDE = 0.25  # of the distance between points, over which those of several lines are spread
_LEAST = 0.3  # of the smallest value: what a logarithmic axis shows of a bar that reaches 0
_BELOW: Any = {
    "loc": "upper center", "bbox_to_anchor": (0.45, -0.2), "ncols": 2, "fontsize": 8,
    "frameon": False, "columnspacing": 1.0, "handlelength": 1.4, "handletextpad": 0.5,
}  # fmt: skip
"""A panel's own legend."""

Interval = tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How the points of a line are drawn, in every plot."""

    color: str
    marker: str = "o"
    line: Any = "-"
    fill: str = "full"


def look(index: int, fill: str = "full") -> Look:
    """The look of one of many systems; no two of 49 look alike."""
    n = len(COLORS)
    # Each lap of colours starts at another marker.
    marker = _MARKERS[(index + index // n) % n]
    return Look(color=COLORS[index % n], marker=marker, line=LINES[index % len(LINES)], fill=fill)


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
        (x, x_interval), (y, y_interval) = _place(x), _place(y)
        return cls(x=x, y=y, note=note, x_interval=x_interval, y_interval=y_interval)


def _place(at: float | Value) -> tuple[float, Interval]:
    if not isinstance(at, Value):
        return at, None
    assert at.value is not None
    if at.low is None or at.high is None:
        return at.value, None
    return at.value, (at.low, at.high)


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
        levels: Grey lines across, by name: what stands beside the systems.
        uprights: Grey lines upwards, by name.
        stages: Instead of lines, per row the milliseconds of each stage.
        names: What stands along y from the top, at 0, 1, ..., instead of numbers.
        beyond: At some of the names, what is written for a value too far to the right.
        from_zero: Whether y begins at 0, so that what is flat looks flat.
        shared_x: Whether lines have the same x: they stand a little beside each other, and ticks
            where the points are, if these are round numbers.
        ticks: Where the numbers along x stand instead.
        caption: What the numbers are of: n, instrument, run.
    """

    title: str = ""
    x_label: str = ""
    y_label: str = ""
    lines: Sequence[Line] = ()
    levels: Mapping[str, float] = field(default_factory=dict)
    uprights: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
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


def render(figures: Mapping[str, Sequence[Panel]]) -> dict[str, bytes]:
    """The figures by file name, each as PNG and SVG; one without panels has no file."""
    from matplotlib import rc_context

    files = {}
    with rc_context(_STYLE):
        for name, panels in figures.items():
            if panels:
                figure = _draw(panels)
                # Without dates or versions in the files.
                for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                    out = io.BytesIO()
                    figure.savefig(out, format=kind, metadata=metadata, bbox_inches="tight")
                    files[f"{name}.{kind}"] = out.getvalue()
    return files


def _draw(panels: Sequence[Panel]) -> "Figure":
    from matplotlib.figure import Figure

    n = len(panels)
    wide = 1 if panels[0].stages else min(3, n) if panels[0].names or n <= 3 else 2
    width, heights = _size(panels, wide)
    figure = Figure(figsize=(width, sum(heights) + 0.8), layout="constrained")
    grid = figure.subplots(len(heights), wide, squeeze=False, height_ratios=heights)
    axes = list(grid.flat)
    for axis in axes[n:]:
        axis.remove()
    for index, (axis, panel) in enumerate(zip(axes[:n], panels, strict=True)):
        (_bars if panel.stages else _lines)(axis, panel)
        if panel.rows:
            axis.set_yticks(range(len(panel.rows)), panel.rows if index % wide == 0 else [])
            axis.set_ylim(len(panel.rows) - 0.5, -0.5)
        axis.set_title(panel.title, loc="left", fontweight="bold")
        axis.set_xlabel(panel.x_label)
        axis.set_ylabel(panel.y_label)
    _legends(figure, axes[:n], panels, 4 if panels[0].stages else max(2, wide))
    texts = dict.fromkeys(text for panel in panels for text in panel.caption.splitlines())
    lines = [line for text in texts for line in wrap(text, int(_LETTERS_PER_INCH * width))]
    figure.supxlabel("\n".join(lines), fontsize=8, color=GREY)
    return figure


def _size(panels: Sequence[Panel], wide: int) -> tuple[float, list[float]]:
    longest = max((len(name) for panel in panels for name in panel.rows), default=0)
    if longest:
        beside = max(2.2, 0.08 * longest)  # a folder's path may be long
        across, thick = (5.2, 0.36) if panels[0].stages else (2.6 * wide, 0.24)
        return beside + across, [0.8 + thick * len(panel.rows) for panel in panels[::wide]]
    return max(_WIDTH * wide, 6.2), [_HEIGHT] * -(-len(panels) // wide)


def looks_agree(panels: Sequence[Panel]) -> bool:
    """Whether a look means one system in all panels, so that one legend serves them all."""
    meant: dict[str, set[str]] = {}
    for line in (line for panel in panels for line in panel.lines):
        if line.label and line.look.marker:
            meant.setdefault(str(line.look), set()).add(line.label)
    return all(len(labels) == 1 for labels in meant.values())


def _legends(figure: "Figure", axes: Sequence["Axes"], panels: Sequence[Panel], n: int) -> None:
    """One legend for all panels, systems before levels, in `n` columns; or one below each."""
    if not looks_agree(panels):
        for axis in axes:
            axis.legend(**_BELOW)
        return
    handles: dict[str, Any] = {}
    for axis in axes:
        found, labels = axis.get_legend_handles_labels()
        for label, handle in zip(labels, found, strict=True):
            handles.setdefault(label, handle)
    most_first = sorted(panels, key=lambda panel: -len(panel.lines))
    systems = dict.fromkeys(line.label for panel in most_first for line in panel.lines)
    names = [name for name in systems if name in handles]
    names += [name for name in handles if name not in systems]
    if names:
        chosen = [handles[name] for name in names]
        figure.legend(chosen, names, loc="outside upper left", ncols=n)


def _lines(axis: "Axes", panel: Panel) -> None:
    """Lines with bars at their points, and grey lines across and upwards."""
    xs = sorted({dot.x for line in panel.lines for dot in line.dots})
    ys = [dot.y for line in panel.lines for dot in line.dots]
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
        for dot in line.dots:
            near: Any = {"xytext": (6, 5 if index % 2 else -12), "textcoords": "offset points"}
            axis.annotate(dot.note, (dot.x, dot.y), fontsize=8, **near)
    for draw, places in ((axis.axhline, panel.levels), (axis.axvline, panel.uprights)):
        for index, (label, at) in enumerate(places.items(), 1):
            draw(at, color=GREY, lw=1.1, ls=LINES[index % len(LINES)], label=label)
    for y, text in panel.beyond.items():
        at_edge: Any = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "center"}
        axis.annotate(text, (1.0, y), color=GREY, **at_edge)
    axis.margins(x=0.12, y=0.12)
    _scales(axis, panel, xs, [*ys, *panel.levels.values()])


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

    sides: list[tuple[Any, Sequence[float]]] = []
    if panel.log_x:
        axis.set_xscale("log")
        sides.append((axis.xaxis, (1, 2, 5)))
    if panel.log_y:
        axis.set_yscale("log")
        sides.append((axis.yaxis, (1, 2, 3, 5)))
    for side, subs in sides:
        side.set_major_locator(LogLocator(subs=subs))
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
    """Stacked bars, a row per system, with the total and the head's part at the end."""
    names = list(panel.stages)
    ends = [0.0] * len(names)
    for stage, (color, hatch) in _STAGES.items():
        widths = [panel.stages[name].get(stage, 0.0) for name in names]
        if any(widths):
            look: Any = {"color": color, "hatch": hatch, "edgecolor": "#333333", "linewidth": 0.6}
            axis.barh(range(len(names)), widths, 0.62, ends, label=stage, **look)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for y, (name, end) in enumerate(zip(names, ends, strict=True)):
        text = f"{_digits(end)} ms"
        if "head" in panel.stages[name] and end:
            head = panel.stages[name]["head"]
            text += f", head {_digits(head)} ms ({100 * head / end:.0f} %)"
        place: Any = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(text, (end, y), **place)
    axis.grid(visible=False, axis="y")
    axis.set_xlim(0, 1.5 * max(ends))


def _digits(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
