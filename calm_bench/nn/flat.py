"""A Transformer's decode step as one flat loop: the layers of `nn/transformer.py` for inference.

B batch, T new frames, P positions held, D width, H heads, Dh width of a head, L layers. Rows are
frames [B * T, D]: all that is not attention treats them alike. Beside the module it stands for, a
step here

* reads weights that are packed once (`nn/product.py`), with what scales their input or output (norm
  weights, layer scales, the constants of GELU) multiplied in;
* rotates queries and keys as complex numbers, one product with a row of a table: the weights of
  each head are reordered once, so that the two halves of a pair lie side by side;
* adds each branch to the residual inside the branch's last product;
* slices cache and table once for all layers, asks the device nothing, and at T = 1 needs no mask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from calm_bench.nn.capture import Lane
from calm_bench.nn.product import Product, discard, pack
from calm_bench.nn.transformer import KvCache, Layer, Transformer, attention_mask
from calm_bench.types import Precision


class RmsNorm:
    """RMSNorm of rows [M, D] without a weight; products that follow have it in theirs."""

    def __init__(self, dim: int, eps: float, device: torch.device) -> None:
        """Both constants live on the device."""
        self.dim, self.eps = dim, eps
        self.zero = torch.zeros((), device=device)
        self.floor = torch.tensor((dim * eps) ** 0.5, device=device)

    def __call__(self, x: Tensor) -> Tensor:
        """sqrt(D) x / sqrt(|x|^2 + D eps): on a CPU three operators, half the fused one's time."""
        if x.is_cpu:
            length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
            norm = torch.hypot(length, self.floor)
            return torch.addcdiv(self.zero, x, norm, value=self.dim**0.5)
        return F.rms_norm(x, (self.dim,), None, self.eps)


class Place(NamedTuple):
    """Where new frames stand: angles, and per layer what they may look at and where they go."""

    turns: Tensor | None  # [T, 1, Dh / 2], complex; None where positions are added
    sines: Tensor | None  # [T, D], which are added to the input
    keys: tuple[Tensor, ...]  # L times [B, H, P, Dh]
    values: tuple[Tensor, ...]
    write: Callable[[int, Tensor], object]
    mask: Tensor | None
    causal: bool


@dataclass(frozen=True)
class FlatLayer:
    """A layer's four products; norm weights and layer scales are in them."""

    qkv: Product
    out: Product
    up: Product
    down: Product
    before_attention: Callable[[Tensor], Tensor]
    before_mlp: Callable[[Tensor], Tensor]


