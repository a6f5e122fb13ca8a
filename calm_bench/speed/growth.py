"""What a frame takes after so many seconds: does time or memory grow with the position?

One long generation; at each position a few frames are timed whole. Between positions the last frame
is pushed again without a new one being drawn, because no head knows how long a clip already is;
backbone and decoder take every step. Where a frame takes several steps to be complete (MusicGen's
delays), those before the timed ones are drawn as well.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from calm_bench.speed.clocks import Clock
from calm_bench.speed.footprint import state_bytes
from calm_bench.speed.protocol import Arm, quiet
from calm_bench.speed.spec import Growth
from calm_bench.store.records import GrowthRecord

if TYPE_CHECKING:
    from torch import Tensor

Marks = tuple[Any, ...]


def time_growth(arm: Arm, repeat: int, growth: Growth, clock: Clock) -> list[GrowthRecord]:
    """One record for each position; memory is looked at in the first repeat only."""
    rate = arm.system.codec.frame_rate
    starts = {second: max(1, round(second * rate)) for second in sorted(growth.seconds)}
    marks = _generate(arm, set(_windows(starts.values(), growth.frames)), clock)
    clock.wait()
    between = clock.between
    records = []
    for seconds, start in starts.items():
        found = [marks[frame] for frame in range(start, start + growth.frames)]
        records.append(
            GrowthRecord(
                cell_id=arm.cell_id,
                repeat=repeat,
                seconds=seconds,
                stage_ns={
                    "backbone": tuple(between(a, b) + between(c, d) for a, b, c, d, _ in found),
                    "head": tuple(between(b, c) for _, b, c, _, _ in found),
                    "codec": tuple(between(d, e) for *_, d, e in found),
                    "total": tuple(between(a, e) for a, *_, e in found),
                },
                state_bytes=state_bytes(arm, start + growth.frames) if repeat == 0 else None,
            )
        )
    return records


def _windows(starts: Any, length: int) -> Iterator[int]:
    for start in starts:
        yield from range(start, start + length)


def _generate(arm: Arm, timed: set[int], clock: Clock) -> dict[int, Marks]:
    """A generation up to the last timed frame; marks around each stage of the timed ones."""
    import torch

    generators = [torch.Generator().manual_seed(row) for row in range(len(arm.prompts))]
    system, n_frames = arm.system, max(timed) + 1
    drawn = {index - back for index in timed for back in range(getattr(system, "lead", 0) + 1)}
    marks: dict[int, Marks] = {}
    frame: Tensor | None = None
    with quiet(), torch.inference_mode():
        state = system.start(arm.prompts, arm.sampling, generators, n_frames)
        decoder = system.start_decoding(len(arm.prompts))
        for index in range(n_frames):
            start = clock.mark()
            z = system.backbone_step(state)
            after_backbone = clock.mark()
            if frame is None or index in drawn:
                latest = system.head_step(state, z)
                frame = latest if frame is None or index in timed else frame  # others lack parts
            after_head = clock.mark()
            system.push(state, frame)
            after_push = clock.mark()
            system.decode_step(frame, decoder)
            if index in timed:
                marks[index] = (start, after_backbone, after_head, after_push, clock.mark())
    return marks
