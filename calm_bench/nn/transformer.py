"""A causal pre-norm Transformer with rotary positions and a preallocated key-value cache.

B batch, T new frames, P frames so far, D width, H heads, Dh width of a head, L layers. The same
class is the backbone at every scale, the codecs' bottleneck and, with one set of weights per
codebook, the model for the depth transformer to be compared with.

`FlatTransformer` is its decode step at inference, as one flat loop. Rows are frames [B * T, D]: all
that is not attention treats them alike. Beside the module it stands for, a step there

* reads weights that are packed once (`nn/product.py`), with what scales their input or output (norm
  weights, layer scales, the constants of GELU) multiplied in;
* rotates queries and keys as complex numbers, one product with a row of a table: the weights of
  each head are reordered once, so that the two halves of a pair lie side by side;
* adds each branch to the residual inside the branch's last product;
* slices cache and table once for all layers, asks the device nothing, and at T = 1 needs no mask.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.nn.kernels import LayerProducts
from calm_bench.nn.product import discard, set_aside
from calm_bench.types import Count, Precision, Shape, Size


def attention_mask(
    queries: int, keys: int, context: int | None, key_mask: Tensor | None, device: torch.device
) -> Tensor | None:
    """Who may look at whom: [T, P] or [B, 1, T, P], True where allowed.

    None for a single query that may look everywhere, and for a whole clip that is plainly causal,
    where the faster kernels need no mask.

    The last query stands at the last key. A padded position may always look at itself, so that no
    row of the softmax is empty.
    """
    if key_mask is None and queries in (1, keys) and (context is None or keys <= context):
        return None
    at = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)[None]
    allowed = key <= at
    if context is not None:
        allowed = allowed & (key > at - context)
    if key_mask is None:
        return allowed
    return (allowed & key_mask[:, None, None, :keys]) | (key == at)


PLAIN_UP_TO = 1024
"""Positions up to which plain products are used: their scores take T^2 numbers a head."""


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of whole sequences [B, H, T, Dh] by two products and a softmax.

    With its gradients on a CPU, in bfloat16, it takes half to three quarters of the fused kernel's
    time in float32, at 10 to 1024 positions; that in bfloat16 is slower still.
    """
    B, H, T, Dh = q.shape
    q, k, v = (x.reshape(B * H, T, Dh) for x in (q, k, v))
    future = torch.full((T, T), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    scores = torch.baddbmm(future, q, k.transpose(1, 2), alpha=Dh**-0.5)
    return (scores.softmax(-1).to(v.dtype) @ v).view(B, H, T, Dh)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of queries [B, H, T, Dh] over keys and values [B, H, P, Dh]; causal without a mask.

    On a CPU bfloat16 is taken up to float32, or in training through plain products: the kernel for
    it is up to twice as slow.
    """
    wide = v.device.type == "cpu" and v.dtype == torch.bfloat16
    whole = mask is None and q.shape[2] == k.shape[2] <= PLAIN_UP_TO
    if wide and whole and q.requires_grad:
        return plain_attention(q.to(v.dtype), k.to(v.dtype), v)
    q, k, values = (x.to(torch.float32 if wide else v.dtype) for x in (q, k, v))
    causal = mask is None and q.shape[2] > 1
    with torch.autocast(v.device.type, enabled=False):
        y = F.scaled_dot_product_attention(q, k, values, attn_mask=mask, is_causal=causal)
    return y.to(v.dtype)


RMS_EPS = 1e-6


class TransformerConfig(Shape):
    """Shape of a Transformer; `mlp_dim` is the hidden width, of each half if gated.

    `dropout` acts in training on the input and on what every residual branch adds.

    Attributes:
        gelu: The exact GELU, or its tanh approximation (Pocket TTS).
        positions: Rotary, or sines and cosines added to the input (MusicGen).
        final_norm: Whether the output is normalised; Mimi's transformers leave it out.
    """

    dim: Size
    layers: Count
    heads: Count
    mlp_dim: Size
    gated: bool = False
    norm: Literal["rms", "layer"] = "rms"
    gelu: Literal["erf", "tanh"] = "erf"
    positions: Literal["rotary", "sinusoidal"] = "rotary"
    final_norm: bool = True
    rope_base: float = Field(default=10_000.0, gt=0, allow_inf_nan=False)
    context: Size | None = None
    layer_scale: float | None = Field(default=None, allow_inf_nan=False)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        check_heads(self.dim, self.heads)
        if self.positions == "rotary" and self.dim // self.heads % 2:
            raise ValueError(
                f"heads of {self.dim // self.heads} numbers cannot be rotated by pairs"
            )
        if self.positions == "sinusoidal" and (self.dim < 4 or self.dim % 2):
            raise ValueError(f"sinusoidal positions need an even dim from 4 up, not {self.dim}")
        return self

    @property
    def own_numbers(self) -> int:
        return self.layers * self.dim * (4 * self.dim + (3 if self.gated else 2) * self.mlp_dim)


def check_heads(dim: int, heads: int) -> None:
    """Refuse, by a ValueError, heads that do not share a width evenly."""
    if dim % heads:
        raise ValueError(f"{heads} heads do not divide the dim {dim}")


def position_rows(config: TransformerConfig, size: int, device: torch.device) -> Tensor:
    """Cosines, then sines of the angles of positions 0 to size - 1, in float32.

    Rotary, [size, Dh], frequencies fall from 1 to just above 1 / base (Su et al. 2021); sinusoidal,
    [size, D], to 1 / base itself (Vaswani et al. 2017).
    """
    rotary = config.positions == "rotary"
    half = (config.dim // config.heads if rotary else config.dim) // 2
    steps = torch.arange(half, device=device, dtype=torch.float64)
    at = torch.arange(size, device=device, dtype=torch.float64)[:, None]
    angle = at * config.rope_base ** (-steps / (half if rotary else half - 1))
    return torch.cat([angle.cos(), angle.sin()], dim=1).float()


class PositionTable(nn.Module):
    """The rows of positions, computed once, grown when needed."""

    table: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        """On the CPU even where parameters are built without memory: it is computed, not filled."""
        super().__init__()
        self.config = config
        self.register_buffer("table", torch.empty(0, 0, device="cpu"), persistent=False)

    def rows(self, start: int, length: int, like: Tensor) -> Tensor:
        """Rows [length, Dh | D] of the positions from `start`."""
        if len(self.table) < start + length or self.table.device != like.device:
            size = max(256, 2 * (start + length))
            with torch.inference_mode(False):  # a sample in training may make it; steps go on
                self.table = position_rows(self.config, size, like.device)
        return self.table[start : start + length].to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [B, H, T, Dh] by its positions' angles."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class KvCache:
    """Keys and values of all layers in one preallocated buffer, [L, B, 2, H, P_max, Dh].

    `key_mask` [B, P_max] is False where a ragged prompt was padded; None if no row was. `broken`
    [B] is True for clips whose input was not finite and was set aside; None if none was. `lane` is
    what a captured step works on (`systems/engine.py`).
    """

    def __init__(
        self, config: TransformerConfig, batch_size: int, capacity: int, like: Tensor
    ) -> None:
        """Allocate for `capacity` positions, on the device and in the dtype of `like`."""
        head_dim = config.dim // config.heads
        shape = (config.layers, batch_size, 2, config.heads, capacity, head_dim)
        self.buffer = like.new_zeros(shape)
        self.context = config.context
        self.length = 0  # positions the buffer holds
        self.position = 0  # positions seen since the clip began
        self.key_mask: Tensor | None = None
        self.broken: Tensor | None = None
        self.lane: Any = None

    def make_room(self, frames: int) -> None:
        """Forget what lies outside the context if `frames` more positions would not fit."""
        if self.context is not None and self.length + frames > self.buffer.shape[4]:
            keep = min(self.length, self.context - 1)
            last = self.buffer[..., self.length - keep : self.length, :].clone()
            self.buffer[..., :keep, :] = last
            if self.key_mask is not None:
                mask = torch.ones_like(self.key_mask)
                mask[:, :keep] = self.key_mask[:, self.length - keep : self.length]
                self.key_mask = mask
            self.length = keep

    def advance(self, frames: int) -> None:
        """Go on behind positions that every layer has written."""
        self.length += frames
        self.position += frames

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values [B, H, T, Dh] of a layer; return all so far."""
        end = self.length + k.shape[2]
        self.buffer[layer, :, 0, :, self.length : end] = k
        self.buffer[layer, :, 1, :, self.length : end] = v
        return self.buffer[layer, :, 0, :, :end], self.buffer[layer, :, 1, :, :end]


class RmsGradient(torch.autograd.Function):
    """RMSNorm [..., D] for training on a CPU, where torch composes both passes of many operators.

    With h = x / rms(x) and p the gradient of h, that of x is (p - h mean(p h)) / rms(x):
    LayerNorm's, which has a kernel, at mean 0 and that deviation, but for its - mean(p) / rms(x).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Rows in the dtype of x; statistics in float32 at least."""
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, scale, weight)
        y: Tensor = x * scale.to(x.dtype)
        return y.mul_(weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of rows and weight."""
        x, scale, weight = ctx.saved_tensors
        D = x.shape[-1]
        rows, own, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, x, [D], torch.zeros_like(scale), scale, weight, None, [True, True, False]
        )
        mean = gradient @ (weight / D).to(gradient.dtype)[:, None]  # [..., 1]
        return rows.add_(mean.mul_(scale.to(mean.dtype))), own, None


class WideRmsNorm(nn.RMSNorm):
    """torch's RMSNorm, digit for digit."""

    def forward(self, x: Tensor) -> Tensor:
        """Rows [..., D] in their dtype; narrow ones are multiplied by a wide weight as wide."""
        wide = torch.promote_types(x.dtype, self.weight.dtype)
        return super().forward(x.to(wide)).to(x.dtype)


class RmsNormModule(WideRmsNorm):
    """torch's RMSNorm, at less than half its time in training on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Rows [..., D]; without gradients it is torch's own, digit for digit."""
        if not (x.is_cpu and torch.is_grad_enabled()):
            return super().forward(x)
        assert self.eps is not None
        y: Tensor = RmsGradient.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return y


def norm_of(config: TransformerConfig) -> nn.RMSNorm | nn.LayerNorm:
    """A norm of rows of width D."""
    if config.norm == "rms":
        return RmsNormModule(config.dim, eps=RMS_EPS)
    return nn.LayerNorm(config.dim)


class Dropout(nn.Module):
    """Zero a share p of the entries in training, and scale the others so that their mean stays.

    On a CPU 16 random bits decide on an entry, so p is taken to the next multiple of 2^-16: torch's
    own draws a float for each, which took a tenth of an RQ-Transformer's step.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.dropped = min(round(p * 2**16), 2**16 - 1)  # of 2^16

    def forward(self, x: Tensor) -> Tensor:
        """Entries from torch's generator, as `nn.Dropout`: it is seeded for every step."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        kept = bits.ge_(self.dropped - 2**15).to(x.dtype)
        return x * kept.mul_(2**16 / (2**16 - self.dropped))


class Layer(nn.Module):
    """Attention and MLP, each behind a norm and added to its input."""

    def __init__(self, config: TransformerConfig) -> None:
        """Build from the shape; no biases, as in Helium and MusicGen."""
        super().__init__()
        dim, hidden = config.dim, config.mlp_dim
        self.heads, self.gated = config.heads, config.gated
        self.gelu = "none" if config.gelu == "erf" else "tanh"  # torch's names
        self.dropout = Dropout(config.dropout)
        self.norm_attention = norm_of(config)
        self.norm_mlp = norm_of(config)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.up = nn.Linear(dim, (2 if config.gated else 1) * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)
        self.scales: nn.ParameterList | None = None
        if config.layer_scale is not None:
            start = torch.full((dim,), config.layer_scale)
            self.scales = nn.ParameterList([start.clone(), start.clone()])

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        cache: tuple[KvCache, int] | None,
        *,
        last: bool = False,
    ) -> Tensor:
        """Add both branches to x [B, T, D]; `last` gives its last position alone, [B, 1, D]."""
        branch = self.attend(self.norm_attention(x), rotary, mask, cache, last=last)
        x = (x[:, -1:] if last else x) + self.dropout(branch)
        y: Tensor = x + self.dropout(self.feed(self.norm_mlp(x)))
        return y

    def attend(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        cache: tuple[KvCache, int] | None,
        *,
        last: bool = False,
    ) -> Tensor:
        """Self-attention of x [B, T, D], or of its last position, over x and the cache."""
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # [B, H, T, Dh]
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cache is not None:
            k, v = cache[0].extend(cache[1], k, v)
        if last:
            q, mask = q[:, :, -1:], None if mask is None else mask[..., -1:, :]
        y = self.out(attention(q, k, v, mask).transpose(1, 2).reshape(B, -1, D))
        out: Tensor = y if self.scales is None else y * self.scales[0]
        return out

    def feed(self, x: Tensor) -> Tensor:
        """The MLP: GELU, or SiLU-gated halves."""
        h = self.up(x)
        if self.gated:
            gate, h = h.chunk(2, dim=-1)
            h = F.silu(gate) * h
        else:
            h = F.gelu(h, approximate=self.gelu)
        y: Tensor = self.down(h)
        return y if self.scales is None else y * self.scales[1]


