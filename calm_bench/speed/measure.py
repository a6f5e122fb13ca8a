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
from calm_bench.speed.growth import time_growth
from calm_bench.speed.plan import SpeedPlan, sessions
from calm_bench.speed.protocol import Arm, time_round, warm_up
from calm_bench.speed.whole import missing_generations, time_generations
from calm_bench.store.records import (
    BandwidthRecord,
    Cell,
    FootprintRecord,
    GrowthRecord,
    LatencyRecord,
)
from calm_bench.store.run_store import RunStore

Wanted = set[tuple[str, bool, int]]
"""Arms by cell, whether control, and batch size."""


def measure(plan: SpeedPlan, store: RunStore) -> None:
    """Do what is missing of a plan, as many systems at a time as fit into memory."""
    if plan.setting.together:  # as a quality run does; not where two rows hardly fit into memory
        keep_freed_memory()
    if plan.request.threads is not None:
        import torch

        torch.set_num_threads(plan.request.threads)
    for index, cells in enumerate(sessions(plan)):
        first = index * plan.setting.rounds
        _session(plan, index, cells, range(first, first + plan.setting.rounds), store)


def _session(
    plan: SpeedPlan, index: int, cells: Sequence[Cell], rounds: range, store: RunStore
) -> None:
    """The rounds of rows that are in memory together, and what else is to be known of them."""
    missing = _missing_rounds(plan, cells, rounds, store)
    known = {record.cell_id for record in store.read(FootprintRecord)}
    unknown = [cell for cell in cells if cell.cell_id not in known]
    growing = _missing_growth(plan, cells, store)
    ungenerated = missing_generations(plan, {cell.cell_id for cell in cells}, index, store)
    if not (missing or unknown or growing or ungenerated):
        return
    arms = arms_of(plan, cells)
    clock = ThreadClock() if plan.request.clock == "cpu" else clock_for(plan.request.device)
    if missing:
        _time(plan, arms, missing, clock, store)
    if ungenerated:
        time_generations(plan, _whole_arms(plan, cells, arms), ungenerated, clock, store.append)
    _grow(plan, growing, arms, clock, store)
    names = {cell.cell_id for cell in unknown}
    looked = [_footprint(plan, a) for a in arms if a.cell_id in names and not a.control]
    arms.clear()  # a row's peak is taken in a process that has the memory to itself
    _add_peaks(plan, unknown, looked, store)


def _whole_arms(plan: SpeedPlan, cells: Sequence[Cell], arms: Sequence[Arm]) -> list[Arm]:
    """Every row once, at the batch size of whole generations, with the systems that are loaded."""
    assert plan.setting.generation is not None
    systems = {arm.cell_id: arm.system for arm in arms}
    batch = plan.setting.generation.batch
    return [whole_arm(plan, cell, systems[cell.cell_id], batch) for cell in cells]


def _missing_rounds(
    plan: SpeedPlan, cells: Sequence[Cell], rounds: range, store: RunStore
) -> list[int]:
    """Rounds that lack an arm; one that was cut short is measured again as a whole."""
    control = control_of(plan).cell_id
    wanted: Wanted = {(cell.cell_id, False, b) for cell in cells for b in plan.setting.batch}
    if control in {cell.cell_id for cell in cells}:
        wanted.add((control, True, 1))
    found: dict[int, Wanted] = {}
    for record in store.read(LatencyRecord):
        arm = record.cell_id, record.control, record.batch
        found.setdefault(record.round, set()).add(arm)
    return [number for number in rounds if not wanted <= found.get(number, set())]


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
    cells: Sequence[Cell],
    looked: Sequence[tuple[int, FootprintRecord]],
    store: RunStore,
) -> None:
    """Record each row's footprint with its peak memory at every batch size."""
    if not cells:
        return
    gc.collect()
    return_freed_memory()
    with stage("memory", len(cells)) as advance:
        for cell in cells:
            own = [(n, record) for n, record in looked if record.cell_id == cell.cell_id]
            peaks = measure_peaks(plan, cell, own[0][0])
            store.append(*(_with_peak(record, peaks[record.batch]) for _, record in own))
            advance(1)


def _with_peak(record: FootprintRecord, peak: Peak) -> FootprintRecord:
    return record.model_copy(update={"peak_bytes": peak[0], "peak_reason": peak[1]})


def _missing_growth(
    plan: SpeedPlan, cells: Sequence[Cell], store: RunStore
) -> list[tuple[Cell, int]]:
    """Rows and repeats whose growth is still unknown, in an order drawn from the plan."""
    growth = plan.setting.growth
    if growth is None:
        return []
    found: dict[tuple[str, int], int] = {}
    for record in store.read(GrowthRecord):
        key = record.cell_id, record.repeat
        found[key] = found.get(key, 0) + 1
    wanted = {cell.cell_id for cell in plan.growth_cells}
    ordered = []
    for repeat in range(growth.repeats):
        todo = [
            cell
            for cell in cells
            if cell.cell_id in wanted and found.get((cell.cell_id, repeat), 0) < len(growth.seconds)
        ]
        order = random.Random(derive_seed("growth", plan.plan_hash, repeat))
        ordered += [(cell, repeat) for cell in order.sample(todo, len(todo))]
    return ordered


def _grow(
    plan: SpeedPlan,
    growing: Sequence[tuple[Cell, int]],
    arms: Sequence[Arm],
    clock: Clock,
    store: RunStore,
) -> None:
    if not growing or plan.setting.growth is None:
        return
    single = {arm.cell_id: arm for arm in arms if len(arm.prompts) == 1}
    with stage("growth", len(growing)) as advance:
        for cell, repeat in growing:
            arm = single[cell.cell_id]
            store.append(*time_growth(arm, repeat, plan.setting.growth, clock))
            advance(1)
