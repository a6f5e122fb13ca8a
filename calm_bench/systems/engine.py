"""From modules as they were trained to a system that is ready to be run fast.

`prepare` packs a loaded system's weights and puts flat steps (`systems/streaming.py`) in the place
of its modules. The step methods keep their names and meaning, so quality runs and latency runs
alike take what `prepare` made. Mode `plain` leaves the modules as they stand: that is what every
other mode is checked against. Tolerances on teacher-forced contexts and frames against plain, as
shares of their largest entry, are in TOLERANCES.

Modes `graph` and `compile` run steps of fixed shapes. A CUDA graph replays the same kernels on the
same memory. So what changes from step to step must be in tensors: a `Lane` holds a cache's memory,
the slot and the position that come next, and who is padded; attention reads a bucket of the cache
(256, 512, 1024, ... positions) under a mask. Captured is one function for the backbone step with
its text token, one for the short context, one for the whole head (all depth levels or all sampler
steps, sampling included) and one for the codec's step. Between them run the few operators that look
frames up and write them down. Prompts are read eagerly, into the memory that the captured steps
work on. What a captured function returns is valid until it is called again, one frame later.

Both modes have not been run: no GPU was at hand. What they hand to CUDA is tested on the CPU, where
the operators of a function's first call are done again on the same memory; on a GPU
`benchmarks/gpu.sh` comes first. `compile` is not offered on a CPU: over the flat step it gained
nothing in an experiment with a model of this kind, and took 98 s to compile.
"""

import weakref
from collections.abc import Callable, Hashable, Iterable
from copy import copy
from typing import Any

import torch
from torch import Tensor

