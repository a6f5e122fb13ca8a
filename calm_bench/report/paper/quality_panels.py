"""Figures of quality: against speed, temperature and head steps; each panel by one instrument."""

from collections.abc import Iterator

from calm_bench.report.paper.panels import (
    Dot,
    Line,
    Panel,
    by_recipe,
    caption_of,
    dot,
    heading_of,
    levels_of,
    lines_of,
    systems_of,
    title_of,
)
from calm_bench.report.paper.runs import StoredRun
from calm_bench.titles import temperature_text


def quality_speed(run: StoredRun) -> Iterator[Panel]:
    """The benchmark's quality against its speed-up over the baseline, a line per system's steps."""
    speed = next(iter(by_recipe(run, "overall_speedup").values()), {})
    metric = "ppx_geo" if by_recipe(run, "ppx_geo") else "fad"
    cells = [cell for cell in systems_of(run) if cell.cell_id in speed]
    warm = len({cell.temperature for cell in cells}) > 1
    for recipe_id, rows in by_recipe(run, metric).items():
        shown = [cell for cell in cells if cell.cell_id in rows]
        dots: dict[tuple[str, str], list[Dot]] = {}
        for cell in shown:
            label = cell.label + (f", temp {temperature_text(cell.temperature)}" if warm else "")
            x = speed[cell.cell_id]
            several = sum(other.model == cell.model for other in shown) > 1 and not warm
            note = f"{cell.head_steps}" if several else ""
            points = dots.setdefault((label, str(cell.model)), [])
            points.append(dot(x.value or 0.0, rows[cell.cell_id], x, note))
        if len(dots) > 1:
            rounds = f", {max(row.n for row in speed.values())} rounds of timing"
            steps = (
                "; numbers are head steps" if any(d.note for p in dots.values() for d in p) else ""
            )
            yield Panel(
                title=f"{title_of(run)}: quality against speed",
                x_label="times faster than the baseline, overall (×)",
                y_label=heading_of(run, metric, recipe_id).replace(", ", "\n", 1),
                lines=tuple(Line(label=n, model=m, dots=tuple(p)) for (n, m), p in dots.items()),
                log_x=True,
                log_y=metric == "fad",
                dodge=warm,
                caption=caption_of(run, [rows[c.cell_id] for c in shown], rounds + steps),
            )


def temperature_sweep(run: StoredRun) -> Iterator[Panel]:
    """What temperature changes, one line per system; the recording's value as a level."""
    cells = [cell for cell in systems_of(run) if cell.temperature is not None]
    if len({cell.temperature for cell in cells}) < 2:
        return
    found = [
        (metric, recipe_id, rows)
        for metric in ("ppx_geo", "vert", "wer", "fad")
        if metric != "fad" or not by_recipe(run, "ppx_geo")
        for recipe_id, rows in by_recipe(run, metric).items()
    ]
    used = [rows[c.cell_id] for _, _, rows in found for c in cells if c.cell_id in rows]
    for metric, recipe_id, rows in found:
        lines = lines_of(cells, rows, lambda cell: cell.temperature)
        heading = heading_of(run, metric, recipe_id)
        if lines:
            yield Panel(
                title=f"{title_of(run)}: {heading}",
                x_label="temperature",
                y_label=heading.partition(",")[0],
                lines=lines,
                levels=levels_of(run, rows, ("reference",)),
                dodge=True,
                caption=caption_of(run, used),
            )


def head_steps(run: StoredRun) -> Iterator[Panel]:
    """FAD against head steps for the heads that take any number; the others as levels."""
    cells = systems_of(run)
    by_model: dict[str | None, set[int | None]] = {}
    for cell in cells:
        by_model.setdefault(cell.model, set()).add(cell.head_steps)
    swept = [cell for cell in cells if len(by_model[cell.model]) > 1]
    if max((len(steps) for steps in by_model.values()), default=0) < 3:
        return
    baselines = {cell.cell_id: cell.label for cell in cells if cell.baseline}
    for recipe_id, rows in by_recipe(run, "fad").items():
        lines = lines_of(swept, rows, lambda cell: cell.head_steps)
        if lines:
            used = [rows[c.cell_id] for c in swept if c.cell_id in rows]
            levels = {n: v for i, n in baselines.items() if i in rows and (v := rows[i].value)}
            yield Panel(
                title=f"{title_of(run)}: FAD against head steps",
                x_label="head steps",
                y_label=heading_of(run, "fad", recipe_id).replace(", ", "\n", 1),
                lines=lines,
                levels=levels,
                log_x=True,
                log_y=True,
                dodge=True,
                caption=caption_of(run, used),
            )
