"""The times of a run, and all that `speed` measures: what is done is on disk and not done again.

Rows become arms: systems that are open, with prompts in hand. In a run every system takes part once
with the first prompt; in `speed` once at every batch size, in each mode and precision.
"""

import gc
import random
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calm_bench.config import BenchmarkSpec, LatencySpec, PromptSpec
from calm_bench.core import paths
from calm_bench.core.allocator import keep_freed_memory, return_freed_memory
from calm_bench.core.progress import stage
from calm_bench.data.prompts import load_prompt
from calm_bench.errors import InputError
from calm_bench.numbers.speed import arm_key
from calm_bench.plan.plan import Plan
from calm_bench.plan.rows import opened_as, sampling_of
from calm_bench.seeds import derive_seed
from calm_bench.speed.footprint import ReadProbe, footprint, measure_peaks
from calm_bench.speed.frames import ThreadClock, clock_for
from calm_bench.speed.generations import time_generations, time_growth
from calm_bench.speed.protocol import Arm, measure, peak_allocated, unfinished
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
    from calm_bench.nn.kernels import Kernels
    from calm_bench.systems.base import Prompt, System
    from calm_bench.systems.loading import OpenModels


def measure_plan(plan: SpeedPlan, store: RunStore, told: Any = None) -> Any:
    """Do what is missing of a plan, as many systems at a time as fit into memory.

    `told` is what was returned before, if it was: `fixed`, or by shape which kernels were taken.
    """
    if plan.setting.together:  # as a quality run does; not where two rows hardly fit into memory
        keep_freed_memory()
    if plan.request.threads is not None:
        import torch

        torch.set_num_threads(plan.request.threads)
    kernels = kernels_of(plan, told)
    for index, rows in enumerate(sessions(plan)):
        _session(plan, index, rows, store, kernels)
    return kernels.taken if plan.request.kernels == "measured" else "fixed"


def kernels_of(plan: SpeedPlan, told: Any = None) -> "Kernels":
    """Which kernels a plan's products take."""
    from calm_bench.nn.kernels import Kernels
    from calm_bench.systems.loading import measured_kernels

    return measured_kernels(told) if plan.request.kernels == "measured" else Kernels()


def missing_times(plan: Plan, store: RunStore) -> list[int]:
    """The rounds in which a system of a run has not been timed."""
    if plan.spec.latency is None:
        return []
    rows = timed_rows(plan.rows)
    return _missing_rounds(rows, control_of(rows), (1,), range(plan.spec.latency.rounds), store)


def time_systems(plan: Plan, store: RunStore, opened: "OpenModels", rounds: Sequence[int]) -> None:
    """Time every system of a run, and the baseline twice, in these rounds."""
    if plan.spec.latency is None or not rounds:
        return
    seed = derive_seed("latency", plan.plan_hash)
    clock = clock_for(opened.device)
    arms = _with_control(_run_arms(plan, opened), control_of(timed_rows(plan.rows)))
    measure(arms, plan.spec.latency, store, rounds, seed=seed, clock=clock)


def timed_rows(rows: Sequence[Row]) -> list[Row]:
    """The first row of each system: temperatures change no time."""
    first: dict[object, Row] = {}
    for row in rows:
        if row.kind == "system":
            first.setdefault(arm_key(row), row)
    return list(first.values())


def _run_arms(plan: Plan, opened: "OpenModels") -> list[Arm]:
    """The systems of a run side by side, each with the first prompt on its own frames."""
    spec, latency, rows = plan.spec, plan.spec.latency or LatencySpec(), timed_rows(plan.rows)
    systems = {row.cell_id: opened.system(str(row.model), row.precision or "fp32") for row in rows}
    slowest = min(system.codec.frame_rate for system in systems.values())
    arms = []
    for row in rows:
        system = systems[row.cell_id]
        n_frames = round(latency.frames * system.codec.frame_rate / slowest)
        prompts = _prompts_of(plan.prompts[:1], spec, plan.root, system, opened.device)
        arms.append(arm_of(row, system, prompts, n_frames=n_frames))
    return _with_peaks(arms, rows, opened) if opened.device.startswith("cuda") else arms