class Transformer(nn.Module):
    """Causal Transformer [B, T, D] to [B, T, D], final norm included."""

    def __init__(self, config: TransformerConfig) -> None:
        """Build the layers; weights are drawn N(0, 0.02) and residual outputs scaled by depth."""
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.layers)])
        self.norm = norm_of(config) if config.final_norm else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.positions = PositionTable(config)
        std, last = config.dim**-0.5, (config.dim * 2 * config.layers) ** -0.5
        for layer in self.layers:
            for name, own in (("qkv", std), ("out", last), ("up", std), ("down", last)):
                nn.init.normal_(getattr(layer, name).weight, std=own)

    def forward(self, x: Tensor, cache: KvCache | None = None, *, last: bool = False) -> Tensor:
        """Run x [B, T, D] after what the cache holds, and advance the cache by T.

        With `last` only the last position is computed to its end and returned, [B, 1, D].
        """
        T, held, start, key_mask = x.shape[1], 0, 0, None
        if cache is not None:
            cache.make_room(T)
            held, start, key_mask = cache.length, cache.position, cache.key_mask
        rows, rotary = self.positions.rows(start, T, x), None
        if self.config.positions == "rotary":
            rotary = rows.chunk(2, dim=-1)
        else:
            x = x + rows
        mask = attention_mask(T, held + T, self.config.context, key_mask, x.device)
        x = self.dropout(x)
        for index, layer in enumerate(self.layers):
            at = None if cache is None else (cache, index)
            x = layer(x, rotary, mask, at, last=last and index == len(self.layers) - 1)
        if cache is not None:
            cache.advance(T)
        y: Tensor = self.norm(x)
        return y


