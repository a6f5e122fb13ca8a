"""From records to the rows of a speed run: each number with its interval, its n, or its reason.

Every row is compared with the baseline in the same mode and precision, and with its own system's
plain fp32 step. What a batch of several clips does stands in columns of its own, `frame_ms@b4`:
claims are about one clip.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from typing import Any

from calm_bench.core.stats import ratio_interval
from calm_bench.numbers.speed import (
    SPEED_COLUMNS,
    Sums,
    doubts,
    estimates,
    predicted_speedup,
    recipe_of,
    restlessness,
    time_ratio,
    value_of,
)
from calm_bench.seeds import derive_seed, recipe_id_of
from calm_bench.speed.columns import batch_columns, columns_of, tables_of
from calm_bench.speed.footprint import last_cache_bytes
from calm_bench.speed.plan import SpeedPlan
from calm_bench.store.records import (
    BandwidthRecord,
    FootprintRecord,
    GenerationRecord,
    LatencyRecord,
    Row,
    Stage,
)
from calm_bench.store.results import Results, Value
from calm_bench.store.run_store import RunStore
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


THIRTY_SECONDS = 30.0
NOT_PLAIN = "the plain fp32 step of this system was not timed in the same rounds: add --mode plain"
NO_BASELINE = "the baseline was not timed in this mode and precision"
NOT_CONTROL = "only the first row is timed twice in each round"
CPU_PEAK = "resident memory of a process of its own, beyond one that has loaded no model"
Found = dict[str, Estimate]


@dataclass(slots=True)
class _Facts:
    """The records of a run by row and batch size."""

    rows: Sequence[Row]
    arms: dict[tuple[str, int], list[LatencyRecord]] = field(default_factory=dict)
    control: list[LatencyRecord] = field(default_factory=list)
    bandwidth: dict[int, float] = field(default_factory=dict)  # bytes per nanosecond
    footprints: dict[tuple[str, int], FootprintRecord] = field(default_factory=dict)
    generations: dict[str, dict[int, GenerationRecord]] = field(default_factory=dict)  # by repeat

    @classmethod
    def read(cls, rows: Sequence[Row], store: RunStore) -> "_Facts":
        facts = cls(rows=rows)
        for record in sorted(store.read(LatencyRecord), key=lambda record: record.round):
            own = facts.arms.setdefault((record.cell_id, record.batch), [])
            (facts.control if record.control else own).append(record)
        for probe in store.read(BandwidthRecord):
            facts.bandwidth[probe.round] = probe.n_bytes / median(probe.read_ns)
        for found in store.read(FootprintRecord):
            facts.footprints[found.cell_id, found.batch] = found
        for made in store.read(GenerationRecord):
            facts.generations.setdefault(made.cell_id, {})[made.repeat] = made
        return facts

    def timed(self, row: Row | None, batch: int = 1) -> list[LatencyRecord]:
        """The rounds of a row."""
        return [] if row is None else self.arms.get((row.cell_id, batch), [])

    def baseline_of(self, row: Row) -> Row | None:
        """The baseline in a row's own mode and precision."""
        step = row.mode, row.precision
        alike = (c for c in self.rows if c.baseline and (c.mode, c.precision) == step)
        return next(alike, None)

    def plain_of(self, row: Row) -> Row | None:
        """The plain fp32 step of a row's system."""
        what = row.model, row.head_steps, "plain"
        alike = (c for c in self.rows if (c.model, c.head_steps, c.mode) == what)
        return next(alike, None)


def tidy(plan: SpeedPlan, rows: Sequence[Row], store: RunStore) -> Results:
    """The results of a run, from its records."""
    facts = _Facts.read(rows, store)
    values: list[Value] = []
    recipes: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    batches = plan.setting.batch
    columns = (*SPEED_COLUMNS, *columns_of(plan.setting))
    units = {column.name: column.unit for column in columns}
    for row in rows:
        own = facts.timed(row)
        if not own:
            continue
        recipe = recipe_of(own, plan.setting.frames)
        recipe |= {"rounds": plan.setting.rounds, "clock": plan.request.clock}
        recipe_id = recipe_id_of(recipe)
        recipes[recipe_id] = recipe
        found = _row(facts, row, own, plan.setting.frames)
        for batch in batches:
            found |= _batch(facts, row, batch)
        found |= _generation(facts, row) if plan.setting.generation else {}
        values += [value_of(row, n, units[n], e, recipe_id) for n, e in found.items()]
        notes += doubts(row, own, facts.timed(facts.baseline_of(row)))
    control = next((c for c in rows if c.baseline), rows[0])
    notes += restlessness(facts.control, facts.timed(control))
    return Results(
        run_id=plan.run_id,
        benchmark=plan.spec.name,
        benchmark_version=plan.spec.version,
        cells=tuple(rows),
        columns=columns,
        tables=tables_of(plan.request.part, plan.request.scale, plan.setting),
        recipes=recipes,
        rows=tuple(values),
        notes=(*dict.fromkeys(notes), *plan.notes, *_how(plan, facts)),
    )


