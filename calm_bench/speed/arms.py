"""From rows to what is timed: systems loaded once per mode and precision, with prompts in hand."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from calm_bench.data.prompts import load_prompt
from calm_bench.plan.rows import sampling_of
from calm_bench.speed.plan import SpeedPlan
from calm_bench.speed.protocol import Arm
from calm_bench.store.records import Row
from calm_bench.systems.grid import Grid, system_prompt

if TYPE_CHECKING:
    from calm_bench.systems.base import Prompt, System


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


def arms_of(plan: SpeedPlan, rows: Sequence[Row]) -> list[Arm]:
    """Every row at every batch size, and the control row at batch 1 once more."""
    systems: dict[tuple[object, ...], System] = {}
    for row in rows:
        if _step(row) not in systems:
            systems[_step(row)] = load_row(plan, row)
    base = next((row for row in rows if row.baseline), rows[0])
    base_rate = systems[_step(base)].codec.frame_rate
    arms: list[Arm] = []
    for row in rows:
        system = systems[_step(row)]
        n_frames = round(plan.setting.frames * system.codec.frame_rate / base_rate)
        arms += row_arms(plan, row, system, n_frames)
    control = control_of(plan).cell_id
    again = [arm for arm in arms if arm.cell_id == control and len(arm.prompts) == 1]
    return arms + [replace(arm, control=True) for arm in again]


def control_of(plan: SpeedPlan) -> Row:
    """The row that is timed twice a round: the first baseline, or else the first row."""
    return next((row for row in plan.rows if row.baseline), plan.rows[0])


def _step(row: Row) -> tuple[object, ...]:
    """What rows that differ in their sampling alone share."""
    return row.model, row.mode, row.precision


def row_arms(plan: SpeedPlan, row: Row, system: "System", n_frames: int) -> Iterator[Arm]:
    """A row at every batch size, each prompt cut to the system's own frames."""
    prompts = _prompts_of(plan, system)
    for batch in plan.setting.batch:
        yield replace(_arm(row, system, prompts, batch), n_frames=n_frames)


def whole_arm(plan: SpeedPlan, row: Row, system: "System", batch: int) -> Arm:
    """A row with as many prompts as its whole generations take."""
    return _arm(row, system, _prompts_of(plan, system), batch)


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
    grid, spec = Grid.of(system.codec), plan.benchmark
    loaded = [load_prompt(p, spec, plan.root, grid.sample_rate) for p in plan.prompts]
    device = plan.request.device
    return [
        system_prompt(prompt.wave, prompt.words or (), grid, spec.prompt_seconds, device)
        for prompt in loaded
    ]
