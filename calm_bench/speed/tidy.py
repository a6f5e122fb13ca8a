"""From records to the rows of a speed run: each number with its interval, its n, or its reason.

Every row is compared with the baseline in the same mode and precision, and with its own system's
plain fp32 step. What a batch of several clips does stands in columns of its own, `frame_ms@b4`:
claims are about one clip.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from statistics import median

from calm_bench.core.device import cache_of
from calm_bench.core.stats import ratio_interval
from calm_bench.numbers.speed import (
    SPEED_COLUMNS,
    Found,
    Records,
    Sums,
    Timed,
    estimates,
    gathered,
    predicted_speedup,
    speed_column,
    speedup,
    time_ratio,
    typical,
)
from calm_bench.seeds import derive_seed
from calm_bench.speed.timetable import Setting, SpeedPlan
from calm_bench.store.records import (
    BandwidthRecord,
    FootprintRecord,
    GenerationRecord,
    LatencyRecord,
    Row,
    Stage,
)
from calm_bench.store.results import Results
from calm_bench.store.run_store import RunStore
from calm_bench.types import Column, Estimate

THIRTY_SECONDS = 30.0
NOTHING_READ = "this stage reads no weights"
NOT_PLAIN = "the plain step of this system was not timed in the same rounds: add --mode plain"
NO_BASELINE = "the baseline was not timed in this mode and precision"
MOST_WAIT = "most frames wait to be decoded"
NOT_CONTROL = "only the first row is timed twice in each round"
CPU_PEAK = "resident memory of a process of its own, beyond one that has loaded no model"
LIMITS: dict[Stage, str] = {
    "total": "limit_ratio",
    "backbone": "backbone_limit_ratio",
    "head": "head_limit_ratio",
    "codec": "codec_limit_ratio",
}


ONE_CLIP = (
    speed_column("vs_plain", "against plain", "×", better=True),
    speed_column("rest_ratio", "all but the head, b", "×", better=None),
    speed_column("implied_speedup", "overall, implied", "×", better=None),
    speed_column("identity_residual", "residual", "%", better=None),
    speed_column("thirty_s", "30 s", "s"),
    speed_column("thirty_s_at_frame", "30 s at the measured frame time", "s"),
    speed_column("operators", "operators per frame"),
    speed_column("read_mb", "read per frame", "MB"),
    speed_column("bandwidth_gbs", "bandwidth", "GB/s", better=None),
    speed_column("limit_ms", "limit per frame", "ms", better=None),
    speed_column("limit_ratio", "frame over limit", "×"),
    speed_column("backbone_limit_ratio", "backbone over limit", "×"),
    speed_column("head_limit_ratio", "head over limit", "×"),
    speed_column("codec_limit_ratio", "codec over limit", "×"),
)


def batch_columns(batch: int) -> tuple[Column, ...]:
    """What is measured at a batch size."""
    found = (
        speed_column("step_ms", "step", "ms"),
        speed_column("rows_per_s", "frames per second", better=True),
        speed_column("overall_speedup", "overall", "×", better=True),
        speed_column("head_speedup", "head", "×", better=True),
        speed_column("vs_plain", "against plain", "×", better=True),
        speed_column("peak_mb", "peak memory", "MB"),
        speed_column("state_mb", "state", "MB"),
    )
    return tuple(
        column.model_copy(
            update={"name": f"{column.name}@b{batch}", "label": f"{column.label}, batch {batch}"}
        )
        for column in found
    )


GROUPS = (
    speed_column("codec_frames", "frames a call", better=None),
    speed_column("codec_speedup", "codec against one frame a call", "×", better=True),
    speed_column("live_wait_ms", "a frame waits, live", "ms"),
)
"""Live, frames are made as they are heard: the first of a call waits for the last."""

WHOLE = (
    speed_column("generation_s", "all clips", "s"),
    speed_column("generation_clip_s", "per clip", "s"),
    speed_column("generation_speedup", "whole generation", "×", better=True),
    speed_column("generation_vs_plain", "whole generation against plain", "×", better=True),
)


def columns_of(setting: Setting) -> tuple[Column, ...]:
    """Every column of a run with this setting."""
    batches = tuple(column for b in setting.batch for column in batch_columns(b))
    groups = GROUPS if max(setting.codec_frames) > 1 else ()
    return ONE_CLIP + groups + batches + (WHOLE if setting.generation else ())


def tables_of(part: str, scale: str, setting: Setting) -> dict[str, tuple[str, ...]]:
    """The tables of a run: which columns stand under which title."""
    batches = setting.batch
    name = f"{part}, {scale} scale"
    several = [batch for batch in batches if batch != 1]
    shown = {
        f"Speed: {name}": (
            "overall_speedup", "head_speedup", "head_share", "vs_plain", "rtf", "first_audio_ms",
            "thirty_s", "thirty_s_at_frame",
        ),
        f"Time per frame: {name}": (
            "backbone_ms", "head_ms", "codec_ms", "frame_ms", "frame_p50_ms", "frame_max_ms",
            "rest_ratio", "implied_speedup", "identity_residual", "aa_ratio",
        ),
        f"Against the limit of memory: {name}": (
            "read_mb", "bandwidth_gbs", "limit_ms", "limit_ratio", "backbone_limit_ratio",
            "head_limit_ratio", "codec_limit_ratio", "operators", "peak_mb", "state_mb@b1",
        ),
    }  # fmt: skip
    if max(setting.codec_frames) > 1:
        shown[f"Frames a call of the codec: {name}"] = (
            "codec_frames", "codec_ms", "codec_speedup", "frame_ms", "rtf", "first_audio_ms",
            "live_wait_ms",
        )  # fmt: skip
    if several:
        shown[f"Batches: {name}"] = tuple(
            f"{name}@b{batch}"
            for name in (
                "step_ms", "rows_per_s", "overall_speedup", "head_speedup", "vs_plain", "peak_mb",
            )
            for batch in (batches if name in ("step_ms", "rows_per_s", "peak_mb") else several)
        )  # fmt: skip
    if setting.generation is not None:
        shown[f"Whole generations of {setting.generation.batch} clips: {name}"] = tuple(
            column.name for column in WHOLE
        )
    return shown


class _Facts:
    """The records of a run by row and batch size."""

    def __init__(self, rows: Sequence[Row], store: RunStore) -> None:
        self.rows, self.timed = rows, Timed.of(rows, store.read(LatencyRecord))
        probes = store.read(BandwidthRecord)
        self.bandwidth = {p.round: p.n_bytes / median(p.read_ns) for p in probes}  # bytes per ns
        self.gpu = [probe.gpu for probe in probes if probe.gpu]
        self.footprints = {(f.cell_id, f.batch): f for f in store.read(FootprintRecord)}
        self.generations: dict[str, dict[int, GenerationRecord]] = {}  # by row and repeat
        for made in store.read(GenerationRecord):
            self.generations.setdefault(made.cell_id, {})[made.repeat] = made

    def baseline_of(self, row: Row) -> Row | None:
        """The baseline in a row's own mode and precision."""
        return self.first(row, "mode", "precision", "codec_frames", baseline=True)

    def plain_of(self, row: Row) -> Row | None:
        """The plain step of a row's system, in the row's precision or else in fp32."""
        same = "model", "head_steps", "codec_frames"
        exact = self.first(row, *same, "precision", mode="plain")
        return exact or self.first(row, *same, mode="plain")

    def first(self, row: Row, *same: str, **wanted: object) -> Row | None:
        """The first row that is like this one in some fields, and in others as wanted."""
        wanted |= {name: getattr(row, name) for name in same}
        alike = (c for c in self.rows if all(getattr(c, k) == v for k, v in wanted.items()))
        return next(alike, None)