class RmsNorm:
    """RMSNorm of rows [M, D] without a weight; products that follow have it in theirs."""

    def __init__(self, dim: int, device: torch.device) -> None:
        """Both constants live on the device."""
        self.dim = dim
        self.zero = torch.zeros((), device=device)
        self.floor = torch.tensor((dim * RMS_EPS) ** 0.5, device=device)

    def __call__(self, x: Tensor) -> Tensor:
        """sqrt(D) x / sqrt(|x|^2 + D eps): on a CPU three operators, half the fused one's time."""
        if x.is_cpu:
            length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
            norm = torch.hypot(length, self.floor)
            return torch.addcdiv(self.zero, x, norm, value=self.dim**0.5)
        return F.rms_norm(x, (self.dim,), None, RMS_EPS)


class Place(NamedTuple):
    """Where new frames stand: their positions' rows, and per layer what they see and where they go.

    `rows` [T, 1, Dh / 2] are complex and turn queries and keys, or [T, D] and added to the input.
    """

    rows: Tensor
    keys: tuple[Tensor, ...]  # L times [B, H, P, Dh]
    values: tuple[Tensor, ...]
    write: Callable[[int, Tensor], object]
    mask: Tensor | None
    causal: bool


class FlatLayer(NamedTuple):
    """A layer's products, and the norms before attention and MLP."""

    products: LayerProducts
    before: Callable[[Tensor], Tensor]
    between: Callable[[Tensor], Tensor]