def _row(facts: _Facts, row: Row, own: list[LatencyRecord], frames: int) -> Found:
    """The columns of one clip alone."""
    baseline = facts.timed(facts.baseline_of(row))
    baseline = own if facts.baseline_of(row) is row else baseline
    is_control = bool(facts.control) and facts.control[0].cell_id == row.cell_id
    found = {"aa_ratio": Estimate(value=None, reason=NOT_CONTROL)}
    found |= estimates(own, baseline, facts.control if is_control else [])
    found["vs_plain"] = _against_plain(facts, row, own)
    found |= _identity(baseline, own)
    found |= _thirty(own, frames)
    footprint = facts.footprints.get((row.cell_id, 1))
    found |= limits(own, footprint, facts.bandwidth)
    found["peak_mb"] = _peak(footprint)
    found["operators"] = _operators(footprint)
    return found


def _against_plain(
    facts: _Facts, row: Row, own: Sequence[LatencyRecord], batch: int = 1
) -> Estimate:
    if row.mode == "plain":
        return Estimate(value=1.0, n=len(own))
    plain = facts.timed(facts.plain_of(row), batch)
    shared = {record.round for record in plain} & {record.round for record in own}
    return time_ratio(plain, own, "total") if shared else Estimate(value=None, reason=NOT_PLAIN)


def _identity(baseline: Sequence[LatencyRecord], own: Sequence[LatencyRecord]) -> Found:
    """The overall speed-up that the stages imply, from sums, and how far the totals' is from it."""
    names = ("rest_ratio", "implied_speedup", "identity_residual")
    rounds = {record.round for record in own}
    base = [record for record in baseline if record.round in rounds]
    if not base:
        return {name: Estimate(value=None, reason=NO_BASELINE) for name in names}
    a, b = (Sums.over(Sums.of(record) for record in records) for records in (base, own))
    implied = predicted_speedup(a, b)
    residual = 100 * (a.per_audio("total") / b.per_audio("total") / implied - 1)
    n, why = len(own), "a sum over all rounds, without an interval"
    rest = [x.per_audio("backbone") + x.per_audio("codec") for x in (b, a)]
    return {
        "rest_ratio": Estimate(value=rest[0] / rest[1], n=n, reason=why),
        "implied_speedup": Estimate(value=implied, n=n, reason=why),
        "identity_residual": Estimate(value=residual, n=n, reason=why),
    }


def _thirty(own: Sequence[LatencyRecord], frames: int) -> Found:
    """Half a minute: as it was measured, and at the measured time of a frame.

    `frames` is what `--frames` was, in the baseline's frames.
    """
    frame = (own[0].frame_ns or 0) / 1e9
    n_frames = len(own[0].stage_ns["total"])
    wanted = ceil(round(THIRTY_SECONDS / frame, 6)) if frame else 0
    ms = [sum(r.stage_ns["total"]) / len(r.stage_ns["total"]) / 1e6 for r in own]
    seed = derive_seed("speed", "thirty")
    at_frame = ratio_interval([x * wanted / 1e3 for x in ms], [1.0] * len(ms), seed)
    if not wanted or n_frames < wanted:
        seconds = n_frames * frame
        needed = "more" if not frame else f"{ceil(frames * THIRTY_SECONDS / seconds)}"
        reason = (
            f"not measured: a generation lasts {seconds:.3g} s here; --frames {needed} measures it"
        )
        return {"thirty_s": Estimate(value=None, reason=reason), "thirty_s_at_frame": at_frame}
    whole = [((r.first_audio_ns or 0) + sum(r.stage_ns["total"][1:wanted])) / 1e9 for r in own]
    measured = ratio_interval(whole, [1.0] * len(whole), seed)
    return {"thirty_s": measured, "thirty_s_at_frame": at_frame}


