"""CALM: continuous latents, each frame drawn by a consistency head in one or a few steps.

B batch, T frames, D width, C latent channels (paper sections 3 and 4; arXiv 2509.06926).
"""

import math
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from calm_bench.codecs.base import Codec
from calm_bench.config import StrictModel
from calm_bench.nn.adaln import AdaLnConfig, AdaLnMlp
from calm_bench.nn.consistency import TimeWeight, sample_consistency, uniform_times
from calm_bench.nn.transformer import TransformerConfig
from calm_bench.systems.state import StreamState, TextConfig
from calm_bench.systems.streaming import StreamingSystem
from calm_bench.types import SamplingParams, TemperatureKind

__all__ = ["CalmConfig", "CalmSystem"]


class CalmConfig(StrictModel):
    """Backbone, head and text stream; `latent_channels` must be the codec's."""

    backbone: TransformerConfig
    head: AdaLnConfig
    text: TextConfig | None = None
    latent_channels: int


class CalmSystem(StreamingSystem):
    """Continuous latents; temperature is the variance of the head's noise (paper section 3.4)."""

    Architecture: ClassVar[type[StrictModel]] = CalmConfig
    temperature_kind: ClassVar[TemperatureKind] = "noise_variance"

    def __init__(self, config: CalmConfig, codec: Codec, folder: Path | None = None) -> None:
        """Build backbone and head around a VAE codec."""
        super().__init__(config.backbone, config.text, codec, folder)
        C, D = config.latent_channels, config.backbone.dim
        self.latent_channels = C
        self.latent_input = nn.Linear(C, D, bias=False)
        self.mlp = AdaLnMlp(config.head, C, D)
        self.time_weight = TimeWeight()  # used in training only

    def nfe(self, sampling: SamplingParams) -> int:
        """Head steps."""
        return sampling.head_steps

    def embed_frames(self, frames: Tensor) -> Tensor:
        """Latents [B, T, C] to [B, T, D]."""
        y: Tensor = self.latent_input(frames)
        return y

    def draw(self, n_frames: int, sampling: SamplingParams, generator: torch.Generator) -> Tensor:
        """Gaussian noise [n_frames, head steps, C] of standard deviation sqrt(temperature)."""
        shape = (n_frames, sampling.head_steps, self.latent_channels)
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return noise * math.sqrt(sampling.temperature)

    def head(self, state: StreamState, z: Tensor, draws: Tensor) -> Tensor:
        """One latent [B, C] per row by consistency sampling on the default grid."""
        embedded = self.mlp.embed_context(z)
        times = uniform_times(state.sampling.head_steps)
        return sample_consistency(
            lambda x, t: self.mlp.velocity(x, t, embedded), draws.transpose(0, 1), times
        )

    def frame_shape(self) -> int:
        """C."""
        return self.latent_channels

    def frame_dtype(self) -> torch.dtype:
        """That of the weights."""
        return self.audio_start.dtype
