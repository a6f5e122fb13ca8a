"""Where the time of a frame goes: backbone, head and codec of each timed row, from raw times."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from calm_bench.store import Cell, LatencyRecord
from calm_bench.titles import cell_name, swept

_PARTS = ("backbone", "head", "codec")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Milliseconds by stage; "other" is what the total holds beyond the three stages.

    Attributes:
        per: What they are for: a frame, or a second of audio where frames differ in length.
    """

    name: str
    ms: Mapping[str, float]
    per: str = "frame"


def stage_times(cells: Sequence[Cell], records: Sequence[LatencyRecord]) -> list[StageTimes]:
    """Per row timed at batch 1, and per mode, the median over its rounds of each stage's mean time.

    It is the time of a frame, or of a second of audio where systems differ in frame rate.
    """
    arms: dict[tuple[str, str], list[LatencyRecord]] = defaultdict(list)
    for record in records:
        if not record.control and record.batch == 1:
            arms[record.cell_id, record.mode].append(record)
    modes = list(dict.fromkeys(mode for _, mode in arms))
    # Where a mode is what a row is about, the row's name has it.
    several_modes = len(modes) > 1 and all(cell.mode is None for cell in cells)
    several_steps = swept(cells)
    lengths = {record.frame_ns for rounds in arms.values() for record in rounds}
    per_second = len(lengths) > 1 and None not in lengths
    times = []
    for cell in cells:
        for mode in modes:
            if rounds := arms.get((cell.cell_id, mode)):
                name = cell_name(cell, several_steps=cell.label in several_steps)
                name += f" ({mode})" if several_modes else ""
                ms = _means(rounds, per_second=per_second)
                per = "second of audio" if per_second else "frame"
                times.append(StageTimes(name=name, ms=ms, per=per))
    return times


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
    return {stage: median(means[stage]) for stage in (*_PARTS, "other") if stage in means}