def _with_peaks(arms: Sequence[Arm], rows: Sequence[Row], opened: "OpenModels") -> list[Arm]:
    """The arms with the most memory that each held at once.

    All systems are in the same memory, so one's peak is the total's without what others hold.
    """
    from calm_bench.systems.loading import allocated

    peaks: dict[str, int] = {}
    for key in dict.fromkeys(map(opened_as, rows)):
        others = allocated(opened.device) - opened.bytes_of(key)
        for row, arm in zip(rows, arms, strict=True):
            if opened_as(row) == key:
                peaks[arm.cell_id] = peak_allocated(arm, arm.n_frames or 1, others)
    return [replace(arm, peak_bytes=peaks[arm.cell_id]) for arm in arms]


def control_of(rows: Sequence[Row]) -> Row | None:
    """The row that is timed twice a round: the first baseline, or else the first row."""
    return next((row for row in rows if row.baseline), rows[0] if rows else None)


def _with_control(arms: Sequence[Arm], control: Row | None) -> list[Arm]:
    """The arms, and the control row's at batch 1 once more."""
    name = control.cell_id if control else None
    again = [arm for arm in arms if arm.cell_id == name and len(arm.prompts) == 1]
    return [*arms, *(replace(arm, control=True) for arm in again)]


def _missing_rounds(
    rows: Sequence[Row],
    control: Row | None,
    batches: Sequence[int],
    rounds: range,
    store: RunStore,
) -> list[int]:
    wanted = {(row.cell_id, False, batch) for row in rows for batch in batches}
    wanted |= {(row.cell_id, True, 1) for row in rows if row == control}
    done = ((r.round, (r.cell_id, r.control, r.batch)) for r in store.read(LatencyRecord))
    return unfinished(rounds, wanted, done)


def _session(
    plan: SpeedPlan, index: int, rows: Sequence[Row], store: RunStore, kernels: "Kernels"
) -> None:
    """What is missing of rows that are in memory together, and then the memory of each apart."""
    known = {record.cell_id for record in store.read(FootprintRecord)}
    control, n = control_of(plan.rows), plan.setting.rounds
    numbers = range(index * n, (index + 1) * n)
    todo = _Todo(
        rounds=_missing_rounds(rows, control, plan.setting.batch, numbers, store),
        repeats=missing_generations(plan, {row.cell_id for row in rows}, index, store),
        growing=_missing_growth(plan, rows, store),
        unknown={row.cell_id for row in rows} - known,
    )
    if todo.rounds or todo.repeats or todo.growing or todo.unknown:
        looked = _measure(plan, rows, todo, store, kernels)
        if looked:  # the systems are gone: each row has the memory to itself
            _add_peaks(plan, looked, store)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Todo:
    """Rounds, whole generations, rows with repeats of growth, and rows of unknown footprint."""

    rounds: Sequence[int]
    repeats: Sequence[int]
    growing: Sequence[tuple[Row, int]]
    unknown: Set[str]


