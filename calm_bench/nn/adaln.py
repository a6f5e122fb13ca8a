"""The AdaLN MLP head: one frame's noisy latent, its time and its context to a velocity.

R rows (frames), C latent channels, D context width, W width of the head. Shape and initialisation
follow MAR's SimpleMLPAdaLN (Li et al. 2024) as Kyutai uses it; parameter counts match the paper's.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.types import StrictModel

TIME_FEATURES = 256


class AdaLnConfig(StrictModel):
    """Shape of the head: blocks and width.

    Attributes:
        start_closed: Modulations and output start at zero, as training wants it; without it random
            weights give random frames, as tests want it.
    """

    blocks: int
    width: int
    start_closed: bool = True


class TimeEmbedding(nn.Module):
    """Cosines and sines of t, in radians as it is, through two linears and an RMSNorm.

    t is not scaled up: a factor of 1000, as image models use, would scale dF/dt with it.
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        """Frequencies fall from 1 to 1 / 10000."""
        super().__init__()
        half = TIME_FEATURES // 2
        # On the CPU even where parameters are built without memory: this is computed, not filled.
        steps = torch.arange(half, dtype=torch.float32, device="cpu") / half
        self.register_buffer("frequencies", torch.exp(-math.log(10_000) * steps), persistent=False)
        self.first = nn.Linear(TIME_FEATURES, width)
        self.second = nn.Linear(width, width)
        self.norm = nn.RMSNorm(width, eps=1e-5)

    def forward(self, t: Tensor) -> Tensor:
        """Times [R] to embeddings [R, W]."""
        angle = t[:, None] * self.frequencies
        features = torch.cat([angle.cos(), angle.sin()], dim=-1)
        y: Tensor = self.norm(self.second(F.silu(self.first(features))))
        return y


class Block(nn.Module):
    """A residual MLP: the condition shifts and scales its norm and gates its output."""

    def __init__(self, width: int) -> None:
        """Gates start closed: the block is the identity at first."""
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Rows x [R, W] under the activated condition y [R, W]."""
        shift, scale, gate = self.modulation(y).chunk(3, dim=-1)
        h = self.norm(x) * (1 + scale) + shift
        out: Tensor = x + gate * self.second(F.silu(self.first(h)))
        return out


class AdaLnMlp(nn.Module):
    """F(x_t, t, Z): noisy latents [R, C], times [R] and contexts [R, D] to velocities [R, C]."""

    def __init__(self, config: AdaLnConfig, channels: int, context: int) -> None:
        """Xavier linears, small time linears; modulations and output zero if they start closed."""
        super().__init__()
        W = config.width
        self.channels = channels
        self.input = nn.Linear(channels, W)
        self.condition = nn.Linear(context, W)
        self.time = TimeEmbedding(W)
        self.blocks = nn.ModuleList([Block(W) for _ in range(config.blocks)])
        self.final_norm = nn.LayerNorm(W, eps=1e-6, elementwise_affine=False)
        self.final_modulation = nn.Linear(W, 2 * W)
        self.output = nn.Linear(W, channels)
        self._initialise(config.start_closed)

    def _initialise(self, start_closed: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for linear in (self.time.first, self.time.second):
            nn.init.normal_(linear.weight, std=0.02)
        if not start_closed:
            return
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.zeros_(block.modulation.weight)
        nn.init.zeros_(self.final_modulation.weight)
        nn.init.zeros_(self.output.weight)

    def embed_context(self, z: Tensor) -> Tensor:
        """The part of the condition that does not depend on t: contexts [R, D] to [R, W]."""
        y: Tensor = self.condition(z)
        return y

    def velocity(self, x: Tensor, t: Tensor, embedded: Tensor) -> Tensor:
        """F for contexts that `embed_context` has seen: [R, C]."""
        y = F.silu(self.time(t) + embedded)
        h = self.input(x)
        for block in self.blocks:
            h = block(h, y)
        shift, scale = self.final_modulation(y).chunk(2, dim=-1)
        v: Tensor = self.output(self.final_norm(h) * (1 + scale) + shift)
        return v

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """F(x, t, Z) [R, C]."""
        return self.velocity(x, t, self.embed_context(z))