class FlatTransformer:
    """The same function of the same weights as a `Transformer`, for inference only."""

    def __init__(self, module: Transformer, precision: Precision, release: bool = False) -> None:
        """Pack the weights; with `release` the module lets go of them."""
        self.config = module.config
        device = next(module.parameters()).device
        self.rms = rms = RmsNorm(self.config.dim, device) if self.config.norm == "rms" else None
        self.norm: Callable[[Tensor], Tensor] = module.norm
        if rms is not None and isinstance(module.norm, nn.RMSNorm):
            gain = module.norm.weight
            self.norm = lambda x: rms(x) * gain
        self.layers = []
        for layer in module.layers:
            assert isinstance(layer, Layer)
            self.layers.append(self._flatten(layer, precision))
            if release:
                discard(layer)
        self.added = self.config.positions == "sinusoidal"
        self.looks = precision == "int8"
        self.table = torch.empty(0)

    def __call__(self, x: Tensor, cache: KvCache, *, every: bool = False) -> Tensor:
        """Run x [B, T, D] after what the cache holds, and advance the cache by T.

        Returns:
            Contexts [B, D] of the last of the T frames, all that generation asks for; with `every`
            those of all, [B, T, D].
        """
        T = x.shape[1]
        if self.looks:
            x, broken = set_aside(x)
            if broken is not None:
                cache.broken = broken if cache.broken is None else cache.broken | broken
        cache.make_room(T)
        y = self.run(x, self.live(cache, T), every)
        cache.advance(T)
        if cache.broken is not None:
            y[cache.broken] = torch.nan
        return y

    def run(self, x: Tensor, place: Place, every: bool = False) -> Tensor:
        """The step itself: x [B, T, D] at a place in a cache to [B, D], or every frame's."""
        B, T, D = x.shape
        H, gated = self.config.heads, self.config.gated
        if self.added:
            x = x + place.rows
        x = x.reshape(B * T, D)
        for index, (layer, before, between) in enumerate(self.layers):
            qkv = layer.qkv(before(x)).view(B, T, 3 * H, -1, 2)
            if not self.added:
                pairs = torch.view_as_complex(qkv)  # [B, T, 3 H, Dh / 2]
                pairs[:, :, : 2 * H].mul_(place.rows)
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
            h = layer.up(between(x))
            if gated:
                gate, h = h.chunk(2, dim=-1)
                h = F.silu(gate) * h
            elif self.config.gelu == "tanh":
                h = F.gelu(h, approximate="tanh")
            else:  # GELU of r sqrt(2), r being what `up` yields; see `_flatten`
                h = torch.addcmul(h, h, h.erf())
            x = layer.down.onto(x, h)
        x = self.norm(x)
        return x.view(B, T, D) if every else x

    def rows(self, position: int, length: int, device: torch.device) -> Tensor:
        """Rows of positions from one on, as a `Place` has them; the table grows."""
        if len(self.table) < position + length or self.table.device != device:
            table = position_rows(self.config, max(2048, 2 * (position + length)), device)
            turns = table if self.added else torch.complex(*table.chunk(2, dim=1))[:, None]
            self.table = turns
        return self.table[position : position + length]

    def live(self, cache: KvCache, T: int) -> Place:
        """The next T positions of a cache, which is read as far as it is filled and no further."""
        context = self.config.context
        end = cache.length + T
        start = 0 if context is None else max(0, end - context - T + 1)
        keys, values = cache.buffer[..., start:end, :].unbind(2)
        slots = cache.buffer[..., cache.length : end, :].unbind(0)
        device = cache.buffer.device
        if T > 1:
            hidden = None if cache.key_mask is None else cache.key_mask[:, start:]
            mask = attention_mask(T, end - start, context, hidden, device)
        else:
            mask = None if cache.key_mask is None else cache.key_mask[:, None, None, start:end]
        if mask is not None:  # as what is added, which attention would make anew in every layer
            mask = torch.where(mask, 0.0, -torch.inf).to(keys.dtype)
        return Place(
            rows=self.rows(cache.position, T, device),
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
        products = LayerProducts.packed(precision, qkv, out, up, down)
        return FlatLayer(products, rms or before, rms or between)

    def kv_bytes(self, held: int) -> int:
        """Bytes of keys and values that one row reads where so many positions are held."""
        config = self.config
        seen = held if config.context is None else min(held, config.context)
        return 2 * config.layers * config.dim * seen * 4

    def weight_bytes(self) -> int:
        """Bytes of weights that one step reads."""
        return sum(layer.products.nbytes for layer in self.layers)


def _pair(weight: Tensor, heads: int) -> Tensor:
    """QKV weights [3 D, D] with a head's channel i beside i + Dh / 2 in queries and keys.

    Scores do not change: both are reordered alike. Values keep their order.
    """
    D = weight.shape[1]
    qk, v = weight[: 2 * D], weight[2 * D :]
    qk = qk.view(2 * heads, 2, -1, D).transpose(1, 2).reshape(2 * D, D)
    return torch.cat([qk, v])