def _measure(
    plan: SpeedPlan, rows: Sequence[Row], todo: _Todo, store: RunStore, kernels: "Kernels"
) -> list[tuple[int, FootprintRecord]]:
    """All but peak memory; of rows of unknown footprint, their frames and what they hold."""
    setting, growth, whole = plan.setting, plan.setting.growth, plan.setting.generation
    opened = {}
    for row in rows:
        if _step(row) not in opened:
            opened[_step(row)] = open_row(plan, row, kernels)
    base_rate = opened[_step(control_of(rows) or rows[0])][0].codec.frame_rate
    arms = []
    for row in rows:
        system, prompts = opened[_step(row)]
        n_frames = round(setting.frames * system.codec.frame_rate / base_rate)
        arms += [arm_of(row, system, prompts, batch, n_frames) for batch in setting.batch]
    clock = ThreadClock() if plan.request.clock == "cpu" else clock_for(plan.request.device)
    if todo.rounds:
        twice = _with_control(arms, control_of(plan.rows))
        seed = derive_seed("speed", plan.plan_hash)
        probe = ReadProbe(plan.request.device, plan.spec.probe_mb, clock)
        measure(twice, setting, store, todo.rounds, seed=seed, clock=clock, probe=probe)
        del probe
    if todo.repeats and whole:
        several = [arm_of(row, *opened[_step(row)], whole.batch) for row in rows]
        time_generations(several, todo.repeats, plan.benchmark, clock, plan.plan_hash, store)
    if todo.growing and growth:
        single = {arm.cell_id: arm for arm in arms if len(arm.prompts) == 1}
        with stage("growth", len(todo.growing)) as advance:
            for row, repeat in todo.growing:
                store.append(*time_growth(single[row.cell_id], repeat, growth, clock))
                advance(1)
    unknown = [(arm.n_frames or 1, arm) for arm in arms if arm.cell_id in todo.unknown]
    return [(n_frames, footprint(arm, n_frames)) for n_frames, arm in unknown]


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
    plan: SpeedPlan, looked: Sequence[tuple[int, FootprintRecord]], store: RunStore
) -> None:
    """Record each row's footprints with its peak memory at every batch size."""
    gc.collect()
    return_freed_memory()
    lengths = {record.cell_id: n_frames for n_frames, record in looked}
    with stage("memory", len(lengths)) as advance:
        for name, n_frames in lengths.items():
            peaks = measure_peaks(plan, name, n_frames)
            own = [record for _, record in looked if record.cell_id == name]
            store.append(*(record.model_copy(update=peaks[record.batch]) for record in own))
            advance(1)


def _step(row: Row) -> tuple[object, ...]:
    """What rows that differ in their sampling alone share."""
    return row.model, row.mode, row.precision


def open_row(plan: SpeedPlan, row: Row, kernels: "Kernels") -> "tuple[System, list[Prompt]]":
    """The system of a row in its mode and precision, and the plan's prompts on its frames.

    Raises:
        BenchError: If it cannot be loaded, or the device has no such mode.
    """
    from calm_bench.systems.base import System
    from calm_bench.systems.loading import load_system

    device = plan.request.device
    with kernels.choosing():
        system = load_system(
            str(row.model),
            device,
            precision=row.precision or "fp32",
            mode=row.mode or "plain",
            random_weights=plan.random,
            models=plan.models,
        )
    own = getattr(system.decode_step, "__func__", None) is not System.decode_step
    if own and max(plan.setting.codec_frames) > 1:
        raise InputError(f"{row.label} decodes one frame a call: leave --codec-frames out, or it")
    root = paths.benchmarks_dir()
    return system, _prompts_of(plan.prompts, plan.benchmark, root, system, device)


def arm_of(
    row: Row,
    system: "System",
    prompts: "Sequence[Prompt]",
    batch: int = 1,
    n_frames: int | None = None,
) -> Arm:
    """A row at a batch size: prompts come again where there are too few."""
    return Arm(
        cell_id=row.cell_id,
        system=system,
        sampling=sampling_of(row),
        prompts=tuple(prompts[index % len(prompts)] for index in range(batch)),
        n_frames=n_frames,
        codec_frames=row.codec_frames,
    )


def _prompts_of(
    prompts: Sequence[PromptSpec], spec: BenchmarkSpec, root: Path, system: "System", device: str
) -> "list[Prompt]":
    grid = Grid.of(system.codec)
    loaded = [load_prompt(prompt, spec, root, grid.sample_rate) for prompt in prompts]
    return [
        system_prompt(prompt.wave, prompt.words or (), grid, spec.prompt_seconds, device)
        for prompt in loaded
    ]
