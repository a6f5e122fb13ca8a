"""The paper's figures: how the rows of stored runs become panels.

A figure without data in any stored run is not drawn: it is listed with the command that makes it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from calm_bench.report.columns import heading
from calm_bench.report.looks import looks
from calm_bench.report.panels import Dot, Line, Panel, Picture, far_apart, render
from calm_bench.report.paper.curves import AXES, LOSSES, curve_dots, curves_of
from calm_bench.report.paper.runs import ModelName, StoredRun, is_part, segments
from calm_bench.report.plots import by_stage, frame_rates, run_title, timed_on, times_along, unit_of
from calm_bench.store.records import LatencyRecord, Row, swept, system_title, temperature_text
from calm_bench.store.results import Value

ABLATED = (
    "calm-music-none",
    "calm-music-no-short",
    "calm-music-no-noise",
    "calm-music-no-multiplier",
)
_WIDE = 3.0  # a span of x beyond which a logarithmic axis pays
_SHOWN = "eager fp32"  # the mode and precision whose stages are shown, where a run has several
_BIN = 10  # frames that share a point of the position plot, at least
_DOTS = 20
_LEAST_SECONDS = 5.0  # what is shorter says nothing of position

Named = tuple[str, str]
"""A line's label and the model whose look it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureSpec:
    """One figure: its file name, what it shows, how to get its data, and its panels."""

    name: str
    title: str
    command: str
    panels: Callable[[Sequence[StoredRun]], Iterable[Panel]]


def draw_figures(runs: Sequence[StoredRun]) -> dict[str, bytes]:
    """The figures' files by name; a figure that no stored run has the data of has none.

    Of a system's several trainings they show the first, which labels name.
    """
    shown = [next(iter(run.by_training().values())) for run in runs]
    return render(
        {spec.name: Picture(title=spec.title, panels=list(spec.panels(shown))) for spec in FIGURES}
    )


def of_each(
    panels: Callable[[StoredRun], Iterator[Panel]],
) -> Callable[[Sequence[StoredRun]], Iterator[Panel]]:
    """What shows one run, for all of them in turn."""
    return lambda runs: (panel for run in runs for panel in panels(run))


def quality_speed(run: StoredRun) -> Iterator[Panel]:
    """The benchmark's quality against its speed-up over the baseline, a line per system."""
    speed = next(iter(by_recipe(run, "overall_speedup").values()), {})
    metric = "ppx_geo" if by_recipe(run, "ppx_geo") else "fad"
    rows = [row for row in systems_of(run) if row.cell_id in speed]
    warm = len({row.temperature for row in rows}) > 1
    several = swept(rows)
    for recipe_id, values in by_recipe(run, metric).items():
        shown = [row for row in rows if row.cell_id in values]
        found: dict[Named, list[Dot]] = {}
        for row in shown:
            steps = str(row.head_steps) if row.label in several else ""
            note = temperature_text(row.temperature) if warm else steps
            dot = Dot.of(speed[row.cell_id], values[row.cell_id], note)
            found.setdefault((row.label, str(row.model)), []).append(dot)
        if len(found) > 1:
            dots = [dot for line in found.values() for dot in line]
            rounds = f", {max(value.n for value in speed.values())} rounds of timing"
            notes = f"numbers at points: {'temperatures' if warm else 'head steps'}"
            named = f"; {notes}" if any(dot.note for dot in dots) else ""
            yield Panel(
                title=f"{run_title(run.results)}: {heading_of(run, metric, recipe_id)}",
                x_label="times faster than the baseline (×)",
                lines=lines_of(found),
                log_x=far_apart((dot.x for dot in dots), _WIDE),
                log_y=far_apart(dot.y for dot in dots),
                caption=caption_of(run, [values[c.cell_id] for c in shown], rounds)
                + f"; the baseline is ×1 by definition{named}",
            )


def temperature_sweep(run: StoredRun) -> Iterator[Panel]:
    """What temperature changes, one line per system; the recording's value as a level."""
    rows = [row for row in systems_of(run) if row.temperature is not None]
    if len({row.temperature for row in rows}) < 2:
        return
    found = [
        (metric, recipe_id, values)
        for metric in ("ppx_geo", "vert", "wer", "fad")
        if metric != "fad" or not by_recipe(run, "ppx_geo")
        for recipe_id, values in by_recipe(run, metric).items()
    ]
    used = [values[c.cell_id] for _, _, values in found for c in rows if c.cell_id in values]
    for metric, recipe_id, values in found:
        title = heading_of(run, metric, recipe_id)
        references = [row for row in run.results.cells if row.kind == "reference"]
        if lines := swept_lines(rows, values, lambda row: row.temperature):
            yield Panel(
                title=f"{run_title(run.results)}: {title}",
                x_label="temperature",
                lines=lines,
                levels=levels_of(references, values),
                shared_x=True,
                caption=caption_of(run, used),
            )