def _batch(facts: _Facts, row: Row, batch: int) -> Found:
    """What a step of several clips takes, and what comes out of it."""
    own = facts.timed(row, batch)
    names = [name for name, _, _ in batch_columns(batch)]
    if not own:
        return {name: Estimate(value=None, reason="not timed at this batch") for name in names}
    steps = [sum(r.stage_ns["total"]) / len(r.stage_ns["total"]) / 1e6 for r in own]
    ones, seed = [1.0] * len(steps), derive_seed("speed", "batch")
    rates = ratio_interval([1e3 * batch] * len(steps), steps, seed)
    footprint = facts.footprints.get((row.cell_id, batch))
    baseline = facts.timed(facts.baseline_of(row), batch)
    found = [ratio_interval(steps, ones, seed), rates]
    found += [_speedup(baseline, own, stage) for stage in ("total", "head")]
    found.append(_against_plain(facts, row, own, batch))
    found += [_peak(footprint), _state(footprint)]
    return dict(zip(names, found, strict=True))


def _generation(facts: _Facts, row: Row) -> Found:
    """Whole generations: how long they take, and against other rows' of the same repeats."""
    own = facts.generations.get(row.cell_id, {})
    seconds = [made.taken_ns / 1e9 for made in own.values()]
    clips = [float(made.batch) for made in own.values()]
    seed = derive_seed("speed", "generation")
    return {
        "generation_s": ratio_interval(seconds, [1.0] * len(seconds), seed),
        "generation_clip_s": ratio_interval(seconds, clips, seed),
        "generation_speedup": _generation_ratio(facts, facts.baseline_of(row), row, NO_BASELINE),
        "generation_vs_plain": _generation_ratio(facts, facts.plain_of(row), row, NOT_PLAIN),
    }


def _generation_ratio(facts: _Facts, other: Row | None, row: Row, lacking: str) -> Estimate:
    """Another row's time over this row's, for the same stretch of audio, repeat by repeat."""
    if other is None:
        return Estimate(value=None, reason=lacking)
    a, b = (facts.generations.get(c.cell_id, {}) for c in (other, row))
    if other is row:
        return Estimate(value=1.0, n=len(b))
    shared = sorted(a.keys() & b.keys())
    before, after = ([x[i].taken_ns / x[i].seconds for i in shared] for x in (a, b))
    return ratio_interval(before, after, derive_seed("speed", "generation"))


def _speedup(
    baseline: Sequence[LatencyRecord], own: Sequence[LatencyRecord], stage: str
) -> Estimate:
    if not baseline:
        return Estimate(value=None, reason="the baseline was not timed at this batch")
    if baseline[0].cell_id == own[0].cell_id:
        return Estimate(value=1.0, n=len(own))
    return time_ratio(baseline, own, stage)


def _peak(footprint: FootprintRecord | None) -> Estimate:
    if footprint is None or footprint.peak_bytes is None:
        reason = footprint.peak_reason if footprint else "memory was not looked at"
        return Estimate(value=None, reason=reason or "no reason was recorded")
    return Estimate(value=footprint.peak_bytes / 1e6, n=1)


def _operators(footprint: FootprintRecord | None) -> Estimate:
    if footprint is None or footprint.operators is None:
        return Estimate(value=None, reason="operators were not counted")
    return Estimate(value=float(footprint.operators["total"]), n=1)


def _state(footprint: FootprintRecord | None) -> Estimate:
    if footprint is None or footprint.state_bytes is None:
        return Estimate(value=None, reason="memory was not looked at")
    return Estimate(value=footprint.state_bytes / 1e6, n=1)


def _how(plan: SpeedPlan, facts: _Facts) -> Iterator[str]:
    """How the numbers are to be read."""
    own = next((records for records in facts.arms.values() if records), None)
    if own is None:
        return
    yield (
        f"{own[0].device}, {own[0].threads} thread{'s' * (own[0].threads != 1)}; "
        f"{plan.setting.rounds} rounds, every row once in each, in random order; speed-ups are "
        "against the baseline in the same mode and precision"
    )
    yield (
        "implied overall: 1/((1 − p)·b + p/s) from sums over all rounds, p the baseline's share of "
        "time in the head, s the heads' ratio, b that of all else; residual: how far totals are off"
    )
    if plan.setting.generation is not None:
        yield (
            f"whole generations, {plan.setting.generation.repeats} of each row: prompts encoded "
            "and prefilled, frames drawn, whole clips decoded, as a quality run does; rows take "
            "turns in random order"
        )
    yield (
        "bandwidth: a buffer beyond the caches, read between the rows of every round; limit: bytes "
        "that a step reads over it"
    )
    if plan.request.device.startswith("cuda"):
        return
    cache = last_cache_bytes()
    if cache is not None:
        yield (
            f"weights that stay in the last cache ({cache / 1e6:.0f} MB, shared by all cores) are "
            "read faster than memory, and a step may beat the limit"
        )
    yield f"peak memory: {CPU_PEAK}"
