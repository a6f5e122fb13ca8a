"""Plots of a run: quality by what varies, time by stage, and how time and memory grow.

A row without a value is not drawn, and the caption below the axes says so.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from statistics import median

from calm_bench.numbers.speed import arm_key
from calm_bench.report.columns import TEMPERATURE_KINDS, Shown, plain_number, shown_columns
from calm_bench.report.looks import GREY, LINES, Look, looks
from calm_bench.report.panels import Dot, Line, Panel, Picture, far_apart, interval_of, render
from calm_bench.report.tables import is_of_votes
from calm_bench.store.records import (
    GrowthRecord,
    Row,
    Stage,
    row_title,
    swept,
    system_title,
)
from calm_bench.store.results import Results, Value

PARTS: tuple[Stage, ...] = ("backbone", "head", "codec")
_UNSEEN = 0.005  # a share of a frame that no bar can show
_OFF_SCALE = 2.0  # times the largest of the other rows
_MANY_ROWS = 8  # systems from which lines over time cannot be told apart


def render_plots(results: Results, growth: Sequence[GrowthRecord] = ()) -> dict[str, bytes]:
    """The plots that the run has values for, by file name, each as PNG and SVG."""
    found = {
        "quality_vs_temperature": ("quality by temperature", by_temperature(results)),
        "quality_by_row": ("quality of every row", by_row(results)),
        "quality_over_time": ("quality along the clips", over_time(results)),
        "quality_vs_training_step": ("quality while training", against_training(results)),
        "time_per_frame": ("where the time goes", by_stage(results)),
        "growth_position": ("time and memory along a generation", by_position(results, growth)),
    }
    name = run_title(results)
    return render(
        {
            file: Picture(title=f"{name}: {title}", panels=panels)
            for file, (title, panels) in found.items()
        }
    )


def run_title(results: Results) -> str:
    """What a run was of: its id without the hash."""
    return results.run_id.rpartition("-")[0] or results.run_id


def by_temperature(results: Results) -> list[Panel]:
    """Each quality column against temperature, a line per system; none below two of them.

    What has no temperature stands beside them at any.
    """
    warm = [(row, row.temperature) for row in results.cells if row.temperature is not None]
    warm.sort(key=lambda pair: pair[1])
    if len(temperatures_of(results)) < 2:
        return []
    columns = [
        shown
        for shown in shown_columns(results)
        if not shown.is_speed and _with_value([row for row, _ in warm], [shown])
    ]
    systems = [row for row in results.cells if row.kind == "system"]
    caption = caption_of(results, columns, _with_value(systems, columns))
    return [
        Panel(
            title=shown.heading,
            x_label="temperature",
            lines=_lines(results, shown, warm),
            levels={
                row.label: shown.value(row.cell_id)
                for row in results.cells
                if row.temperature is None and row.kind != "silence"
            },
            shared_x=True,
            caption=caption,
        )
        for shown in columns
    ]


def by_row(results: Results) -> list[Panel]:
    """Each quality column with a line for each row; none if temperatures vary or weights do."""
    trained = any(row.training_step is not None for row in results.cells)
    columns = _quality_columns(results)
    if len(temperatures_of(results)) > 1 or trained:
        return []
    caption = caption_of(results, columns, _with_value(results.cells, columns), "—: no value")
    own_looks = looks_of(results, by_label=True)
    panels = []
    for shown in columns:
        floors = _floors(results, shown)
        lines, beyond = [], {}
        for y, row in enumerate(results.cells):
            value = _value(shown, row)
            if value is None:
                beyond[y] = "—"
            elif row.cell_id in floors:
                beyond[y] = f"{plain_number(value.value or 0.0, shown.decimals)} →"
            else:
                own = own_looks[row.label] if row.kind == "system" else Look(color=GREY)
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


def against_training(results: Results) -> list[Panel]:
    """The first quality column against the training step, where rows are checkpoints."""
    steps = [(row, row.training_step) for row in results.cells if row.training_step is not None]
    steps.sort(key=lambda pair: pair[1])
    quality = _quality_columns(results) if steps else []
    columns = [shown for shown in quality if shown.column.name == quality[0].column.name]
    caption = caption_of(results, columns, _with_value(results.cells, columns))
    panels = []
    for shown in columns:
        lines = _lines(results, shown, steps)
        panels.append(
            Panel(
                title=shown.heading,
                x_label="training step",
                lines=lines,
                log_y=far_apart(dot.y for line in lines for dot in line.dots),
                shared_x=True,
                caption=caption,
            )
        )
    return panels


def over_time(results: Results, only: str = "") -> list[Panel]:
    """Each column over time against the position in the clip, a line per row.

    Args:
        results: Of the run.
        only: How the names of columns begin.
    """
    found, rows = _segments(results, only), _rows_over_time(results)
    if not found or all(row.kind != "system" for row in rows):
        return []
    floors = [set().union(*(_floors(results, shown) for shown in columns)) for columns in found]
    missing = set().union(*floors)
    labels = "; ".join(row.label for row in results.cells if row.cell_id in missing)
    notes = [f"off the scale where they are missing: {labels}"] if labels else []
    if len(rows) < len(results.cells):
        notes.append("of systems with many head steps, the first number alone")
    columns = [shown for segments in found for shown in segments]
    left_out = {row.cell_id for row in results.cells} - {row.cell_id for row in rows}
    drawn = left_out | _with_value(results.cells, columns)
    caption = caption_of(results, columns, drawn, "; ".join(notes))
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
    several, own_looks = swept(results.cells), looks_of(results)
    others = [row.cell_id for row in results.cells if row.kind != "system"]
    greys = dict(zip(others, cycle(LINES), strict=False))
    lines = []
    for row in sorted(rows, key=lambda row: row.kind != "system"):
        points = [
            (sum(shown.column.span or ()) / 2, value)
            for shown in columns
            if (value := _value(shown, row)) is not None
        ]
        if row.kind == "system":
            own = own_looks[system_title(row, several)]
            dots = [Dot.of(x, value) for x, value in points]
        else:
            own = Look(color=GREY, marker="", line=greys[row.cell_id])
            dots = [Dot.of(x, value.value or 0.0) for x, value in points]
        if dots:
            lines.append(Line(label=row_name(results, row), look=own, dots=dots))
    return lines


def by_stage(results: Results, title: str = "", step: str = "") -> list[Panel]:
    """Time of a second of audio as stacked bars of backbone, head and codec; none if not timed.

    A bar for what was timed at batch 1, with the 95 % interval of the total; temperatures share
    it. "other" is what the total holds beyond the three stages.

    Args:
        results: Of the run, or of some of its rows.
        title: Of the panel.
        step: What the names of all rows end on, and need not.
    """
    rates, several = frame_rates(results), swept(results.cells)
    timed = {arm_key(row): row for row in reversed(results.cells) if row.cell_id in rates}
    rows = list(reversed(timed.values()))
    values = {(value.cell_id, value.metric): value for value in results.rows}
    stages: dict[str, dict[str, float]] = {}
    ends, rounds = {}, set()
    for row in rows:
        total = values[row.cell_id, "rtf"].scaled(1000.0)
        own = {part: values.get((row.cell_id, f"{part}_ms")) for part in PARTS}
        known = {part: value.value for part, value in own.items() if value}
        parts: dict[str, float] = {p: rates[row.cell_id] * ms for p, ms in known.items() if ms}
        rest = (total.value or 0.0) - sum(parts.values())
        if rest > _UNSEEN * (total.value or 0.0):
            parts["other"] = rest
        name = system_title(row, several).removesuffix(f", {step}")
        name += f" ({row.cell_id})" if name in stages else ""  # no bar hides another
        stages[name], ends[name] = parts, interval_of(total)
        rounds.add(total.n)
    if not stages:
        return []
    longest = max(sum(parts.values()) for parts in stages.values())
    most = " to ".join(map(str, sorted({min(rounds), max(rounds)})))
    caption = (
        f"{results.run_id}: means over {most} rounds, black ends: 95 % intervals of the sum"
        f"{timed_on(results, rows)}"
    )
    untimed = [r for r in results.cells if r.kind == "system" and arm_key(r) not in timed]
    return [
        Panel(
            title=title,
            stages=stages,
            ends=ends,
            x_label="milliseconds for a second of audio, batch 1",
            uprights={"real time": 1000.0} if longest > 1000.0 else {},
            caption=caption + not_drawn(untimed),
        )
    ]


def frame_rates(results: Results) -> dict[str, float]:
    """Frames a second of each row that says how long a frame and a second of audio take."""
    rtf, frame = (
        {value.cell_id: value.value for value in results.rows if value.metric == name}
        for name in ("rtf", "frame_ms")
    )
    both = ((cell_id, rtf[cell_id], frame.get(cell_id)) for cell_id in rtf)
    return {cell_id: round(1000 * a / b, 1) for cell_id, a, b in both if a and b}


def timed_on(results: Results, rows: Sequence[Row]) -> str:
    """What all of these rows were timed on and in; rows that differ say it in their names."""
    ids = {row.cell_id for row in rows}
    used = {value.recipe_id for value in results.rows if value.cell_id in ids}
    recipes = [r for i, r in results.recipes.items() if i in used and r.get("metric") == "latency"]
    found = ({str(r[name]) for r in recipes if name in r} for name in ("device", "dtype", "mode"))
    words = [name for names in found if len(names) == 1 for name in names]
    return "; " + ", ".join(words) if words else ""


def by_position(results: Results, growth: Sequence[GrowthRecord]) -> list[Panel]:
    """Stages and memory against seconds generated, a line for each row."""
    if not growth:
        return []
    caption = (
        f"{results.run_id}: points: lower quartile of the frames there, bars: fastest to median "
        "(whatever else runs on the machine only adds time)"
    )
    kept: dict[str, list[Dot]] = defaultdict(list)
    for record in growth:
        if record.state_bytes is not None:
            kept[record.cell_id].append(Dot.of(record.seconds, record.state_bytes / 1e6))
    found: dict[str, Mapping[str, Sequence[Dot]]] = {
        f"{stage}, ms per second of audio": times_along(results, growth, stage) for stage in PARTS
    }
    several, own_looks = swept(results.cells), looks_of(results)
    panels = []
    for title, dots in (found | {"kept between steps, MB": kept}).items():
        lines = [
            Line(look=own_looks[name], label=name, dots=sorted(own, key=lambda dot: dot.x))
            for row in results.cells
            if (own := dots.get(row.cell_id)) and (name := system_title(row, several))
        ]
        panels.append(panel_along(title, lines, caption))
    return panels


def panel_along(title: str, lines: Sequence[Line], caption: str) -> Panel:
    """What grows with a generation, against how long it is."""
    return Panel(
        title=title,
        x_label="seconds of audio generated",
        lines=lines,
        log_x=far_apart(dot.x for line in lines for dot in line.dots),
        from_zero=True,
        shared_x=True,
        caption=caption,
    )


def times_along(
    results: Results, growth: Sequence[GrowthRecord], stage: Stage
) -> dict[str, list[Dot]]:
    """By row, a stage's milliseconds for a second of audio by seconds generated, where known.

    A dot is the lower quartile of the frames there, its bar goes from the fastest to the median.
    """
    rates = frame_rates(results)
    found: dict[tuple[str, float], list[float]] = defaultdict(list)
    for record in growth:
        scale = rates[record.cell_id] / 1e6
        found[record.cell_id, record.seconds] += [scale * ns for ns in record.stage_ns[stage]]
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
    return looks({system_title(row, several): row.model or row.label for row in systems})


def _lines(results: Results, shown: Shown, places: Iterable[tuple[Row, float]]) -> list[Line]:
    """A line for each system with the numbers of these rows, at these x and in this order."""
    several, own_looks = swept(results.cells), looks_of(results)
    dots: dict[str, list[Dot]] = {name: [] for name in own_looks}
    for row, x in places:
        value = _value(shown, row)
        if row.kind == "system" and value is not None:
            dots[system_title(row, several)].append(Dot.of(x, value))
    found = {name: line for name, line in dots.items() if line}
    return [Line(label=name, look=own_looks[name], dots=line) for name, line in found.items()]


def _value(shown: Shown, row: Row) -> Value | None:
    value = shown.values.get(row.cell_id)
    return None if value is None or value.value is None else value


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


def _rows_over_time(results: Results) -> list[Row]:
    """The rows whose lines can be told apart: of many head steps of a system, the first."""
    rows = [row for row in results.cells if row.training_step is None]
    if sum(row.kind == "system" for row in rows) <= _MANY_ROWS:
        return rows
    first: dict[str, int | None] = {}
    for row in rows:
        first.setdefault(row.label, row.head_steps)
    return [row for row in rows if row.head_steps == first[row.label]]


def _segments(results: Results, only: str) -> list[list[Shown]]:
    """The columns over time by what they are columns of, in order, for each base and recipe."""
    found: dict[tuple[str, str | None], list[Shown]] = {}
    for shown in shown_columns(results, everything=True):
        is_one = shown.column.span is not None and shown.column.name.startswith(only)
        if is_one and _with_value(results.cells, [shown]):
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


def temperatures_of(results: Results) -> set[float]:
    """At which temperatures systems drew, those that have any."""
    found = (row.temperature for row in results.cells if row.kind == "system")
    return {temperature for temperature in found if temperature is not None}


def row_name(results: Results, row: Row) -> str:
    """A row's name with what tells it from other rows: steps where swept, and temperature."""
    several = swept(results.cells)
    if len(temperatures_of(results)) < 2:
        return system_title(row, several)
    return row_title(row, several)