def head_steps(run: StoredRun) -> Iterator[Panel]:
    """FAD against head steps for the heads that take any number; the others as levels."""
    rows = systems_of(run)
    by_model: dict[str | None, set[int | None]] = {}
    for row in rows:
        by_model.setdefault(row.model, set()).add(row.head_steps)
    several = [row for row in rows if len(by_model[row.model]) > 1]
    if max((len(steps) for steps in by_model.values()), default=0) < 3:
        return
    for recipe_id, values in by_recipe(run, "fad").items():
        if lines := swept_lines(several, values, lambda row: row.head_steps):
            used = [values[c.cell_id] for c in several if c.cell_id in values]
            yield Panel(
                title=f"{run_title(run.results)}: {heading_of(run, 'fad', recipe_id)}",
                x_label="head steps",
                lines=lines,
                levels=levels_of([row for row in rows if row.baseline], values),
                log_x=far_apart((dot.x for line in lines for dot in line.dots), _WIDE),
                log_y=far_apart(dot.y for line in lines for dot in line.dots),
                shared_x=True,
                caption=caption_of(run, used),
            )


def fad_over_time(run: StoredRun) -> Iterator[Panel]:
    """FAD of successive segments of the ablated systems' continuations."""
    rows = systems_of(run)
    if not any(ModelName.of(str(row.model)).base in ABLATED for row in rows):
        return
    recipes: dict[str | None, dict[str, list[Value]]] = {}
    for value in run.results.rows:
        if value.value is not None and segments([value]):
            recipes.setdefault(value.recipe_id, {}).setdefault(value.cell_id, []).append(value)
    for recipe_id, values in recipes.items():
        found: dict[Named, list[Dot]] = {}
        for row in rows:
            points = segments(values.get(row.cell_id, []))
            if len(points) > 1:
                name = system_title(row, swept(rows)), str(row.model)
                found[name] = [Dot.of(x, value) for x, value in points]
        if found:
            used = [value for c in rows for value in values.get(c.cell_id, [])]
            yield Panel(
                title=f"{run_title(run.results)}: {heading_of(run, 'fad', recipe_id)}",
                x_label="seconds after the prompt, middle of the segment",
                lines=lines_of(found),
                log_y=far_apart(dot.y for line in found.values() for dot in line),
                shared_x=True,
                caption=caption_of(run, used),
            )


def convergence(run: StoredRun) -> Iterator[Panel]:
    """FAD of the checkpoints kept in training, with the head-batch multiplier and without."""
    names = {"calm-music": "with the multiplier", "calm-music-no-multiplier": "without it"}
    for recipe_id, values in by_recipe(run, "fad").items():
        dots: dict[Named, list[Dot]] = {}
        used = []
        for row in run.results.cells:
            name = ModelName.of(row.model or "")
            if name.step is not None and name.base in names and row.cell_id in values:
                used.append(values[row.cell_id])
                line = dots.setdefault((names[name.base], name.base), [])
                line.append(Dot.of(name.step, used[-1]))
        lines = lines_of({name: in_order(line) for name, line in dots.items() if len(line) > 1})
        if len(lines) > 1:
            yield Panel(
                title=f"{run_title(run.results)}: {heading_of(run, 'fad', recipe_id)}",
                x_label="training step",
                lines=lines,
                log_y=far_apart(dot.y for line in lines for dot in line.dots),
                shared_x=True,
                caption=caption_of(run, used),
            )


def latency_split(runs: Sequence[StoredRun]) -> Iterator[Panel]:
    """Where the time of a second of audio goes, a bar per timed system: as `speed` has timed it.

    Without such runs, as the others have, between their clips. Of a run in several modes and
    precisions it shows the engine's in float32, the one that clips are made with, or else the
    first.
    """
    timed = [run for run in runs if run.results.benchmark == "speed"]
    for run in timed or runs:
        steps = run.by_step()
        step = _SHOWN if _SHOWN in steps else next(iter(steps), "")
        results = steps.get(step, run).results
        title = run_title(results).removeprefix("speed-") + (f", {step}" if step else "")
        whole = results.model_copy(update={"cells": systems_of(steps.get(step, run))})
        yield from by_stage(whole, title, step)


