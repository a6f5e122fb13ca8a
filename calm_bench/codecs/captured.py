"""A codec's streaming step with fixed shapes, for CUDA graphs and torch.compile.

What a stream remembers stays where it is in memory: a step ends by copying it there.
"""

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from calm_bench.codecs.base import Codec
from calm_bench.codecs.flat import FlatBottleneck
from calm_bench.nn.capture import Lane, Runner
from calm_bench.nn.causal import Stream
from calm_bench.nn.transformer import KvCache


class FixedStream(dict[object, object]):
    """A stream whose tensors are never replaced, and the steps captured on them."""

    def __init__(self, codec: Codec, frame: Tensor) -> None:
        """Find out what one step remembers, and make room for it on the frame's device."""
        super().__init__()
        found: Stream = {}
        codec.decode_step(frame, found)
        self.captured: dict[tuple[int, ...], Callable[..., Tensor]] = {}
        self.caches: list[tuple[KvCache, int]] = []
        for key, value in found.items():
            if isinstance(key, FlatBottleneck):
                config, buffer = key.transformer.config, value.buffer
                assert config.context is not None
                lane = Lane(config, buffer.shape[1], buffer.shape[4], buffer)
                cache = KvCache(config, buffer.shape[1], lane.capacity, buffer, lane.buffer)
                cache.lane = lane
                key.transformer.turns(0, 1, buffer.device)
                self.caches.append((cache, config.context))
                self[key] = cache
            else:
                self[key] = torch.zeros_like(value)

    def tensors(self) -> list[Tensor]:
        """All that a step changes in place."""
        plain = [value for value in self.values() if isinstance(value, Tensor)]
        return plain + [cache.buffer for cache, _ in self.caches]

    def rewind(self) -> None:
        """Begin a clip."""
        for value in self.values():
            if isinstance(value, Tensor):
                value.zero_()
        for cache, _ in self.caches:
            cache.length = cache.position = 0


class CapturedCodec:
    """Streams a codec through a `Runner`; streams that ended are used again."""

    def __init__(self, codec: Codec, runner: Runner) -> None:
        """`runner` captures or compiles a function, given what it changes in place."""
        self.codec, self.runner = codec, runner
        self._free: dict[int, list[FixedStream]] = {}

    def start(self, frame: Tensor) -> "Handle":
        """A stream for frames like this one, at its beginning."""
        free = self._free.setdefault(len(frame), [])
        with torch.inference_mode(False), torch.no_grad():  # it outlives the pass that asks for it
            stream = free.pop() if free else FixedStream(self.codec, frame.clone())
        stream.rewind()
        handle = Handle(stream)
        weakref.finalize(handle, free.append, stream)
        return handle

    def step(self, frame: Tensor, handle: "Handle") -> Tensor:
        """Audio [B, hop_length] of one frame; at a graph, valid until the next."""
        stream = handle.stream
        for cache, context in stream.caches:
            cache.lane.aim(cache, context)
        key = tuple(cache.lane.bucket for cache, _ in stream.caches)
        if key not in stream.captured:
            stream.captured[key] = self.runner(self._function(stream), stream.tensors())
        wave = stream.captured[key](frame)
        for cache, _ in stream.caches:
            cache.length += 1
            cache.position += 1
        return wave

    def _function(self, stream: FixedStream) -> Callable[[Tensor], Tensor]:
        def step(frame: Tensor) -> Tensor:
            after: Stream = dict(stream)
            wave = self.codec.decode_step(frame, after)
            for key, value in stream.items():
                if isinstance(value, Tensor):
                    value.copy_(after[key])
            return wave

        return step


class Handle:
    """Who streams: when it is gone, its stream is free."""

    def __init__(self, stream: FixedStream) -> None:
        self.stream = stream
