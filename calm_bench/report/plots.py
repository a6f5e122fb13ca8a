"""Plots of a run: quality by all that varies, time by stage, and how time and memory grow.

A row without a value is not drawn, and the caption below the axes says so.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from statistics import median

from calm_bench.report.columns import TEMPERATURE_KINDS, Shown, plain_number, shown_columns
from calm_bench.report.panels import (
    FILLS,
    GREY,
    GREY_MARKERS,
    LINES,
    Dot,
    Line,
    Look,
    Panel,
    far_apart,
    look,
    render,
)
from calm_bench.store.records import (
    GrowthRecord,
    LatencyRecord,
    Row,
    Stage,
    row_title,
    swept,
    system_title,
)
from calm_bench.store.results import Results, Value

PARTS: tuple[Stage, ...] = ("backbone", "head", "codec")
_BATCHES = {
    "step_ms": "step, ms",
    "rows_per_s": "frames per second, all clips",
    "peak_mb": "peak memory, MB",
}
_OFF_SCALE = 2.0  # times the largest of the other rows
_MANY_ROWS = 8  # systems from which lines over time cannot be told apart


def render_plots(
    results: Results, latency: Sequence[LatencyRecord], growth: Sequence[GrowthRecord] = ()
) -> dict[str, bytes]:
    """The plots that the run has values for, by file name, each as PNG and SVG."""
    figures = {
        "quality_vs_temperature": by_temperature(results),
        "quality_by_row": by_row(results),
        "quality_over_time": over_time(results),
        "quality_vs_head_time": against_time(results),
        "quality_vs_training_step": against_training(results),
        "time_per_frame": by_stage(results.cells, latency),
        "wer_vs_ppx": trade_off(results),
        "growth_position": by_position(results, growth),
        "growth_batch": by_batch(results),
    }
    return render(figures)


def by_temperature(results: Results) -> list[Panel]:
    """Each quality column against temperature, a line per system; none below two of them."""
    warm = [(row, row.temperature) for row in results.cells if row.temperature is not None]
    warm.sort(key=lambda pair: pair[1])
    if len({row.temperature for row in results.cells if row.kind == "system"}) < 2:
        return []
    columns = [
        shown
        for shown in shown_columns(results)
        if not shown.is_speed and _with_value([row for row, _ in warm], [shown])
    ]
    caption = caption_of(results, columns, _with_value([row for row, _ in warm], columns))
    return [
        Panel(
            title=shown.heading,
            x_label="temperature",
            lines=_lines(results, shown, warm),
            levels={
                row.label: value
                for row in _references(results)
                if row.kind != "silence" and (value := shown.value(row.cell_id)) is not None
            },
            shared_x=True,
            caption=caption,
        )
        for shown in columns
    ]


def by_row(results: Results) -> list[Panel]:
    """Each quality column with a line for each row; none if temperatures vary or weights do."""
    temperatures = {row.temperature for row in results.cells if row.kind == "system"}
    trained = any(row.training_step is not None for row in results.cells)
    columns = _quality_columns(results)
    if len(temperatures) != 1 or trained:
        return []
    caption = caption_of(results, columns, _with_value(results.cells, columns))
    looks = looks_of(results, by_label=True)
    panels = []
    for shown in columns:
        floors = _floors(results, shown)
        lines, beyond = [], {}
        for y, row in enumerate(results.cells):
            value = _value(shown, row)
            if value is not None and row.cell_id in floors:
                beyond[y] = f"{plain_number(value.value or 0.0, shown.decimals)} →"
            elif value is not None:
                own = looks[row.label] if row.kind == "system" else Look(color=GREY)
                lines.append(Line(look=own, dots=[Dot.of(value, y)]))
        panels.append(
            Panel(
                title=shown.heading,
                names=[row_name(results, row) for row in results.cells],
                lines=lines,
                beyond=beyond,
                log_x=far_apart(line.dots[0].x for line in lines),
                caption=caption,
            )
        )
    return panels


def against_time(results: Results) -> list[Panel]:
    """The first quality column against the head's time and the total, where head steps vary."""
    timed: dict[str, Shown] = {}  # of the first recipe that each has
    for shown in shown_columns(results, everything=True):
        if shown.is_speed and shown.values:
            timed.setdefault(shown.column.name, shown)
    frame = _baseline_frame(results, timed)
    columns = _first_quality(results)
    if not columns or not swept(results.cells) or frame is None:
        return []
    rows = [row for row in results.cells if row.training_step is None]
    rows.sort(key=lambda row: (row.temperature or 0, row.head_steps or 0))
    note = "numbers at points: head steps"
    caption = caption_of(results, columns, _with_value(results.cells, columns), note)
    panels = []
    for shown in columns:
        for name, what in (("head_second_ms", "head"), ("second_ms", "all stages")):
            times = ((row, timed[name].value(row.cell_id)) for row in rows)
            places = [(row, time * frame) for row, time in times if time is not None]
            lines = _lines(results, shown, places, by_label=True)
            dots = [dot for line in lines for dot in line.dots]
            low, high = (end((dot.x for dot in dots), default=0.0) for end in (min, max))
            panels.append(
                Panel(
                    x_label=f"{what}, ms per {1000 * frame:g} ms of audio",
                    y_label=shown.heading,
                    lines=lines,
                    uprights={"real time": 1000 * frame} if low < 1000 * frame < 3 * high else {},
                    log_x=True,
                    log_y=far_apart(dot.y for dot in dots),
                    caption=caption,
                )
            )
    return panels


