"""Quality row by row, against the head's time, and against training; from results.json alone."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from calm_bench.report.columns import Shown, shown_columns
from calm_bench.report.drawing import (
    GREY,
    Look,
    add_caption,
    add_legend,
    fit_scale,
    floors_of,
    logarithmic,
    looks_of,
    new_figure,
    row_name,
    spread_of,
)
from calm_bench.report.numbers import plain_number
from calm_bench.store.records import steps_vary
from calm_bench.store.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_by_row(results: Results) -> "Figure | None":
    """Each quality column with a line for each row; None if temperatures vary or weights do."""
    temperatures = {row.temperature for row in results.cells if row.kind == "system"}
    trained = any(row.training_step is not None for row in results.cells)
    columns = _quality_columns(results)
    if len(temperatures) != 1 or trained or not columns:
        return None
    wide = min(3, len(columns))
    high = -(-len(columns) // wide)
    names = [row_name(results, row) for row in results.cells]
    beside = max(2.2, 0.08 * max(map(len, names)))  # a folder's path may be long
    size = (beside + 2.6 * wide, 1.0 + high * (0.7 + 0.24 * len(results.cells)))
    figure, axes = new_figure(high, wide, size)
    for index, (axis, shown) in enumerate(zip(axes, columns, strict=False)):
        _draw_rows(axis, results, shown)
        axis.set_yticks(range(len(names)), names if index % wide == 0 else [])
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_title(shown.heading, loc="left", fontweight="bold")
    for axis in axes[len(columns) :]:
        axis.remove()
    add_caption(figure, results, columns, _with_value(results, columns))
    return figure


def _draw_rows(axis: "Axes", results: Results, shown: Shown) -> None:
    """One column: a point and its interval for each row."""
    looks, floors = looks_of(results, by_label=True), floors_of(results, shown)
    values = []
    for y, row in enumerate(results.cells):
        found = spread_of(shown, row.cell_id)
        if found is None:
            continue
        if row.cell_id in floors:
            text = f"{plain_number(found[0], shown.decimals)} →"
            at: Any = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "center"}
            axis.annotate(text, (1.0, y), color=GREY, **at)
            continue
        look = Look(color=GREY, marker="o")
        if row.kind == "system":
            look = looks[row.label]
        axis.errorbar(
            found[0], y, xerr=found[1], color=look.color, marker=look.marker, ms=6, capsize=3
        )
        values.append(found[0])
    fit_scale(axis, "x", values)
    axis.margins(x=0.12)


def draw_against_time(results: Results) -> "Figure | None":
    """The first quality column against the head's time and the total, where head steps vary."""
    timed = {shown.column.name: shown for shown in _timed(results)}
    columns = _quality_columns(results)
    columns = [s for s in columns if s.column.name == columns[0].column.name]
    frame = _baseline_frame(results, timed)
    if not columns or not steps_vary(results.cells) or frame is None:
        return None
    figure, axes = new_figure(len(columns), 2, (8.4, 3.0 * len(columns) + 0.9))
    across = (("head_second_ms", "head"), ("second_ms", "all stages"))
    pairs = [(shown, name, what) for shown in columns for name, what in across]
    for axis, (shown, name, what) in zip(axes, pairs, strict=True):
        _draw_against(axis, results, shown, timed[name], frame)
        logarithmic(axis, "x")
        axis.set_xlabel(f"{what}, ms per {1000 * frame:g} ms of audio")
        axis.set_ylabel(shown.heading)
    names = list(dict.fromkeys(c.label for c in results.cells if c.kind == "system"))
    add_legend(figure, axes, [*names, "real time"], 3)
    note = "numbers at points: head steps"
    add_caption(figure, results, columns, _with_value(results, columns), note)
    return figure


