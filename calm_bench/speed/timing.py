"""What `speed` measures of a plan: each round, row and generation is on disk when it is done.

Rows become arms: systems loaded once per mode and precision, with prompts in hand.
"""

import gc
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from calm_bench.core.allocator import keep_freed_memory, return_freed_memory
from calm_bench.core.progress import stage
from calm_bench.data.prompts import load_prompt
from calm_bench.plan.rows import sampling_of
from calm_bench.seeds import derive_seed
from calm_bench.speed.clocks import ThreadClock, clock_for
from calm_bench.speed.footprint import ReadProbe, footprint, measure_peaks
from calm_bench.speed.generations import time_generations, time_growth
from calm_bench.speed.protocol import Arm, measure, unfinished
from calm_bench.speed.timetable import SpeedPlan, sessions
from calm_bench.store.records import (
    FootprintRecord,
    GenerationRecord,
    GrowthRecord,
    LatencyRecord,
    Row,
)
from calm_bench.store.run_store import RunStore
from calm_bench.systems.grid import Grid, system_prompt

if TYPE_CHECKING:
    from calm_bench.systems.base import Prompt, System


def measure_plan(plan: SpeedPlan, store: RunStore) -> None:
    """Do what is missing of a plan, as many systems at a time as fit into memory."""
    if plan.setting.together:  # as a quality run does; not where two rows hardly fit into memory
        keep_freed_memory()
    if plan.request.threads is not None:
        import torch

        torch.set_num_threads(plan.request.threads)
    for index, rows in enumerate(sessions(plan)):
        _session(plan, index, rows, store)


def _session(plan: SpeedPlan, index: int, rows: Sequence[Row], store: RunStore) -> None:
    """The rounds of rows that are in memory together, and what else is to be known of them."""
    setting, growth, whole = plan.setting, plan.setting.growth, plan.setting.generation
    rounds = _missing_rounds(plan, index, rows, store)
    repeats = missing_generations(plan, {row.cell_id for row in rows}, index, store)
    growing = _missing_growth(plan, rows, store)
    unknown = {row.cell_id for row in rows} - {r.cell_id for r in store.read(FootprintRecord)}
    if not (rounds or repeats or growing or unknown):
        return
    arms = _arms_of(plan, rows)
    clock = ThreadClock() if plan.request.clock == "cpu" else clock_for(plan.request.device)
    if rounds:
        seed = derive_seed("speed", plan.plan_hash)
        probe = ReadProbe(plan.request.device, plan.spec.probe_mb, clock)
        measure(arms, setting, store, rounds, seed=seed, clock=clock, probe=probe)
        del probe
    single = {arm.cell_id: arm for arm in arms if len(arm.prompts) == 1}
    if repeats and whole:
        time_generations(
            list(_whole_arms(plan, rows, single, whole.batch)),
            repeats,
            plan.benchmark,
            clock,
            plan_hash=plan.plan_hash,
            append=store.append,
        )
    if growing and growth:
        with stage("growth", len(growing)) as advance:
            for row, repeat in growing:
                store.append(*time_growth(single[row.cell_id], repeat, growth, clock))
                advance(1)
    lengths = {arm.cell_id: arm.n_frames or setting.frames for arm in arms}
    looked = [
        footprint(arm, lengths[arm.cell_id])
        for arm in arms
        if arm.cell_id in unknown and not arm.control
    ]
    arms.clear()  # a row's peak is taken in a process that has the memory to itself
    single.clear()
    _add_peaks(plan, looked, lengths, store)


def _missing_rounds(plan: SpeedPlan, index: int, rows: Sequence[Row], store: RunStore) -> list[int]:
    """The rounds of a session that lack an arm."""
    control, n = control_of(plan.rows).cell_id, plan.setting.rounds
    wanted = {(row.cell_id, False, batch) for row in rows for batch in plan.setting.batch}
    if control in {row.cell_id for row in rows}:
        wanted.add((control, True, 1))
    records = store.read(LatencyRecord)
    done = ((r.round, (r.cell_id, r.control, r.batch)) for r in records)
    return unfinished(range(index * n, (index + 1) * n), wanted, done)


def missing_generations(
    plan: SpeedPlan, cell_ids: set[str], session: int, store: RunStore
) -> list[int]:
    """The repeats of a session in which one of its rows has not been timed."""
    if plan.setting.generation is None:
        return []
    n = plan.setting.generation.repeats
    done = ((record.repeat, record.cell_id) for record in store.read(GenerationRecord))
    return unfinished(range(session * n, (session + 1) * n), cell_ids, done)


