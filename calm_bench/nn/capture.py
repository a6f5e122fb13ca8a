"""Steps of fixed shapes, so that a GPU can run them without being told each operator.

A CUDA graph replays the same kernels on the same memory. So what changes from step to step must be
in tensors: here a `Lane` holds a cache's memory, the slot and the position that come next, and who
is padded; attention reads a bucket of the cache (256, 512, 1024, ... positions) under a mask.

Not yet run: `Graph`, the capture itself, for want of a GPU. Everything else, this module's shapes,
buckets, masks and lanes, is what the tests run on a CPU against the plain modules, with the
functions called instead of replayed.
"""

import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor

from calm_bench.nn.transformer import KvCache, TransformerConfig

Function = Callable[..., Any]
Runner = Callable[[Function, Iterable[Tensor]], Function]
"""What makes a function of tensors fast, given the tensors that it changes in place."""

SMALLEST = 256


def bucket_of(length: int, capacity: int) -> int:
    """How many positions to read where `length` are held: a power of two from 256, or all."""
    size = SMALLEST
    while size < length:
        size *= 2
    return min(size, capacity)


class Graph:
    """A function captured as a CUDA graph at its first call and replayed from then on.

    Inputs are copied to where the graph reads them. Outputs stay where it writes them: they are
    valid until the next call.
    """

    def __init__(self, function: Function, changed: Iterable[Tensor] = ()) -> None:
        """`changed` is what the function writes to: warming up must leave no trace there."""
        self.function, self.changed = function, list(changed)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor] = []
        self.outputs: Any = None

    def __call__(self, *inputs: Tensor) -> Any:
        """What the function returns for inputs of the shapes of the first call."""
        if self.graph is None:
            self._capture(inputs)
        assert self.graph is not None
        for held, given in zip(self.inputs, inputs, strict=True):
            held.copy_(given)
        self.graph.replay()
        return self.outputs

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = [given.clone() for given in inputs]
        before = [tensor.clone() for tensor in self.changed]
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # libraries choose kernels and allocate at their first calls
                self.function(*self.inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = self.function(*self.inputs)
        for tensor, value in zip(self.changed, before, strict=True):
            tensor.copy_(value)


class Lane:
    """The memory of one batch being generated, and what was captured on it.

    Attributes:
        buffer: Of the key-value cache.
        slot: Where in the buffer the next frame goes, [1].
        position: Which position it has, [1].
        seen: False where a row is padded, [B, P_max].
        bucket: How many positions the next frame reads.
        captured: Functions that work on this memory, by their settings.
    """

    def __init__(self, config: TransformerConfig, batch: int, capacity: int, like: Tensor) -> None:
        """Allocate on the device and in the dtype of `like`."""
        cache = KvCache(config, batch, capacity, like)
        device = like.device
        self.buffer, self.capacity = cache.buffer, capacity
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.seen = torch.ones(batch, capacity, dtype=torch.bool, device=device)
        self.index = torch.arange(capacity, device=device)
        self.bucket = capacity
        self.captured: dict[Hashable, Function] = {}

    def aim(self, cache: KvCache, context: int | None) -> None:
        """Take over where a cache stands, before one more frame."""
        if context is not None:
            cache.make_room(1, context)
        self.slot.fill_(cache.length)
        self.position.fill_(cache.position)
        if cache.key_mask is None:
            self.seen.fill_(True)
        else:
            self.seen.copy_(cache.key_mask)
        self.bucket = bucket_of(cache.length + 1, self.capacity)

    def mask(self, context: int | None) -> Tensor:
        """What the next frame may look at: 0 where it may, else minus infinity [B, 1, 1, P]."""
        index = self.index[: self.bucket]
        seen = self.seen[:, : self.bucket] & (index <= self.slot)
        if context is not None:
            seen = seen & (index > self.slot - context)
        return torch.where(seen, 0.0, -torch.inf)[:, None, None].to(self.buffer.dtype)


class Lanes:
    """Lanes that are used again when the cache that had them is gone."""

    def __init__(self, config: TransformerConfig, like: Tensor) -> None:
        """For caches on the device and in the dtype of `like`."""
        self.config, self.like = config, like
        self._free: dict[tuple[int, int], list[Lane]] = {}

    def cache(self, batch: int, capacity: int) -> KvCache:
        """A cache of at least this capacity on a lane of its own."""
        capacity = -(-capacity // SMALLEST) * SMALLEST
        free = self._free.setdefault((batch, capacity), [])
        if free:
            lane = free.pop()
        else:
            with torch.inference_mode(False):  # it outlives the pass that asked for it
                lane = Lane(self.config, batch, capacity, self.like)
        cache = KvCache(self.config, batch, capacity, self.like, lane.buffer)
        cache.lane = lane
        weakref.finalize(cache, free.append, lane)
        return cache
