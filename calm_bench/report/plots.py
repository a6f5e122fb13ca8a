"""Plots of a run: quality against temperature, time per frame by stage, and words against sense.

A row without a value is not drawn, and the caption below the axes says so. Colours are Okabe and
Ito's, which colour-blind readers can tell apart; every system also has its own marker. The same
records give the same bytes.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from calm_bench.report.columns import Shown, shown_columns, steps_vary
from calm_bench.report.numbers import cell_name, heading
from calm_bench.report.stages import StageTimes
from calm_bench.store import Cell, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["render_plots"]

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#6b6b6b"
_STAGES = {"backbone": "#999999", "head": "#D55E00", "codec": "#56B4E9", "other": "#d9d9d9"}
_FILLS = ("full", "none", "left", "bottom", "right", "top")
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
_LINES = ("-", "--", "-.", ":", (0, (1, 3)))  # of the rows that are not systems, in their order


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a system is drawn in every plot."""

    color: str
    marker: str


_GREY_MARKERS = ("*", "x", "+", "1", "2")


def render_plots(results: Results, times: Sequence[StageTimes]) -> dict[str, bytes]:
    """The plots that the run has values for, by file name, each as PNG and SVG."""
    from matplotlib import rc_context

    files: dict[str, bytes] = {}
    with rc_context(_STYLE):
        figures = {
            "quality_vs_temperature": _quality(results),
            "time_per_frame": _stages(times),
            "wer_vs_ppx": _trade_off(results),
        }
        for name, figure in figures.items():
            if figure is not None:
                files |= {f"{name}.{kind}": data for kind, data in _encode(figure).items()}
    return files