def latency_position(run: StoredRun) -> Iterator[Panel]:
    """Milliseconds per frame against how much has been generated: flat, or growing with it.

    Of a second of audio, where frames are not equally long.

    From the frames that `speed` times along a long generation, or else from timed generations that
    are long enough.
    """
    rows, (per, scales) = systems_of(run), unit_of(run.results, run.growth)
    along = times_along(run.results, run.growth, "total")
    arms = {
        row.cell_id: [r for r in run.latency if r.cell_id == row.cell_id and _is_single(r)]
        for row in rows
    }
    if not along:
        per, scales = "second of audio", frame_rates(run.results)
        along = {i: _positions(own, scales[i]) for i, own in arms.items() if i in scales}
        rounds = max(map(len, arms.values()), default=0)
        how = f"medians over {rounds} rounds, bars hold the middle half"
    else:
        how = "lower quartiles of the frames there, bars from fastest to median"
    drawn = [row for row in rows if _long_enough(along.get(row.cell_id, ()))]
    steps = {f"{row.mode} {row.precision}" for row in drawn if row.mode}
    step = f", {steps.pop()}" if len(steps) == 1 else ""
    found: dict[Named, list[Dot]] = {
        (system_title(row, swept(rows)).removesuffix(step), str(row.model)): along[row.cell_id]
        for row in drawn
    }
    if found:
        lines = lines_of(found)
        yield Panel(
            title=f"{run_title(run.results).removeprefix('speed-')}{step}, ms per {per}",
            x_label="seconds of audio generated",
            lines=lines,
            log_x=far_apart(dot.x for line in lines for dot in line.dots),
            from_zero=True,
            shared_x=bool(run.growth),
            caption=f"{_name(run)}: {how}{timed_on(run.results, drawn)}",
        )


def _long_enough(dots: Sequence[Dot]) -> bool:
    return len(dots) > 1 and dots[-1].x >= _LEAST_SECONDS


def _is_single(record: LatencyRecord) -> bool:
    return not record.control and record.batch == 1 and bool(record.frame_ns)


