"""A package's weights into our modules: layouts differ, products do not.

D width, H heads, Dh width of a head. Packages that rotate neighbouring channels against each other
(Pocket TTS, Moshi) become ours, which rotates the halves of a head, when the rows of queries and
keys are put in another order: scores are sums over channels. Those two packages name their parts
alike, up to wrappers around a convolution, and their transformers' gates and norms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from calm_bench.codecs.blocks import CausalConv, SeanetBlock, Upsample
from calm_bench.codecs.trunk import Decoder, TrunkConfig
from calm_bench.nn.transformer import Layer, Transformer, TransformerConfig

Norm = tuple[Tensor, Tensor | None]
"""Weight and bias."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """One layer of a package's transformer: projections, norms, layer scales."""

    qkv: Tensor
    out: Tensor
    up: Tensor
    down: Tensor
    norm_attention: Norm
    norm_mlp: Norm
    scales: tuple[Tensor, Tensor] | None = None


def norm_of(module: Any) -> Norm:
    """The weights of a norm; Moshi calls that of an RMS norm alpha."""
    return (module.alpha, None) if hasattr(module, "alpha") else (module.weight, module.bias)


def _mlp_of(layer: Any) -> tuple[Any, Any]:
    """The linears of a layer's feed-forward part, gated or not."""
    gating = getattr(layer, "gating", None)
    if gating is None:
        return layer.linear1, layer.linear2
    return gating.linear_in, gating.linear_out


def transformer_config(module: Any, **more: Any) -> TransformerConfig:
    """The shape of a transformer of Pocket TTS or Moshi."""
    layer = module.layers[0]
    return TransformerConfig(
        dim=layer.self_attn.embed_dim,
        layers=len(module.layers),
        heads=layer.self_attn.num_heads,
        mlp_dim=_mlp_of(layer)[1].in_features,
        rope_base=module.max_period,
        **more,
    )


def layers_of(transformer: Any) -> list[LayerWeights]:
    """The weights of a transformer of Pocket TTS or Moshi."""
    found = []
    for layer in transformer.layers:
        attention, (up, down) = layer.self_attn, _mlp_of(layer)
        lists = hasattr(attention, "in_projs")  # one for each weight that steps may have apart
        scaled = not isinstance(layer.layer_scale_1, nn.Identity)
        found.append(
            LayerWeights(
                qkv=(attention.in_projs[0] if lists else attention.in_proj).weight,
                out=(attention.out_projs[0] if lists else attention.out_proj).weight,
                up=up.weight,
                down=down.weight,
                norm_attention=norm_of(layer.norm1),
                norm_mlp=norm_of(layer.norm2),
                scales=(layer.layer_scale_1.scale, layer.layer_scale_2.scale) if scaled else None,
            )
        )
    return found


def fill_transformer(
    target: Transformer, layers: Sequence[LayerWeights], norm: Norm | None, *, neighbours: bool
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
            q, k = _halves(q, layer.heads), _halves(k, layer.heads)
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


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection [H * Dh, D]: even channels of a head, then odd ones."""
    rows = weight.view(heads, -1, 2, weight.shape[-1])  # [H, Dh / 2, 2, D]
    return rows.transpose(1, 2).reshape(weight.shape)


def _fill_norm(target: nn.Module, source: Norm) -> None:
    put(target.weight, source[0].flatten())  # type: ignore[arg-type]
    if source[1] is not None:
        put(target.bias, source[1])  # type: ignore[arg-type]


def trunk_config(mimi: Any, **transformer: Any) -> TrunkConfig:
    """The shape of a Mimi's decoder; the encoder, which nothing here runs, is a stub."""
    parts, ratios = mimi.decoder.model, tuple(mimi.decoder.ratios[::-1])
    last = _conv_in(parts[-1])
    return TrunkConfig(
        sample_rate=int(mimi.sample_rate),
        front_end="waveform",
        ratios=ratios,
        encoder_dims=(4,) * (len(ratios) + 1),
        encoder_blocks=(0,) * (len(ratios) + 1),
        decoder_dims=tuple(last.in_channels * 2**i for i in range(len(ratios) + 1)),
        decoder_blocks=(*(1,) * len(ratios), 0),
        resample=round(mimi.encoder_frame_rate / mimi.frame_rate),
        join_kernel=_conv_in(parts[0]).kernel_size[0],
        end_kernel=last.kernel_size[0],
        transformer=transformer_config(
            mimi.decoder_transformer.transformer,
            norm="layer",
            layer_scale=0.01,
            final_norm=False,
            **transformer,
        ),
    )


def fill_decoder(target: Decoder, mimi: Any) -> None:
    """Copy a Mimi's decoder: its upsampling, its transformer and its SEANet."""
    assert target.bottleneck is not None
    assert target.join is not None
    assert target.resample is not None
    assert isinstance(target.head, CausalConv)
    layers = layers_of(mimi.decoder_transformer.transformer)
    fill_transformer(target.bottleneck.transformer, layers, None, neighbours=True)
    put(target.resample.weight, _conv_in(mimi.upsample).weight[:, 0].T)  # of [D, 1, 2 * ratio]
    parts = list(mimi.decoder.model)
    _fill_conv(target.join, parts[0])
    ups, stages = list(target.ups)[::-1], list(target.stages)[-2::-1]
    for i, (up, stage) in enumerate(zip(ups, stages, strict=True)):
        block = stage[0]  # type: ignore[index]
        assert isinstance(up, Upsample)
        assert isinstance(block, SeanetBlock)
        conv, pointwise = parts[3 * i + 3].block[1::2]
        _fill_upsample(up, _conv_in(parts[3 * i + 2]))
        _fill_conv(block.conv, conv)
        fill_linear(block.pointwise, _conv_in(pointwise).weight[..., 0], _conv_in(pointwise).bias)
    _fill_conv(target.head, parts[-1])


def _conv_in(module: nn.Module) -> nn.Conv1d | nn.ConvTranspose1d:
    convolutions = (nn.Conv1d, nn.ConvTranspose1d)
    return next(part for part in module.modules() if isinstance(part, convolutions))


def _fill_conv(target: CausalConv, source: nn.Module) -> None:
    conv = _conv_in(source)
    assert target.conv.bias is not None
    assert conv.bias is not None
    put(target.conv.weight, conv.weight)
    put(target.conv.bias, conv.bias)


def _fill_upsample(target: Upsample, source: nn.Module) -> None:
    """A transposed convolution [in, out, 2 * ratio]; its bias goes to the half that comes first."""
    conv = _conv_in(source)
    assert conv.bias is not None
    rows = conv.weight.permute(2, 1, 0).reshape(-1, conv.weight.shape[0])
    once = conv.bias.repeat(target.ratio)
    fill_linear(target.linear, rows, torch.cat([once, torch.zeros_like(once)]))
