"""What the paper's figures are made of: panels of lines or bars, and how rows become them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from calm_bench.report.paper.names import is_part
from calm_bench.report.paper.runs import StoredRun, instrument_of
from calm_bench.store.records import Row, steps_text, temperature_text
from calm_bench.store.results import Value

Interval = tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A point with its 95 % intervals, and what is written beside it."""

    x: float
    y: float
    note: str = ""
    x_interval: Interval = None
    y_interval: Interval = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The points of one system, in order; `model` decides how it is drawn."""

    label: str
    model: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes.

    Attributes:
        levels: Horizontal lines: what stands beside the systems.
        stages: Instead of lines, per row the milliseconds of each stage.
        from_zero: Whether y begins at 0, so that what is flat looks flat.
        dodge: Whether lines stand a little beside each other, since their x are the same.
        caption: What the numbers are of: n, instrument, run.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...] = ()
    levels: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = False
    dodge: bool = False
    caption: str = ""


def quality_speed(run: StoredRun) -> Iterator[Panel]:
    """The benchmark's quality against its speed-up over the baseline, a line per system's steps."""
    speed = next(iter(by_recipe(run, "overall_speedup").values()), {})
    metric = "ppx_geo" if by_recipe(run, "ppx_geo") else "fad"
    rows = [row for row in systems_of(run) if row.cell_id in speed]
    warm = len({row.temperature for row in rows}) > 1
    for recipe_id, values in by_recipe(run, metric).items():
        shown = [row for row in rows if row.cell_id in values]
        dots: dict[tuple[str, str], list[Dot]] = {}
        for row in shown:
            label = row.label + (f", temp {temperature_text(row.temperature)}" if warm else "")
            x = speed[row.cell_id]
            several = sum(other.model == row.model for other in shown) > 1 and not warm
            note = f"{row.head_steps}" if several else ""
            points = dots.setdefault((label, str(row.model)), [])
            points.append(dot(x.value or 0.0, values[row.cell_id], x, note))
        if len(dots) > 1:
            rounds = f", {max(value.n for value in speed.values())} rounds of timing"
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
        lines = lines_of(rows, values, lambda row: row.temperature)
        heading = heading_of(run, metric, recipe_id)
        if lines:
            yield Panel(
                title=f"{title_of(run)}: {heading}",
                x_label="temperature",
                y_label=heading.partition(",")[0],
                lines=lines,
                levels=levels_of(run, values, ("reference",)),
                dodge=True,
                caption=caption_of(run, used),
            )


def head_steps(run: StoredRun) -> Iterator[Panel]:
    """FAD against head steps for the heads that take any number; the others as levels."""
    rows = systems_of(run)
    by_model: dict[str | None, set[int | None]] = {}
    for row in rows:
        by_model.setdefault(row.model, set()).add(row.head_steps)
    swept = [row for row in rows if len(by_model[row.model]) > 1]
    if max((len(steps) for steps in by_model.values()), default=0) < 3:
        return
    baselines = {row.cell_id: row.label for row in rows if row.baseline}
    for recipe_id, values in by_recipe(run, "fad").items():
        lines = lines_of(swept, values, lambda row: row.head_steps)
        if lines:
            used = [values[c.cell_id] for c in swept if c.cell_id in values]
            levels = {n: v for i, n in baselines.items() if i in values and (v := values[i].value)}
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


def systems_of(run: StoredRun) -> list[Row]:
    """The rows of whole systems, in the order of the run."""
    return [row for row in run.results.cells if row.kind == "system" and not is_part(row)]


def title_of(run: StoredRun) -> str:
    """What a run was of: its name without the hash."""
    return run.name.rpartition("-")[0] or run.name


def label_of(row: Row, rows: Sequence[Row], *, temp: bool = False) -> str:
    """A system's name, with its head steps where they vary and its temperature if wanted."""
    several = len({c.head_steps for c in rows if c.label == row.label}) > 1
    steps = f", {steps_text(row)}" if several else ""
    return row.label + steps + (f", temp {temperature_text(row.temperature)}" if temp else "")


def by_recipe(run: StoredRun, metric: str) -> dict[str | None, dict[str, Value]]:
    """A metric's rows by recipe and row, without those that have no value."""
    found: dict[str | None, dict[str, Value]] = {}
    for value in run.results.rows:
        if value.metric == metric and value.value is not None:
            found.setdefault(value.recipe_id, {})[value.cell_id] = value
    return found


def heading_of(run: StoredRun, metric: str, recipe_id: str | None) -> str:
    """A metric with its unit and the instrument behind it."""
    column = next((c for c in run.results.columns if c.name == metric), None)
    label = column.label if column else metric
    unit = f" ({column.unit})" if column and column.unit not in ("", "×") else ""
    arrow = {True: " ↑", False: " ↓", None: ""}[column.higher_is_better if column else None]
    instrument = instrument_of(run.results.recipes.get(recipe_id or "", {}))
    return f"{label}{unit}{arrow}" + (f", {instrument}" if instrument else "")


def caption_of(run: StoredRun, values: Sequence[Value], more: str = "") -> str:
    """Which run a panel shows, at which scale and from how many clips."""
    ns = sorted({value.n for value in values if value.n})
    n = f"n = {ns[0]}" if len(ns) == 1 else f"n = {ns[0]} to {ns[-1]}" if ns else "n not recorded"
    scales = ", ".join(run.scales)
    return f"{run.name} ({scales}): {n} clips{more}; bars are 95 % intervals"


def dot(x: float, value: Value, x_row: Value | None = None, note: str = "") -> Dot:
    """A row's value at x, which may come with an interval of its own."""
    assert value.value is not None
    ends = {"x_interval": _interval(x_row), "y_interval": _interval(value)}
    return Dot(x=x, y=value.value, note=note, **ends)


def _interval(value: Value | None) -> Interval:
    if value is None or value.low is None or value.high is None:
        return None
    return value.low, value.high


def levels_of(
    run: StoredRun, values: Mapping[str, Value], kinds: Sequence[str]
) -> dict[str, float]:
    """The values of the rows of these kinds, by label."""
    rows = [c for c in run.results.cells if c.kind in kinds and c.cell_id in values]
    return {c.label: v for c in rows if (v := values[c.cell_id].value) is not None}


def lines_of(
    rows: Sequence[Row], values: Mapping[str, Value], at: Callable[[Row], float | None]
) -> tuple[Line, ...]:
    """A line for each system that has values at two places or more."""
    dots: dict[tuple[str, str], list[Dot]] = {}
    for row in rows:
        x = at(row)
        if x is not None and row.cell_id in values:
            dots.setdefault((row.label, str(row.model)), []).append(dot(x, values[row.cell_id]))
    return tuple(
        Line(label=label, model=model, dots=tuple(sorted(found, key=lambda dot: dot.x)))
        for (label, model), found in dots.items()
        if len(found) > 1
    )