from calm_bench.codecs.autoencoder import FlatBottleneck
from calm_bench.codecs.base import Codec
from calm_bench.codecs.blocks import Stream
from calm_bench.errors import InputError
from calm_bench.nn.product import foreign, is_ours, say_once
from calm_bench.nn.transformer import FlatTransformer, KvCache, Place, TransformerConfig
from calm_bench.systems.base import System
from calm_bench.systems.streaming import FlatSteps, Head, text_top_k
from calm_bench.types import Mode, Precision, SamplingParams

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
        """`changed` is what it reads and then writes: warming up must leave no trace there.

        What it writes alike at every call, as a position of a cache, may be left out.
        """
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
        slots: Where in the buffer the T positions of the next step go, [T].
        positions: Which positions they are, [T].
        seen: False where a row is padded, [B, P_max].
        bucket: How many positions the next step reads.
        captured: Functions that work on this memory, by their settings.
    """

    def __init__(
        self, config: TransformerConfig, batch: int, capacity: int, like: Tensor, each: int = 1
    ) -> None:
        """Allocate on the device and in the dtype of `like`; a step has `each` positions."""
        device = like.device
        self.config, self.bucket, self.each = config, capacity, each
        self.empty = KvCache(config, batch, capacity, like)
        self.empty.lane, self.buffer = self, self.empty.buffer
        self.ahead = torch.arange(each, device=device)
        self.slots, self.positions = self.ahead.clone(), self.ahead.clone()
        self.seen = torch.ones(batch, capacity, dtype=torch.bool, device=device)
        self.index = torch.arange(capacity, device=device)
        self.captured: dict[Hashable, Function] = {}

    def cache(self) -> KvCache:
        """An empty cache on this memory.

        Zeros: a mask adds minus infinity to what it hides, and NaN of the clip before stays NaN.
        """
        self.buffer.zero_()
        return copy(self.empty)

    def aim(self, cache: KvCache) -> None:
        """Take over where a cache stands, before one more step."""
        cache.make_room(self.each)
        torch.add(self.ahead, cache.length, out=self.slots)
        torch.add(self.ahead, cache.position, out=self.positions)
        if cache.key_mask is None:
            self.seen.fill_(True)
        else:
            self.seen.copy_(cache.key_mask)
        self.bucket = bucket_of(cache.length + self.each, len(self.index))

    def place(self, flat: FlatTransformer) -> Place:
        """The next positions as tensors tell them, in shapes that depend on the bucket."""
        keys, values = self.buffer[..., : self.bucket, :].unbind(2)
        buffers = self.buffer.unbind(0)
        return Place(
            rows=flat.table.index_select(0, self.positions),
            keys=keys.unbind(0),
            values=values.unbind(0),
            write=lambda layer, kv: buffers[layer].index_copy_(3, self.slots, kv.to(keys.dtype)),
            mask=self.mask(),
            causal=False,
        )

    def mask(self) -> Tensor:
        """What each position may look at: 0 where it may, else minus infinity [B, 1, T, P]."""
        index, context, slots = self.index[: self.bucket], self.config.context, self.slots[:, None]
        seen = self.seen[:, None, : self.bucket] & (index <= slots)
        if context is not None:
            seen = seen & (index > slots - context)
        return torch.where(seen, 0.0, -torch.inf)[:, None].to(self.buffer.dtype)


class FixedStream(dict[Hashable, Any]):
    """A codec's stream whose tensors are never replaced, and the steps captured on them.

    What it remembers stays where it is in memory: a step ends by copying it there.
    """

    def __init__(self, codec: Codec, runner: Runner, frame: Tensor) -> None:
        """Find out what one step remembers, and make room for it on the frame's device."""
        super().__init__()
        self.codec, self.runner = codec, runner
        self.captured: dict[tuple[int, ...], Function] = {}
        self.caches: dict[FlatBottleneck, KvCache] = {}
        found: Stream = {}
        codec.decode_step(frame, found)
        for key, value in found.items():
            if isinstance(key, FlatBottleneck):
                batch, capacity = value.buffer.shape[1], value.buffer.shape[4]
                config, each = key.transformer.config, value.length
                lane = Lane(config, batch, capacity, value.buffer, each)
                self[key] = self.caches[key] = lane.cache()
            else:
                self[key] = torch.zeros_like(value)
        self.tensors = [value for value in self.values() if isinstance(value, Tensor)]

    def rewind(self) -> None:
        """Begin a clip, in memory of zeros."""
        for value in self.tensors:
            value.zero_()
        for cache in self.caches.values():
            cache.buffer.zero_()
            cache.length = cache.position = 0

    def step(self, frame: Tensor) -> Tensor:
        """Audio [B, hop_length] of one frame; at a graph, valid until the next."""
        key: tuple[int, ...] = ()
        for bottleneck, cache in self.caches.items():
            lane, flat = cache.lane, bottleneck.transformer
            lane.aim(cache)
            flat.rows(cache.position, lane.each, cache.buffer.device)  # grows outside the capture
            key += (lane.bucket, len(flat.table))
        if key not in self.captured:
            self.captured[key] = self.runner(self._decode, self.tensors)
        wave: Tensor = self.captured[key](frame)
        for cache in self.caches.values():
            cache.advance(cache.lane.each)
        return wave

    def _decode(self, frame: Tensor) -> Tensor:
        after: Stream = dict(self)
        wave = self.codec.decode_step(frame, after)
        for key, value in self.items():
            if key not in self.caches:
                value.copy_(after[key])
        return wave


class Pool:
    """Memory that captured functions work on, used again when what had it is gone."""

    def __init__(self, make: Function) -> None:
        """`make` allocates what a key stands for."""
        self.make = make
        self._free: dict[tuple[int, ...], list[Any]] = {}

    def lend(self, holder_of: Function, *key: int) -> Any:
        """What `holder_of` makes of a piece of memory, which is free again when it is gone."""
        free = self._free.setdefault(key, [])
        if free:
            piece = free.pop()
        else:
            with torch.inference_mode(False), torch.no_grad():  # it outlives the pass that asks
                piece = self.make(*key)
        holder = holder_of(piece)
        weakref.finalize(holder, free.append, piece)
        return holder