def _encode(figure: "Figure") -> dict[str, bytes]:
    """The figure as PNG and SVG without dates or versions in the files."""
    files = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        out = io.BytesIO()
        figure.savefig(out, format=kind, metadata=metadata, bbox_inches="tight")
        files[kind] = out.getvalue()
    return files


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple["Figure", list["Axes"]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _system(cell: Cell, several_steps: bool) -> str:
    """A line's name: a system, and its head steps where these vary."""
    steps = f", {cell.head_steps} steps" if several_steps and cell.head_steps else ""
    return cell.label + steps


def _looks(results: Results) -> dict[str, Look]:
    """A colour and a marker for each system, in the order of the table."""
    several = steps_vary(results.cells)
    names = dict.fromkeys(_system(c, several) for c in results.cells if c.kind == "system")
    return {
        name: Look(
            color=_COLORS[index % len(_COLORS)],
            # Each lap of colours starts at another marker, so that no two of 49 systems look alike.
            marker=_MARKERS[(index + index // len(_COLORS)) % len(_MARKERS)],
        )
        for index, name in enumerate(names)
    }


def _references(results: Results) -> list[Cell]:
    return [cell for cell in results.cells if cell.kind != "system"]


def _spread(shown: Shown, cell_id: str) -> tuple[float, list[list[float]] | None] | None:
    """A value and its distances to the interval's ends, as errorbar wants them."""
    row = shown.rows.get(cell_id)
    if row is None or row.value is None:
        return None
    if row.low is None or row.high is None:
        return row.value, None
    return row.value, [[max(0.0, row.value - row.low)], [max(0.0, row.high - row.value)]]


def _legend(figure: "Figure", axes: Sequence["Axes"], order: Sequence[str], columns: int) -> None:
    """One legend for all axes, each name once and in the order of the table."""
    handles: dict[str, Any] = {}
    for axis in axes:
        found, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    names = [name for name in dict.fromkeys(order) if name in handles]
    chosen = [handles[name] for name in names]
    figure.legend(chosen, names, loc="outside upper left", ncols=columns)


def _caption(figure: "Figure", results: Results, drawn: set[str]) -> None:
    missing = [c for c in results.cells if c.kind == "system" and c.cell_id not in drawn]
    texts = ["bars: 95 % intervals"]
    if missing:
        texts.append(f"not drawn for want of a value: {'; '.join(map(cell_name, missing))}")
    figure.supxlabel("\n".join(texts), fontsize=8, color=_GREY)


def _quality(results: Results) -> "Figure | None":
    """Each quality column against temperature, one line per system; None if there is nothing."""
    warm = [cell.cell_id for cell in results.cells if cell.temperature is not None]
    columns = [
        shown
        for shown in shown_columns(results)
        if not shown.is_speed and any(shown.value(cell_id) is not None for cell_id in warm)
    ]
    if not columns:
        return None
    wide = min(2, len(columns))
    high = -(-len(columns) // wide)
    figure, axes = _figure(high, wide, (4.2 * wide, 2.7 * high + 0.8))
    drawn: set[str] = set()
    for axis, shown in zip(axes, columns, strict=False):
        drawn |= _quality_lines(axis, results, shown)
    for axis in axes[len(columns) :]:
        axis.remove()
    references = [cell.label for cell in _references(results)]
    _legend(figure, axes[: len(columns)], [*_looks(results), *references], 3)
    _caption(figure, results, drawn)
    return figure


def _quality_lines(axis: "Axes", results: Results, shown: Shown) -> set[str]:
    """Draw one column and return the ids of the rows that were drawn."""
    several, looks = steps_vary(results.cells), _looks(results)
    drawn = set()
    for index, (name, look) in enumerate(looks.items()):
        # Systems share their temperatures: a small shift keeps their bars from hiding each other.
        shift = 0.012 * (index - (len(looks) - 1) / 2)
        points = []
        for cell in results.cells:
            found = _spread(shown, cell.cell_id)
            of_line = cell.kind == "system" and _system(cell, several) == name
            if of_line and found is not None and cell.temperature is not None:
                points.append((cell.temperature + shift, *found))
                drawn.add(cell.cell_id)
        points.sort(key=lambda point: point[0])
        axis.plot([x for x, _, _ in points], [y for _, y, _ in points], color=look.color, alpha=0.5)
        style: Any = {"color": look.color, "marker": look.marker, "ms": 6, "capsize": 3}
        for x, y, spread in points:
            axis.errorbar(x, y, spread, label=name, **style)
    for cell, line in zip(_references(results), cycle(_LINES), strict=False):
        value = shown.value(cell.cell_id)
        if cell.kind != "silence" and value is not None:
            axis.axhline(value, color=_GREY, ls=line, lw=1.1, label=cell.label)
    axis.set_xticks(sorted({c.temperature for c in results.cells if c.temperature is not None}))
    axis.margins(x=0.15)
    axis.set_xlabel("temperature")
    axis.set_title(heading(shown.column), loc="left", fontweight="bold")
    return drawn


def _stages(times: Sequence[StageTimes]) -> "Figure | None":
    """Time per frame as stacked bars of backbone, head and codec; None if nothing was timed."""
    if not times:
        return None
    figure, (axis,) = _figure(1, 1, (7.2, 1.1 + 0.5 * len(times)))
    ends = [0.0] * len(times)
    for stage, color in _STAGES.items():
        widths = [arm.ms.get(stage, 0.0) for arm in times]
        rows = range(len(times))
        axis.barh(rows, widths, 0.62, ends, color=color, edgecolor="white", label=stage)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for y, (arm, end) in enumerate(zip(times, ends, strict=True)):
        head = f", head {arm.ms['head']:.3g} ms" if "head" in arm.ms else ""
        place: Any = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(f"{end:.3g} ms{head}", (end, y), **place)
    axis.set_yticks(range(len(times)), [arm.name for arm in times])
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set_xlim(0, 1.32 * max(ends))
    axis.set_xlabel("milliseconds per frame at batch 1, median over rounds")
    _legend(figure, [axis], list(_STAGES), len(_STAGES))
    return figure


def _trade_off(results: Results) -> "Figure | None":
    """Whether words come out right (WER) against whether they make sense (PPX), a point per row."""
    columns = [shown for shown in shown_columns(results) if not shown.is_speed]
    across = next((shown for shown in columns if shown.column.name.startswith("wer")), None)
    up = next((shown for shown in columns if shown.column.name.startswith("ppx")), None)
    if across is None or up is None:
        return None
    figure, (axis,) = _figure(1, 1, (6.4, 4.4))
    looks, several = _looks(results), steps_vary(results.cells)
    pairs = zip(_references(results), cycle(_GREY_MARKERS), strict=False)
    greys = {cell.cell_id: Look(color=_GREY, marker=marker) for cell, marker in pairs}
    lines: dict[str, list[tuple[float, float]]] = {name: [] for name in looks}
    names = []
    for cell in results.cells:
        x, y = _spread(across, cell.cell_id), _spread(up, cell.cell_id)
        if x is None or y is None or cell.kind == "silence":
            continue  # what a recogniser hears in silence would stretch the axes and say nothing
        look = greys.get(cell.cell_id) or looks[_system(cell, several)]
        line = lines.setdefault(_system(cell, several), [])
        style: Any = {"color": look.color, "marker": look.marker, "ms": 8, "capsize": 3}
        style["fillstyle"] = _FILLS[len(line) % len(_FILLS)]  # one filling per temperature
        line.append((x[0], y[0]))
        names.append((cell.kind != "system", cell_name(cell, several_steps=several), cell.cell_id))
        axis.errorbar(x[0], y[0], y[1], x[1], label=names[-1][1], **style)
    if not names:
        return None
    for name, look in looks.items():
        xs, ys = [x for x, _ in lines[name]], [y for _, y in lines[name]]
        axis.plot(xs, ys, color=look.color, alpha=0.4)
    axis.set_xlabel(across.heading)
    axis.set_ylabel(up.heading)
    _legend(figure, [axis], [name for _, name, _ in sorted(names, key=lambda n: n[0])], 2)
    _caption(figure, results, {cell_id for _, _, cell_id in names})
    return figure