class FlatTransformer:
    """The same function of the same weights as a `Transformer`, for inference only."""

    def __init__(self, module: Transformer, precision: Precision, release: bool = False) -> None:
        """Pack the weights; with `release` the module lets go of them."""
        self.config = module.config
        norm = module.norm
        device = next(module.parameters()).device
        self.rms = RmsNorm(self.config.dim, 1e-6, device) if self.config.norm == "rms" else None
        self.layers = []
        for layer in module.layers:
            assert isinstance(layer, Layer)
            self.layers.append(self._flatten(layer, precision))
            if release:
                discard(layer)
        self.norm = norm
        self.gain: Tensor | None = getattr(norm, "weight", None)
        self.sinusoids = module.sinusoids
        self.table = torch.empty(0, 1, 1)
        self.products = [p for x in self.layers for p in (x.qkv, x.out, x.up, x.down)]

    def __call__(self, x: Tensor, cache: KvCache, *, every: bool = False) -> Tensor:
        """Run x [B, T, D] after what the cache holds, and advance the cache by T.

        Returns:
            Contexts [B, D] of the last of the T frames, all that generation asks for; with `every`
            those of all, [B, T, D].
        """
        T, context = x.shape[1], self.config.context
        if context is not None:
            cache.make_room(T, context)
        y = self.run(x, self.live(cache, T), every)
        cache.length += T
        cache.position += T
        return y

    def run(self, x: Tensor, place: Place, every: bool = False) -> Tensor:
        """The step itself: x [B, T, D] at a place in a cache to [B, D], or every frame's."""
        B, T, D = x.shape
        H, gated = self.config.heads, self.config.gated
        if place.sines is not None:
            x = x + place.sines
        x = x.reshape(B * T, D)
        for index, layer in enumerate(self.layers):
            qkv = layer.qkv(layer.before_attention(x)).view(B, T, 3 * H, -1, 2)
            if place.turns is not None:
                pairs = torch.view_as_complex(qkv)  # [B, T, 3 H, Dh / 2]
                pairs[:, :, : 2 * H].mul_(place.turns)
            heads = qkv.view(B, T, 3, H, -1).permute(0, 2, 3, 1, 4)  # [B, 3, H, T, Dh]
            q, kv = heads.split_with_sizes([1, 2], dim=1)
            place.write(index, kv)
            mask, causal = place.mask, place.causal
            if not every and T > 1 and index == len(self.layers) - 1:  # the last frame alone
                q, x, T = q[..., -1:, :], x.view(B, T, D)[:, -1], 1
                mask, causal = None if mask is None else mask[..., -1:, :], False
            k, v = place.keys[index], place.values[index]
            q = q.squeeze(1) if q.dtype == k.dtype else q.squeeze(1).to(k.dtype)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
            y = y.view(B, D) if T == 1 else y.transpose(1, 2).reshape(B * T, D)
            x = layer.out.onto(x, y)
            h = layer.up(layer.before_mlp(x))
            if gated:
                gate, h = h.chunk(2, dim=-1)
                h = F.silu(gate) * h
            elif self.config.gelu == "tanh":
                h = F.gelu(h, approximate="tanh")
            else:  # GELU of r sqrt(2), r being what `up` yields; see `_flatten`
                h = torch.addcmul(h, h, h.erf())
            x = layer.down.onto(x, h)
        normed = self.rms is not None and self.gain is not None
        x = self.rms(x) * self.gain if normed else self.norm(x)  # type: ignore[misc,operator]
        return x.view(B, T, D) if every else x

    def turns(self, position: int, length: int, device: torch.device) -> Tensor:
        """Rows [length, 1, Dh / 2] of the rotation table from a position on; the table grows."""
        table = self.table
        if len(table) < position + length or table.device != device:
            half = self.config.dim // self.config.heads // 2
            at = torch.arange(max(2048, 2 * (position + length)), device=device).double()
            steps = torch.arange(half, device=device).double()
            angle = at[:, None, None] * self.config.rope_base ** (-steps / half)
            self.table = table = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
            if self.sinusoids is not None:  # of one length with it, for `fixed`
                self.sinusoids.rows(position, length, table.real)
        return table[position : position + length]

    def live(self, cache: KvCache, T: int) -> Place:
        """The next T positions of a cache, which is read as far as it is filled and no further."""
        context = self.config.context
        end = cache.length + T
        start = 0 if context is None else max(0, end - context - T + 1)
        keys, values = cache.buffer[..., start:end, :].unbind(2)
        slots = cache.buffer[..., cache.length : end, :].unbind(0)
        device = cache.buffer.device
        sines = None
        if self.sinusoids is not None:
            sines = self.sinusoids.rows(cache.position, T, cache.buffer)
        if T > 1:
            hidden = None if cache.key_mask is None else cache.key_mask[:, start:]
            mask = attention_mask(T, end - start, context, hidden, device)
        else:
            mask = None if cache.key_mask is None else cache.key_mask[:, None, None, start:end]
        if mask is not None:  # as what is added, which attention would make anew in every layer
            mask = torch.where(mask, 0.0, -torch.inf).to(keys.dtype)
        return Place(
            turns=None if sines is not None else self.turns(cache.position, T, device),
            sines=sines,
            keys=keys.unbind(0),
            values=values.unbind(0),
            write=lambda layer, kv: slots[layer].copy_(kv),
            mask=mask,
            causal=mask is None and T > 1,
        )

    def _flatten(self, layer: Layer, precision: Precision) -> FlatLayer:
        """A layer's weights, folded and packed.

        GELU(u) = u (1 + erf(u / sqrt 2)) / 2. With r = u / sqrt 2 it is (r + r erf r) / sqrt 2, so
        both constants go into the matrices around it.
        """
        config, rms = self.config, self.rms
        root = 1.0 if config.gated or config.gelu == "tanh" else 0.5**0.5
        of_attention, of_mlp = (1.0, 1.0) if layer.scales is None else layer.scales
        before, between = layer.norm_attention, layer.norm_mlp
        gains = (1.0, 1.0) if rms is None else (before.weight, between.weight)
        qkv = _pair(layer.qkv.weight * gains[0], config.heads)
        out = (layer.out.weight.T * of_attention).T
        up = layer.up.weight * gains[1] * root
        down = (layer.down.weight.T * of_mlp).T * root
        return FlatLayer(
            qkv=pack(qkv, None, precision),
            out=pack(out, None, precision),
            up=pack(up, None, precision),
            down=pack(down, None, precision),
            before_attention=rms or before,
            before_mlp=rms or between,
        )

    def fixed(self, lane: Lane) -> Place:
        """The next position of a lane as tensors tell it, in shapes that depend on its bucket."""
        keys, values = lane.buffer[..., : lane.bucket, :].unbind(2)
        buffers = lane.buffer.unbind(0)
        sines = None
        if self.sinusoids is not None:
            sines = self.sinusoids.table.index_select(0, lane.position)
        return Place(
            turns=None if sines is not None else self.table.index_select(0, lane.position),
            sines=sines,
            keys=keys.unbind(0),
            values=values.unbind(0),
            write=lambda layer, kv: buffers[layer].index_copy_(3, lane.slot, kv.to(keys.dtype)),
            mask=lane.mask(self.config.context),
            causal=False,
        )

    def weight_bytes(self) -> int:
        """Bytes of weights that one step reads."""
        return sum(product.nbytes for product in self.products)


def _pair(weight: Tensor, heads: int) -> Tensor:
    """QKV weights [3 D, D] with a head's channel i beside i + Dh / 2 in queries and keys.

    Scores do not change: both are reordered alike. Values keep their order.
    """
    D = weight.shape[1]
    qk, v = weight[: 2 * D], weight[2 * D :]
    qk = qk.view(2 * heads, 2, -1, D).transpose(1, 2).reshape(2 * D, D)
    return torch.cat([qk, v])
