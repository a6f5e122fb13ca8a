"""The frame that is timed, written once, and what time is told by.

`run`, `speed`, growth, counts and `check` step by it. A mark is whatever the caller's clock says: a
time of the host or of a thread, an event in a GPU's stream, what was counted so far. This file
imports nothing of calm_bench, because `check --against` runs it over older trees.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from calm_bench.store.records import Stage

Mark = TypeVar("Mark")
Marks = tuple[Mark, Mark, Mark, Mark, Mark]
"""Before a frame, and after its backbone, its head, its push and its decoding."""


def marked_frame(
    system: Any, state: Any, decoder: Any, mark: Callable[[], Mark]
) -> tuple[Any, Marks[Mark]]:
    """One frame by the methods that make clips, with a mark around each of them."""
    start = mark()
    z = system.backbone_step(state)
    after_backbone = mark()
    frame = system.head_step(state, z)
    after_head = mark()
    system.push(state, frame)
    after_push = mark()
    system.decode_step(frame, decoder)
    return frame, (start, after_backbone, after_head, after_push, mark())


class InGroups:
    """A system whose codec decodes the first of `n_frames` alone, then `at_once`, then the rest."""

    def __init__(self, system: Any, at_once: int, n_frames: int) -> None:
        self.backbone_step, self.head_step = system.backbone_step, system.head_step
        self.push, self.decode_steps = system.push, system.codec.decode_steps
        self.at_once, self.left = at_once, n_frames
        self.wanted, self.waiting = 1, list[Any]()

    def decode_step(self, frame: Any, decoder: Any) -> Any:
        """Audio [B, N * hop_length] of the N frames that waited; None while they wait for more."""
        import torch

        self.waiting.append(frame)
        self.left -= 1
        if self.left and len(self.waiting) < self.wanted:
            return None
        frames, self.waiting, self.wanted = torch.stack(self.waiting, 1), [], self.at_once
        return self.decode_steps(frames, decoder)


def by_stage(
    marks: Sequence[Marks[Mark]], between: Callable[[Mark, Mark], Any]
) -> "dict[Stage, tuple[Any, ...]]":
    """What lies between marks, a value per frame; `push` is part of the backbone."""
    return {
        "backbone": tuple(between(a, b) + between(c, d) for a, b, c, d, _ in marks),
        "head": tuple(between(b, c) for _, b, c, _, _ in marks),
        "codec": tuple(between(d, e) for *_, d, e in marks),
        "total": tuple(between(a, e) for a, *_, e in marks),
    }


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection while the clock runs."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Clock:
    """Marks on a time line, and nanoseconds between two of them: the processor's monotonic clock.

    What the processor was asked for is done when the call returns; others may have to `wait`.
    """

    def mark(self) -> Any:
        """Now, in this clock's own terms."""
        return time.perf_counter_ns()

    def wait(self) -> None:
        """Return when everything asked for so far has been done."""

    def between(self, start: Any, end: Any) -> int:
        """Nanoseconds from one mark to another; to be asked after `wait`."""
        nanoseconds: int = end - start
        return nanoseconds


class ThreadClock(Clock):
    """The processor time of the calling thread alone: what else runs is not in it.

    Nor is waiting, or what other threads do: for work on one thread only.
    """

    def mark(self) -> int:
        """The thread's time so far."""
        return time.thread_time_ns()


class CudaClock(Clock):
    """Events in the GPU's stream: marks cost the host almost nothing and do not stop the GPU."""

    def mark(self) -> Any:
        """An event that the GPU reaches when all before it is done."""
        import torch

        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def wait(self) -> None:
        """Return when the GPU is idle."""
        import torch

        torch.cuda.synchronize()

    def between(self, start: Any, end: Any) -> int:
        """Nanoseconds from one event to another."""
        nanoseconds: int = round(start.elapsed_time(end) * 1e6)
        return nanoseconds


def clock_for(device: str) -> Clock:
    """CUDA events on a GPU, the host's clock elsewhere."""
    return CudaClock() if device.startswith("cuda") else Clock()