def tidy(plan: SpeedPlan, rows: Sequence[Row], store: RunStore) -> Results:
    """The results of a run, from its records."""
    facts, setting = _Facts(rows, store), plan.setting
    columns = (*SPEED_COLUMNS, *columns_of(setting))

    def numbers(row: Row, own: Records, baseline: Records, control: Records) -> Found:
        found = {"aa_ratio": Estimate(value=None, reason=NOT_CONTROL)}
        found |= estimates(own, baseline, control)
        found["vs_plain"] = _against_plain(facts, row)
        found |= _identity(baseline, own)
        found |= _thirty(own, setting.frames, row.codec_frames)
        if max(setting.codec_frames) > 1:
            found |= _groups(facts, row, own)
        footprint = facts.footprints[row.cell_id, 1]
        found |= limits(own, footprint, facts.bandwidth)
        found["peak_mb"] = _peak(footprint)
        found["operators"] = Estimate(value=footprint.operators["total"], n=1)
        for batch in setting.batch:
            found |= _batch(facts, row, batch)
        return found | (_generation(facts, row) if setting.generation else {})

    recipe = {"frames": setting.frames, "rounds": setting.rounds, "clock": plan.request.clock}
    speed = gathered(rows, facts.timed, facts.baseline_of, numbers, columns, recipe)
    return Results(
        run_id=plan.run_id,
        benchmark=plan.spec.name,
        benchmark_version=plan.spec.version,
        cells=tuple(rows),
        columns=columns,
        tables=tables_of(plan.request.part, plan.request.scale, setting),
        recipes=dict(speed.recipes),
        rows=speed.values,
        fit=speed.fit,
        notes=(*speed.notes, *plan.notes, *_how(plan, facts)),
    )


