"""A generation as a quality run makes it: a batch of prompts in hand, their finished clips out.

The stages of a frame leave out what a run pays as well: encoding and prefill of the prompts, and
decoding whole clips. Rows take turns in random order, so that their ratios can be paired.
"""

import random
from collections.abc import Callable, Sequence

from calm_bench.core.progress import stage
from calm_bench.seeds import derive_seed
from calm_bench.speed.clocks import Clock
from calm_bench.speed.plan import SpeedPlan
from calm_bench.speed.protocol import Arm, quiet
from calm_bench.store.records import GenerationRecord
from calm_bench.store.run_store import RunStore
from calm_bench.systems.grid import Grid


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


def time_generations(
    plan: SpeedPlan,
    arms: Sequence[Arm],
    missing: Sequence[int],
    clock: Clock,
    append: Callable[..., None],
) -> None:
    """Time whole generations of every arm in each of these repeats, after one that does not count.

    Args:
        plan: Whose benchmark says how long clips are.
        arms: One for each row.
        missing: Numbers of the repeats.
        clock: Tells the time.
        append: Takes the records of a repeat.
    """
    with stage("generations", len(arms) * (1 + len(missing))) as advance:
        for arm in arms:
            _time(plan, arm, clock)
            advance(1)
        for number in missing:
            order = random.Random(derive_seed("generations", plan.plan_hash, number))
            times = []
            for arm in order.sample(arms, len(arms)):
                times.append((arm, _time(plan, arm, clock)))
                advance(1)
            append(*(_record(plan, arm, number, taken) for arm, taken in times))


def _n_frames(plan: SpeedPlan, arm: Arm) -> int:
    """What a run of the benchmark generates: its clips less their prompts."""
    grid, spec = Grid.of(arm.system.codec), plan.benchmark
    return grid.frames(spec.seconds) - grid.frames(spec.prompt_seconds)


def _time(plan: SpeedPlan, arm: Arm, clock: Clock) -> int:
    import torch

    generators = [torch.Generator().manual_seed(row) for row in range(len(arm.prompts))]
    n_frames = _n_frames(plan, arm)
    with quiet():
        clock.wait()
        begin = clock.mark()
        arm.system.generate(arm.prompts, arm.sampling, generators, n_frames)
        end = clock.mark()
        clock.wait()
    return clock.between(begin, end)


def _record(plan: SpeedPlan, arm: Arm, repeat: int, taken: int) -> GenerationRecord:
    rate = arm.system.codec.frame_rate
    return GenerationRecord(
        cell_id=arm.cell_id,
        repeat=repeat,
        batch=len(arm.prompts),
        seconds=_n_frames(plan, arm) / rate,
        taken_ns=taken,
    )
