"""Quality, loudness and bandwidth along the clip: a panel for each, a line for each row."""

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from calm_bench.report.columns import Shown, shown_columns
from calm_bench.report.drawing import (
    GREY,
    GREY_LINES,
    add_caption,
    add_legend,
    fit_scale,
    floors_of,
    looks_of,
    new_figure,
    references_of,
    row_name,
    spread_of,
    system_name,
)
from calm_bench.store.records import Row, swept
from calm_bench.store.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY_ROWS = 8  # systems from which lines over time cannot be told apart


def draw_over_time(results: Results) -> "Figure | None":
    """Each column over time against the position in the clip, a line per row; None if none is."""
    panels = _panels_over_time(results)
    if not panels:
        return None
    wide = min(2, len(panels))
    high = -(-len(panels) // wide)
    figure, axes = new_figure(high, wide, (4.4 * wide, 2.8 * high + 1.0))
    rows = _rows_over_time(results)
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, results, panel, rows)
        axis.set_title(_panel_title(panel), loc="left", fontweight="bold")
        axis.set_xlabel("seconds after the prompt")
        axis.set_xticks([0.0, *(s.column.span[1] for s in panel if s.column.span)])
        if (end := _reference_end(results, panel)) is not None:
            axis.axvline(end, color=GREY, lw=1, ls=":")
            axis.annotate(
                "recordings end", (end, 1.0), xycoords=("data", "axes fraction"), color=GREY,
                xytext=(3, -9), textcoords="offset points", fontsize=8,
            )  # fmt: skip
    for axis in axes[len(panels) :]:
        axis.remove()
    order = [row_name(results, row) for row in rows]
    systems = [n for n, c in zip(order, rows, strict=True) if c.kind == "system"]
    add_legend(figure, axes[: len(panels)], [*systems, *order], 3)
    notes = [_off_scale_text(results, panels)]
    if len(rows) < len(results.cells):
        notes.append("of systems with many head steps, the first number alone")
    shown = {row.cell_id for row in results.cells}
    columns = [column for panel in panels for column in panel]
    add_caption(figure, results, columns, shown, "; ".join(note for note in notes if note))
    return figure


def _rows_over_time(results: Results) -> list[Row]:
    """The rows whose lines can be told apart: of many head steps of a system, the first."""
    rows = [row for row in results.cells if row.training_step is None]
    if sum(row.kind == "system" for row in rows) <= MANY_ROWS:
        return rows
    first: dict[str, int | None] = {}
    for row in rows:
        first.setdefault(row.label, row.head_steps)
    return [row for row in rows if row.head_steps == first[row.label]]


def _panels_over_time(results: Results) -> list[list[Shown]]:
    """The columns over time by what they are columns of, one panel for each base and recipe."""
    panels: dict[tuple[str, str | None], list[Shown]] = {}
    for shown in shown_columns(results, everything=True):
        if shown.column.span is not None and any(
            r.value is not None for r in shown.values.values()
        ):
            base = shown.column.name.partition("@")[0]
            panels.setdefault((base, shown.recipe_id), []).append(shown)
    for panel in panels.values():
        panel.sort(key=lambda shown: shown.column.span or (0.0, 0.0))
    return [panel for panel in panels.values() if len(panel) > 1]


def _panel_title(panel: Sequence[Shown]) -> str:
    span = panel[0].column.span or (0.0, 0.0)
    return panel[0].heading.replace(f" {span[0]:g}–{span[1]:g} s", "")


def _draw_panel(
    axis: "Axes", results: Results, panel: Sequence[Shown], rows: Sequence[Row]
) -> None:
    """One quantity over time: systems in colour, the other rows in grey."""
    several, looks = swept(results.cells), looks_of(results)
    greys = dict(zip([c.cell_id for c in references_of(results)], cycle(GREY_LINES), strict=False))
    floors = set().union(*(floors_of(results, shown) for shown in panel))
    drawn = [row for row in rows if row.cell_id not in floors]
    width = panel[0].column.span[1] - panel[0].column.span[0] if panel[0].column.span else 1.0
    values = []
    for index, row in enumerate(drawn):
        shift = 0.35 * width * (index / max(1, len(drawn) - 1) - 0.5)
        points = []
        for shown in panel:
            found = spread_of(shown, row.cell_id)
            if found is not None and shown.column.span is not None:
                points.append((sum(shown.column.span) / 2 + shift, *found))
        if not points:
            continue
        style: Any = {"color": GREY, "ls": greys.get(row.cell_id), "lw": 1.1}
        if row.kind == "system":
            look = looks[system_name(row, row.label in several)]
            style = {"color": look.color, "ls": look.line, "marker": look.marker, "ms": 5}
        name = row_name(results, row)
        axis.plot([x for x, _, _ in points], [y for _, y, _ in points], label=name, **style)
        if row.kind == "system":
            for x, y, spread in points:
                axis.errorbar(x, y, spread, color=style["color"], capsize=2, lw=1)
        values += [y for _, y, _ in points]
    fit_scale(axis, "y", values)


def _reference_end(results: Results, panel: Sequence[Shown]) -> float | None:
    """Where the recordings end, in seconds after the prompt, if segments go on beyond."""
    beyond = [
        int(value)
        for counts in results.counts.values()
        for name, value in counts.items()
        if name.endswith("n_segments_beyond_reference")
    ]
    n = max(beyond, default=0)
    span = panel[-n].column.span if 0 < n < len(panel) else None
    return None if span is None else span[0]


def _off_scale_text(results: Results, panels: Sequence[Sequence[Shown]]) -> str:
    """Which rows are left out of panels because they would squeeze the others."""
    ids = set().union(*(floors_of(results, shown) for panel in panels for shown in panel))
    labels = [row.label for row in results.cells if row.cell_id in ids]
    return f"off the scale where they are missing: {'; '.join(labels)}" if labels else ""
