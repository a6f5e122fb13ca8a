"""How CALM keeps errors from piling up in music: a noised long past and a clean short one.

B batch, T frames, C latent channels, D backbone width, W short-context width, K window. In training
the backbone reads latents mixed with noise, so that it learns not to trust details; a small
transformer reads the last K clean latents and supplies them (paper sections 3.3 and 3.4; the idea
of noising is Pasini et al. 2024). Z = z_long + z_short.

The window is strict. Stacked layers with a sliding mask would reach layers * (K - 1) frames back;
here every position runs through the transformer with its own K inputs, in training and in
generation alike. Slots before a clip's first frame hold a learned vector.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from calm_bench.nn.transformer import Transformer, TransformerConfig
from calm_bench.types import StrictModel


def inject_noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Latents [B, T, C] mixed with noise: sqrt(k) * noise + sqrt(1 - k) * x, k ~ U(0, 1) per frame.

    Unit variance stays unit variance; the network is not told k.
    """
    share = torch.rand(*x.shape[:-1], 1, generator=generator, device=x.device)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    return share.sqrt() * noise + (1 - share).sqrt() * x


class ShortContextConfig(StrictModel):
    """The window K (paper: 10) and the transformer that reads it (paper: 4 layers of 1536)."""

    window: int = Field(default=10, ge=1)
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

    def forward(self, frames: Tensor) -> Tensor:
        """z_short [B, T, D] of every frame of clips [B, T, C], from the frames before it."""
        B, T, _ = frames.shape
        past = torch.cat([self.empty(B), self.input(frames[:, : T - 1])], dim=1)
        windows = past.unfold(1, self.window, 1)  # [B, T, W, K]
        windows = windows.transpose(2, 3).reshape(B * T, self.window, -1)
        return self.read(windows).view(B, T, -1)

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
