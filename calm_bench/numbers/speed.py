"""From times per frame to what the table says of speed: ratios, shares, RTF, first audio, memory.

Ratios to the baseline are medians over rounds of a round's ratio, for the same stretch of audio, so
that frame rates compare; shares, means and RTF are quotients of sums, which add up where medians do
not. A system is timed once for all temperatures, which change no shape and no count of operations.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from calm_bench.core.stats import ratio_interval, summarise
from calm_bench.seeds import derive_seed, recipe_id_of
from calm_bench.store.records import LatencyRecord, Row
from calm_bench.store.results import ColumnInfo, Value
from calm_bench.types import Column, Estimate

SUMS_AGREE = 0.05
RESTLESS = 0.05
CONTROL_OFF = 0.02


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
    def of(cls, record: LatencyRecord) -> "Sums":
        """The sums of one timed generation."""
        ns = record.stage_ns
        frames = len(ns["total"])
        stages = {name: sum(ns[name]) for name in ("backbone", "head", "codec", "total")}
        return cls(**stages, audio=frames * (record.frame_ns or 0), frames=frames)

    @classmethod
    def over(cls, parts: Iterable["Sums"]) -> "Sums":
        """The sums of several."""
        parts = list(parts)
        names = ("backbone", "head", "codec", "total", "audio", "frames")
        return cls(**{name: sum(getattr(part, name) for part in parts) for name in names})

    def per_audio(self, name: str) -> float:
        """A stage's time for a stretch of audio; per frame where nobody wrote a frame's length."""
        return float(getattr(self, name)) / (self.audio or self.frames)


def predicted_speedup(baseline: Sums, own: Sums) -> float:
    """The overall speed-up that the stages' times imply: 1 / ((1 - p) b + p / s).

    p is the head's share of the baseline's time, s the heads' ratio, b the ratio of all else. Where
    it is far from the measured ratio of totals, time was booked on the wrong stage or on none.
    """
    p = baseline.head / baseline.total
    rest, base_rest = (x.per_audio("backbone") + x.per_audio("codec") for x in (own, baseline))
    b = rest / base_rest
    p_over_s = own.per_audio("head") / baseline.per_audio("total")  # of no head, too, that is 0
    return 1 / ((1 - p) * b + p_over_s)


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
    a, b = (Sums.over(Sums.of(record) for record in records) for records in (baseline, own))
    measured, predicted = a.per_audio("total") / b.per_audio("total"), predicted_speedup(a, b)
    if abs(measured / predicted - 1) <= SUMS_AGREE:
        return []
    return [
        f"{row.label}: stage times imply an overall speed-up of {predicted:.2f}, totals give "
        f"{measured:.2f}; part of the time belongs to no stage"
    ]


def restlessness(control: Sequence[LatencyRecord], twin: Sequence[LatencyRecord]) -> list[str]:
    """What timing one system twice in every round tells of the machine: how far to trust ratios."""
    aa = time_ratio(control, twin, "total") if control and twin else None
    if aa is None or aa.value is None or aa.low is None or aa.high is None:
        return []
    sure = time_ratio(control, twin, "total", level=0.99)
    assert sure.low is not None
    assert sure.high is not None
    if not sure.low <= 1.0 <= sure.high and abs(aa.value - 1) > CONTROL_OFF:
        return [
            f"the baseline differs from itself by {100 * (aa.value - 1):+.1f} % on this machine: "
            "something else was running, and the speed columns are not to be trusted"
        ]
    note = f"A/A, one system timed twice: ×{aa.value:.2f} [{aa.low:.2f}, {aa.high:.2f}]"
    if max(aa.high - 1, 1 - aa.low) > RESTLESS:
        note += "; the machine was restless, and ratios as near to 1 as these ends mean nothing"
    return [note]


def _column(name: str, label: str, unit: str = "", better: bool | None = False) -> ColumnInfo:
    return ColumnInfo(name=name, label=label, unit=unit, higher_is_better=better)


SPEED_COLUMNS = (
    _column("overall_speedup", "overall", "×", better=True),
    _column("head_speedup", "head", "×", better=True),
    _column("head_share", "time in head", "%", better=None),
    _column("rtf", "RTF"),
    _column("first_audio_ms", "first audio", "ms"),
    _column("frame_ms", "frame", "ms"),
    _column("backbone_ms", "backbone per frame", "ms"),
    _column("head_ms", "head per frame", "ms"),
    _column("codec_ms", "codec per frame", "ms"),
    _column("second_ms", "per second of audio", "ms"),
    _column("head_second_ms", "head per second of audio", "ms"),
    _column("frame_p50_ms", "frame, median", "ms"),
    _column("frame_max_ms", "frame, slowest", "ms"),
    _column("peak_mb", "peak memory", "MB"),
    _column("aa_ratio", "baseline against itself", "×", better=None),
)
"""RTF is compute over audio: below 1 is faster than real time."""
UNITS = {column.name: column.unit for column in SPEED_COLUMNS}


def arm_key(row: Row) -> tuple[object, ...]:
    """What rows that are timed together have in common."""
    return row.model, row.head_steps, row.top_k, row.precision, row.mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The rows, what they depend on, and what the reader must be told."""

    values: tuple[Value, ...]
    recipes: Mapping[str, dict[str, Any]]
    notes: tuple[str, ...]


