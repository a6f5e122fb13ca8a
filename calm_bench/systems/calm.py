"""CALM: continuous latents, each frame drawn by an MLP head from noise in one or more steps.

B batch, T frames, D width, C latent channels, W short-context width, K window (paper sections 3 and
4; arXiv 2509.06926).

In music errors would pile up, so there the backbone reads latents mixed with noise in training, and
learns not to trust details; a small transformer reads the last K clean latents and supplies them
(sections 3.3 and 3.4; the idea of noising is Pasini et al. 2024). Z = z_long + z_short. For speech
the paper found no gain in either.

The window is strict. Stacked layers with a sliding mask would reach layers * (K - 1) frames back;
here every position runs through the transformer with its own K inputs, in training and in
generation alike. Slots before a clip's first frame hold a learned vector.
"""

import math
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.codecs.base import Codec
from calm_bench.errors import InputError
from calm_bench.nn.adaln import AdaLnConfig, AdaLnMlp, FlatHead
from calm_bench.nn.kernels import pack
from calm_bench.nn.transformer import FlatTransformer, KvCache, Transformer, TransformerConfig
from calm_bench.nn.trigflow import SamplerPath, TimeWeight, consistency_path, rotation_path, sample
from calm_bench.systems.streaming import (
    FlatSteps,
    Head,
    StreamingSystem,
    StreamState,
    TextConfig,
    text_numbers,
)
from calm_bench.types import (
    Count,
    Precision,
    SamplingParams,
    Shape,
    Size,
    StrictModel,
    TemperatureKind,
)


def inject_noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Latents [B, T, C] mixed with noise: sqrt(k) * noise + sqrt(1 - k) * x, k ~ U(0, 1) per frame.

    Unit variance stays unit variance; the network is not told k.
    """
    share = torch.rand(*x.shape[:-1], 1, generator=generator, device=x.device)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    return share.sqrt() * noise + (1 - share).sqrt() * x


class ShortContextConfig(Shape):
    """The window K (paper: 10) and the transformer that reads it (paper: 4 layers of 1536)."""

    window: Count = 10
    transformer: TransformerConfig


class ShortContext(nn.Module):
    """z_short of each frame from the last K clean latents; defined for fewer, and for none."""

    def __init__(self, config: ShortContextConfig, channels: int, context: int) -> None:
        """Build for latents of C channels and a backbone of width D; a map to D if W is not D."""
        super().__init__()
        W = config.transformer.dim
        self.window = config.window
        self.input = nn.Linear(channels, W, bias=False)
        self.start = nn.Parameter(torch.randn(W) * 0.02)
        self.transformer = Transformer(config.transformer)
        self.output = None if context == W else nn.Linear(W, context, bias=False)

    def read(self, windows: Tensor) -> Tensor:
        """z_short [N, D] of windows [N, K, W], oldest first, as `empty` and `shift` make them."""
        z: Tensor = self.transformer(windows, last=True)[:, 0]
        return z if self.output is None else self.output(z)

    def forward(self, frames: Tensor, chosen: Tensor) -> Tensor:
        """z_short [R, D] of chosen frames of clips [B, T, C], from the frames before each.

        `chosen` [R] are flat numbers b T + t; the windows of others are not read.
        """
        B, T, _ = frames.shape
        past = torch.cat([self.empty(B), self.input(frames[:, : T - 1])], dim=1)
        first = chosen + chosen.div(T, rounding_mode="floor") * (past.shape[1] - T)
        places = first[:, None] + torch.arange(self.window, device=frames.device)  # [R, K]
        return self.read(F.embedding(places, past.flatten(0, 1)))

    def empty(self, batch_size: int) -> Tensor:
        """The window [B, K, W] before a clip's first frame."""
        return self.start.expand(batch_size, self.window, -1)

    def filled(self, frames: Tensor, lacking: Tensor) -> Tensor:
        """The window [B, K, W] after clips [B, P, C] whose first `lacking` [B] frames are none."""
        past = self.input(frames)
        place = torch.arange(frames.shape[1], device=frames.device)
        past = torch.where((place < lacking[:, None])[..., None], self.start, past)
        return torch.cat([self.empty(len(frames)), past], dim=1)[:, -self.window :].clone()

    def shift(self, window: Tensor, frame: Tensor) -> None:
        """Take a frame [B, C] into a window [B, K, W], in place."""
        window[:, :-1] = window[:, 1:].clone()
        window[:, -1] = self.input(frame)


