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
    """The trunk and the number of latent channels.

    Attributes:
        sampled: Whether frames are draws of the posterior, as the decoder sees them in training,
            and not its means. A channel that the KL term has all but closed is then the noise that
            it is to the decoder, and nothing in a frame is finer than the decoder can tell.
    """

    trunk: TrunkConfig
    latent_channels: Size
    sampled: bool = False


class VaeCodec(Autoencoder):
    """Audio to normalised latents [B, T, C] and back.

    `encode` gives means of the posterior, or draws of it, centred and scaled per channel by
    statistics of the training set that are stored with the weights: language models see unit
    variance, which TrigFlow assumes.
    """

    Architecture: ClassVar[type[StrictModel]] = VaeConfig
    continuous: ClassVar[bool] = True
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: VaeConfig) -> None:
        C = config.latent_channels
        super().__init__(config.trunk, 2 * C, C)
        self.latent_channels, self.sampled = C, config.sampled
        self.register_buffer("latent_mean", torch.zeros(C))
        self.register_buffer("latent_std", torch.ones(C))

    def posterior(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance [B, T, C] of each frame's Gaussian."""
        mean, log_variance = self.to_latent(self.encoder(self.pad(wave))).chunk(2, dim=-1)
        return mean, log_variance.clamp(-12.0, 4.0)

    def encode(self, wave: Tensor) -> Tensor:
        return self.draw(wave, torch.Generator().manual_seed(0))  # all clips meet the same noise

    def draw(self, wave: Tensor, generator: torch.Generator) -> Tensor:
        mean, log_variance = self.posterior(wave)
        if self.sampled:
            noise = _noise(mean.shape[1], mean.shape[2], generator).to(mean.device)
            mean = mean + noise * (0.5 * log_variance).exp()
        return (mean - self.latent_mean) / self.latent_std

    def dequantise(self, frames: Tensor) -> Tensor:
        return frames * self.latent_std + self.latent_mean


def _noise(frames: int, channels: int, generator: torch.Generator) -> Tensor:
    """Gaussian noise [T, C] whose first frames are the same for any T."""
    whole = -(-frames // 16) * 16  # torch draws 16 numbers at a time, and what is left another way
    return torch.randn(whole, channels, generator=generator)[:frames]
