"""What length costs: frames along a long generation, and clips from prompts in hand to the end.

Does time or memory grow with the position? In one long generation a few frames are timed whole at
each position. Between positions the last frame is pushed again without a new one being drawn,
because no head knows how long a clip already is; backbone and decoder take every step. Where a
frame takes several steps to be complete (MusicGen's delays), those before the timed ones are drawn
as well.

A whole generation is what a quality run makes of a batch of prompts. The stages of a frame leave
out what that pays as well: encoding and prefill of the prompts, and decoding whole clips. Rows take
turns in random order, so that their ratios can be paired.
"""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

from calm_bench.config import BenchmarkSpec
from calm_bench.core.progress import stage
from calm_bench.seeds import derive_seed
from calm_bench.speed.footprint import state_bytes
from calm_bench.speed.frames import Clock, Marks, by_stage, marked_frame, quiet
from calm_bench.speed.protocol import Arm, time_call
from calm_bench.speed.timetable import Growth
from calm_bench.store.records import GenerationRecord, GrowthRecord
from calm_bench.store.run_store import RunStore
from calm_bench.systems.grid import Grid


def time_growth(arm: Arm, repeat: int, growth: Growth, clock: Clock) -> list[GrowthRecord]:
    """One record for each position; memory is looked at in the first repeat only."""
    rate = arm.system.codec.frame_rate
    windows = {}
    for seconds in sorted(growth.seconds):
        start = max(1, round(seconds * rate))
        windows[seconds] = range(start, start + growth.frames)
    marks = _marks_at({index for window in windows.values() for index in window}, arm, clock)
    clock.wait()
    return [
        GrowthRecord(
            cell_id=arm.cell_id,
            repeat=repeat,
            seconds=seconds,
            stage_ns=by_stage([marks[index] for index in window], clock.between),
            state_bytes=state_bytes(arm, window.stop) if repeat == 0 else None,
        )
        for seconds, window in windows.items()
    ]


def _marks_at(timed: set[int], arm: Arm, clock: Clock) -> dict[int, Marks[Any]]:
    """A generation up to the last timed frame; marks around each stage of the timed ones."""
    import torch

    system, n_frames = arm.system, max(timed) + 1
    drawn = {index - back for index in timed for back in range(getattr(system, "lead", 0) + 1)}
    marks: dict[int, Marks[Any]] = {}
    with quiet(), torch.inference_mode():
        state, decoder = arm.begin(n_frames, arm.generators())
        frame, _ = marked_frame(system, state, decoder, clock.mark)
        for index in range(1, n_frames):
            if index in timed:
                frame, marks[index] = marked_frame(system, state, decoder, clock.mark)
                continue
            z = system.backbone_step(state)
            if index in drawn:
                system.head_step(state, z)  # for its part in later frames: its own lacks parts
            system.push(state, frame)
            system.decode_step(frame, decoder)
    return marks


def time_generations(
    arms: Sequence[Arm],
    missing: Sequence[int],
    spec: BenchmarkSpec,
    clock: Clock,
    plan_hash: str,
    store: RunStore,
) -> None:
    """Time whole generations of every arm in each of these repeats, after one that does not count.

    Args:
        arms: One for each row.
        missing: Numbers of the repeats.
        spec: Says how long clips are.
        clock: Tells the time.
        plan_hash: Draws the order of a repeat together with its number.
        store: Takes the records of a repeat when it is done.
    """
    with stage("generations", len(arms) * (1 + len(missing))) as advance:
        for arm in arms:
            _time_generation(arm, 0, spec, clock)
            advance(1)
        for number in missing:
            order = random.Random(derive_seed("generations", plan_hash, number))
            records = []
            for arm in order.sample(arms, len(arms)):
                records.append(_time_generation(arm, number, spec, clock))
                advance(1)
            store.append(*records)


def _time_generation(arm: Arm, repeat: int, spec: BenchmarkSpec, clock: Clock) -> GenerationRecord:
    """One of as many frames as a run of the benchmark generates: its clips less their prompts."""
    grid, generators = Grid.of(arm.system.codec), arm.generators()
    n_frames = grid.frames(spec.seconds) - grid.frames(spec.prompt_seconds)
    generate = partial(arm.system.generate, arm.prompts, arm.sampling, generators, n_frames)
    with quiet():
        taken = time_call(generate, clock)
    return GenerationRecord(
        cell_id=arm.cell_id,
        repeat=repeat,
        batch=len(arm.prompts),
        seconds=n_frames / arm.system.codec.frame_rate,
        taken_ns=taken,
    )
