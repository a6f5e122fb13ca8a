"""Rounds, footprints and growth of a plan; each round, row and generation is on disk when done."""

import gc
import random
from collections.abc import Sequence

from calm_bench.config import LatencySpec
from calm_bench.core.allocator import keep_freed_memory, return_freed_memory
from calm_bench.core.progress import stage
from calm_bench.seeds import derive_seed
from calm_bench.speed.arms import arms_of, control_of, whole_arm
from calm_bench.speed.clocks import Clock, ThreadClock, clock_for
from calm_bench.speed.footprint import Peak, ReadProbe, footprint, measure_peaks
from calm_bench.speed.generations import time_generations, time_growth
from calm_bench.speed.plan import SpeedPlan, sessions
from calm_bench.speed.protocol import Arm, time_round, warm_up
from calm_bench.store.records import (
    BandwidthRecord,
    FootprintRecord,
    GenerationRecord,
    GrowthRecord,
    LatencyRecord,
    Row,
)
from calm_bench.store.run_store import RunStore

Wanted = set[tuple[str, bool, int]]
"""Arms by row, whether control, and batch size."""


def measure(plan: SpeedPlan, store: RunStore) -> None:
    """Do what is missing of a plan, as many systems at a time as fit into memory."""
    if plan.setting.together:  # as a quality run does; not where two rows hardly fit into memory
        keep_freed_memory()
    if plan.request.threads is not None:
        import torch

        torch.set_num_threads(plan.request.threads)
    for index, rows in enumerate(sessions(plan)):
        first = index * plan.setting.rounds
        _session(plan, index, rows, range(first, first + plan.setting.rounds), store)


def _session(
    plan: SpeedPlan, index: int, rows: Sequence[Row], rounds: range, store: RunStore
) -> None:
    """The rounds of rows that are in memory together, and what else is to be known of them."""
    missing = _missing_rounds(plan, rows, rounds, store)
    known = {record.cell_id for record in store.read(FootprintRecord)}
    unknown = [row for row in rows if row.cell_id not in known]
    growing = _missing_growth(plan, rows, store)
    ungenerated = missing_generations(plan, {row.cell_id for row in rows}, index, store)
    if not (missing or unknown or growing or ungenerated):
        return
    arms = arms_of(plan, rows)
    clock = ThreadClock() if plan.request.clock == "cpu" else clock_for(plan.request.device)
    if missing:
        _time(plan, arms, missing, clock, store)
    if ungenerated:
        time_generations(
            _whole_arms(plan, rows, arms),
            ungenerated,
            plan.benchmark,
            clock,
            plan_hash=plan.plan_hash,
            append=store.append,
        )
    _grow(plan, growing, arms, clock, store)
    names = {row.cell_id for row in unknown}
    looked = [_footprint(plan, a) for a in arms if a.cell_id in names and not a.control]
    arms.clear()  # a row's peak is taken in a process that has the memory to itself
    _add_peaks(plan, unknown, looked, store)


def _whole_arms(plan: SpeedPlan, rows: Sequence[Row], arms: Sequence[Arm]) -> list[Arm]:
    """Every row once, at the batch size of whole generations, with the systems that are loaded."""
    assert plan.setting.generation is not None
    systems = {arm.cell_id: arm.system for arm in arms}
    batch = plan.setting.generation.batch
    return [whole_arm(plan, row, systems[row.cell_id], batch) for row in rows]


def _missing_rounds(
    plan: SpeedPlan, rows: Sequence[Row], rounds: range, store: RunStore
) -> list[int]:
    """Rounds that lack an arm; one that was cut short is measured again as a whole."""
    control = control_of(plan).cell_id
    wanted: Wanted = {(row.cell_id, False, b) for row in rows for b in plan.setting.batch}
    if control in {row.cell_id for row in rows}:
        wanted.add((control, True, 1))
    found: dict[int, Wanted] = {}
    for record in store.read(LatencyRecord):
        arm = record.cell_id, record.control, record.batch
        found.setdefault(record.round, set()).add(arm)
    return [number for number in rounds if not wanted <= found.get(number, set())]