def limits(own: Records, footprint: FootprintRecord, bandwidth: Mapping[int, float]) -> Found:
    """Bytes of a step, the bandwidth of its rounds, and time over bytes / bandwidth by stage.

    Args:
        own: The rounds of a row at batch 1.
        footprint: What its step reads.
        bandwidth: By round, bytes per nanosecond.
    """
    rounds = [record for record in own if record.round in bandwidth]
    speeds = [bandwidth[record.round] for record in rounds]
    read = footprint.read_bytes
    found = {
        "bandwidth_gbs": typical(speeds, *_LIMIT),
        "read_mb": Estimate(value=read["total"] / 1e6, n=1),
        "limit_ms": typical([read["total"] / speed / 1e6 for speed in speeds], *_LIMIT),
    }
    sums = [Sums.of(record) for record in rounds]
    for stage, name in LIMITS.items():
        if not read.get(stage):
            found[name] = Estimate(value=None, reason=NOTHING_READ)
            continue
        floors = [read[stage] / speed for speed in speeds]
        times = [getattr(s, stage) / s.frames for s in sums]
        found[name] = ratio_interval(times, floors, derive_seed(*_LIMIT))
    return found


_LIMIT = ("speed", "limit")


def _against_plain(facts: _Facts, row: Row, batch: int = 1) -> Estimate:
    own, plain = facts.timed.own(row, batch), facts.timed.own(facts.plain_of(row), batch)
    if row.mode == "plain":
        return Estimate(value=1.0, n=len(own))
    shared = {record.round for record in plain} & {record.round for record in own}
    return time_ratio(plain, own, "total") if shared else Estimate(value=None, reason=NOT_PLAIN)


def _identity(baseline: Records, own: Records) -> Found:
    """The overall speed-up that the stages imply, from sums, and how far the totals' is from it."""
    names = ("rest_ratio", "implied_speedup", "identity_residual")
    rounds = {record.round for record in own}
    base = [record for record in baseline if record.round in rounds]
    if not base:
        return {name: Estimate(value=None, reason=NO_BASELINE) for name in names}
    a, b = Sums.of(*base), Sums.of(*own)
    implied = predicted_speedup(a, b)
    residual = 100 * (a.per_audio("total") / b.per_audio("total") / implied - 1)
    n, why = len(own), "a sum over all rounds, without an interval"
    rest = [x.per_audio("backbone") + x.per_audio("codec") for x in (b, a)]
    return {
        "rest_ratio": Estimate(value=rest[0] / rest[1], n=n, reason=why),
        "implied_speedup": Estimate(value=implied, n=n, reason=why),
        "identity_residual": Estimate(value=residual, n=n, reason=why),
    }


def _thirty(own: Records, frames: int, each: int) -> Found:
    """Half a minute: as it was measured, and at the measured time of a frame.

    `frames` is what `--frames` was, in the baseline's frames. Of a codec that decodes `each` frames
    a call, the last frame is heard when the call that it is in has ended.
    """
    frame = own[0].frame_ns / 1e9
    n_frames = len(own[0].stage_ns["total"])
    wanted = ceil(round(THIRTY_SECONDS / frame, 6))
    at_frame = [ms * wanted / 1e3 for ms in _frame_ms(own)]
    found = {"thirty_s_at_frame": typical(at_frame, "speed", "thirty")}
    if n_frames < wanted:
        seconds = n_frames * frame
        needed = ceil(frames * THIRTY_SECONDS / seconds)
        reason = (
            f"not measured: a generation lasts {seconds:.3g} s here; --frames {needed} measures it"
        )
        return {"thirty_s": Estimate(value=None, reason=reason), **found}
    end = 1 + each * ceil((wanted - 1) / each)  # the first frame is decoded alone
    whole = [(record.first_audio_ns + sum(record.stage_ns["total"][1:end])) / 1e9 for record in own]
    return {"thirty_s": typical(whole, "speed", "thirty"), **found}


def _groups(facts: _Facts, row: Row, own: Records) -> Found:
    """What several frames at a time bring and cost; a median over frames says nothing of them."""
    each = row.codec_frames
    alone = facts.first(row, "model", "head_steps", "mode", "precision", codec_frames=1)
    found = {} if each == 1 else {"frame_p50_ms": Estimate(value=None, reason=MOST_WAIT)}
    return found | {
        "codec_frames": Estimate(value=each, n=1),
        "codec_speedup": speedup(facts.timed.own(alone), own, "codec"),
        "live_wait_ms": Estimate(value=(each - 1) * own[0].frame_ns / 1e6, n=1),
    }


