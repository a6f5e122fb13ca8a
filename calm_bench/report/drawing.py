"""What all plots share: the look of every system, axes, legends, captions, and files.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; every system also has its
own marker and line, so that a print in grey can be read. The same records give the same bytes.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from calm_bench.report.columns import Shown
from calm_bench.report.numbers import TEMPERATURE_KINDS
from calm_bench.store.records import Row, row_title, steps_text, swept
from calm_bench.store.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6b6b6b"
STYLE: Any = {
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
OFF_SCALE = 2.0  # times the largest of the other rows
WIDE_RANGE = 8.0  # largest over smallest value from which an axis is logarithmic
_LETTERS_PER_INCH = 14  # of a caption
_LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
GREY_MARKERS = ("*", "x", "P", "1", "2", "3", "4")
GREY_LINES = ("-", "--", "-.", ":", (0, (1, 3)))  # of the rows that are not systems, in their order


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a system is drawn in every plot."""

    color: str
    marker: str
    line: Any = "-"


def encode(figure: "Figure") -> dict[str, bytes]:
    """The figure as PNG and SVG without dates or versions in the files."""
    files = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        out = io.BytesIO()
        figure.savefig(out, format=kind, metadata=metadata, bbox_inches="tight")
        files[kind] = out.getvalue()
    return files


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple["Figure", list["Axes"]]:
    """A figure with a grid of axes, row by row; size in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def system_name(row: Row, several_steps: bool) -> str:
    """A line's name: a system, and its head steps where these vary."""
    return row.label + (f", {steps_text(row)}" if several_steps else "")


def looks_of(results: Results, *, by_label: bool = False) -> dict[str, Look]:
    """A colour, a marker and a line for each system, in the order of the table.

    With `by_label`, whatever their head steps.
    """
    several = set() if by_label else swept(results.cells)
    systems = [row for row in results.cells if row.kind == "system"]
    names = dict.fromkeys(system_name(row, row.label in several) for row in systems)
    return {
        name: Look(
            color=COLORS[index % len(COLORS)],
            # Each lap of colours starts at another marker, so that no two of 49 systems look alike.
            marker=MARKERS[(index + index // len(COLORS)) % len(MARKERS)],
            line=_LINES[index % len(_LINES)],
        )
        for index, name in enumerate(names)
    }


def references_of(results: Results) -> list[Row]:
    """The rows that are no systems."""
    return [row for row in results.cells if row.kind != "system"]


def spread_of(shown: Shown, cell_id: str) -> tuple[float, list[list[float]] | None] | None:
    """A value and its distances to the interval's ends, as errorbar wants them."""
    value = shown.values.get(cell_id)
    if value is None or value.value is None:
        return None
    if value.low is None or value.high is None:
        return value.value, None
    return value.value, [[max(0.0, value.value - value.low)], [max(0.0, value.high - value.value)]]


def add_legend(
    figure: "Figure", axes: Sequence["Axes"], order: Sequence[str], columns: int
) -> None:
    """One legend for all axes, each name once and in the order of the table."""
    handles: dict[str, Any] = {}
    for axis in axes:
        found, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    names = [name for name in dict.fromkeys(order) if name in handles]
    chosen = [handles[name] for name in names]
    figure.legend(chosen, names, loc="outside upper left", ncols=columns)


def add_caption(
    figure: "Figure", results: Results, columns: Sequence[Shown], drawn: set[str], note: str = ""
) -> None:
    """What the bars are, of how many clips, what temperature is, and which rows are missing."""
    missing = [c for c in results.cells if c.kind == "system" and c.cell_id not in drawn]
    bars = f"bars: 95 % intervals over prompts{_clips(columns, drawn)}"
    texts = [bars, _temperatures(results), note]
    if missing:
        texts.append(f"not drawn for want of a value: {'; '.join(map(row_title, missing))}")
    width = int(_LETTERS_PER_INCH * figure.get_figwidth())
    lines = [line for text in texts for line in wrap(text, width)]
    figure.supxlabel("\n".join(lines), fontsize=8, color=GREY)


def _clips(columns: Sequence[Shown], drawn: set[str]) -> str:
    """How many clips the bars are of; a number may be over fewer than its row has."""
    values = [
        value for shown in columns for cell_id, value in shown.values.items() if cell_id in drawn
    ]
    counts = {value.n for value in values if value.value is not None and value.low is not None}
    if not counts:
        return ""
    several = "" if len(counts) == 1 else f"{min(counts)} to "
    return f", n = {several}{max(counts)} clips"


def _temperatures(results: Results) -> str:
    """What a temperature is, of which systems where it is not the same for all."""
    labels: dict[str, dict[str, None]] = {}
    for row in results.cells:
        if kind := TEMPERATURE_KINDS[row.temperature_kind]:
            labels.setdefault(kind, {})[row.label] = None
    if len(labels) < 2:
        return "".join(f"temperature is the {kind}" for kind in labels)
    parts = (f"the {kind} of {', '.join(names)}" for kind, names in labels.items())
    return f"temperature is {' and '.join(parts)}, which are not comparable"


def row_name(results: Results, row: Row) -> str:
    """A row's name with what tells it from other rows: steps where swept, and temperature."""
    several_steps = row.label in swept(results.cells)
    if len({c.temperature for c in results.cells if c.kind == "system"}) < 2:
        return system_name(row, several_steps)
    return row_title(row, several_steps=several_steps)


def floors_of(results: Results, shown: Shown) -> set[str]:
    """Silence and noise where they lie far beyond all other rows."""
    values = {row.cell_id: shown.value(row.cell_id) for row in results.cells}
    kinds = {row.cell_id: row.kind for row in results.cells}
    others = [abs(v) for k, v in values.items() if v and kinds[k] not in ("silence", "noise")]
    largest = OFF_SCALE * max(others, default=0.0)
    floors = {k for k, v in values.items() if kinds[k] in ("silence", "noise") and v is not None}
    return {k for k in floors if others and abs(values[k] or 0.0) > largest}


def fit_scale(axis: "Axes", which: str, values: Sequence[float]) -> None:
    """A logarithmic axis where values are all positive and far apart."""
    if values and min(values) > 0 and max(values) > WIDE_RANGE * min(values):
        logarithmic(axis, which)


def logarithmic(axis: "Axes", which: str) -> None:
    """A logarithmic axis with plain numbers at 1, 2, 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axis, f"set_{which}scale")("log")
    side: Any = getattr(axis, f"{which}axis")
    side.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    side.set_minor_formatter(NullFormatter())
