"""MusicGen's decoder in transformers with random weights, and its twin among our systems.

The decoder runs without text: no encoder, no cross-attention, as in the retrained MusicGen of the
comparison, which continues audio and reads nothing else. Batch 2 is what classifier-free guidance
would cost. The twin adds the same sines to its input in place of rotary positions.
"""

from typing import Any

import torch

from calm_bench.codecs.base import Codec
from calm_bench.nn.transformer import TransformerConfig
from calm_bench.speed.peers.copying import LayerWeights, fill_transformer, put
from calm_bench.systems.musicgen import MusicGenConfig, MusicGenSystem

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
    norm = (body.layer_norm.weight, body.layer_norm.bias)
    fill_transformer(system.backbone, layers, norm, neighbours=False)
    put(system.code_tables, torch.stack([table.weight for table in body.embed_tokens]))
    put(system.code_heads, torch.stack([head.weight for head in decoder.lm_heads]))
    return system.requires_grad_(False).eval()


def _layer(layer: Any) -> LayerWeights:
    attention, norms = layer.self_attn, (layer.self_attn_layer_norm, layer.final_layer_norm)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return LayerWeights(
        qkv=torch.cat([linear.weight for linear in projections]),
        out=attention.out_proj.weight,
        up=layer.fc1.weight,
        down=layer.fc2.weight,
        norm_attention=(norms[0].weight, norms[0].bias),
        norm_mlp=(norms[1].weight, norms[1].bias),
    )