def speed_rows(rows: Sequence[Row], records: Sequence[LatencyRecord]) -> Speed:
    """Every speed column of every system that was timed, under each of its temperatures."""
    by_id = {row.cell_id: row for row in rows}
    timed: dict[tuple[Any, ...], list[LatencyRecord]] = {}
    control: list[LatencyRecord] = []
    for record in sorted(records, key=lambda record: record.round):
        if record.cell_id not in by_id:
            continue
        own = timed.setdefault(arm_key(by_id[record.cell_id]), [])
        (control if record.control else own).append(record)
    base_key = next((arm_key(row) for row in rows if row.baseline), None)
    baseline = timed.get(base_key, []) if base_key else []
    twin = timed[arm_key(by_id[control[0].cell_id])] if control else []
    # Arms of higher frame rates take more frames for the same audio, and are no other recipe.
    frames = min((len(r.stage_ns["total"]) for group in timed.values() for r in group), default=0)
    values: list[Value] = []
    notes: list[str] = []
    recipes: dict[str, dict[str, Any]] = {}
    for row in rows:
        own = timed.get(arm_key(row), []) if row.kind == "system" else []
        if not own:
            continue
        recipe = recipe_of(own, frames)
        recipe_id = recipe_id_of(recipe)
        recipes[recipe_id] = recipe
        found = estimates(own, baseline, control if own is twin else [])
        values += [value_of(row, n, UNITS[n], e, recipe_id) for n, e in found.items()]
        notes += doubts(row, own, baseline)
    notes += restlessness(control, twin)
    return Speed(values=tuple(values), recipes=recipes, notes=tuple(dict.fromkeys(notes)))


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
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        unit=unit,
        recipe_id=recipe_id,
        reason=estimate.reason,
    )


def recipe_of(records: Sequence[LatencyRecord], frames: int) -> dict[str, Any]:
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
        "frames": frames,
        "total": "backbone + text stream + head + streaming decoder",
        "ratio": "median over rounds of the round's ratio; all systems once per round, shuffled",
    }


def estimates(
    own: Sequence[LatencyRecord],
    baseline: Sequence[LatencyRecord],
    control: Sequence[LatencyRecord],
) -> dict[str, Estimate]:
    """Every speed column of one arm."""
    found = {
        "overall_speedup": _speedup(baseline, own, "total"),
        "head_speedup": _speedup(baseline, own, "head"),
        "head_share": _quotient("head_share", own, lambda s: (s.head, s.total), 100.0),
        "rtf": _quotient("rtf", own, lambda s: (s.total, s.audio)),
        "first_audio_ms": _typical([(r.first_audio_ns or 0) / 1e6 for r in own]),
        "frame_ms": _quotient("frame_ms", own, lambda s: (s.total, s.frames), 1e-6),
        "backbone_ms": _quotient("backbone_ms", own, lambda s: (s.backbone, s.frames), 1e-6),
        "head_ms": _quotient("head_ms", own, lambda s: (s.head, s.frames), 1e-6),
        "codec_ms": _quotient("codec_ms", own, lambda s: (s.codec, s.frames), 1e-6),
        "second_ms": _quotient("second_ms", own, lambda s: (s.total, s.audio), 1e3),
        "head_second_ms": _quotient("head_second_ms", own, lambda s: (s.head, s.audio), 1e3),
        "frame_p50_ms": _typical([median(r.stage_ns["total"]) / 1e6 for r in own]),
        "frame_max_ms": Estimate(
            value=max(max(r.stage_ns["total"]) for r in own) / 1e6, n=len(own)
        ),
        "peak_mb": _peak(own),
    }
    if control:
        found["aa_ratio"] = time_ratio(control, baseline, "total")
    return found


def _speedup(
    baseline: Sequence[LatencyRecord], own: Sequence[LatencyRecord], name: str
) -> Estimate:
    """How many times faster than the baseline."""
    if not baseline:
        return Estimate(value=None, reason="the baseline was not timed in this run")
    if own is baseline:
        return Estimate(value=1.0, n=len(own))
    return time_ratio(baseline, own, name)


def _typical(values: Sequence[float]) -> Estimate:
    """The median of rounds with its interval."""
    return ratio_interval(values, [1.0] * len(values), derive_seed("latency", "median"))


def _quotient(
    name: str,
    records: Sequence[LatencyRecord],
    parts: Callable[[Sums], tuple[int, int]],
    scale: float = 1.0,
) -> Estimate:
    """A quotient of sums over all rounds; rounds are what is resampled."""
    column = Column(
        name=name,
        label=name,
        unit="",
        higher_is_better=None,
        aggregate="ratio",
        fields=("a", "b"),
        scale=scale,
    )
    pairs = {record.round: parts(Sums.of(record)) for record in records}
    values = {str(number): {"a": float(a), "b": float(b)} for number, (a, b) in pairs.items()}
    return summarise(column, values, derive_seed("latency", name))


def _peak(records: Sequence[LatencyRecord]) -> Estimate:
    peaks = [record.peak_bytes for record in records if record.peak_bytes is not None]
    if not peaks:
        return Estimate(value=None, reason="in a process shared by all; counted on GPUs only")
    return Estimate(value=max(peaks) / 1e6, n=len(peaks))