def _positions(records: Sequence[LatencyRecord], rate: float) -> list[Dot]:
    """Milliseconds for a second of audio, along it, of generations at so many frames a second."""
    n_frames = min((len(record.stage_ns["total"]) for record in records), default=0)
    size = max(_BIN, n_frames // _DOTS)
    dots = []
    for start in range(0, n_frames - size + 1, size):
        span = (r.stage_ns["total"][start : start + size] for r in records)
        times = sorted(rate * ns / 1e6 for frames in span for ns in frames)
        quarter = len(times) // 4
        interval = times[quarter], times[-1 - quarter]
        dots.append(Dot(x=(start + size / 2) / rate, y=median(times), y_interval=interval))
    return dots


def held_out_losses(runs: Sequence[StoredRun], corpus: str) -> Iterator[Panel]:
    """Held-out losses of the runs' models in training, against steps and against computing."""
    curves = curves_of(runs, corpus)
    seeds = {model: len({point.seed for point in points}) for model, points in curves.items()}
    counted = ", ".join(f"{model} {number}" for model, number in seeds.items())
    for loss, label in LOSSES.items():
        for axis in AXES:
            dots = {model: curve_dots(points, loss, axis) for model, points in curves.items()}
            dots = {model: line for model, line in dots.items() if len(line) > 1}
            if dots:
                yield Panel(
                    title=label,
                    x_label=axis,
                    lines=lines_of({(model, model): line for model, line in dots.items()}),
                    log_y=far_apart(dot.y for line in dots.values() for dot in line),
                    caption="means over trainings, bars from the least to the most; "
                    f"trainings: {counted}",
                )


FIGURES = (
    FigureSpec(
        name="quality_vs_speed",
        title="Quality against speed",
        command="calm-bench run speech && calm-bench run music",
        panels=of_each(quality_speed),
    ),
    FigureSpec(
        name="temperature_sweep",
        title="Temperature sweep",
        command="calm-bench run speech --temps 0.8 1.0",
        panels=of_each(temperature_sweep),
    ),
    FigureSpec(
        name="fad_vs_head_steps",
        title="FAD against head steps",
        command="calm-bench run music --temps 1.0 --head-steps 1 4 10 25 50 100",
        panels=of_each(head_steps),
    ),
    FigureSpec(
        name="fad_over_time",
        title="FAD over time in the ablations",
        command="calm-bench run ablations",
        panels=of_each(fad_over_time),
    ),
    FigureSpec(
        name="convergence",
        title="Convergence with and without the head-batch multiplier",
        command="calm-bench train calm-music-tiny && "
        "calm-bench train calm-music-no-multiplier-tiny && calm-bench run ablations --checkpoints "
        "--systems calm-music-tiny calm-music-no-multiplier-tiny",
        panels=of_each(convergence),
    ),
    FigureSpec(
        name="latency_split",
        title="Where the time of a second of audio goes",
        command="calm-bench speed speech",
        panels=latency_split,
    ),
    FigureSpec(
        name="latency_vs_position",
        title="Time against position",
        command="calm-bench speed speech  # its growth.jsonl must be kept with the run",
        panels=of_each(latency_position),
    ),
    FigureSpec(
        name="training_speech",
        title="Held-out losses while training, speech",
        command="calm-bench train calm-speech-tiny && calm-bench train rq-speech-tiny",
        panels=partial(held_out_losses, corpus="speech"),
    ),
    FigureSpec(
        name="training_music",
        title="Held-out losses while training, music",
        command="calm-bench train calm-music-tiny && calm-bench train rq32-music-tiny",
        panels=partial(held_out_losses, corpus="music"),
    ),
)


def systems_of(run: StoredRun) -> list[Row]:
    """The rows of whole systems, in the order of the run."""
    return [row for row in run.results.cells if row.kind == "system" and not is_part(row)]


def by_recipe(run: StoredRun, metric: str) -> dict[str | None, dict[str, Value]]:
    """A metric's rows by recipe and row, without those that have no value."""
    found: dict[str | None, dict[str, Value]] = {}
    for value in run.results.rows:
        if value.metric == metric and value.value is not None:
            found.setdefault(value.recipe_id, {})[value.cell_id] = value
    return found


def heading_of(run: StoredRun, metric: str, recipe_id: str | None) -> str:
    """A metric with its unit and the instrument behind it."""
    found = next((heading(c) for c in run.results.columns if c.name == metric), metric)
    instrument = run.instrument(recipe_id)
    return found + (f", {instrument}" if instrument else "")


def caption_of(run: StoredRun, values: Sequence[Value], more: str = "") -> str:
    """Which run a panel shows, at which scale and from how many clips."""
    ns = sorted({value.n for value in values if value.n})
    n = f"n = {ns[0]}" if len(ns) == 1 else f"n = {ns[0]} to {ns[-1]}" if ns else "n not recorded"
    return f"{_name(run)}: {n} clips{more}; bars are 95 % intervals"


def _name(run: StoredRun) -> str:
    return f"{run.name} ({', '.join(run.scales)})"


def levels_of(rows: Sequence[Row], values: Mapping[str, Value]) -> dict[str, float | None]:
    """The values of these rows, by label."""
    found = ((row.label, values.get(row.cell_id)) for row in rows)
    return {label: None if value is None else value.value for label, value in found}


def swept_lines(
    rows: Sequence[Row], values: Mapping[str, Value], at: Callable[[Row], float | None]
) -> list[Line]:
    """A line for each system that has values at two places or more."""
    dots: dict[Named, list[Dot]] = {}
    for row in rows:
        x = at(row)
        if x is not None and row.cell_id in values:
            dot = Dot.of(x, values[row.cell_id])
            dots.setdefault((row.label, str(row.model)), []).append(dot)
    return lines_of({name: in_order(found) for name, found in dots.items() if len(found) > 1})


def in_order(dots: Sequence[Dot]) -> list[Dot]:
    """Dots from left to right."""
    return sorted(dots, key=lambda dot: dot.x)


def lines_of(found: Mapping[Named, Sequence[Dot]]) -> list[Line]:
    """Lines that look like their systems."""
    own = looks({f"{label} {model}": model for label, model in found}).values()
    return [
        Line(label=label, look=look, dots=dots)
        for ((label, _), dots), look in zip(found.items(), own, strict=True)
    ]
