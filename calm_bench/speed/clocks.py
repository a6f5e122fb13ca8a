"""What time is told by: the host's clock, a thread's own, or events in a GPU's stream."""

import time
from typing import Any, Protocol


class Clock(Protocol):
    """Marks on a time line, and nanoseconds between two of them."""

    def mark(self) -> Any:
        """Now, in this clock's own terms."""

    def wait(self) -> None:
        """Return when everything asked for so far has been done."""

    def between(self, start: Any, end: Any) -> int:
        """Nanoseconds from one mark to another; to be asked after `wait`."""


class HostClock:
    """The processor's monotonic clock."""

    def mark(self) -> int:
        """Now."""
        return time.perf_counter_ns()

    def wait(self) -> None:
        """Nothing: what the processor was asked for is done when the call returns."""

    def between(self, start: int, end: int) -> int:
        """Nanoseconds from one mark to another."""
        return end - start


class ThreadClock(HostClock):
    """The processor time of the calling thread alone: what else runs is not in it.

    Nor is waiting, or what other threads do: for work on one thread only.
    """

    def mark(self) -> int:
        """The thread's time so far."""
        return time.thread_time_ns()


class CudaClock:
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
    return CudaClock() if device.startswith("cuda") else HostClock()