def caption_of(results: Results, columns: Sequence[Shown], drawn: set[str], note: str = "") -> str:
    """What the bars are, of how many clips, what temperature is, and which rows are missing."""
    missing = [c for c in results.cells if c.kind == "system" and c.cell_id not in drawn]
    bars = f"{results.run_id}: bars: 95 % intervals over prompts{_counted(results, columns, drawn)}"
    recipes = ((s.label, results.recipes.get(s.recipe_id or "", {}).get("lm")) for s in columns)
    readers = "; ".join(f"{label} under {lm['model']}" for label, lm in recipes if lm)
    texts = (bars, readers, _temperatures(results), note)
    return "\n".join(filter(None, texts)) + not_drawn(missing)


def not_drawn(rows: Sequence[Row]) -> str:
    """Which systems a plot lacks, as the last line of its caption; nothing where it has all."""
    return f"\nnot drawn for want of a value: {'; '.join(map(row_title, rows))}" if rows else ""


def _counted(results: Results, columns: Sequence[Shown], drawn: set[str]) -> str:
    """How many clips or votes the bars are of; a number may be over fewer than its row has."""
    counts: dict[str, set[int]] = {"clips": set(), "votes": set()}
    for shown in columns:
        for cell_id, value in shown.values.items():
            if cell_id in drawn and value.value is not None and value.low is not None:
                counts["votes" if is_of_votes(results, value) else "clips"].add(value.n)
    spans = (
        f"{min(found)} to {max(found)} {what}" if len(found) > 1 else f"{max(found)} {what}"
        for what, found in counts.items()
        if found
    )
    return "".join(f", n = {span}" for span in spans)


def _temperatures(results: Results) -> str:
    labels: dict[str, dict[str, None]] = {}
    for row in results.cells:
        if kind := TEMPERATURE_KINDS[row.temperature_kind]:
            labels.setdefault(kind, {})[row.label] = None
    if len(labels) < 2:
        return "".join(f"temperature is the {kind}" for kind in labels)
    parts = (f"the {kind} of {', '.join(names)}" for kind, names in labels.items())
    return f"temperature is {' and '.join(parts)}, which are not comparable"
