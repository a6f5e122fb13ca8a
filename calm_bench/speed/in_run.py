"""The latency stage of a run: which systems are timed, and on which prompt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from calm_bench.config import LatencySpec
from calm_bench.data.prompts import load_prompt
from calm_bench.numbers.speed import arm_key
from calm_bench.plan.plan import Plan
from calm_bench.plan.rows import opened_as, sampling_of
from calm_bench.seeds import derive_seed
from calm_bench.speed.clocks import clock_for
from calm_bench.speed.protocol import (
    Arm,
    measure,
    missing_rounds,
    peak_allocated,
)
from calm_bench.store.records import Row
from calm_bench.store.run_store import RunStore
from calm_bench.systems.grid import Grid, system_prompt

if TYPE_CHECKING:
    from calm_bench.systems.base import System
    from calm_bench.systems.loading import OpenModels


def missing_times(plan: Plan, store: RunStore) -> list[int]:
    """The rounds in which a system of a plan has not been timed."""
    if plan.spec.latency is None:
        return []
    wanted = {(row.cell_id, is_control) for row, is_control in timed_rows(plan.rows)}
    return missing_rounds(wanted, plan.spec.latency, store)


def time_systems(plan: Plan, store: RunStore, opened: "OpenModels", rounds: Sequence[int]) -> None:
    """Time every system of a plan, and the baseline twice, in these rounds."""
    if plan.spec.latency is None or not rounds:
        return
    seed = derive_seed("latency", plan.plan_hash)
    arms = _arms(plan, timed_rows(plan.rows), opened)
    measure(arms, plan.spec.latency, store, rounds, seed=seed, clock=clock_for(opened.device))


def timed_rows(rows: Sequence[Row]) -> list[tuple[Row, bool]]:
    """The first row of each system, and the baseline (or else the first) once more as control."""
    first: dict[object, Row] = {}
    for row in rows:
        if row.kind == "system":
            first.setdefault(arm_key(row), row)
    systems = list(first.values())
    control = next((row for row in systems if row.baseline), systems[0] if systems else None)
    return [(row, False) for row in systems] + ([(control, True)] if control else [])


def _arms(plan: Plan, timed: Sequence[tuple[Row, bool]], opened: "OpenModels") -> list[Arm]:
    """The systems side by side, each with the first prompt on its own frames."""
    spec, latency = plan.spec, plan.spec.latency or LatencySpec()
    systems = {row.cell_id: _system(row, opened) for row, _ in timed}
    slowest = min(system.codec.frame_rate for system in systems.values())
    arms = []
    for row, is_control in timed:
        system = systems[row.cell_id]
        grid = Grid.of(system.codec)
        prompt = load_prompt(plan.prompts[0], spec, plan.root, grid.sample_rate)
        words, seconds = prompt.words or (), spec.prompt_seconds
        arms.append(
            Arm(
                cell_id=row.cell_id,
                system=system,
                sampling=sampling_of(row),
                prompts=(system_prompt(prompt.wave, words, grid, seconds, opened.device),),
                n_frames=round(latency.frames * system.codec.frame_rate / slowest),
                control=is_control,
            )
        )
    return _with_peaks(arms, timed, opened) if opened.device.startswith("cuda") else arms


def _system(row: Row, opened: "OpenModels") -> "System":
    return opened.system(str(row.model), row.precision or "fp32")


def _with_peaks(
    arms: Sequence[Arm], timed: Sequence[tuple[Row, bool]], opened: "OpenModels"
) -> list[Arm]:
    """The arms with the most memory that each held at once.

    All systems are in the same memory, so one's peak is the total's without what others hold.
    """
    from calm_bench.systems.loading import allocated

    own = {arm.cell_id: arm for arm in arms if not arm.control}
    peaks: dict[str, int] = {}
    for key in dict.fromkeys(opened_as(row) for row, _ in timed):
        others = allocated(opened.device) - opened.bytes_of(key)
        for row, is_control in timed:
            if opened_as(row) == key and not is_control:
                arm = own[row.cell_id]
                peaks[row.cell_id] = peak_allocated(arm, arm.n_frames or 1, others)
    return [replace(arm, peak_bytes=peaks[arm.cell_id]) for arm in arms]
