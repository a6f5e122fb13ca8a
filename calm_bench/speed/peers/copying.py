"""A package's weights into our modules: layouts differ, products do not.

D width, H heads, Dh width of a head. Packages that rotate neighbouring channels against each other
(Pocket TTS, Moshi) become ours, which rotates the halves of a head, when the rows of queries and
keys are put in another order: scores are sums over channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from calm_bench.codecs.blocks import CausalConv, SeanetBlock, Upsample
from calm_bench.codecs.trunk import Decoder
from calm_bench.nn.transformer import Layer, Transformer


def put(target: Tensor, source: Tensor) -> None:
    """Overwrite a parameter, shapes being equal."""
    assert target.shape == source.shape, (target.shape, source.shape)
    with torch.no_grad():
        target.copy_(source)


def fill_linear(target: nn.Linear, weight: Tensor, bias: Tensor | None = None) -> None:
    """Copy a linear; a bias that the source lacks is zero."""
    put(target.weight, weight)
    if target.bias is not None:
        put(target.bias, torch.zeros_like(target.bias) if bias is None else bias)


def halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection [H * Dh, D]: even channels of a head, then odd ones."""
    rows = weight.view(heads, -1, 2, weight.shape[-1])  # [H, Dh / 2, 2, D]
    return rows.transpose(1, 2).reshape(weight.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """One layer of a package's transformer: projections, norms (weight, bias), layer scales."""

    qkv: Tensor
    out: Tensor
    up: Tensor
    down: Tensor
    norm_attention: tuple[Tensor, Tensor | None]
    norm_mlp: tuple[Tensor, Tensor | None]
    scales: tuple[Tensor, Tensor] | None = None


def fill_transformer(
    target: Transformer,
    layers: Sequence[LayerWeights],
    norm: tuple[Tensor, Tensor | None] | None,
    *,
    neighbours: bool,
) -> None:
    """Copy all layers and the final norm.

    Args:
        target: The transformer to be filled.
        layers: Its layers' weights; `qkv` is [3 D, D].
        norm: The final norm's weight and bias; None where there is none.
        neighbours: Whether the source rotates neighbouring channels.
    """
    for layer, weights in zip(target.layers, layers, strict=True):
        assert isinstance(layer, Layer)
        q, k, v = weights.qkv.chunk(3)
        if neighbours:
            q, k = halves(q, layer.heads), halves(k, layer.heads)
        put(layer.qkv.weight, torch.cat([q, k, v]))
        for name in ("out", "up", "down"):
            put(getattr(layer, name).weight, getattr(weights, name))
        _fill_norm(layer.norm_attention, weights.norm_attention)
        _fill_norm(layer.norm_mlp, weights.norm_mlp)
        if weights.scales is not None:
            assert layer.scales is not None
            for own, scale in zip(layer.scales, weights.scales, strict=True):
                put(own, scale)
    if norm is not None:
        _fill_norm(target.norm, norm)


def _fill_norm(target: nn.Module, source: tuple[Tensor, Tensor | None]) -> None:
    put(target.weight, source[0].flatten())  # type: ignore[arg-type]
    if source[1] is not None:
        put(target.bias, source[1])  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeanetWeights:
    """A SEANet decoder: first and last convolution, and per ratio what stands between them.

    Each pair is weight and bias; `blocks` hold a residual unit's two convolutions.
    """

    first: tuple[Tensor, Tensor]
    ups: Sequence[tuple[Tensor, Tensor]]
    blocks: Sequence[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]
    last: tuple[Tensor, Tensor]


def fill_decoder(target: Decoder, seanet: SeanetWeights, resample: Tensor) -> None:
    """Copy all of a Mimi-shaped decoder but its transformer; `resample` is [D, 1, 2 * ratio]."""
    assert target.join is not None
    assert target.resample is not None
    assert isinstance(target.head, CausalConv)
    put(target.resample.weight, resample[:, 0].T)
    _fill_conv(target.join.conv, seanet.first)
    ups, stages = list(target.ups)[::-1], list(target.stages)[-2::-1]
    for up, weights in zip(ups, seanet.ups, strict=True):
        assert isinstance(up, Upsample)
        _fill_upsample(up, *weights)
    for stage, (conv, pointwise) in zip(stages, seanet.blocks, strict=True):
        block = stage[0]  # type: ignore[index]
        assert isinstance(block, SeanetBlock)
        _fill_conv(block.conv.conv, conv)
        fill_linear(block.pointwise, pointwise[0][..., 0], pointwise[1])
    _fill_conv(target.head.conv, seanet.last)


def _fill_conv(target: nn.Conv1d, source: tuple[Tensor, Tensor]) -> None:
    assert target.bias is not None
    put(target.weight, source[0])
    put(target.bias, source[1])


def _fill_upsample(target: Upsample, weight: Tensor, bias: Tensor) -> None:
    """A transposed convolution [in, out, 2 * ratio]; its bias goes to the half that comes first."""
    rows = weight.permute(2, 1, 0).reshape(-1, weight.shape[0])
    once = bias.repeat(target.ratio)
    fill_linear(target.linear, rows, torch.cat([once, torch.zeros_like(once)]))