def against_training(results: Results) -> list[Panel]:
    """The first quality column against the training step, where rows are checkpoints."""
    steps = [(row, row.training_step) for row in results.cells if row.training_step is not None]
    steps.sort(key=lambda pair: pair[1])
    columns = _first_quality(results) if steps else []
    caption = caption_of(results, columns, _with_value(results.cells, columns))
    panels = []
    for shown in columns:
        lines = _lines(results, shown, steps, by_label=True)
        panels.append(
            Panel(
                x_label="training step",
                y_label=shown.heading,
                lines=lines,
                log_y=far_apart(dot.y for line in lines for dot in line.dots),
                shared_x=True,
                caption=caption,
            )
        )
    return panels


def over_time(results: Results) -> list[Panel]:
    """Each column over time against the position in the clip, a line per row."""
    found = _segments(results)
    if not found:
        return []
    rows = _rows_over_time(results)
    floors = [set().union(*(_floors(results, shown) for shown in columns)) for columns in found]
    missing = set().union(*floors)
    labels = "; ".join(row.label for row in results.cells if row.cell_id in missing)
    notes = [f"off the scale where they are missing: {labels}"] if labels else []
    if len(rows) < len(results.cells):
        notes.append("of systems with many head steps, the first number alone")
    everyone = {row.cell_id for row in results.cells}
    columns = [shown for segments in found for shown in segments]
    caption = caption_of(results, columns, everyone, "; ".join(notes))
    panels = []
    for segments, floor in zip(found, floors, strict=True):
        spans = [shown.column.span or (0.0, 0.0) for shown in segments]
        lines = _lines_over_time(results, segments, [r for r in rows if r.cell_id not in floor])
        end = _reference_end(results, spans)
        panels.append(
            Panel(
                title=segments[0].heading.replace(f" {spans[0][0]:g}–{spans[0][1]:g} s", ""),
                x_label="seconds after the prompt",
                lines=lines,
                uprights={} if end is None else {"recordings end": end},
                log_y=far_apart(dot.y for line in lines for dot in line.dots),
                shared_x=True,
                ticks=[0.0, *(span[1] for span in spans)],
                caption=caption,
            )
        )
    return panels


def _lines_over_time(results: Results, columns: Sequence[Shown], rows: Sequence[Row]) -> list[Line]:
    """A quantity over time: systems in colour with bars, the other rows in grey without."""
    several, looks = swept(results.cells), looks_of(results)
    greys = dict(zip([c.cell_id for c in _references(results)], cycle(LINES), strict=False))
    lines = []
    for row in sorted(rows, key=lambda row: row.kind != "system"):
        points = [
            (sum(shown.column.span or ()) / 2, value)
            for shown in columns
            if (value := _value(shown, row)) is not None
        ]
        if row.kind == "system":
            own = looks[system_title(row, several)]
            dots = [Dot.of(x, value) for x, value in points]
        else:
            own = Look(color=GREY, marker="", line=greys[row.cell_id])
            dots = [Dot.of(x, value.value or 0.0) for x, value in points]
        if dots:
            lines.append(Line(label=row_name(results, row), look=own, dots=dots))
    return lines