def missing_generations(
    plan: SpeedPlan, cell_ids: set[str], session: int, store: RunStore
) -> list[int]:
    """The repeats of a session in which one of its rows has not been timed; then all are timed."""
    if plan.setting.generation is None:
        return []
    found: dict[int, set[str]] = {}
    for record in store.read(GenerationRecord):
        found.setdefault(record.repeat, set()).add(record.cell_id)
    n = plan.setting.generation.repeats
    repeats = range(session * n, (session + 1) * n)
    return [number for number in repeats if not cell_ids <= found.get(number, set())]


def _time(
    plan: SpeedPlan, arms: Sequence[Arm], missing: Sequence[int], clock: Clock, store: RunStore
) -> None:
    """Warm every arm up, then time all of them once a round, memory's bandwidth between them."""
    import torch

    setting = plan.setting
    spec = LatencySpec.model_construct(frames=setting.frames, warmup=setting.warmup)
    timed = [arm for arm in arms if not arm.control]
    with stage("warming up", len(timed)) as advance:
        for arm in timed:
            warm_up(arm, spec, clock)
            advance(1)
    probe = ReadProbe(plan.request.device, plan.spec.probe_mb, clock)
    probe.read()
    probe.taken()
    seed = derive_seed("speed", plan.plan_hash)
    with stage("rounds", setting.rounds, setting.rounds - len(missing)) as advance:
        for number in missing:
            records = time_round(
                arms, number, setting.frames, seed=seed, clock=clock, between=probe.read
            )
            bandwidth = BandwidthRecord(
                round=number,
                n_bytes=probe.n_bytes,
                read_ns=probe.taken(),
                threads=torch.get_num_threads(),
            )
            store.append(bandwidth, *records)
            advance(1)


def _footprint(plan: SpeedPlan, arm: Arm) -> tuple[int, FootprintRecord]:
    """An arm's frames, and what can be said of its memory without running it apart."""
    n_frames = arm.n_frames or plan.setting.frames
    return n_frames, footprint(arm, n_frames)


def _add_peaks(
    plan: SpeedPlan,
    rows: Sequence[Row],
    looked: Sequence[tuple[int, FootprintRecord]],
    store: RunStore,
) -> None:
    """Record each row's footprint with its peak memory at every batch size."""
    if not rows:
        return
    gc.collect()
    return_freed_memory()
    with stage("memory", len(rows)) as advance:
        for row in rows:
            own = [(n, record) for n, record in looked if record.cell_id == row.cell_id]
            peaks = measure_peaks(plan, row, own[0][0])
            store.append(*(_with_peak(record, peaks[record.batch]) for _, record in own))
            advance(1)


def _with_peak(record: FootprintRecord, peak: Peak) -> FootprintRecord:
    return record.model_copy(update={"peak_bytes": peak[0], "peak_reason": peak[1]})


def _missing_growth(plan: SpeedPlan, rows: Sequence[Row], store: RunStore) -> list[tuple[Row, int]]:
    """Rows and repeats whose growth is still unknown, in an order drawn from the plan."""
    growth = plan.setting.growth
    if growth is None:
        return []
    found: dict[tuple[str, int], int] = {}
    for record in store.read(GrowthRecord):
        key = record.cell_id, record.repeat
        found[key] = found.get(key, 0) + 1
    wanted = {row.cell_id for row in plan.growth_rows}
    ordered = []
    for repeat in range(growth.repeats):
        todo = [
            row
            for row in rows
            if row.cell_id in wanted and found.get((row.cell_id, repeat), 0) < len(growth.seconds)
        ]
        order = random.Random(derive_seed("growth", plan.plan_hash, repeat))
        ordered += [(row, repeat) for row in order.sample(todo, len(todo))]
    return ordered


def _grow(
    plan: SpeedPlan,
    growing: Sequence[tuple[Row, int]],
    arms: Sequence[Arm],
    clock: Clock,
    store: RunStore,
) -> None:
    if not growing or plan.setting.growth is None:
        return
    single = {arm.cell_id: arm for arm in arms if len(arm.prompts) == 1}
    with stage("growth", len(growing)) as advance:
        for row, repeat in growing:
            arm = single[row.cell_id]
            store.append(*time_growth(arm, repeat, plan.setting.growth, clock))
            advance(1)
