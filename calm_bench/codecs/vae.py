"""The VAE codec: Gaussian latents at the frame rate (paper section 4.1).

B batch, S samples, T frames, C latent channels.
"""

from typing import ClassVar

import torch
from torch import Tensor

from calm_bench.codecs.autoencoder import Autoencoder
from calm_bench.codecs.trunk import TrunkConfig
from calm_bench.types import Shape, Size, StrictModel


class VaeConfig(Shape):
    """The trunk and the number of latent channels."""

    trunk: TrunkConfig
    latent_channels: Size


class VaeCodec(Autoencoder):
    """Audio to normalised latents [B, T, C] and back.

    `encode` gives posterior means, centred and scaled per channel by statistics of the training set
    that are stored with the weights: language models see unit variance, which TrigFlow assumes.
    """

    Architecture: ClassVar[type[StrictModel]] = VaeConfig
    continuous: ClassVar[bool] = True
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: VaeConfig) -> None:
        C = config.latent_channels
        super().__init__(config.trunk, 2 * C, C)
        self.latent_channels = C
        self.register_buffer("latent_mean", torch.zeros(C))
        self.register_buffer("latent_std", torch.ones(C))

    def posterior(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance [B, T, C] of each frame's Gaussian."""
        mean, log_variance = self.to_latent(self.encoder(self.pad(wave))).chunk(2, dim=-1)
        return mean, log_variance.clamp(-12.0, 4.0)

    def encode(self, wave: Tensor) -> Tensor:
        mean, _ = self.posterior(wave)
        return (mean - self.latent_mean) / self.latent_std

    def dequantise(self, frames: Tensor) -> Tensor:
        return frames * self.latent_std + self.latent_mean
