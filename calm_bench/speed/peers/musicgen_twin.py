"""MusicGen's decoder in transformers with random weights, and its twin among our systems.

The decoder runs without text: no encoder, no cross-attention, as in the retrained MusicGen of the
comparison, which continues audio and reads nothing else. Batch 2 is what classifier-free guidance
would cost. The twin adds the same sines to its input in place of rotary positions.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from calm_bench.codecs.base import Codec
from calm_bench.nn.transformer import TransformerConfig
from calm_bench.speed.peers.copying import LayerWeights, fill_transformer, norm_of, put
from calm_bench.speed.peers.items import Item
from calm_bench.speed.peers.sides import Driven, Side, fast, precision_of, replayed, stub_codec
from calm_bench.systems.musicgen import MusicGenConfig, MusicGenSystem
from calm_bench.types import Precision, SamplingParams

MUSIC_POSITION = 256  # steps in the cache when a block begins
SAMPLING = SamplingParams(temperature=1.0, text_temperature=1.0, top_k=250)

SMALL_DECODER: dict[str, int] = {
    "vocab_size": 2048,
    "max_position_embeddings": 2048,
    "num_hidden_layers": 6,
    "ffn_dim": 2048,
    "num_attention_heads": 8,
    "hidden_size": 512,
    "num_codebooks": 4,
}
"""A decoder of 27M parameters that run at each step."""


def build_decoder(**changes: int) -> Any:
    """The package's MusicgenForCausalLM with random weights."""
    from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

    shape = SMALL_DECODER | changes
    special = shape["vocab_size"]
    config = MusicgenDecoderConfig(
        **shape, audio_channels=1, pad_token_id=special, bos_token_id=special
    )
    return MusicgenForCausalLM(config).requires_grad_(False).eval()


def twin_system(decoder: Any, codec: Codec) -> MusicGenSystem:
    """A MusicGenSystem with the decoder's weights, around a codec of its codebooks."""
    shape = decoder.config
    config = MusicGenConfig(
        backbone=TransformerConfig(
            dim=shape.hidden_size,
            layers=shape.num_hidden_layers,
            heads=shape.num_attention_heads,
            mlp_dim=shape.ffn_dim,
            norm="layer",
            positions="sinusoidal",
        ),
        delays=tuple(range(shape.num_codebooks)),
        codebook_size=shape.vocab_size,
    )
    system = MusicGenSystem(config, codec)
    body = decoder.model.decoder
    layers = [_layer(layer) for layer in body.layers]
    fill_transformer(system.backbone, layers, norm_of(body.layer_norm), neighbours=False)
    put(system.code_tables, torch.stack([table.weight for table in body.embed_tokens]))
    put(system.code_heads, torch.stack([head.weight for head in decoder.lm_heads]))
    return system.requires_grad_(False).eval()


def _layer(layer: Any) -> LayerWeights:
    attention = layer.self_attn
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return LayerWeights(
        qkv=torch.cat([linear.weight for linear in projections]),
        out=attention.out_proj.weight,
        up=layer.fc1.weight,
        down=layer.fc2.weight,
        norm_attention=norm_of(layer.self_attn_layer_norm),
        norm_mlp=norm_of(layer.final_layer_norm),
    )


@cache
def _musicgen_decoder() -> Any:
    torch.manual_seed(0)
    return build_decoder()


@cache
def _musicgen_twin(precision: Precision) -> Any:
    return fast(twin_system(_musicgen_decoder(), stub_codec(4, 2048)), precision)


def side_of(item: Item, arm: str) -> Side:
    """The side of an item that an arm names; models are built once per process."""
    batch, precision = int(item.name[-1]), precision_of(arm)
    codes = torch.randint(0, 2048, (batch, 4, MUSIC_POSITION))
    if precision is None:
        return _musicgen_step(_musicgen_decoder(), codes)
    driven = Driven(_musicgen_twin(precision), codes, SAMPLING, item.calls + 1)
    return Side(driven.step, driven.reset)


def _musicgen_step(decoder: Any, codes: Tensor) -> Side:
    """The package's decoder and its own top-k, from a cache that holds the prompt."""
    from transformers import DynamicCache, TopKLogitsWarper

    warp, base = TopKLogitsWarper(SAMPLING.top_k), DynamicCache(config=decoder.config)
    first = codes.reshape(-1, codes.shape[-1])  # [B * K, T]
    decoder(input_ids=first, past_key_values=base, use_cache=True)
    tokens = first[:, -1:]

    def step(cache: Any) -> None:
        nonlocal tokens
        found = decoder(input_ids=tokens, past_key_values=cache, use_cache=True)
        scores = warp(tokens, found.logits[:, -1])
        tokens = torch.multinomial(scores.softmax(-1), 1)

    return replayed(base, step)
