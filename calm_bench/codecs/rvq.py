"""The RVQ codec: each frame is K codes, each level quantising what the levels before it left over.

B batch, S samples, T frames, K codebooks, V codebook size, E code dimension. After SoundStream
(Zeghidour et al. 2021): codebooks follow their assigned vectors by exponential averages, codes that
nobody uses are revived from the current batch, and training drops the last levels at random.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.codecs.autoencoder import Autoencoder
from calm_bench.codecs.trunk import TrunkConfig
from calm_bench.errors import InputError
from calm_bench.types import Shape, Size, StrictModel


class RvqConfig(Shape):
    """The trunk and the quantiser's shape."""

    trunk: TrunkConfig
    n_codebooks: int = Field(ge=1, le=256)
    codebook_size: Size
    code_dim: Size
    decay: float = Field(default=0.99, ge=0, le=1)
    revive_below: float = Field(default=0.1, ge=0)

    @property
    def own_numbers(self) -> int:
        return 2 * self.n_codebooks * self.codebook_size * self.code_dim


AVERAGES = ("usage", "sums")
"""What the codebooks follow in training; nothing else needs them, and no weights file has them."""


def _without_averages(
    module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """Let a quantiser keep its own averages where a state has none."""
    for name in AVERAGES:
        state_dict.setdefault(prefix + name, module.get_buffer(name))


class ResidualQuantiser(nn.Module):
    """K codebooks of V vectors [K, V, E] applied one after another to the residual."""

    codebooks: Tensor
    usage: Tensor
    sums: Tensor

    def __init__(self, config: RvqConfig) -> None:
        """Codebooks are noise until the first batch that is learnt puts them on its vectors."""
        super().__init__()
        K, V, E = config.n_codebooks, config.codebook_size, config.code_dim
        self.decay, self.revive_below = config.decay, config.revive_below
        start = torch.randn(K, V, E) * 0.5 ** torch.arange(K)[:, None, None]
        self.register_buffer("codebooks", start)
        self.register_buffer("usage", torch.zeros(K, V))
        self.register_buffer("sums", start.clone())
        self.register_load_state_dict_pre_hook(_without_averages)  # type: ignore[no-untyped-call]

    def nearest(self, x: Tensor, level: int) -> Tensor:
        """Index [N] of the code of one level nearest to each x [N, E]."""
        book = self.codebooks[level]
        return (book.square().sum(-1) - 2 * x @ book.T).argmin(-1)

    def quantise(self, x: Tensor, levels: int | None = None) -> Tensor:
        """Codes [B, K, T] of x [B, T, E]; of the first `levels` codebooks only, if given."""
        B, T, E = x.shape
        residual, codes = x.reshape(-1, E), []
        for level in range(levels or len(self.codebooks)):
            index = self.nearest(residual, level)
            residual = residual - self.codebooks[level][index]
            codes.append(index.view(B, T))
        return torch.stack(codes, dim=1)

    def lookup(self, codes: Tensor) -> Tensor:
        """The sum of the chosen code vectors [B, T, E] of codes [B, K', T], K' <= K.

        A code beyond the codebook, as is drawn where logits are NaN, makes its frame NaN: the clip
        fails, and alone.
        """
        K, V = codes.shape[1], self.codebooks.shape[1]
        levels = torch.arange(K, device=codes.device)[:, None]
        vectors = self.codebooks[levels, codes.clamp_max(V - 1)].sum(1)
        return vectors.masked_fill_((codes >= V).any(1)[..., None], torch.nan)

    def learn(self, x: Tensor, levels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Quantise x [B, T, E] and move the codebooks towards it; unused codes are drawn anew.

        `levels` [B] are how many each clip keeps (quantiser dropout).

        Returns:
            The quantised vectors with straight-through gradient, and the commitment loss.
        """
        B, T, E = x.shape
        flat = x.detach().reshape(-1, E).float()
        total, residual = torch.zeros_like(flat), flat
        kept = levels.repeat_interleave(T)
        residuals, codes = [], []
        untouched = not bool(self.usage.any())
        for level in range(len(self.codebooks)):
            if untouched:  # a level must start at the size of what the levels before it leave over
                picks = torch.randint(
                    len(flat), (self.codebooks.shape[1],), generator=generator, device=x.device
                )
                self.codebooks[level] = residual[picks]
            index = self.nearest(residual, level)
            chosen = self.codebooks[level][index]
            residuals.append(residual)
            codes.append(index)
            total = total + chosen * (kept > level)[:, None]
            residual = residual - chosen
        self.follow(torch.stack(residuals), torch.stack(codes), generator)
        quantised = total.view(B, T, E)
        commitment = F.mse_loss(x, quantised)
        return x + (quantised - x).detach(), commitment

    @torch.no_grad()
    def follow(self, x: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        """Move every code to the running mean of what it was chosen for; revive the dead ones.

        `x` [K, N, E] is what each level was given to quantise, and `codes` [K, N] what it chose.
        """
        K, V, E = self.codebooks.shape
        N = x.shape[1]
        counts = torch.zeros_like(self.usage).scatter_add_(1, codes, x.new_ones(K, N))
        rows = codes + V * torch.arange(K, device=codes.device)[:, None]  # in all levels' codes
        sums = x.new_zeros(K * V, E).index_add_(0, rows.flatten(), x.flatten(0, 1)).view(K, V, E)
        self.usage.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        seat = N / V  # an average share of the vectors
        dead = self.usage < self.revive_below * seat
        picks = torch.randint(N, (K, V), generator=generator, device=x.device)
        drawn = x[torch.arange(K, device=x.device)[:, None], picks]  # [K, V, E]
        self.usage.masked_fill_(dead, seat)
        self.sums.copy_(torch.where(dead[..., None], drawn * seat, self.sums))
        self.codebooks.copy_(self.sums / self.usage[..., None].clamp_min(1e-6))


class RvqCodec(Autoencoder):
    """Audio to codes [B, K, T] and back."""

    Architecture: ClassVar[type[StrictModel]] = RvqConfig
    continuous: ClassVar[bool] = False

    def __init__(self, config: RvqConfig) -> None:
        super().__init__(config.trunk, config.code_dim, config.code_dim)
        self.n_codebooks, self.codebook_size = config.n_codebooks, config.codebook_size
        self.quantiser = ResidualQuantiser(config)

    def use_levels(self, levels: int) -> None:
        """Work with the first `levels` codebooks only, from now on.

        Each level quantises what the levels before it left over, so the first codes of a frame
        are the same however many follow.

        Raises:
            InputError: If the codec has no such number of codebooks.
        """
        if not 1 <= levels <= len(self.quantiser.codebooks):
            raise InputError(f"{levels} levels of a codec that has {len(self.quantiser.codebooks)}")
        self.n_codebooks = levels

    def encode(self, wave: Tensor) -> Tensor:
        return self.quantiser.quantise(
            self.to_latent(self.encoder(self.pad(wave))), self.n_codebooks
        )

    def dequantise(self, frames: Tensor) -> Tensor:
        return self.quantiser.lookup(frames)
