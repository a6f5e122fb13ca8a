"""The paper's figures: how the rows of stored runs become panels.

A figure without data in any stored run is not drawn: it is listed with the command that makes it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any

from calm_bench.report.columns import heading
from calm_bench.report.panels import COLORS, FILLS, Dot, Line, Panel, far_apart, look, render
from calm_bench.report.paper.curves import AXES, LOSSES, curve_dots, curves_of
from calm_bench.report.paper.runs import ModelName, StoredRun, is_part, segments
from calm_bench.report.plots import PARTS, times_along
from calm_bench.store.records import LatencyRecord, Row, swept, system_title, temperature_text
from calm_bench.store.results import Value

ABLATED = (
    "calm-music-none",
    "calm-music-no-short",
    "calm-music-no-noise",
    "calm-music-no-multiplier",
)
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
_WIDE = 3.0  # a span of x beyond which a logarithmic axis pays
_SHOWN = "eager fp32"  # the mode and precision whose stages are shown, where a run has several
_UNSEEN = 0.005  # a share of a frame that no bar can show
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
    return render({figure.name: list(figure.panels(shown)) for figure in FIGURES})


def of_each(
    panels: Callable[[StoredRun], Iterator[Panel]],
) -> Callable[[Sequence[StoredRun]], Iterator[Panel]]:
    """What shows one run, for all of them in turn."""
    return lambda runs: (panel for run in runs for panel in panels(run))


def quality_speed(run: StoredRun) -> Iterator[Panel]:
    """The benchmark's quality against its speed-up over the baseline, a line per system's steps."""
    speed = next(iter(by_recipe(run, "overall_speedup").values()), {})
    metric = "ppx_geo" if by_recipe(run, "ppx_geo") else "fad"
    rows = [row for row in systems_of(run) if row.cell_id in speed]
    warm = len({row.temperature for row in rows}) > 1
    for recipe_id, values in by_recipe(run, metric).items():
        shown = [row for row in rows if row.cell_id in values]
        found: dict[Named, list[Dot]] = {}
        for row in shown:
            label = row.label + (f", temp {temperature_text(row.temperature)}" if warm else "")
            several = sum(other.model == row.model for other in shown) > 1 and not warm
            note = f"{row.head_steps}" if several else ""
            dot = Dot.of(speed[row.cell_id], values[row.cell_id], note)
            found.setdefault((label, str(row.model)), []).append(dot)
        dots = [dot for line in found.values() for dot in line]
        if len(found) > 1:
            rounds = f", {max(value.n for value in speed.values())} rounds of timing"
            steps = "; numbers are head steps" if any(dot.note for dot in dots) else ""
            yield Panel(
                title=f"{title_of(run)}: quality against speed",
                x_label="times faster than the baseline, overall (×)",
                y_label=heading_of(run, metric, recipe_id).replace(", ", "\n", 1),
                lines=lines_of(found),
                log_x=far_apart((dot.x for dot in dots), _WIDE),
                log_y=metric == "fad",
                shared_x=warm,
                caption=caption_of(run, [values[c.cell_id] for c in shown], rounds + steps),
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
                title=f"{title_of(run)}: {title}",
                x_label="temperature",
                y_label=title.partition(",")[0],
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
                title=f"{title_of(run)}: FAD against head steps",
                x_label="head steps",
                y_label=heading_of(run, "fad", recipe_id).replace(", ", "\n", 1),
                lines=lines,
                levels=levels_of([row for row in rows if row.baseline], values),
                log_x=far_apart((dot.x for line in lines for dot in line.dots), _WIDE),
                log_y=True,
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
            instrument = run.instrument(recipe_id)
            yield Panel(
                title=f"{title_of(run)}: FAD over time",
                x_label="seconds after the prompt (middle of the segment)",
                y_label="FAD of the segment ↓" + (f"\n{instrument}" if instrument else ""),
                lines=lines_of(found),
                log_y=True,
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
                title=f"{title_of(run)}: FAD while training",
                x_label="training step",
                y_label=heading_of(run, "fad", recipe_id).replace(", ", "\n", 1),
                lines=lines,
                log_y=True,
                shared_x=True,
                caption=caption_of(run, used),
            )


def latency_split(run: StoredRun) -> Iterator[Panel]:
    """Milliseconds of a frame by stage, a bar per timed system; of a second where frames differ.

    Of a run in several modes and precisions it shows the engine's in float32, the one that clips
    are made with, or else the first.
    """
    steps = run.by_step()
    step = _SHOWN if _SHOWN in steps else next(iter(steps), "")
    rows = systems_of(steps.get(step, run))
    times = {
        metric: {i: v for values in by_recipe(run, metric).values() for i, v in values.items()}
        for metric in ("frame_ms", "rtf", *(f"{stage}_ms" for stage in PARTS))
    }
    timed = [c for c in rows if all(c.cell_id in found for found in times.values())]
    rates = _frame_rates(run)
    differ = len({rates[row.cell_id] for row in timed}) > 1
    bars: dict[str, dict[str, float]] = {}
    for row in timed:
        own = {metric: found[row.cell_id].value or 0.0 for metric, found in times.items()}
        parts: dict[str, float] = {stage: own[f"{stage}_ms"] for stage in PARTS}
        rest = own["frame_ms"] - sum(parts.values())
        if rest > _UNSEEN * own["frame_ms"]:
            parts["other"] = rest
        scale = rates[row.cell_id] if differ else 1.0
        label = system_title(row, swept(rows)).removesuffix(f", {step}")
        bars.setdefault(label, {stage: ms * scale for stage, ms in parts.items()})
    if bars:
        what = "second of audio" if differ else "frame"
        rounds = max(times["frame_ms"][row.cell_id].n for row in timed)
        yield Panel(
            title=f"{title_of(run)}: where the time of a {what} goes"
            + (f", {step}" if step else ""),
            x_label=f"milliseconds per {what}, batch 1",
            stages=bars,
            caption=f"{_name(run)}: means over {rounds} rounds{_device(run, timed)}",
        )


def _frame_rates(run: StoredRun) -> dict[str, float]:
    """Frames a second of each row that says how long a frame and a second of audio take."""
    times: dict[str, dict[str, float]] = {}
    for value in run.results.rows:
        if value.metric in ("rtf", "frame_ms") and value.value:
            times.setdefault(value.cell_id, {})[value.metric] = value.value
    return {
        cell_id: round(1000 * found["rtf"] / found["frame_ms"], 1)
        for cell_id, found in times.items()
        if len(found) == 2
    }


def _device(run: StoredRun, rows: Sequence[Row]) -> str:
    """What all of these rows were timed on and in; rows that differ say it in their labels."""
    ids = {row.cell_id for row in rows}
    used = {value.recipe_id or "" for value in run.results.rows if value.cell_id in ids}
    recipes: list[Mapping[str, Any]] = [r for i, r in run.results.recipes.items() if i in used]
    words: list[str] = []
    for name in ("device", "dtype", "mode"):
        timing = (recipe for recipe in recipes if recipe.get("metric") == "latency")
        found = {str(recipe[name]) for recipe in timing if name in recipe}
        words += found if len(found) == 1 else ()
    return "; " + ", ".join(words) if words else ""


def latency_position(run: StoredRun) -> Iterator[Panel]:
    """Milliseconds per frame against how much has been generated: flat, or growing with it.

    Of a second of audio, where frames are not equally long.

    From the frames that `speed` times along a long generation, or else from timed generations that
    are long enough.
    """
    rows = systems_of(run)
    along = times_along(run.growth, "total")
    arms = {
        row.cell_id: [r for r in run.latency if r.cell_id == row.cell_id and _is_single(r)]
        for row in rows
    }
    drawn: list[tuple[Row, list[Dot]]] = []
    for row in rows:
        dots = along.get(row.cell_id, []) if along else list(_positions(arms[row.cell_id]))
        if len(dots) > 1 and dots[-1].x >= _LEAST_SECONDS:
            drawn.append((row, dots))
    if not drawn:
        return
    timed = [row for row, _ in drawn]
    how = "lower quartiles of the frames there, bars from fastest to median"
    if not along:
        rounds = max(len(arms[row.cell_id]) for row in timed)
        how = f"medians over {rounds} rounds, bars hold the middle half"
    known = _frame_rates(run)
    rates = [known.get(row.cell_id, 0.0) for row in timed]
    differ = len(set(rates)) > 1 and 0.0 not in rates
    steps = {f"{row.mode} {row.precision}" for row in timed if row.mode}
    step = f", {steps.pop()}" if len(steps) == 1 else ""
    found: dict[Named, list[Dot]] = {}
    for (row, dots), rate in zip(drawn, rates, strict=True):
        label = system_title(row, swept(rows)).removesuffix(step)
        found[label, str(row.model)] = [_scaled(dot, rate) for dot in dots] if differ else dots
    yield Panel(
        title=f"{title_of(run)}: time by position{step}",
        x_label="seconds of audio generated",
        y_label=f"milliseconds per {'second of audio' if differ else 'frame'}",
        lines=lines_of(found),
        from_zero=True,
        shared_x=bool(along),
        caption=f"{_name(run)}: {how}{_device(run, timed)}",
    )


def _scaled(dot: Dot, scale: float) -> Dot:
    low, high = dot.y_interval or (dot.y, dot.y)
    return replace(dot, y=scale * dot.y, y_interval=(scale * low, scale * high))


def _is_single(record: LatencyRecord) -> bool:
    return not record.control and record.batch == 1 and bool(record.frame_ns)


def _positions(records: Sequence[LatencyRecord]) -> Iterator[Dot]:
    if not records:
        return
    n_frames = min(len(record.stage_ns["total"]) for record in records)
    frame_seconds = (records[0].frame_ns or 0) / 1e9
    size = max(_BIN, n_frames // _DOTS)
    for start in range(0, n_frames - size + 1, size):
        times = sorted(t / 1e6 for r in records for t in r.stage_ns["total"][start : start + size])
        quarter = len(times) // 4
        yield Dot(
            x=(start + size / 2) * frame_seconds,
            y=median(times),
            y_interval=(times[quarter], times[-1 - quarter]),
        )


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
                    title=f"held-out {label}",
                    x_label=axis,
                    y_label=label,
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
        title="Where the time of a frame goes",
        command="calm-bench speed speech",
        panels=of_each(latency_split),
    ),
    FigureSpec(
        name="latency_vs_position",
        title="Time per frame against position",
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


def title_of(run: StoredRun) -> str:
    """What a run was of: its name without the hash."""
    return run.name.rpartition("-")[0] or run.name


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


def levels_of(rows: Sequence[Row], values: Mapping[str, Value]) -> dict[str, float]:
    """The values of these rows, by label."""
    found = ((row.label, values[row.cell_id].value) for row in rows if row.cell_id in values)
    return {label: value for label, value in found if value is not None}


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
    """Lines that look like their systems, with other fillings where one comes twice."""
    lines = []
    indices, seen = dict(_LOOKS), Counter[str]()
    spare = cycle(i for i in range(len(COLORS)) if i not in _LOOKS.values())
    for (label, model), dots in found.items():
        base = ModelName.of(model).base
        if base not in indices:
            indices[base] = next(spare)
        own = look(indices[base], FILLS[seen[base] % len(FILLS)])
        lines.append(Line(label=label, look=own, dots=dots))
        seen[base] += 1
    return lines
