"""Moshi and Mimi (package moshi 0.2.13) with random weights, and their twin among our systems.

Moshi's language model is an RQ-Transformer with an inner monologue, Mimi a residual quantiser in a
SEANet trunk. The twin holds the weights of both. What the twin does not have is the delay of one
frame between the first codebook and the others, which changes what a position means and no time.
Mimi projects its first level and the others by linears of their own; the twin's vectors hold both
parts side by side, so that one linear does the same.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calm_bench.codecs.rvq import RvqCodec, RvqConfig
from calm_bench.codecs.trunk import TrunkConfig
from calm_bench.nn.depth import DepthConfig, DepthLayer, DepthTransformer
from calm_bench.nn.transformer import TransformerConfig
from calm_bench.speed.peers.copying import (
    LayerWeights,
    SeanetWeights,
    fill_decoder,
    fill_linear,
    fill_transformer,
    put,
)
from calm_bench.systems.rq import RqConfig, RqSystem
from calm_bench.systems.streaming import TextConfig

SMALL_LM: dict[str, Any] = {
    "dim": 512,
    "num_layers": 6,
    "num_heads": 8,
    "hidden_scale": 4.125,
    "context": 250,
    "text_card": 8000,
    "n_q": 8,
    "dep_q": 8,
    "depformer_dim": 256,
    "depformer_num_layers": 6,
    "depformer_num_heads": 8,
    "depformer_dim_feedforward": int(4.125 * 256),
    "depformer_context": 8,
    "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1],
}
"""Moshi's shape at 85M parameters: text and 8 codebooks, no second speaker."""


def build_lm(**changes: Any) -> Any:
    """The package's LMModel with random weights."""
    os.environ["NO_TORCH_COMPILE"] = "1"  # on a CPU it would compile one norm
    from moshi.models import loaders

    shape = dict(loaders._lm_kwargs) | SMALL_LM | changes
    lm = loaders.get_moshi_lm(None, lm_kwargs=shape, device="cpu", dtype=torch.float32)
    return lm.requires_grad_(False).eval()


def build_codec(n_codebooks: int = 8) -> Any:
    """The package's Mimi with random weights; its codebooks, zero at first, are drawn as well."""
    os.environ["NO_TORCH_COMPILE"] = "1"
    from moshi.models import loaders

    mimi = loaders.get_mimi(None, device="cpu", num_codebooks=n_codebooks)
    for module in mimi.modules():
        if hasattr(module, "embedding_sum"):
            module.embedding_sum.normal_()
            module.cluster_usage.fill_(1.0)
            module._initialized.fill_(1)
    return mimi.requires_grad_(False).eval()


def twin_system(lm: Any, codec: Any) -> RqSystem:
    """An RqSystem with the weights of an LMModel, around a codec of its codebooks."""
    K = lm.dep_q
    text = TextConfig(vocab_size=lm.text_card, lead=0)
    config = RqConfig(
        backbone=_transformer(lm.transformer, gated=True, context=lm.context),
        depth=_depth(lm),
        text=text,
        codebook_size=lm.card,
    )
    system = RqSystem(config, codec, Path())  # a tokenizer of bytes: no text is read
    norm = (lm.out_norm.alpha, None)
    fill_transformer(system.backbone, _layers(lm.transformer), norm, neighbours=True)
    put(system.code_tables, torch.stack([table.weight for table in lm.emb[:K]]))
    put(system.text_table.weight, lm.text_emb.weight)
    fill_linear(system.text_head, lm.text_linear.weight)
    put(system.audio_start, torch.stack([table.weight[lm.card] for table in lm.emb[:K]]).sum(0))
    _fill_depth(system.depth, lm)
    for module in system.modules():
        if isinstance(module, torch.nn.RMSNorm):
            module.eps = lm.out_norm.eps
    return system.requires_grad_(False).eval()


def twin_codec(mimi: Any) -> RvqCodec:
    """An RvqCodec whose decoder is Mimi's; its encoder, which nothing here runs, is a stub."""
    decoder, transformer = mimi.decoder, mimi.decoder_transformer.transformer
    ratios = tuple(decoder.ratios[::-1])
    first = decoder.model[-1].conv.conv.in_channels
    E = mimi.quantizer.rvq_first.output_proj.in_channels
    trunk = TrunkConfig(
        sample_rate=int(mimi.sample_rate),
        front_end="waveform",
        ratios=ratios,
        encoder_dims=(4,) * (len(ratios) + 1),
        encoder_blocks=(0,) * (len(ratios) + 1),
        decoder_dims=tuple(first * 2**i for i in range(len(ratios) + 1)),
        decoder_blocks=(*(1,) * len(ratios), 0),
        resample=round(mimi.encoder_frame_rate / mimi.frame_rate),
        join_kernel=decoder.model[0].conv.conv.kernel_size[0],
        end_kernel=decoder.model[-1].conv.conv.kernel_size[0],
        transformer=_transformer(
            transformer,
            norm="layer",
            layer_scale=0.01,
            context=transformer.layers[0].self_attn.context,
            final_norm=False,
        ),
    )
    codec = RvqCodec(
        RvqConfig(
            trunk=trunk,
            n_codebooks=mimi.num_codebooks,
            codebook_size=mimi.cardinality,
            code_dim=2 * E,
        )
    )
    _fill_codec(codec, mimi)
    return codec.requires_grad_(False).eval()


