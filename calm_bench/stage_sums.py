"""Sums of a timed generation, ratios of two, and what keeps a reader from trusting them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from calm_bench.records import Cell, LatencyRecord
from calm_bench.seeds import derive_seed
from calm_bench.stats import ratio_interval
from calm_bench.types import Estimate

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


def doubts(
    cell: Cell, own: Sequence[LatencyRecord], baseline: Sequence[LatencyRecord]
) -> list[str]:
    """A note where the stages' times do not explain the overall speed-up."""
    if not baseline or own is baseline:
        return []
    a, b = (Sums.over(Sums.of(record) for record in records) for records in (baseline, own))
    measured, predicted = a.per_audio("total") / b.per_audio("total"), predicted_speedup(a, b)
    if abs(measured / predicted - 1) <= SUMS_AGREE:
        return []
    return [
        f"{cell.label}: stage times imply an overall speed-up of {predicted:.2f}, totals give "
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