def by_stage(rows: Sequence[Row], records: Sequence[LatencyRecord]) -> list[Panel]:
    """Time per frame as stacked bars of backbone, head and codec; none if nothing was timed.

    Per row timed at batch 1, and per mode, the median over its rounds of each stage's mean time;
    "other" is what the total holds beyond the three stages. It is the time of a frame, or of a
    second of audio where systems differ in frame rate.
    """
    arms: dict[tuple[str, str], list[LatencyRecord]] = defaultdict(list)
    for record in records:
        if not record.control and record.batch == 1:
            arms[record.cell_id, record.mode].append(record)
    modes = list(dict.fromkeys(mode for _, mode in arms))
    # Where a mode is what a row is about, the row's name has it.
    several_modes = len(modes) > 1 and all(row.mode is None for row in rows)
    several = swept(rows)
    lengths = {record.frame_ns for rounds in arms.values() for record in rounds}
    per_second = len(lengths) > 1 and None not in lengths
    stages = {}
    for row in rows:
        for mode in modes:
            if rounds := arms.get((row.cell_id, mode)):
                name = row_title(row, several)
                name += f" ({mode})" if several_modes else ""
                name += f" ({row.cell_id})" if name in stages else ""  # no bar hides another
                stages[name] = _means(rounds, per_second=per_second)
    per = "second of audio" if per_second else "frame"
    x_label = f"milliseconds per {per} at batch 1, median over rounds"
    return [Panel(stages=stages, x_label=x_label)] if stages else []


def _means(rounds: Sequence[LatencyRecord], *, per_second: bool) -> dict[str, float]:
    means: dict[str, list[float]] = defaultdict(list)
    for record in rounds:
        nanoseconds = 1e-3 * record.frame_ns if per_second and record.frame_ns else 1e6
        per_stage: dict[str, float] = {
            stage: sum(values) / len(values) / nanoseconds
            for stage, values in record.stage_ns.items()
            if values
        }
        total = per_stage.pop("total", None)
        if total is not None:
            per_stage["other"] = max(0.0, total - sum(per_stage.values()))
        for stage, value in per_stage.items():
            means[stage].append(value)
    return {stage: median(means[stage]) for stage in (*PARTS, "other") if stage in means}


def trade_off(results: Results) -> list[Panel]:
    """Whether words come out right (WER) against whether they make sense (PPX), a point per row."""
    columns = [shown for shown in shown_columns(results) if not shown.is_speed]
    across = next((shown for shown in columns if shown.column.name.startswith("wer")), None)
    up = next((shown for shown in columns if shown.column.name.startswith("ppx")), None)
    if across is None or up is None:
        return []
    several, looks = swept(results.cells), looks_of(results)
    markers = dict(
        zip([r.cell_id for r in _references(results)], cycle(GREY_MARKERS), strict=False)
    )
    joined: dict[str, list[Dot]] = {name: [] for name in looks}
    points, drawn = [], set()
    for row in sorted(results.cells, key=lambda row: row.kind != "system"):
        x, y = _value(across, row), _value(up, row)
        if x is None or y is None or row.kind == "silence":
            continue  # what a recogniser hears in silence would stretch the axes and say nothing
        name = system_title(row, several)
        if row.kind == "system":
            fill = FILLS[len(joined[name]) % len(FILLS)]  # one filling per temperature
            own = look(list(looks).index(name), fill)
            joined[name].append(Dot.of(x.value or 0.0, y.value or 0.0))
        else:
            own = Look(color=GREY, marker=markers[row.cell_id])
        title = row_title(row, several)
        points.append(Line(label=title, look=own, dots=[Dot.of(x, y)]))
        drawn.add(row.cell_id)
    if not points:
        return []
    lines = [
        Line(look=Look(color=looks[name].color, marker="", line=looks[name].line), dots=dots)
        for name, dots in joined.items()
    ]
    caption = caption_of(results, [across, up], drawn)
    x_label, y_label = across.heading, up.heading
    return [Panel(x_label=x_label, y_label=y_label, lines=[*points, *lines], caption=caption)]