def _draw_against(axis: "Axes", results: Results, shown: Shown, timed: Shown, frame: float) -> None:
    """A curve for each system, its points in the order of their head steps."""
    labels = dict.fromkeys(row.label for row in results.cells if row.kind == "system")
    values: list[float] = []
    times: list[float] = []
    for label, look in zip(labels, looks_of(results, by_label=True).values(), strict=True):
        rows = [c for c in results.cells if c.label == label and c.training_step is None]
        points = []
        for row in sorted(rows, key=lambda row: (row.temperature or 0, row.head_steps or 0)):
            x, found = timed.value(row.cell_id), spread_of(shown, row.cell_id)
            if x is not None and found is not None:
                points.append((x * frame, *found, str(row.head_steps or "")))
        style: Any = {"color": look.color, "marker": look.marker, "ms": 6}
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        axis.plot(xs, ys, color=look.color, ls=look.line, lw=1.2)
        for x, y, spread, steps in points:
            axis.errorbar(x, y, spread, capsize=3, label=label, **style)
            if len(points) > 1:
                axis.annotate(steps, (x, y), xytext=(6, 5), textcoords="offset points", fontsize=8)
        values, times = values + ys, times + xs
    fit_scale(axis, "y", values)
    if times and min(times) < 1000 * frame < 3 * max(times):
        axis.axvline(1000 * frame, color=GREY, ls="--", lw=1, label="real time")


def draw_against_training(results: Results) -> "Figure | None":
    """The first quality column against the training step, where rows are checkpoints."""
    columns = _quality_columns(results)
    columns = [s for s in columns if s.column.name == columns[0].column.name]
    rows = [row for row in results.cells if row.training_step is not None]
    if not columns or not rows:
        return None
    figure, axes = new_figure(1, len(columns), (4.4 * len(columns) + 0.4, 3.9))
    looks = looks_of(results, by_label=True)
    for axis, shown in zip(axes, columns, strict=True):
        values = []
        for name, look in looks.items():
            points = []
            for row in sorted(rows, key=lambda row: row.training_step or 0):
                found = spread_of(shown, row.cell_id)
                if row.label == name and found is not None:
                    points.append((row.training_step or 0, *found))
            style: Any = {"color": look.color, "marker": look.marker, "ms": 6, "capsize": 3}
            for x, y, spread in points:
                axis.errorbar(x, y, spread, label=name, **style)
            xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
            axis.plot(xs, ys, color=look.color, ls=look.line)
            values += ys
        fit_scale(axis, "y", values)
        axis.set_xlabel("training step")
        axis.set_ylabel(shown.heading)
    add_legend(figure, axes, list(looks), 3)
    add_caption(figure, results, columns, _with_value(results, columns))
    return figure


def _quality_columns(results: Results) -> list[Shown]:
    """The table's columns that say how good, over whole clips, if a system has a value there."""
    systems = [row.cell_id for row in results.cells if row.kind == "system"]
    return [
        shown
        for shown in shown_columns(results)
        if not shown.is_speed
        and shown.column.span is None
        and any(shown.value(cell_id) is not None for cell_id in systems)
    ]


def _timed(results: Results) -> Iterable[Shown]:
    """The columns of time, of the first recipe that each has."""
    names: set[str] = set()
    for shown in shown_columns(results, everything=True):
        if shown.is_speed and shown.column.name not in names and shown.values:
            names.add(shown.column.name)
            yield shown


def _baseline_frame(results: Results, timed: dict[str, Shown]) -> float | None:
    """The seconds of a frame of the baseline, or else of the first timed row."""
    wanted = ("frame_ms", "second_ms", "head_second_ms")
    if any(name not in timed for name in wanted):
        return None
    rows = sorted(results.cells, key=lambda row: not row.baseline)
    for row in rows:
        frame, second = (timed[name].value(row.cell_id) for name in wanted[:2])
        if frame and second:
            return round(frame / second, 6)
    return None


def _with_value(results: Results, columns: Sequence[Shown]) -> set[str]:
    return {c.cell_id for c in results.cells for s in columns if s.value(c.cell_id) is not None}