def _transformer(module: Any, **more: Any) -> TransformerConfig:
    """The shape of one of the package's transformers."""
    layer = module.layers[0]
    linear = layer.linear1 if layer.gating is None else layer.gating.linear_out
    hidden = linear.out_features if layer.gating is None else linear.in_features
    return TransformerConfig(
        dim=layer.self_attn.embed_dim,
        layers=len(module.layers),
        heads=layer.self_attn.num_heads,
        mlp_dim=hidden,
        rope_base=module.max_period,
        **more,
    )


def _depth(lm: Any) -> DepthConfig:
    layer = lm.depformer.layers[0]
    return DepthConfig(
        dim=layer.self_attn.embed_dim,
        layers=len(lm.depformer.layers),
        heads=layer.self_attn.num_heads,
        mlp_dim=layer.gating[0].linear_out.in_features,
        schedule=tuple(lm.depformer_weights_per_step_schedule or range(lm.dep_q)),
    )


def _norm(module: Any) -> tuple[Tensor, Tensor | None]:
    return (module.alpha, None) if hasattr(module, "alpha") else (module.weight, module.bias)


def _layers(transformer: Any) -> list[LayerWeights]:
    found = []
    for layer in transformer.layers:
        gated = layer.gating is not None
        scaled = not isinstance(layer.layer_scale_1, torch.nn.Identity)
        found.append(
            LayerWeights(
                qkv=layer.self_attn.in_projs[0].weight,
                out=layer.self_attn.out_projs[0].weight,
                up=(layer.gating.linear_in if gated else layer.linear1).weight,
                down=(layer.gating.linear_out if gated else layer.linear2).weight,
                norm_attention=_norm(layer.norm1),
                norm_mlp=_norm(layer.norm2),
                scales=(layer.layer_scale_1.scale, layer.layer_scale_2.scale) if scaled else None,
            )
        )
    return found


def _fill_depth(depth: DepthTransformer, lm: Any) -> None:
    put(depth.inputs, torch.stack([linear.weight for linear in lm.depformer_in]))
    assert depth.text is not None
    put(depth.text.weight, lm.depformer_text_emb.weight)
    for level, table in enumerate(lm.depformer_emb):  # the last level is read by nobody
        put(depth.tables[level], table.weight)
    put(depth.outputs, torch.stack([linear.weight for linear in lm.linears]))
    for own, layer in zip(depth.layers, lm.depformer.layers, strict=True):
        assert isinstance(own, DepthLayer)
        attention = layer.self_attn
        put(own.norm_attention.weight, layer.norm1.alpha.flatten())
        put(own.norm_mlp.weight, layer.norm2.alpha.flatten())
        put(own.qkv.weight, torch.stack([linear.weight for linear in attention.in_projs]))
        put(own.out.weight, torch.stack([linear.weight for linear in attention.out_projs]))
        put(own.up.weight, torch.stack([gating.linear_in.weight for gating in layer.gating]))
        put(own.down.weight, torch.stack([gating.linear_out.weight for gating in layer.gating]))


def _fill_codec(codec: RvqCodec, mimi: Any) -> None:
    K, E = mimi.num_codebooks, mimi.quantizer.rvq_first.output_proj.in_channels
    first, rest = mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest
    books = torch.zeros_like(codec.quantiser.codebooks)
    books[0, :, :E] = first.vq.layers[0]._codebook.embedding
    for level in range(1, K):
        books[level, :, E:] = rest.vq.layers[level - 1]._codebook.embedding
    put(codec.quantiser.codebooks, books)
    both = [first.output_proj.weight[..., 0], rest.output_proj.weight[..., 0]]
    fill_linear(codec.from_latent, torch.cat(both, dim=1))
    assert codec.decoder.bottleneck is not None
    layers = _layers(mimi.decoder_transformer.transformer)
    fill_transformer(codec.decoder.bottleneck.transformer, layers, None, neighbours=True)
    parts = list(mimi.decoder.model)
    n = len(mimi.decoder.ratios)
    weights = SeanetWeights(
        first=_conv(parts[0]),
        ups=[_transposed(parts[3 * i + 2]) for i in range(n)],
        blocks=[tuple(map(_conv, parts[3 * i + 3].block[1::2])) for i in range(n)],  # type: ignore[misc]
        last=_conv(parts[-1]),
    )
    fill_decoder(codec.decoder, weights, mimi.upsample.convtr.convtr.convtr.weight)


def _conv(module: Any) -> tuple[Tensor, Tensor]:
    return module.conv.conv.weight, module.conv.conv.bias


def _transposed(module: Any) -> tuple[Tensor, Tensor]:
    return module.convtr.convtr.weight, module.convtr.convtr.bias