def by_position(results: Results, growth: Sequence[GrowthRecord]) -> list[Panel]:
    """Stages and memory against seconds generated, a line for each row."""
    if not growth:
        return []
    caption = (
        "points: lower quartile of the frames there, bars: fastest to median\n"
        "(whatever else runs on the machine only adds time)"
    )
    x_label = "seconds of audio generated"
    panels = [
        _growing(results, times_along(growth, stage), f"{stage}, ms per frame", x_label, caption)
        for stage in PARTS
    ]
    kept: dict[str, list[Dot]] = defaultdict(list)
    for record in sorted(growth, key=lambda record: record.seconds):
        if record.state_bytes is not None:
            kept[record.cell_id].append(Dot.of(record.seconds, record.state_bytes / 1e6))
    return [*panels, _growing(results, kept, "kept between steps, MB", x_label, caption)]


def by_batch(results: Results) -> list[Panel]:
    """A step's time, its yield and its memory against how many clips share it."""
    found: dict[str, dict[str, list[Dot]]] = {name: {} for name in _BATCHES}
    for value in results.rows:
        base, at, batch = value.metric.partition("@b")
        if base in _BATCHES and at and value.value is not None:
            found[base].setdefault(value.cell_id, []).append(Dot.of(float(batch), value))
    if max((len(dots) for dots in found["step_ms"].values()), default=0) < 2:
        return []
    caption = "bars: 95 % intervals over rounds"
    return [
        _growing(results, found[name], title, "clips in a batch", caption)
        for name, title in _BATCHES.items()
    ]


def _growing(
    results: Results, dots: Mapping[str, Sequence[Dot]], title: str, x_label: str, caption: str
) -> Panel:
    several, looks = swept(results.cells), looks_of(results)
    lines = [
        Line(label=name, look=looks[name], dots=sorted(found, key=lambda dot: dot.x))
        for row in results.cells
        if (found := dots.get(row.cell_id)) and (name := system_title(row, several))
    ]
    return Panel(
        title=title, x_label=x_label, lines=lines, from_zero=True, shared_x=True, caption=caption
    )