class Handle:
    """Who streams: when it is gone, its stream is free."""

    def __init__(self, stream: FixedStream) -> None:
        stream.rewind()
        self.stream = stream


class CapturedSteps:
    """Runs a system's flat steps through a `Runner`, each set of shapes and settings apart."""

    def __init__(self, steps: FlatSteps, runner: Runner) -> None:
        """`runner` captures or compiles a function, given what it changes in place."""
        self.flat, self.runner = steps, runner
        own = ("step", "new_head", "allocate", "start_decoding", "decode_step")
        self.replaces = own + (("read_window",) if "read_window" in steps.replaces else ())
        owner, config = steps.owner, steps.backbone.config
        self.device = owner.device
        narrow = steps.precision == "bf16" and self.device.type == "cuda"
        like = torch.empty(0, device=self.device, dtype=torch.bfloat16 if narrow else torch.float32)
        self.lanes = Pool(lambda batch, capacity: Lane(config, batch, capacity, like))
        self.streams = Pool(lambda batch: FixedStream(owner.codec, runner, owner.blank(batch)))
        self._captured: dict[Hashable, Function] = {}

    def allocate(self, batch_size: int, capacity: int) -> KvCache:
        """A cache of at least this capacity, on memory that captured steps know."""
        capacity = -(-capacity // SMALLEST) * SMALLEST
        cache: KvCache = self.lanes.lend(Lane.cache, batch_size, capacity)
        return cache

    def step(
        self, x: Tensor, cache: KvCache, sampling: SamplingParams, draws: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Contexts [B, D] of inputs x [B, D], and text tokens [B] by uniform draws [B, 1]."""
        flat, lane = self.flat, cache.lane
        lane.aim(cache)
        flat.backbone.rows(cache.position, 1, self.device)  # grows the table outside the capture

        def run(x: Tensor, draws: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
            z = flat.backbone.run(x[:, None], lane.place(flat.backbone))
            return z, flat.tokens(z, sampling, draws)

        settings = (sampling.text_temperature, text_top_k(sampling))
        key = (lane.bucket, settings, len(flat.backbone.table))
        if key not in lane.captured:
            lane.captured[key] = self.runner(run, [])
        found: tuple[Tensor, Tensor | None]
        found = lane.captured[key](x) if draws is None else lane.captured[key](x, draws)
        cache.advance(1)
        return found

    def read_window(self, window: Tensor) -> Tensor:
        """The short context's part of Z, [B, D], from its window [B, K, W]."""
        key = ("window", len(window))
        if key not in self._captured:
            self._captured[key] = self.runner(self.flat.read_window, [])  # type: ignore[attr-defined]
        z: Tensor = self._captured[key](window)
        return z

    def new_head(self, sampling: SamplingParams, batch_size: int, like: Tensor) -> Head:
        """What draws frames, all levels or steps at once, for all batches of this size."""
        key = ("head", batch_size, sampling.temperature, sampling.top_k, sampling.head_steps)
        if key not in self._captured:
            head = self.flat.new_head(sampling, batch_size, like.new_empty(0).float())
            self._captured[key] = self.runner(lambda z, draws, text=None: head(z, draws, text), [])
        run = self._captured[key]
        return lambda z, draws, text: run(z, draws) if text is None else run(z, draws, text)

    def start_decoding(self, batch_size: int) -> Handle:
        """A stream of the codec on memory that its captured step knows, at its beginning."""
        handle: Handle = self.streams.lend(Handle, batch_size)
        return handle

    def decode_step(self, frame: Tensor, decoder_state: Handle) -> Tensor:
        """Audio [B, hop_length] of one frame, streamed."""
        return decoder_state.stream.step(frame)


# On processors without VNNI int8 is coarser; this holds there, too.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 3e-3, "bf16": 0.03, "int8": 0.15}


@torch.no_grad()
def prepare(
    system: System,
    *,
    precision: Precision = "fp32",
    mode: Mode = "eager",
    release: bool = False,
) -> System:
    """Make a loaded system fast in place, and return it.

    Systems of other packages that bring no flat step, or change what ours stands for, keep their
    own, at fp32.

    Args:
        system: As it was loaded, on its device.
        precision: What weights are multiplied in.
        mode: How steps run.
        release: Let the modules go of what is packed: half the memory, but they serve for nothing
            else then.

    Raises:
        InputError: If the precision or mode cannot run on the system's device.
    """
    check(next(system.parameters()).device, precision, mode)
    if mode == "plain":
        if precision == "bf16":
            narrow(system)
        return system
    changes = changed_methods(type(system)) or changed_parts(system)
    steps = None if changes else system.flat(precision, release)
    if steps is None:
        name = type(system).__name__
        why = "has no flat step" + (f" for {changes} of its own" if changes else "")
        if (precision, mode) != ("fp32", "eager"):
            raise InputError(f"{name} {why}: it runs at fp32 in mode eager or plain")
        if changes:
            say_once(f"{name} {why}: it runs as its modules are written")
        return system
    system.codec.prepare()
    install(system, steps)
    if mode != "eager":
        install(system, CapturedSteps(steps, RUNNERS[mode]))
    system.precision, system.mode, system.steps = precision, mode, steps
    return system


def narrow(system: System) -> None:
    """Give a system's modules bfloat16, as `model.to(torch.bfloat16)` would.

    Float32 stay its codec and what it names as exact, of which only the outputs are bfloat16.

    Raises:
        InputError: If it is a system of another package.
    """
    if type(system).flat is System.flat:
        raise InputError(f"{type(system).__name__} runs at fp32 in mode plain")
    for name, parameter in system.named_parameters():
        if not name.startswith((*system.exact, "codec.")):
            parameter.data = parameter.data.bfloat16()
    modules = dict(system.named_modules())
    for name in system.exact:
        if part := modules.get(name.removesuffix(".")):
            part.register_forward_hook(lambda module, given, made: made.bfloat16())
    system.precision = "bf16"


def changed_methods(cls: type[System]) -> str:
    """What a class has made anew of the methods that the flat step it inherits stands for."""
    owner = next(parent for parent in cls.__mro__ if "flat" in vars(parent))
    return ", ".join(n for n in cls.flat_for if getattr(cls, n) is not getattr(owner, n, None))


def changed_parts(system: System) -> str:
    """The modules of a system, its codec's apart, that the flat step it inherits does not know."""
    owner = next(parent for parent in type(system).__mro__ if "flat" in vars(parent))
    if not is_ours(owner):  # who brings a flat step knows their own modules
        return ""
    parts = system.named_children()
    return ", ".join(name for name, part in parts if name != "codec" and foreign(part))


def install(system: System, steps: FlatSteps | CapturedSteps) -> None:
    """Put flat or captured steps in the place of a system's own."""
    for name in steps.replaces:
        setattr(system, name, getattr(steps, name))


RUNNERS: dict[Mode, Runner] = {
    "graph": Graph,
    "compile": lambda function, changed: torch.compile(function, dynamic=False),
}


def check(device: torch.device, precision: Precision, mode: Mode) -> None:
    """Whether a device can do what is asked of it.

    Raises:
        InputError: If not.
    """
    if mode == "plain" and precision not in ("fp32", "bf16"):
        raise InputError(f"mode plain is the modules as they are: {precision} needs mode eager")
    if mode in ("graph", "compile") and device.type != "cuda":
        raise InputError(f"mode {mode} is for CUDA devices: on {device.type} use mode eager")
    if precision in ("fp16", "int8") and device.type != "cpu":
        raise InputError(f"precision {precision} runs on the CPU only: on {device.type} use bf16")
