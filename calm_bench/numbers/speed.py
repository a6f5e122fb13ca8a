"""From times per frame to what the table says of speed: ratios, shares, RTF, first audio, memory.

Ratios to the baseline are medians over rounds of a round's ratio, for the same stretch of audio, so
that frame rates compare; shares, means and RTF are quotients of sums, which add up where medians do
not. A system is timed once for all temperatures, which change no shape and no count of operations.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from calm_bench.core.stats import ratio_interval, summarise
from calm_bench.seeds import derive_seed, recipe_id_of
from calm_bench.store.records import LatencyRecord, Row, Stage
from calm_bench.store.results import UNFIT, Value
from calm_bench.types import Column, Estimate

SUMS_AGREE = 0.05
RESTLESS = 0.05
CONTROL_OFF = 0.02
_STAGES: tuple[Stage, ...] = ("backbone", "head", "codec", "total")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Nanoseconds of many frames, by stage."""

    backbone: int
    head: int
    codec: int
    total: int
    audio: int
    frames: int

    @classmethod
    def of(cls, *records: LatencyRecord) -> "Sums":
        """The sums of timed generations."""
        frames = [len(record.stage_ns["total"]) for record in records]
        return cls(
            **{name: sum(sum(record.stage_ns[name]) for record in records) for name in _STAGES},
            audio=sum(n * r.frame_ns for n, r in zip(frames, records, strict=True)),
            frames=sum(frames),
        )

    def per_audio(self, name: str) -> float:
        """A stage's time for a stretch of audio."""
        return float(getattr(self, name)) / self.audio


def predicted_speedup(baseline: Sums, own: Sums) -> float:
    """The overall speed-up that the stages' times imply: 1 / ((1 - p) b + p / s).

    p is the head's share of the baseline's time, s the heads' ratio, b the ratio of all else. Where
    it is far from the measured ratio of totals, time was booked on the wrong stage or on none.
    """
    p, total = baseline.head / baseline.total, baseline.per_audio("total")
    rest, base_rest = (x.per_audio("backbone") + x.per_audio("codec") for x in (own, baseline))
    # Of a baseline that is all head, and of a head that takes no time, the quotients' limits.
    others = (1 - p) * rest / base_rest if base_rest else rest / total
    return 1 / (others + own.per_audio("head") / total)


def time_ratio(
    a: Sequence[LatencyRecord], b: Sequence[LatencyRecord], name: str, level: float = 0.95
) -> Estimate:
    """The median over shared rounds of a's time over b's, for the same stretch of audio."""
    of_a = {record.round: Sums.of(record).per_audio(name) for record in a}
    of_b = {record.round: Sums.of(record).per_audio(name) for record in b}
    rounds = sorted(of_a.keys() & of_b.keys())
    seed = derive_seed("latency", name)
    return ratio_interval([of_a[i] for i in rounds], [of_b[i] for i in rounds], seed, level)


def doubts(row: Row, own: Sequence[LatencyRecord], baseline: Sequence[LatencyRecord]) -> list[str]:
    """A note where the stages' times do not explain the overall speed-up."""
    if not baseline or own is baseline:
        return []
    a, b = Sums.of(*baseline), Sums.of(*own)
    measured, predicted = a.per_audio("total") / b.per_audio("total"), predicted_speedup(a, b)
    if abs(measured / predicted - 1) <= SUMS_AGREE:
        return []
    return [
        f"{row.label}: stage times imply an overall speed-up of {predicted:.2f}, totals give "
        f"{measured:.2f}; part of the time belongs to no stage"
    ]


def restlessness(
    control: Sequence[LatencyRecord], twin: Sequence[LatencyRecord]
) -> tuple[list[str], bool | None]:
    """What timing one system twice in every round tells of the machine, and whether it is fit.

    None where nothing was timed twice.
    """
    aa = time_ratio(control, twin, "total") if control and twin else None
    if aa is None or aa.value is None or aa.low is None or aa.high is None:
        return [], None
    sure = time_ratio(control, twin, "total", level=0.99)
    assert sure.low is not None
    assert sure.high is not None
    if not sure.low <= 1.0 <= sure.high and abs(aa.value - 1) > CONTROL_OFF:
        note = (
            f"{UNFIT} by {100 * (aa.value - 1):+.1f} % on this machine: "
            "something else was running, and the speed columns are not to be trusted"
        )
        return [note], False
    note = f"A/A, one system timed twice: ×{aa.value:.2f} [{aa.low:.2f}, {aa.high:.2f}]"
    if max(aa.high - 1, 1 - aa.low) > RESTLESS:
        note += "; the machine was restless, and ratios as near to 1 as these ends mean nothing"
    return [note], True