def times_along(growth: Sequence[GrowthRecord], stage: Stage) -> dict[str, list[Dot]]:
    """By row, a stage's milliseconds by seconds generated, for rows that have any.

    A dot is the lower quartile of the frames there, its bar goes from the fastest to the median.
    """
    found: dict[tuple[str, float], list[float]] = defaultdict(list)
    for record in growth:
        found[record.cell_id, record.seconds] += [ns / 1e6 for ns in record.stage_ns[stage]]
    lines: dict[str, list[Dot]] = defaultdict(list)
    for (cell_id, seconds), times in sorted(found.items()):
        ordered = sorted(times)
        interval = ordered[0], median(ordered)
        dot = Dot(x=seconds, y=ordered[len(ordered) // 4], y_interval=interval)
        lines[cell_id].append(dot)
    return lines


def looks_of(results: Results, *, by_label: bool = False) -> dict[str, Look]:
    """How each system is drawn, in the order of the table.

    With `by_label`, whatever their head steps.
    """
    several = set() if by_label else swept(results.cells)
    systems = [row for row in results.cells if row.kind == "system"]
    names = dict.fromkeys(system_title(row, several) for row in systems)
    return {name: look(index) for index, name in enumerate(names)}


def _lines(
    results: Results,
    shown: Shown,
    places: Iterable[tuple[Row, float]],
    *,
    by_label: bool = False,
) -> list[Line]:
    """A line for each system with the numbers of these rows, at these x and in this order.

    With `by_label`, head steps that vary stand at a line's points, and give no lines of their own.
    """
    several, looks = swept(results.cells), looks_of(results, by_label=by_label)
    dots: dict[str, list[Dot]] = {name: [] for name in looks}
    for row, x in places:
        value = _value(shown, row)
        if row.kind == "system" and value is not None:
            name = row.label if by_label else system_title(row, several)
            note = str(row.head_steps or "") if by_label and row.label in several else ""
            dots[name].append(Dot.of(x, value, note))
    return [Line(label=name, look=looks[name], dots=found) for name, found in dots.items() if found]


def _value(shown: Shown, row: Row) -> Value | None:
    value = shown.values.get(row.cell_id)
    return None if value is None or value.value is None else value


def _references(results: Results) -> list[Row]:
    return [row for row in results.cells if row.kind != "system"]


def _with_value(rows: Iterable[Row], columns: Sequence[Shown]) -> set[str]:
    return {row.cell_id for row in rows for shown in columns if _value(shown, row) is not None}


def _quality_columns(results: Results) -> list[Shown]:
    """The table's columns that say how good, over whole clips, if a system has a value there."""
    systems = [row for row in results.cells if row.kind == "system"]
    return [
        shown
        for shown in shown_columns(results)
        if not shown.is_speed and shown.column.span is None and _with_value(systems, [shown])
    ]


def _first_quality(results: Results) -> list[Shown]:
    columns = _quality_columns(results)
    return [shown for shown in columns if shown.column.name == columns[0].column.name]


def _baseline_frame(results: Results, timed: Mapping[str, Shown]) -> float | None:
    """The seconds of a frame of the baseline, or else of the first timed row."""
    wanted = ("frame_ms", "second_ms", "head_second_ms")
    if any(name not in timed for name in wanted):
        return None
    for row in sorted(results.cells, key=lambda row: not row.baseline):
        frame, second = (timed[name].value(row.cell_id) for name in wanted[:2])
        if frame and second:
            return round(frame / second, 6)
    return None


def _rows_over_time(results: Results) -> list[Row]:
    """The rows whose lines can be told apart: of many head steps of a system, the first."""
    rows = [row for row in results.cells if row.training_step is None]
    if sum(row.kind == "system" for row in rows) <= _MANY_ROWS:
        return rows
    first: dict[str, int | None] = {}
    for row in rows:
        first.setdefault(row.label, row.head_steps)
    return [row for row in rows if row.head_steps == first[row.label]]


def _segments(results: Results) -> list[list[Shown]]:
    """The columns over time by what they are columns of, in order, for each base and recipe."""
    found: dict[tuple[str, str | None], list[Shown]] = {}
    for shown in shown_columns(results, everything=True):
        if shown.column.span is not None and _with_value(results.cells, [shown]):
            base = shown.column.name.partition("@")[0]
            found.setdefault((base, shown.recipe_id), []).append(shown)
    for columns in found.values():
        columns.sort(key=lambda shown: shown.column.span or (0.0, 0.0))
    return [columns for columns in found.values() if len(columns) > 1]


def _reference_end(results: Results, spans: Sequence[tuple[float, float]]) -> float | None:
    """Where the recordings end, in seconds after the prompt, if segments go on beyond."""
    beyond = [
        int(value)
        for counts in results.counts.values()
        for name, value in counts.items()
        if name.endswith("n_segments_beyond_reference")
    ]
    n = max(beyond, default=0)
    return spans[-n][0] if 0 < n < len(spans) else None


def _floors(results: Results, shown: Shown) -> set[str]:
    """Silence and noise where they lie far beyond all other rows."""
    sizes = {row.cell_id: abs(shown.value(row.cell_id) or 0.0) for row in results.cells}
    quiet = {row.cell_id for row in results.cells if row.kind in ("silence", "noise")}
    largest = max((size for cell_id, size in sizes.items() if cell_id not in quiet), default=0.0)
    return {key for key in quiet if largest and sizes[key] > _OFF_SCALE * largest}


def row_name(results: Results, row: Row) -> str:
    """A row's name with what tells it from other rows: steps where swept, and temperature."""
    several = swept(results.cells)
    if len({c.temperature for c in results.cells if c.kind == "system"}) < 2:
        return system_title(row, several)
    return row_title(row, several)


def caption_of(results: Results, columns: Sequence[Shown], drawn: set[str], note: str = "") -> str:
    """What the bars are, of how many clips, what temperature is, and which rows are missing."""
    missing = [c for c in results.cells if c.kind == "system" and c.cell_id not in drawn]
    bars = f"bars: 95 % intervals over prompts{_clips(columns, drawn)}"
    texts = [bars, _temperatures(results), note]
    if missing:
        texts.append(f"not drawn for want of a value: {'; '.join(map(row_title, missing))}")
    return "\n".join(text for text in texts if text)


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
    labels: dict[str, dict[str, None]] = {}
    for row in results.cells:
        if kind := TEMPERATURE_KINDS[row.temperature_kind]:
            labels.setdefault(kind, {})[row.label] = None
    if len(labels) < 2:
        return "".join(f"temperature is the {kind}" for kind in labels)
    parts = (f"the {kind} of {', '.join(names)}" for kind, names in labels.items())
    return f"temperature is {' and '.join(parts)}, which are not comparable"