class FlatCalm(FlatSteps):
    """CALM: latents by the AdaLN head; for music with the short context."""

    def __init__(self, system: "CalmSystem", precision: Precision, release: bool) -> None:
        super().__init__(system, precision, release)
        # 32 to 128 channels wide: nothing to be gained from fewer bits.
        self.latent_input = pack(system.latent_input.weight, None, "fp32")
        self.mlp = FlatHead(system.mlp, system.path, precision, release)
        self.short: FlatTransformer | None = None
        if system.short is not None:
            self.replaces = (*FlatSteps.replaces, "read_window")
            self.short = FlatTransformer(system.short.transformer, precision, release)
            out = system.short.output
            self.output = None if out is None else pack(out.weight, None, precision)

    def frame_input(self, frame: Tensor, text: Tensor | None) -> Tensor:
        return self.latent_input(frame) if text is None else self.latent_input.onto(text, frame)

    def new_head(self, sampling: SamplingParams, batch_size: int, like: Tensor) -> Head:
        return lambda z, draws, text: self.mlp.sample(z, draws, sampling.head_steps)

    def read_window(self, window: Tensor) -> Tensor:
        """The short context's part of Z, [B, D], of windows [B, K, W]: every frame read anew."""
        assert self.short is not None
        cache = KvCache(self.short.config, len(window), window.shape[1], window)
        z = self.short(window, cache)
        return z if self.output is None else self.output(z)

    def head_bytes(self, steps: int) -> int:
        return self.mlp.weight_bytes(steps)

    def input_bytes(self) -> int:
        short = 0 if self.short is None else self.short.weight_bytes()
        if self.short is not None and self.output is not None:
            short += self.output.nbytes
        return self.latent_input.nbytes + short


Sampler = Literal["consistency", "trigflow"]
DEFAULT_STEPS: dict[Sampler, int] = {"consistency": 1, "trigflow": 100}  # the paper's


class CalmConfig(Shape):
    """Backbone, head and streams; `latent_channels` must be the codec's.

    Attributes:
        sampler: What the head is trained for: consistency in one or a few steps, or following the
            flow in many. One checkpoint serves any number of steps.
        head_steps: Steps where the caller names none; None for the sampler's usual number.
        grid_spread: The TrigFlow sampler's grid, see `rotation_times`; 1 is uniform.
        noise_injection: Whether training noises what the backbone reads; generation never does.
    """

    backbone: TransformerConfig
    head: AdaLnConfig
    text: TextConfig | None = None
    latent_channels: Size
    sampler: Sampler = "consistency"
    head_steps: Count | None = None
    grid_spread: float = Field(default=1.0, gt=0)
    noise_injection: bool = False
    short_context: ShortContextConfig | None = None

    @property
    def own_numbers(self) -> int:
        return text_numbers(self.text, self.backbone)