def speed_column(name: str, label: str, unit: str = "", better: bool | None = False) -> Column:
    """A column of times, which are better when lower, or of what is made of them."""
    return Column(name=name, label=label, unit=unit, higher_is_better=better)


SPEED_COLUMNS = (
    speed_column("overall_speedup", "overall", "×", better=True),
    speed_column("head_speedup", "head", "×", better=True),
    speed_column("head_share", "time in head", "%", better=None),
    speed_column("rtf", "RTF"),
    speed_column("first_audio_ms", "first audio", "ms"),
    speed_column("frame_ms", "frame", "ms"),
    speed_column("backbone_ms", "backbone per frame", "ms"),
    speed_column("head_ms", "head per frame", "ms"),
    speed_column("codec_ms", "codec per frame", "ms"),
    speed_column("second_ms", "per second of audio", "ms"),
    speed_column("head_second_ms", "head per second of audio", "ms"),
    speed_column("frame_p50_ms", "frame, median", "ms"),
    speed_column("frame_max_ms", "frame, slowest", "ms"),
    speed_column("peak_mb", "peak memory", "MB"),
    speed_column("aa_ratio", "baseline against itself", "×", better=None),
)
"""RTF is compute over audio: below 1 is faster than real time."""
LEADING = tuple(column.name for column in SPEED_COLUMNS[:3])
"""What stands before the quality columns, as in the paper's tables."""
_QUOTIENTS = {
    "head_share": ("head", "total", 100.0),
    "rtf": ("total", "audio", 1.0),
    "frame_ms": ("total", "frames", 1e-6),
    "backbone_ms": ("backbone", "frames", 1e-6),
    "head_ms": ("head", "frames", 1e-6),
    "codec_ms": ("codec", "frames", 1e-6),
    "second_ms": ("total", "audio", 1e3),
    "head_second_ms": ("head", "audio", 1e3),
}
"""By column, which sum over which, and what the quotient is multiplied with."""


def arm_key(row: Row) -> tuple[object, ...]:
    """What rows that are timed together have in common."""
    return row.system[0], row.head_steps, row.top_k, row.precision, row.mode, row.codec_frames


