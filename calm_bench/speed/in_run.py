"""The latency stage of a run: which systems are timed, and on which prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from calm_bench.config import LatencySpec
from calm_bench.data.prompts import load_prompt
from calm_bench.numbers.speed import arm_key
from calm_bench.plan.plan import Plan
from calm_bench.plan.rows import sampling_of
from calm_bench.seeds import derive_seed
from calm_bench.speed.clocks import clock_for
from calm_bench.speed.protocol import Arm, allocated, measure, missing_rounds, peak_allocated
from calm_bench.store.records import Row
from calm_bench.store.run_store import RunStore
from calm_bench.systems.grid import Grid, system_prompt
from calm_bench.types import Precision

if TYPE_CHECKING:
    from calm_bench.systems.base import System


def time_systems(plan: Plan, store: RunStore, device: str) -> None:
    """Time every system of a plan, and the baseline twice, in the rounds that are still missing."""
    if plan.spec.latency is None:
        return
    timed = _timed_rows(plan.rows)
    wanted = {(row.cell_id, is_control) for row, is_control in timed}
    missing = missing_rounds(wanted, plan.spec.latency, store)
    if not missing:
        return
    seed = derive_seed("latency", plan.plan_hash)
    arms = _arms(plan, timed, device)
    measure(arms, plan.spec.latency, store, missing, seed=seed, clock=clock_for(device))


def _timed_rows(rows: Sequence[Row]) -> list[tuple[Row, bool]]:
    """The first row of each system, and the baseline (or else the first) once more as control."""
    first: dict[object, Row] = {}
    for row in rows:
        if row.kind == "system":
            first.setdefault(arm_key(row), row)
    systems = list(first.values())
    control = next((row for row in systems if row.baseline), systems[0] if systems else None)
    return [(row, False) for row in systems] + ([(control, True)] if control else [])


def _arms(plan: Plan, timed: Sequence[tuple[Row, bool]], device: str) -> list[Arm]:
    """The systems loaded, side by side, each with the first prompt on its own frames."""
    from calm_bench.systems.loading import load_system

    spec, latency = plan.spec, plan.spec.latency or LatencySpec()
    systems, own = {}, {}
    for key in dict.fromkeys(_loaded(row) for row, _ in timed):
        before = allocated(device)
        systems[key] = load_system(key[0], device, precision=key[1], models=plan.models)
        own[systems[key]] = allocated(device) - before
    slowest = min(system.codec.frame_rate for system in systems.values())
    arms = []
    for row, is_control in timed:
        system = systems[_loaded(row)]
        grid = Grid.of(system.codec)
        prompt = load_prompt(plan.prompts[0], spec, plan.root, grid.sample_rate)
        arms.append(
            Arm(
                cell_id=row.cell_id,
                system=system,
                sampling=sampling_of(row),
                prompts=(
                    system_prompt(
                        prompt.wave, prompt.words or (), grid, spec.prompt_seconds, device
                    ),
                ),
                n_frames=round(latency.frames * system.codec.frame_rate / slowest),
                control=is_control,
            )
        )
    return _with_peaks(arms, own, device) if device.startswith("cuda") else arms


def _with_peaks(arms: Sequence[Arm], own: Mapping["System", int], device: str) -> list[Arm]:
    """The arms with the most memory that each held at once; `own` is what each system's load took.

    All systems are in the same memory, so one's peak is the total's without what others hold.
    """
    import torch

    one = torch.ones(1, 1, device=arms[0].system.device)
    torch.mm(one, one)  # from here on the library has its workspace, which is no system's
    peaks: dict[str, int] = {}
    for system, size in own.items():
        others = allocated(device) - size
        for arm in arms:
            if arm.system is system and not arm.control:
                peaks[arm.cell_id] = peak_allocated(arm, arm.n_frames or 1, others)
    return [replace(arm, peak_bytes=peaks[arm.cell_id]) for arm in arms]


def _loaded(row: Row) -> tuple[str, Precision]:
    """The model and precision that a row runs on."""
    return str(row.model), row.precision or "fp32"
