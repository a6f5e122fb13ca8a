"""Moshi and Mimi (package moshi 0.2.13) with random weights, and their twin among our systems.

Moshi's language model is an RQ-Transformer with an inner monologue, Mimi a residual quantiser in a
SEANet trunk. The twin holds the weights of both. What the twin does not have is the delay of one
frame between the first codebook and the others, which changes what a position means and no time.
Mimi projects its first level and the others by linears of their own; the twin's vectors hold both
parts side by side, so that one linear does the same.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import torch

from calm_bench.codecs.rvq import RvqCodec, RvqConfig
from calm_bench.nn.depth import DepthConfig, DepthLayer, DepthTransformer
from calm_bench.speed.peers.copying import (
    fill_decoder,
    fill_linear,
    fill_transformer,
    layers_of,
    norm_of,
    put,
    transformer_config,
    trunk_config,
)
from calm_bench.speed.peers.items import PACKAGE_SINGLE, Item
from calm_bench.speed.peers.sides import (
    DECODED,
    POSITION,
    Driven,
    Side,
    fast,
    our_decoder,
    precision_of,
    stub_codec,
    stub_system,
)
from calm_bench.systems.moshi import draw_codebooks
from calm_bench.systems.rq import RqConfig, RqSystem
from calm_bench.systems.streaming import TextConfig
from calm_bench.types import Precision, SamplingParams

SAMPLING = SamplingParams(temperature=0.8, text_temperature=0.7, top_k=250)  # the package's
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


def build_codec() -> Any:
    """The package's Mimi with random weights; its codebooks, zero at first, are drawn as well."""
    os.environ["NO_TORCH_COMPILE"] = "1"
    from moshi.models import loaders

    mimi = loaders.get_mimi(None, device="cpu", num_codebooks=8)
    draw_codebooks(mimi)
    return mimi.requires_grad_(False).eval()


def twin_system(lm: Any, codec: Any) -> RqSystem:
    """An RqSystem with the weights of an LMModel, around a codec of its codebooks."""
    K = lm.dep_q
    text = TextConfig(vocab_size=lm.text_card, lead=0)
    config = RqConfig(
        backbone=transformer_config(lm.transformer, gated=True, context=lm.context),
        depth=_depth(lm),
        text=text,
        codebook_size=lm.card,
    )
    system = RqSystem(config, codec, Path())  # a tokenizer of bytes: no text is read
    norm = norm_of(lm.out_norm)
    fill_transformer(system.backbone, layers_of(lm.transformer), norm, neighbours=True)
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
    layer = mimi.decoder_transformer.transformer.layers[0]
    codec = RvqCodec(
        RvqConfig(
            trunk=trunk_config(mimi, context=layer.self_attn.context),
            n_codebooks=mimi.num_codebooks,
            codebook_size=mimi.cardinality,
            code_dim=2 * mimi.quantizer.rvq_first.output_proj.in_channels,
        )
    )
    _fill_codec(codec, mimi)
    return codec.requires_grad_(False).eval()


def _depth(lm: Any) -> DepthConfig:
    layer = lm.depformer.layers[0]
    return DepthConfig(
        dim=layer.self_attn.embed_dim,
        layers=len(lm.depformer.layers),
        heads=layer.self_attn.num_heads,
        mlp_dim=layer.gating[0].linear_out.in_features,
        schedule=tuple(lm.depformer_weights_per_step_schedule or range(lm.dep_q)),
    )


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
    fill_decoder(codec.decoder, mimi)


@cache
def _moshi_lm(context: int) -> Any:
    torch.manual_seed(0)
    return build_lm(context=context)


@cache
def _moshi_gen(context: int) -> Any:
    """The package's generator, streaming from here on; its ring costs the same at any position."""
    from moshi.models import LMGen

    gen = LMGen(
        _moshi_lm(context),
        temp=SAMPLING.temperature,
        temp_text=SAMPLING.text_temperature,
        top_k=SAMPLING.top_k,
        top_k_text=25,
    )
    gen.streaming_forever(1)
    return gen


@cache
def _moshi_twin(context: int, precision: Precision) -> Any:
    return fast(twin_system(_moshi_lm(context), stub_codec(8, 2048)), precision)


def side_of(item: Item, arm: str) -> Side:
    """The side of an item that an arm names; models are built once per process."""
    context, precision = 3000 if item.pair.endswith("3000") else 250, precision_of(arm)
    if precision is not None:
        frames = torch.randint(0, 2048, (1, 8, POSITION))
        system = _moshi_twin(context, precision)
        driven = Driven(system, frames, SAMPLING, item.calls + 1)
        if item.name == "step":
            return Side(driven.step, driven.reset)
        z = driven.context()
        return Side(lambda: system.head_step(driven.state, z))
    gen = _moshi_gen(context)
    if item.name == "step":
        nobody = torch.zeros(1, 0, 1, dtype=torch.long)
        return Side(lambda: gen.step(nobody))
    z = torch.randn(1, 1, gen.lm_model.dim)
    text = torch.zeros(1, dtype=torch.long)
    return Side(lambda: gen.depformer_step(text, z))


@cache
def _mimi_model(streaming: bool) -> Any:
    torch.manual_seed(0)
    mimi = build_codec()
    if streaming:
        mimi.streaming_forever(1)
    return mimi


@cache
def _mimi_twin(precision: Precision) -> Any:
    return fast(stub_system(twin_codec(_mimi_model(False))), precision)


def mimi_side_of(item: Item, arm: str) -> Side:
    """The same for Mimi."""
    precision = precision_of(arm)
    codes = torch.randint(0, 2048, (1, 8, item.frames))
    before = torch.randint(0, 2048, (1, 8, DECODED))
    if precision is None:
        mimi = _mimi_model(item.name != "offline")
        parts = codes.chunk(item.frames if arm == PACKAGE_SINGLE else 1, dim=2)
        return Side(lambda: [mimi.decode(part) for part in parts])
    system = _mimi_twin(precision)
    if item.name == "offline":
        return Side(lambda: system.codec.decode(codes))
    return our_decoder(system, codes.transpose(1, 2), before.transpose(1, 2))