@dataclass(frozen=True, slots=True)
class Timed:
    """Records by what was timed and batch size, round after round; `control` is the second A/A."""

    arms: Mapping[tuple[tuple[object, ...], int], list[LatencyRecord]]
    control: list[LatencyRecord]
    twin: list[LatencyRecord]

    @classmethod
    def of(cls, rows: Sequence[Row], records: Iterable[LatencyRecord]) -> "Timed":
        """The records of these rows; what was timed with no row of them is left out."""
        keys = {row.cell_id: arm_key(row) for row in rows}
        arms: dict[tuple[tuple[object, ...], int], list[LatencyRecord]] = {}
        control: list[LatencyRecord] = []
        for record in sorted(records, key=lambda record: record.round):
            if record.cell_id in keys:
                own = arms.setdefault((keys[record.cell_id], record.batch), [])
                (control if record.control else own).append(record)
        twin = arms[keys[control[0].cell_id], control[0].batch] if control else []
        return cls(arms, control, twin)

    def own(self, row: Row | None, batch: int = 1) -> list[LatencyRecord]:
        """The rounds of a row."""
        return [] if row is None else self.arms.get((arm_key(row), batch), [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The rows, what they depend on, what the reader must be told, and whether to believe it."""

    values: tuple[Value, ...]
    recipes: Mapping[str, dict[str, Any]]
    notes: tuple[str, ...]
    fit: bool | None


Found = dict[str, Estimate]
Records = Sequence[LatencyRecord]


def speed_rows(rows: Sequence[Row], records: Sequence[LatencyRecord]) -> Speed:
    """Every speed column of every system that was timed, under each of its temperatures."""
    timed = Timed.of(rows, records)
    base = next((row for row in rows if row.baseline), None)
    # Arms of higher frame rates take more frames for the same audio, and are no other recipe.
    frames = (len(r.stage_ns["total"]) for own in timed.arms.values() for r in own)

    recipe = {"frames": min(frames, default=0)}
    return gathered(
        rows, timed, lambda _: base, lambda _, *times: estimates(*times), SPEED_COLUMNS, recipe
    )


def gathered(
    rows: Sequence[Row],
    timed: Timed,
    baseline_of: Callable[[Row], Row | None],
    numbers_of: Callable[[Row, Records, Records, Records], Found],
    columns: Sequence[Column],
    recipe: Mapping[str, Any],
) -> Speed:
    """The numbers of every row that was timed, in these columns.

    `numbers_of` makes them of a row, its records, its baseline's and its own second ones; `recipe`
    is what they depend on besides the records.
    """
    units = {column.name: column.unit for column in columns}
    values: list[Value] = []
    notes: list[str] = []
    recipes: dict[str, dict[str, Any]] = {}
    for row in rows:
        own = timed.own(row) if row.kind == "system" else []
        if not own:
            continue
        baseline = timed.own(baseline_of(row))
        found = numbers_of(row, own, baseline, timed.control if own is timed.twin else [])
        of_row = {**recipe_of(own), **recipe}
        recipe_id = recipe_id_of(of_row)
        recipes[recipe_id] = of_row
        values += [value_of(row, n, units[n], e, recipe_id) for n, e in found.items()]
        notes += doubts(row, own, baseline)
    said, fit = restlessness(timed.control, timed.twin)
    notes += said
    return Speed(values=tuple(values), recipes=recipes, notes=tuple(dict.fromkeys(notes)), fit=fit)


def value_of(row: Row, name: str, unit: str, estimate: Estimate, recipe_id: str | None) -> Value:
    """One number of a row."""
    return Value(
        cell_id=row.cell_id,
        system=row.label,
        temperature=row.temperature,
        temperature_kind=row.temperature_kind,
        text_temperature=row.text_temperature,
        head_steps=row.head_steps,
        metric=name,
        unit=unit,
        recipe_id=recipe_id,
        **estimate.number,
    )


def recipe_of(records: Sequence[LatencyRecord]) -> dict[str, Any]:
    """What the numbers of an arm depend on besides the system."""
    first = records[0]
    return {
        "metric": "latency",
        "batch": first.batch,
        "device": first.device,
        "dtype": first.dtype,
        "threads": first.threads,
        "mode": first.mode,
        "rounds": len(records),
        "frames": len(first.stage_ns["total"]),
        "total": "backbone + text stream + head + streaming decoder",
        "ratio": "median over rounds of the round's ratio; all systems once per round, shuffled",
    }


def estimates(
    own: Sequence[LatencyRecord],
    baseline: Sequence[LatencyRecord],
    control: Sequence[LatencyRecord],
) -> Found:
    """Every speed column of one arm."""
    slowest = max(max(record.stage_ns["total"]) for record in own)
    found = {name: _quotient(name, own) for name in _QUOTIENTS} | {
        "overall_speedup": speedup(baseline, own, "total"),
        "head_speedup": speedup(baseline, own, "head"),
        "first_audio_ms": typical([r.first_audio_ns / 1e6 for r in own]),
        "frame_p50_ms": typical([median(r.stage_ns["total"]) / 1e6 for r in own]),
        "frame_max_ms": Estimate(value=slowest / 1e6, n=len(own)),
        "peak_mb": _peak(own),
    }
    if control:
        found["aa_ratio"] = time_ratio(control, own, "total")
    return {column.name: found[column.name] for column in SPEED_COLUMNS if column.name in found}


def speedup(
    baseline: Sequence[LatencyRecord],
    own: Sequence[LatencyRecord],
    name: str,
    where: str = "in this run",
) -> Estimate:
    """How many times faster than the baseline."""
    if not baseline:
        return Estimate(value=None, reason=f"the baseline was not timed {where}")
    if own is baseline:
        return Estimate(value=1.0, n=len(own))
    return time_ratio(baseline, own, name)


def typical(values: Sequence[float], *seed: str) -> Estimate:
    """The median of rounds with its interval."""
    drawn = derive_seed(*(seed or ("latency", "median")))
    return ratio_interval(values, [1.0] * len(values), drawn)


def _quotient(name: str, records: Sequence[LatencyRecord]) -> Estimate:
    """A quotient of sums over all rounds; rounds are what is resampled."""
    above, below, scale = _QUOTIENTS[name]
    how: dict[str, Any] = {"aggregate": "ratio", "scale": scale, "near_normal": True}
    column = Column(name=name, label=name, fields=(above, below), **how)
    values: dict[str, dict[str, float | None]] = {}
    for record in records:
        sums = Sums.of(record)
        values[str(record.round)] = {side: float(getattr(sums, side)) for side in (above, below)}
    found = summarise(column, values, derive_seed("latency", name))
    is_part = below == "total"  # which is never more than the whole, however few the rounds
    return replace(found, high=min(found.high, scale)) if is_part and found.high else found


def _peak(records: Sequence[LatencyRecord]) -> Estimate:
    peaks = [record.peak_bytes for record in records if record.peak_bytes is not None]
    if not peaks:
        return Estimate(value=None, reason="in a process shared by all; counted on GPUs only")
    return Estimate(value=max(peaks) / 1e6, n=len(peaks))
