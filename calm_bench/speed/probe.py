"""How fast memory can be read: the yardstick of a step that reads each weight once.

A buffer well beyond the caches is summed by as many threads as the systems have. What fits into a
cache is read faster than that, so a small model may beat the limit that is reckoned from it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from calm_bench.clocks import Clock

if TYPE_CHECKING:
    from torch import Tensor

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
BEYOND = 8  # times the last cache


class ReadProbe:
    """A buffer in a device's memory, read whole once per call."""

    def __init__(self, device: str, megabytes: int, clock: Clock) -> None:
        """Fill a buffer of so many megabytes, or more where caches are large."""
        import torch

        wanted = max(megabytes * 1_000_000, BEYOND * (last_cache_bytes() or 0))
        self._buffer: Tensor = torch.ones(wanted // 4, dtype=torch.float32, device=device)
        self._clock = clock
        self._taken: list[int] = []
        self.n_bytes = self._buffer.numel() * 4

    def read(self) -> None:
        """Read it whole, on the clock."""
        self._clock.wait()
        start = self._clock.mark()
        self._buffer.sum()
        end = self._clock.mark()
        self._clock.wait()
        self._taken.append(self._clock.between(start, end))

    def taken(self) -> tuple[int, ...]:
        """Nanoseconds of each reading since the last call."""
        found, self._taken = tuple(self._taken), []
        return found


def last_cache_bytes() -> int | None:
    """Size of the processor's largest cache; None where the system does not tell."""
    sizes = []
    for path in CACHES.glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 0)
        if unit and text[:-1].isdecimal():
            sizes.append(int(text[:-1]) * unit)
    return max(sizes, default=None)
