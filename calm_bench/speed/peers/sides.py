"""The two sides of each pair as functions to be called in turn.

A side is reset before every timed block: caches are filled to the same position on both sides,
state is allocated, and only then calls are timed. B batch, T frames, K codebooks, C channels.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from calm_bench.codecs.base import Codec
from calm_bench.codecs.rvq import RvqCodec, RvqConfig
from calm_bench.codecs.trunk import TrunkConfig
from calm_bench.nn.depth import DepthConfig
from calm_bench.nn.transformer import TransformerConfig
from calm_bench.speed.peers.items import ours
from calm_bench.systems.base import Prompt, System
from calm_bench.systems.engine import prepare
from calm_bench.systems.rq import RqConfig, RqSystem
from calm_bench.types import Precision, SamplingParams

POSITION = 128  # frames in the cache when a block begins
DECODED = 24  # frames a decoder has heard when a block begins


def nothing() -> None:
    """No state to be reset."""


class Side(NamedTuple):
    """What a block repeats, and what runs before it, outside of the timer."""

    call: Callable[[], object]
    reset: Callable[[], object] = nothing


def replayed(base: Any, call: Callable[[Any], object]) -> Side:
    """A side whose blocks each begin from a copy of the same state."""
    state = base

    def reset() -> None:
        nonlocal state
        state = copy.deepcopy(base)

    return Side(lambda: call(state), reset)


def precision_of(arm: str) -> Precision | None:
    """The precision of an arm of ours; None for the package."""
    known: dict[str, Precision] = {ours(name): name for name in get_args(Precision)}
    return known.get(arm)


def fast(system: Any, precision: Precision) -> Any:
    """A twin made fast the way every system of ours is."""
    return prepare(system, precision=precision)


class Driven:
    """A system that continues a prompt of random frames, which no codec has to encode."""

    def __init__(
        self, system: System, frames: Tensor, sampling: SamplingParams, calls: int
    ) -> None:
        """`frames` [B, T, C] or [B, K, T], as the codec's `encode` would give them."""
        self.system, self.sampling, self.calls = system, sampling, calls
        time = 1 if system.codec.continuous else 2
        hop = system.codec.hop_length
        self.prompts = [Prompt(wave=torch.zeros(frames.shape[time] * hop))] * len(frames)
        system.codec.encode = lambda wave: frames  # type: ignore[method-assign]
        self.state: Any = None

    def reset(self) -> None:
        """A fresh state, the prompt in its cache."""
        generators = [torch.Generator().manual_seed(i) for i in range(len(self.prompts))]
        self.state = self.system.start(self.prompts, self.sampling, generators, self.calls)

    def context(self) -> Tensor:
        """A context [B, D] of a fresh state."""
        self.reset()
        return self.system.backbone_step(self.state)

    def step(self) -> Tensor:
        """One frame."""
        frame = self.system.head_step(self.state, self.system.backbone_step(self.state))
        self.system.push(self.state, frame)
        return frame


def our_decoder(system: System, frames: Tensor, before: Tensor) -> Side:
    """Our streaming decoder, all `frames` [B, T, C] or [B, T, K] a call, after those `before`."""
    state: Any = None

    def reset() -> None:
        nonlocal state
        state = system.start_decoding(1)
        system.codec.decode_steps(before, state)

    return Side(lambda: system.codec.decode_steps(frames, state), reset)


def stub_codec(n_codebooks: int, codebook_size: int) -> RvqCodec:
    """A codec of so many codebooks whose frames last 80 ms and mean nothing."""
    trunk = TrunkConfig(
        sample_rate=1600,
        front_end="mel",
        hop=64,
        n_fft=128,
        n_mels=8,
        ratios=(2,),
        encoder_dims=(8, 8),
        encoder_blocks=(1, 1),
        decoder_dims=(8, 8),
        decoder_blocks=(1, 1),
    )
    shape = {"n_codebooks": n_codebooks, "codebook_size": codebook_size, "code_dim": 4}
    return RvqCodec(RvqConfig(trunk=trunk, **shape)).requires_grad_(False).eval()


def stub_system(codec: Codec) -> RqSystem:
    """A system of a few weights around a codec, because systems are what is made fast."""
    K, V = getattr(codec, "n_codebooks", 1), getattr(codec, "codebook_size", 1)
    config = RqConfig(
        backbone=TransformerConfig(dim=8, layers=1, heads=1, mlp_dim=8),
        depth=DepthConfig(dim=8, layers=1, heads=1, mlp_dim=8, schedule=tuple(range(K))),
        codebook_size=V,
    )
    return RqSystem(config, codec).requires_grad_(False).eval()