def _frame_ms(records: Records) -> list[float]:
    sums = [Sums.of(record) for record in records]
    return [s.total / s.frames / 1e6 for s in sums]


def _batch(facts: _Facts, row: Row, batch: int) -> Found:
    """What a step of several clips takes, and what comes out of it."""
    own = facts.timed.own(row, batch)
    names = [column.name for column in batch_columns(batch)]
    steps, footprint = _frame_ms(own), facts.footprints[row.cell_id, batch]
    baseline = facts.timed.own(facts.baseline_of(row), batch)
    rates = ratio_interval([1e3 * batch] * len(steps), steps, derive_seed("speed", "batch"))
    found = [typical(steps, "speed", "batch"), rates]
    found += [speedup(baseline, own, stage, "at this batch") for stage in ("total", "head")]
    found.append(_against_plain(facts, row, batch))
    found += [_peak(footprint), Estimate(value=footprint.state_bytes / 1e6, n=1)]
    return dict(zip(names, found, strict=True))


def _generation(facts: _Facts, row: Row) -> Found:
    """Whole generations: how long they take, and against other rows' of the same repeats."""
    own = facts.generations.get(row.cell_id, {})
    seconds = [made.taken_ns / 1e9 for made in own.values()]
    clips = [float(made.batch) for made in own.values()]
    return {
        "generation_s": typical(seconds, *_GENERATION),
        "generation_clip_s": ratio_interval(seconds, clips, derive_seed(*_GENERATION)),
        "generation_speedup": _generation_ratio(facts, facts.baseline_of(row), row, NO_BASELINE),
        "generation_vs_plain": _generation_ratio(facts, facts.plain_of(row), row, NOT_PLAIN),
    }


_GENERATION = ("speed", "generation")


def _generation_ratio(facts: _Facts, other: Row | None, row: Row, lacking: str) -> Estimate:
    """Another row's time over this row's, for the same stretch of audio, repeat by repeat."""
    if other is None:
        return Estimate(value=None, reason=lacking)
    a, b = (facts.generations.get(c.cell_id, {}) for c in (other, row))
    if other is row:
        return Estimate(value=1.0, n=len(b))
    shared = sorted(a.keys() & b.keys())
    before, after = ([x[i].taken_ns / x[i].seconds for i in shared] for x in (a, b))
    return ratio_interval(before, after, derive_seed(*_GENERATION))


def _peak(footprint: FootprintRecord) -> Estimate:
    if footprint.peak_bytes is None:
        return Estimate(value=None, reason=footprint.peak_reason)
    return Estimate(value=footprint.peak_bytes / 1e6, n=1)


def _how(plan: SpeedPlan, facts: _Facts) -> Iterator[str]:
    own = next((records for records in facts.timed.arms.values() if records), None)
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
        yield from _gpu(facts)
        return
    cache = cache_of("cpu")
    if cache is not None:
        yield (
            f"weights that stay in the last cache ({cache / 1e6:.0f} MB, shared by all cores) are "
            "read faster than memory, and a step may beat the limit"
        )
    yield f"peak memory: {CPU_PEAK}"


IDLE = 1
"""The bit of a mask of throttling that says that nothing was asked of the GPU."""


def _gpu(facts: _Facts) -> Iterator[str]:
    """How a GPU was clocked and cooled between rounds, and memory beyond that of tensors."""
    masks = [int(mask, 16) for state in facts.gpu if (mask := state.get("throttled"))]
    slowed = sum(mask & ~IDLE != 0 for mask in masks)
    parts = [f"throttled after {slowed} of {len(masks)} rounds"] if masks else []
    for name, unit in (("sm_mhz", "MHz"), ("watts", "W"), ("celsius", "°C")):
        if seen := [float(state[name] or 0) for state in facts.gpu if state.get(name)]:
            parts.append(f"{min(seen):.0f} to {max(seen):.0f} {unit}")
    yield "between rounds: " + (", ".join(parts) or "nvidia-smi told nothing of the GPU")
    if reserved := [f.reserved_bytes for f in facts.footprints.values() if f.reserved_bytes]:
        yield (
            "peak memory is that of tensors; the allocator had reserved "
            f"{min(reserved) / 1e6:,.0f} to {max(reserved) / 1e6:,.0f} MB at most"
        )