class CalmSystem(StreamingSystem):
    """Continuous latents; temperature is the variance of the head's noise (paper section 3.4)."""

    Architecture: ClassVar[type[StrictModel]] = CalmConfig
    temperature_kind: ClassVar[TemperatureKind] = "noise_variance"
    any_head_steps: ClassVar[bool] = True
    exact: ClassVar[tuple[str, ...]] = (
        "latent_input.",
        "mlp.time.",
        "short.input.",
        "time_weight.",
    )
    flat_for: ClassVar[tuple[str, ...]] = (*StreamingSystem.flat_for, "read_window")

    def __init__(self, config: CalmConfig, codec: Codec, folder: Path | None = None) -> None:
        """Build backbone and head around a codec of latents.

        Raises:
            InputError: If these are not as many channels as the codec's.
        """
        C, D = config.latent_channels, config.backbone.dim
        if not codec.continuous:
            raise InputError("a codec of codes has no latents for CALM: name one of `type: vae`")
        if (given := getattr(codec, "latent_channels", C)) != C:
            raise InputError(
                f"{C} latent_channels do not fit the codec, which has {given}: set "
                f"`latent_channels: {given}`"
            )
        super().__init__(config.backbone, config.text, codec, folder, C)
        self.config = config
        self.latent_input = nn.Linear(C, D, bias=False)
        self.mlp = AdaLnMlp(config.head, C, D)
        self.time_weight = TimeWeight()  # used in training only
        short = config.short_context
        self.short = None if short is None else ShortContext(short, C, D)

    def flat(self, precision: Precision, release: bool) -> FlatCalm:
        return FlatCalm(self, precision, release)

    def nfe(self, sampling: SamplingParams) -> int:
        return sampling.head_steps

    @property
    def default_head_steps(self) -> int:
        """The configuration's, or 1 for consistency and 100 for TrigFlow."""
        return self.config.head_steps or DEFAULT_STEPS[self.config.sampler]

    def embed_frames(self, frames: Tensor) -> Tensor:
        y: Tensor = self.latent_input(frames)
        return y

    def frame_contexts(self, z: Tensor, frames: Tensor, chosen: Tensor) -> Tensor:
        """Z = z_long + z_short [R, D]; `frames` [B, T, C] are clean, whatever z has read."""
        z = super().frame_contexts(z, frames, chosen)
        return z if self.short is None else z + self.short(frames, chosen)

    def prefill(self, state: StreamState) -> None:
        """Read the prompts, and the last of them into the short context's window."""
        super().prefill(state)
        if self.short is not None:
            lacking = torch.tensor(state.lacking, device=self.device)
            state.window = self.short.filled(state.frames[:, : state.prompt_end], lacking)

    def backbone_step(self, state: StreamState) -> Tensor:
        z = super().backbone_step(state)
        return z if state.window is None else z + self.read_window(state.window)

    def read_window(self, window: Tensor) -> Tensor:
        """The short context's part of Z, [B, D], from its window [B, K, W]."""
        assert self.short is not None
        return self.short.read(window)

    def push(self, state: StreamState, frame: Tensor) -> None:
        super().push(state, frame)
        if self.short is not None and state.window is not None:
            self.short.shift(state.window, frame)

    def draw(self, n_frames: int, sampling: SamplingParams, generator: torch.Generator) -> Tensor:
        """Gaussian noise [n_frames, noises, C] of standard deviation sqrt(temperature).

        Consistency sampling takes one per head step, TrigFlow one in all.
        """
        noises = sampling.head_steps if self.config.sampler == "consistency" else 1
        shape = (n_frames, noises, self.frame_width)
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return noise * math.sqrt(sampling.temperature)

    def path(self, steps: int) -> SamplerPath:
        """What the head's sampler does in so many steps."""
        if self.config.sampler == "trigflow":
            return rotation_path(steps, self.config.grid_spread)
        return consistency_path(steps)

    def new_head(self, sampling: SamplingParams, batch_size: int, like: Tensor) -> Head:
        """One latent [B, C] per row, in as many steps as the sampling asks for."""
        path = self.path(sampling.head_steps)

        def head(z: Tensor, draws: Tensor, text: Tensor | None) -> Tensor:
            embedded = self.mlp.condition(z)

            def velocity(x: Tensor, t: Tensor) -> Tensor:
                return self.mlp.velocity(x.to(z.dtype), t, embedded).float()

            return sample(velocity, draws, path)

        return head
