"""A step's time next to the time that memory needs to hand it its bytes."""

from collections.abc import Mapping, Sequence

from calm_bench.records import Stage
from calm_bench.seeds import derive_seed
from calm_bench.stage_sums import Sums
from calm_bench.stats import ratio_interval
from calm_bench.store import FootprintRecord, LatencyRecord
from calm_bench.types import Estimate

STAGES: tuple[tuple[Stage, str], ...] = (
    ("total", "limit_ratio"),
    ("backbone", "backbone_limit_ratio"),
    ("head", "head_limit_ratio"),
    ("codec", "codec_limit_ratio"),
)
NOTHING_READ = "this stage reads no weights"


def limits(
    own: Sequence[LatencyRecord],
    footprint: FootprintRecord | None,
    bandwidth: Mapping[int, float],
) -> dict[str, Estimate]:
    """Bytes of a step, the bandwidth of its rounds, and time over bytes / bandwidth by stage.

    Args:
        own: The rounds of a row at batch 1.
        footprint: What its step reads.
        bandwidth: By round, bytes per nanosecond.
    """
    rounds = [record for record in own if record.round in bandwidth]
    seed = derive_seed("speed", "limit")
    speeds = [bandwidth[record.round] for record in rounds]
    found = {"bandwidth_gbs": ratio_interval(speeds, [1.0] * len(speeds), seed)}
    read = footprint.read_bytes if footprint else None
    if read is None:
        reason = (footprint.read_reason if footprint else None) or "bytes were not counted"
        names = ("read_mb", "limit_ms", *(name for _, name in STAGES))
        return found | {name: Estimate(value=None, reason=reason) for name in names}
    found["read_mb"] = Estimate(value=read["total"] / 1e6, n=1)
    times = [read["total"] / speed / 1e6 for speed in speeds]
    found["limit_ms"] = ratio_interval(times, [1.0] * len(times), seed)
    for stage, name in STAGES:
        if not read.get(stage):
            found[name] = Estimate(value=None, reason=NOTHING_READ)
            continue
        floors = [read[stage] / speed for speed in speeds]
        sums = [Sums.of(record) for record in rounds]
        found[name] = ratio_interval([getattr(s, stage) / s.frames for s in sums], floors, seed)
    return found
