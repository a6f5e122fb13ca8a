"""Figures over time: along a clip, along training, and of the time a frame takes."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from calm_bench.report.growth import times_along
from calm_bench.report.paper.names import ModelName, segments
from calm_bench.report.paper.panels import (
    Dot,
    Line,
    Panel,
    by_recipe,
    caption_of,
    dot,
    heading_of,
    label_of,
    systems_of,
    title_of,
)
from calm_bench.report.paper.runs import StoredRun, instrument_of
from calm_bench.store.records import LatencyRecord, Row
from calm_bench.store.results import Value

STAGES = ("backbone", "head", "codec")
ABLATED = (
    "calm-music-none",
    "calm-music-no-short",
    "calm-music-no-noise",
    "calm-music-no-multiplier",
)
_SHOWN = "eager fp32"  # the mode and precision whose stages are shown, where a run has several
_UNSEEN = 0.005  # a share of a frame that no bar can show
_BIN = 10  # frames that share a point of the position plot, at least
_DOTS = 20
_LEAST_SECONDS = 5.0  # what is shorter says nothing of position


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
        lines = []
        for row in rows:
            points = segments(values.get(row.cell_id, []))
            if len(points) > 1:
                dots = tuple(dot(point.x, point.value) for point in points)
                lines.append(Line(label=label_of(row, rows), model=str(row.model), dots=dots))
        if lines:
            used = [value for c in rows for value in values.get(c.cell_id, [])]
            instrument = instrument_of(run.results.recipes.get(recipe_id or "", {}))
            yield Panel(
                title=f"{title_of(run)}: FAD over time",
                x_label="seconds after the prompt (middle of the segment)",
                y_label="FAD of the segment ↓" + (f"\n{instrument}" if instrument else ""),
                lines=tuple(lines),
                log_y=True,
                dodge=True,
                caption=caption_of(run, used),
            )


def convergence(run: StoredRun) -> Iterator[Panel]:
    """FAD of the checkpoints kept in training, with the head-batch multiplier and without."""
    names = {"calm-music": "with the multiplier", "calm-music-no-multiplier": "without it"}
    for recipe_id, values in by_recipe(run, "fad").items():
        dots: dict[str, list[Dot]] = {}
        used = []
        for row in run.results.cells:
            name = ModelName.of(row.model or "")
            if name.step is not None and name.base in names and row.cell_id in values:
                used.append(values[row.cell_id])
                dots.setdefault(name.base, []).append(dot(name.step, used[-1]))
        lines = [
            Line(label=names[m], model=m, dots=tuple(sorted(found, key=lambda dot: dot.x)))
            for m, found in dots.items()
            if len(found) > 1
        ]
        if len(lines) > 1:
            yield Panel(
                title=f"{title_of(run)}: FAD while training",
                x_label="training step",
                y_label=heading_of(run, "fad", recipe_id).replace(", ", "\n", 1),
                lines=tuple(lines),
                log_y=True,
                dodge=True,
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
    metrics = ("frame_ms", "rtf", *(f"{stage}_ms" for stage in STAGES))
    times = {
        metric: {
            i: value for values in by_recipe(run, metric).values() for i, value in values.items()
        }
        for metric in metrics
    }
    timed = [c for c in rows if all(c.cell_id in found for found in times.values())]
    by_row = {
        c.cell_id: {metric: found[c.cell_id].value or 0.0 for metric, found in times.items()}
        for c in timed
    }
    rates = _frame_rates(run)
    differ = len({rates[row.cell_id] for row in timed}) > 1
    bars: dict[str, dict[str, float]] = {}
    for row in timed:
        own, rate = by_row[row.cell_id], rates[row.cell_id]
        parts = {stage: own[f"{stage}_ms"] for stage in STAGES}
        rest = own["frame_ms"] - sum(parts.values())
        if rest > _UNSEEN * own["frame_ms"]:
            parts["other"] = rest
        scaled = {stage: ms * (rate if differ else 1.0) for stage, ms in parts.items()}
        bars.setdefault(label_of(row, rows).removesuffix(f", {step}"), scaled)
    if bars:
        what = "second of audio" if differ else "frame"
        rounds = max(times["frame_ms"][row.cell_id].n for row in timed)
        yield Panel(
            title=f"{title_of(run)}: where the time of a {what} goes"
            + (f", {step}" if step else ""),
            x_label=f"milliseconds per {what}, batch 1",
            y_label="",
            stages=bars,
            caption=f"{run.name} ({', '.join(run.scales)}): means over {rounds} rounds"
            f"{_device(run, timed)}",
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
    recipes = [r for i, r in run.results.recipes.items() if i in used and _is_latency(r)]
    words: list[str] = []
    for name in ("device", "dtype", "mode"):
        found = {str(recipe[name]) for recipe in recipes if name in recipe}
        words += found if len(found) == 1 else ()
    return "; " + ", ".join(words) if words else ""


def _is_latency(recipe: Mapping[str, Any]) -> bool:
    return recipe.get("metric") == "latency"


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
    lines, drawn = [], []
    for row in rows:
        points = along.get(row.cell_id, ())
        dots = [Dot(x=x, y=y, y_interval=(low, high)) for x, y, low, high in points]
        dots = dots if along else list(_positions(arms[row.cell_id]))
        if len(dots) > 1 and dots[-1].x >= _LEAST_SECONDS:
            lines.append((label_of(row, rows), str(row.model), tuple(dots)))
            drawn.append(row)
    if lines:
        rounds = max(len(arms[row.cell_id]) for row in drawn)
        how = (
            "lower quartiles of the frames there, bars from fastest to median"
            if along
            else f"medians over {rounds} rounds, bars hold the middle half"
        )
        known = _frame_rates(run)
        rates = [known.get(row.cell_id, 0.0) for row in drawn]
        differ = len(set(rates)) > 1 and 0.0 not in rates
        scales = rates if differ else [1.0] * len(drawn)
        steps = {f"{row.mode} {row.precision}" for row in drawn if row.mode}
        step = steps.pop() if len(steps) == 1 else ""
        yield Panel(
            title=f"{title_of(run)}: time by position{f', {step}' if step else ''}",
            x_label="seconds of audio generated",
            y_label=f"milliseconds per {'second of audio' if differ else 'frame'}",
            lines=tuple(
                Line(label=label.removesuffix(f", {step}"), model=model, dots=_scaled(dots, scale))
                for (label, model, dots), scale in zip(lines, scales, strict=True)
            ),
            from_zero=True,
            caption=f"{run.name} ({', '.join(run.scales)}): {how}{_device(run, drawn)}",
        )


def _scaled(dots: Sequence[Dot], scale: float) -> tuple[Dot, ...]:
    """Dots with all that is along y multiplied."""
    return tuple(
        Dot(x=d.x, y=scale * d.y, y_interval=(scale * d.y_interval[0], scale * d.y_interval[1]))
        for d in dots
        if d.y_interval is not None
    )


def _is_single(record: LatencyRecord) -> bool:
    """Whether a record is of one clip alone, with known frames."""
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
