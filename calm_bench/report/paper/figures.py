"""The paper's figures: how the rows of stored runs, and losses in training, become panels.

A figure without data in any stored run is not drawn: it is listed with the command that makes it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean

from calm_bench.config import load_model_config
from calm_bench.errors import UnknownNameError
from calm_bench.report.columns import heading
from calm_bench.report.looks import looks
from calm_bench.report.panels import Dot, Line, Panel, Picture, far_apart, render
from calm_bench.report.paper.runs import ModelName, StoredRun, is_part
from calm_bench.report.plots import (
    against_training,
    by_stage,
    by_temperature,
    not_drawn,
    over_time,
    panel_along,
    run_title,
    timed_on,
    times_along,
)
from calm_bench.store.curves import CurvePoint, read_curve
from calm_bench.store.records import Row, swept, system_title, temperature_text
from calm_bench.store.results import Value

ABLATED = frozenset(
    f"calm-music-{what}" for what in ("none", "no-short", "no-noise", "no-multiplier")
)
MULTIPLIED = frozenset(("calm-music", "calm-music-no-multiplier"))
_SWEEP = 3  # rows of a system that show what steps do
_WIDE = 3.0  # a span of x beyond which a logarithmic axis pays
_SHOWN = "eager fp32"  # the mode and precision whose stages are shown, where a run has several
LOSSES = {
    "text": "loss of the text stream, nats",
    "plain_text": "loss of plain text, nats",
    "codes": "loss of a code, nats",
    "one_step_mse": "squared error of one-step samples",
    "flow": "flow-matching error",
}
"""What validations measure that several models have in common."""
AXES: dict[str, Callable[[CurvePoint], float]] = {
    "training step": lambda point: point.step,
    "processor hours": lambda point: point.processor_seconds / 3600,
}
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
            name = system_title(row, several) if warm else row.label
            found.setdefault((name, str(row.model)), []).append(dot)
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
                + f"; the baseline is ×1 by definition{named}"
                + not_drawn([row for row in systems_of(run) if row not in shown]),
            )


def of_run(run: StoredRun, panels: Iterable[Panel]) -> Iterator[Panel]:
    """What a run's own plots show of it, under its name and scale."""
    for panel in panels:
        caption = panel.caption.replace(run.name, _name(run), 1)
        yield replace(panel, title=f"{run_title(run.results)}: {panel.title}", caption=caption)


def temperature_sweep(run: StoredRun) -> Iterator[Panel]:
    """What temperature changes, one line per system; the recordings' values as levels."""
    return of_run(run, by_temperature(run.results))


def head_steps(run: StoredRun) -> Iterator[Panel]:
    """FAD against head steps for the heads that take any number; the others as levels."""
    every = sorted(systems_of(run), key=lambda row: row.head_steps or 0)
    warmest = max((row.temperature or 0 for row in every), default=0)  # one line is one temperature
    rows = [row for row in every if (row.temperature or 0) == warmest]
    several = swept(rows)
    if all(sum(row.label == label for row in rows) < _SWEEP for label in several):
        return
    for recipe_id, values in by_recipe(run, "fad").items():
        dots: dict[Named, list[Dot]] = {}
        for row in rows:
            if row.label in several and row.cell_id in values:
                dot = Dot.of(row.head_steps or 0, values[row.cell_id])
                dots.setdefault((row.label, str(row.model)), []).append(dot)
        base = [row for row in rows if row.baseline and row.cell_id in values]
        everyone = [dot for found in dots.values() for dot in found]
        yield Panel(
            title=f"{run_title(run.results)}: {heading_of(run, 'fad', recipe_id)}",
            x_label="head steps",
            lines=lines_of({name: found for name, found in dots.items() if len(found) > 1}),
            levels={row.label: values[row.cell_id].value for row in base},
            log_x=far_apart((dot.x for dot in everyone), _WIDE),
            log_y=far_apart(dot.y for dot in everyone),
            shared_x=True,
            caption=caption_of(run, [values[row.cell_id] for row in rows if row.cell_id in values]),
        )


def fad_over_time(run: StoredRun) -> Iterator[Panel]:
    """FAD of successive segments of the ablated systems' continuations."""
    known = {ModelName.of(str(row.model)).base for row in systems_of(run)}
    return of_run(run, over_time(run.results, "fad@") if known & ABLATED else ())


def convergence(run: StoredRun) -> Iterator[Panel]:
    """FAD of the checkpoints kept in training, with the head-batch multiplier and without."""
    names = {ModelName.of(str(row.model)).base for row in run.results.cells}
    return of_run(run, against_training(run.results) if names >= MULTIPLIED else ())


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
    """Milliseconds along a long generation, as `speed` times it: flat, or growing with it."""
    along = times_along(run.results, run.growth, "total")
    rows = systems_of(run)
    drawn = [row for row in rows if len(along.get(row.cell_id, ())) > 1]
    steps = {f"{row.mode} {row.precision}" for row in drawn if row.mode}
    step = f", {steps.pop()}" if len(steps) == 1 else ""
    lines = lines_of(
        {
            (system_title(row, swept(rows)).removesuffix(step), str(row.model)): along[row.cell_id]
            for row in drawn
        }
    )
    if lines:
        how = "lower quartiles of the frames there, bars from fastest to median"
        title = f"{run_title(run.results).removeprefix('speed-')}{step}, ms per second of audio"
        yield panel_along(title, lines, f"{_name(run)}: {how}{timed_on(run.results, drawn)}")


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


def curves_of(runs: Sequence[StoredRun], corpus: str) -> dict[str, list[CurvePoint]]:
    """The validations of each system that runs show and that was trained on a corpus, by model."""
    rows = (row for run in runs for row in run.results.cells if row.kind == "system")
    found = {}
    for name in sorted({str(row.model).partition("@")[0] for row in rows}):
        try:
            config, folder = load_model_config(name)
        except UnknownNameError:  # of another checkout
            continue
        points = [point for point in read_curve(folder) if point.validation]
        if points and config.training.get("corpus") == corpus:
            found[folder.name] = points
    return found


def curve_dots(points: Sequence[CurvePoint], loss: str, axis: str) -> list[Dot]:
    """A loss at each step: the mean of the trainings that took it, with the least and the most."""
    steps: dict[int, list[CurvePoint]] = defaultdict(list)
    for point in points:
        if loss in point.validation:
            steps[point.step].append(point)
    dots = []
    for _, alike in sorted(steps.items()):
        values = [point.validation[loss] for point in alike]
        spread = (min(values), max(values)) if len(values) > 1 else None
        dots.append(Dot(x=mean(map(AXES[axis], alike)), y=mean(values), y_interval=spread))
    return dots


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


def lines_of(found: Mapping[Named, Sequence[Dot]]) -> list[Line]:
    """Lines that look like their systems."""
    own = looks({f"{label} {model}": model for label, model in found}).values()
    return [
        Line(label=label, look=look, dots=dots)
        for ((label, _), dots), look in zip(found.items(), own, strict=True)
    ]
