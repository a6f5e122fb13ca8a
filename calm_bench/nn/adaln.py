"""The AdaLN MLP head: one frame's noisy latent, its time and its context to a velocity.

R rows (frames), n steps, C latent channels, D context width, W width of the head. Shape and
initialisation follow MAR's SimpleMLPAdaLN (Li et al. 2024) as Kyutai uses it; parameter counts
match the paper's.

`FlatHead` is the head at inference, with its sampler as one flat function. The times of a sampler
are known before the first frame, so all that hangs on them is tabulated: the embedding of every
time once and for all, and per frame all modulations of all blocks and all steps by one product
[n R, W] x [W, (3 blocks + 2) W]. They are three fifths of the head's weights: 100 steps of TrigFlow
read them once and not 100 times.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.nn.kernels import pack
from calm_bench.nn.product import Product, discard, set_aside
from calm_bench.nn.transformer import WideRmsNorm
from calm_bench.nn.trigflow import SamplerPath
from calm_bench.types import Count, Precision, Shape, Size

TIME_FEATURES = 256


class AdaLnConfig(Shape):
    """Shape of the head: blocks and width.

    Attributes:
        start_closed: Modulations and output start at zero, as training wants it; without it random
            weights give random frames, as tests want it.
    """

    blocks: Count
    width: Size
    start_closed: bool = True

    @property
    def own_numbers(self) -> int:
        return 5 * self.blocks * self.width**2


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
        self.norm = WideRmsNorm(width, eps=1e-5)

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

    def velocity(self, x: Tensor, t: Tensor, embedded: Tensor) -> Tensor:
        """F for contexts that `condition`, which does not depend on t, has seen: [R, C]."""
        y = F.silu(self.time(t) + embedded)
        h = self.input(x)
        for block in self.blocks:
            h = block(h, y)
        shift, scale = self.final_modulation(y).chunk(2, dim=-1)
        v: Tensor = self.output(self.final_norm(h) * (1 + scale) + shift)
        return v

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """F(x, t, Z) [R, C]."""
        return self.velocity(x, t, self.condition(z))


class FlatBlock(NamedTuple):
    """A block's norm and its two products."""

    norm: Callable[[Tensor], Tensor]
    first: Product
    second: Product


class FlatHead:
    """The same function of the same weights as an `AdaLnMlp` under a sampler."""

    def __init__(
        self,
        mlp: AdaLnMlp,
        path: Callable[[int], SamplerPath],
        precision: Precision,
        release: bool = False,
    ) -> None:
        """Pack the weights; the module embeds the times, and with `release` lets go of the rest.

        `path` gives the sampler's in so many steps.
        """
        self.mlp, self.path = mlp, path
        self.width = mlp.input.out_features
        blocks = [block for block in mlp.blocks if isinstance(block, Block)]
        self.n_signals = 3 * len(blocks) + 2
        linears = [*(block.modulation for block in blocks), mlp.final_modulation]
        weight = torch.cat([linear.weight for linear in linears])
        bias = torch.cat([linear.bias for linear in linears]).view(self.n_signals, -1).clone()
        bias[1::3] += 1  # shift, scale, gate, ..., shift, scale: a norm is scaled by 1 + scale
        self.looks, inner = precision == "int8", partial(pack, precision=precision, inner=True)
        self.modulation = inner(weight, bias.flatten())
        self.condition = inner(mlp.condition.weight, None)
        self.input = inner(mlp.input.weight, mlp.input.bias)
        self.output = inner(mlp.output.weight, mlp.output.bias)
        self.blocks = [
            FlatBlock(
                block.norm,
                inner(block.first.weight, block.first.bias),
                inner(block.second.weight, block.second.bias),
            )
            for block in blocks
        ]
        self._known: dict[int, tuple[SamplerPath, Tensor]] = {}
        if release:
            for part in (mlp.blocks, mlp.final_modulation, mlp.condition, mlp.input, mlp.output):
                discard(part)

    def sample(self, z: Tensor, noises: Tensor, n: int) -> Tensor:
        """Latents [R, C] of contexts z [R, D] from noises [R, 1 or n, C], in n steps."""
        if n not in self._known:
            self._known[n] = self._times(self.path(n))
        path, base = self._known[n]
        R = len(z)
        z, broken = set_aside(z) if self.looks else (z, None)
        if n == 1:
            y = self.condition.onto(base[0].expand(R, -1), z)
        else:
            y = (self.condition(z) + base).flatten(0, 1)  # [n R, W]
        signals = self.modulation(F.silu(y)).view(n, R, self.n_signals, self.width)
        x = noises[:, 0]
        for k, (step, signal) in enumerate(zip(path, signals.unbind(0), strict=True)):
            if step.renoise is not None:
                x = step.renoise[0] * x + step.renoise[1] * noises[:, k]
            v = self.velocity(x, signal)
            x = v * -step.turn if step.keep == 0 else torch.add(step.keep * x, v, alpha=-step.turn)
        return x if broken is None else x.masked_fill(broken[:, None], torch.nan)

    def velocity(self, x: Tensor, signals: Tensor) -> Tensor:
        """F of x [R, C] under signals [R, 3 blocks + 2, W]: [R, C]."""
        of = signals.unbind(1)
        h = self.input(x)
        for i, (norm, first, second) in enumerate(self.blocks):
            shift, scale, gate = of[3 * i : 3 * i + 3]
            inner = first(torch.addcmul(shift, norm(h), scale))
            h = torch.addcmul(h, gate, second(F.silu(inner, inplace=True)))
        shift, scale = of[-2:]
        return self.output(torch.addcmul(shift, F.layer_norm(h, (self.width,), eps=1e-6), scale))

    def _times(self, path: SamplerPath) -> tuple[SamplerPath, Tensor]:
        """A path, and the embeddings of its times plus the condition's bias, [n, 1, W]."""
        bias = self.mlp.condition.bias
        t = torch.tensor([step.time for step in path], device=bias.device)
        return path, (self.mlp.time(t) + bias)[:, None]

    def weight_bytes(self, steps: int) -> int:
        """Bytes of weights that one frame in so many steps reads."""
        once = self.condition.nbytes + self.modulation.nbytes
        each = self.input.nbytes + self.output.nbytes
        each += sum(block.first.nbytes + block.second.nbytes for block in self.blocks)
        return once + steps * each
