"""CALM's head at inference: the AdaLN MLP and both samplers as one flat function.

R rows (frames), n steps, C latent channels, D context width, W width of the head. The times of a
sampler are known before the first frame, so all that hangs on them is tabulated: the embedding of
every time once and for all, and per frame all modulations of all blocks and all steps by one
product [n R, W] x [W, (3 blocks + 2) W]. They are three fifths of the head's weights: 100 steps of
TrigFlow read them once and not 100 times.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from calm_bench.nn.adaln import AdaLnMlp, Block
from calm_bench.nn.consistency import uniform_times
from calm_bench.nn.product import Product, discard, pack
from calm_bench.nn.trigflow import rotation_times
from calm_bench.types import Precision


class Step(NamedTuple):
    """One evaluation of F at `time`: the next x is keep * x - turn * F.

    `renoise` (a, b) comes before it: x becomes a * x + b * fresh noise.
    """

    time: float
    keep: float
    turn: float
    renoise: tuple[float, float] | None = None


HeadPath = tuple[Step, ...]


def consistency_path(steps: int) -> HeadPath:
    """`sample_consistency` on its uniform grid; cos(pi / 2) is 0 as in exact arithmetic."""
    first, *rest = uniform_times(steps)
    path = [Step(first, 0.0, 1.0)]
    for t in rest:
        path.append(Step(t, math.cos(t), math.sin(t), (math.cos(t), math.sin(t))))
    return tuple(path)


def rotation_path(steps: int, spread: float) -> HeadPath:
    """`sample_trigflow` on the grid of `rotation_times`."""
    times = pairwise(rotation_times(steps, spread))
    return tuple(Step(a, math.cos(a - b), math.sin(a - b)) for a, b in times)


class FlatBlock(NamedTuple):
    """A block's norm and its two products."""

    norm: Callable[[Tensor], Tensor]
    first: Product
    second: Product


class FlatHead:
    """The same function of the same weights as an `AdaLnMlp` under a sampler."""

    def __init__(self, mlp: AdaLnMlp, precision: Precision, release: bool = False) -> None:
        """Pack the weights; the module embeds the times, and with `release` lets go of the rest."""
        self.mlp = mlp
        self.width = mlp.input.out_features
        blocks = [block for block in mlp.blocks if isinstance(block, Block)]
        self.n_signals = 3 * len(blocks) + 2
        linears = [*(block.modulation for block in blocks), mlp.final_modulation]
        weight = torch.cat([linear.weight for linear in linears])
        bias = torch.cat([linear.bias for linear in linears]).view(self.n_signals, -1).clone()
        bias[1::3] += 1  # shift, scale, gate, ..., shift, scale: a norm is scaled by 1 + scale
        self.modulation = pack(weight, bias.flatten(), precision)
        self.condition = pack(mlp.condition.weight, None, precision)
        self.input = pack(mlp.input.weight, mlp.input.bias, precision)
        self.output = pack(mlp.output.weight, mlp.output.bias, precision)
        self.blocks = [
            FlatBlock(
                block.norm,
                pack(block.first.weight, block.first.bias, precision),
                pack(block.second.weight, block.second.bias, precision),
            )
            for block in blocks
        ]
        self._tables: dict[HeadPath, Tensor] = {}
        if release:
            for part in (mlp.blocks, mlp.final_modulation, mlp.condition, mlp.input, mlp.output):
                discard(part)

    def sample(self, z: Tensor, noises: Tensor, path: HeadPath) -> Tensor:
        """Latents [R, C] of contexts z [R, D] from noises [R, 1 or n, C], along a path."""
        R, n = len(z), len(path)
        base = self.times(path)  # [n, 1, W]
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
        return x

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

    def times(self, path: HeadPath) -> Tensor:
        """Time embeddings plus the condition's bias, [n, 1, W]; computed once per path."""
        if path not in self._tables:
            bias = self.mlp.condition.bias
            t = torch.tensor([step.time for step in path], device=bias.device)
            self._tables[path] = (self.mlp.time(t) + bias)[:, None]
        return self._tables[path]

    def weight_bytes(self, steps: int) -> int:
        """Bytes of weights that one frame in so many steps reads."""
        once = self.condition.nbytes + self.modulation.nbytes
        each = self.input.nbytes + self.output.nbytes
        each += sum(block.first.nbytes + block.second.nbytes for block in self.blocks)
        return once + steps * each