def _missing_growth(plan: SpeedPlan, rows: Sequence[Row], store: RunStore) -> list[tuple[Row, int]]:
    """Rows and repeats whose growth is still unknown, in an order drawn from the plan."""
    growth = plan.setting.growth
    if growth is None:
        return []
    records, missing = store.read(GrowthRecord), {}
    for row in plan.growth_rows:
        done = ((r.repeat, r.seconds) for r in records if r.cell_id == row.cell_id)
        missing[row.cell_id] = unfinished(range(growth.repeats), set(growth.seconds), done)
    ordered = []
    for repeat in range(growth.repeats):
        todo = [row for row in rows if repeat in missing.get(row.cell_id, ())]
        order = random.Random(derive_seed("growth", plan.plan_hash, repeat))
        ordered += [(row, repeat) for row in order.sample(todo, len(todo))]
    return ordered


def _add_peaks(
    plan: SpeedPlan,
    looked: Sequence[FootprintRecord],
    lengths: dict[str, int],
    store: RunStore,
) -> None:
    """Record each row's footprints with its peak memory at every batch size."""
    if not looked:
        return
    gc.collect()
    return_freed_memory()
    names = list(dict.fromkeys(record.cell_id for record in looked))
    with stage("memory", len(names)) as advance:
        for name in names:
            peaks = measure_peaks(plan, name, lengths[name])
            for record in looked:
                if record.cell_id == name:
                    store.append(record.model_copy(update=peaks[record.batch]))
            advance(1)


def load_row(plan: SpeedPlan, row: Row) -> "System":
    """The system of a row in its mode and precision.

    Raises:
        BenchError: If it cannot be loaded, or the device has no such mode.
    """
    from calm_bench.systems.loading import load_system

    return load_system(
        str(row.model),
        plan.request.device,
        precision=row.precision or "fp32",
        mode=row.mode or "plain",
        random_weights=plan.random,
        models=plan.models,
    )


def _arms_of(plan: SpeedPlan, rows: Sequence[Row]) -> list[Arm]:
    """Every row at every batch size, and the control row at batch 1 once more."""
    systems: dict[tuple[object, ...], System] = {}
    for row in rows:
        if _step(row) not in systems:
            systems[_step(row)] = load_row(plan, row)
    base_rate = systems[_step(control_of(rows))].codec.frame_rate
    arms: list[Arm] = []
    for row in rows:
        system = systems[_step(row)]
        n_frames = round(plan.setting.frames * system.codec.frame_rate / base_rate)
        arms += row_arms(plan, row, system, n_frames)
    control = control_of(plan.rows).cell_id
    again = [arm for arm in arms if arm.cell_id == control and len(arm.prompts) == 1]
    return arms + [replace(arm, control=True) for arm in again]


def control_of(rows: Sequence[Row]) -> Row:
    """The row that is timed twice a round: the first baseline, or else the first row."""
    return next((row for row in rows if row.baseline), rows[0])


def _step(row: Row) -> tuple[object, ...]:
    """What rows that differ in their sampling alone share."""
    return row.model, row.mode, row.precision


def row_arms(plan: SpeedPlan, row: Row, system: "System", n_frames: int) -> Iterator[Arm]:
    """A row at every batch size, each prompt cut to the system's own frames."""
    prompts = _prompts_of(plan, system)
    for batch in plan.setting.batch:
        yield replace(_arm(row, system, prompts, batch), n_frames=n_frames)


def _whole_arms(
    plan: SpeedPlan, rows: Sequence[Row], single: Mapping[str, Arm], batch: int
) -> Iterator[Arm]:
    """Every row at the batch size of whole generations, with the systems that are loaded."""
    for row in rows:
        system = single[row.cell_id].system
        yield _arm(row, system, _prompts_of(plan, system), batch)


def _arm(row: Row, system: "System", prompts: "Sequence[Prompt]", batch: int) -> Arm:
    """A row at a batch size: prompts come again where there are too few."""
    return Arm(
        cell_id=row.cell_id,
        system=system,
        sampling=sampling_of(row),
        prompts=tuple(prompts[index % len(prompts)] for index in range(batch)),
    )


def _prompts_of(plan: SpeedPlan, system: "System") -> "list[Prompt]":
    """The plan's prompts on the frames of a system's codec."""
    grid, spec, device = Grid.of(system.codec), plan.benchmark, plan.request.device
    loaded = [load_prompt(prompt, spec, plan.root, grid.sample_rate) for prompt in plan.prompts]
    return [
        system_prompt(prompt.wave, prompt.words or (), grid, spec.prompt_seconds, device)
        for prompt in loaded
    ]
