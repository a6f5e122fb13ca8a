"""Pocket TTS (package pocket-tts 4.0.1) with random weights, and its twin among our systems.

The package's flow language model is a CALM without an inner monologue: one 32-channel latent per
80 ms, drawn in one step by an AdaLN MLP. What differs in form and not in outcome, and how the twin
takes it:

* LSD heads (`english`) average the embeddings of two times, s = 0 and t = 1. Both are constants of
  one-step decoding, and so is ours; the twin's time embedding gives their mean.
* Drifting heads (`english_18m`) have no time: the twin's embedding gives zero.
* `z_proj`, D to 64 channels before head and EOS, is multiplied into the two linears that follow.
* LSD adds the noise to the head's output and the package asks for the end of speech at each frame;
  whoever drives the twin does both (see `step`).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from calm_bench.codecs.trunk import TrunkConfig
from calm_bench.codecs.vae import VaeCodec, VaeConfig
from calm_bench.nn.adaln import AdaLnConfig
from calm_bench.nn.transformer import TransformerConfig
from calm_bench.speed.peers.copying import (
    LayerWeights,
    SeanetWeights,
    fill_decoder,
    fill_linear,
    fill_transformer,
    put,
)
from calm_bench.systems.calm import CalmConfig, CalmSystem
from calm_bench.systems.pocket_tts import END_THRESHOLD

NORM_EPS = 1e-5  # of our time embedding's norm


class PocketTwin:
    """A CalmSystem that holds a TTSModel's weights, and the two products it has no place for."""

    def __init__(self, model: Any) -> None:
        """Build and fill it."""
        self.lsd = model.flow_lm.flow_type == "lsd"
        self.system = CalmSystem(_calm_config(model), VaeCodec(_vae_config(model)))
        self.system.requires_grad_(False).eval()
        lm = model.flow_lm
        end: Tensor = lm.out_eos.weight
        self.end_weight = end if lm.z_proj is None else end @ lm.z_proj.weight
        self.end_bias: Tensor = lm.out_eos.bias
        _fill_backbone(self.system, lm)
        _fill_head(self.system, lm)
        assert isinstance(self.system.codec, VaeCodec)
        fill_codec(self.system.codec, model)

    def ends(self, z: Tensor) -> Tensor:
        """Whether the package would end the clip here, [B, 1]."""
        return F.linear(z, self.end_weight, self.end_bias) > END_THRESHOLD

    def step(self, state: Any) -> Tensor:
        """One frame as the package makes it: latents [B, C]."""
        system = self.system
        z = system.backbone_step(state)
        self.ends(z)
        frame = self.draw(state, z)
        system.push(state, frame)
        return frame

    def draw(self, state: Any, z: Tensor) -> Tensor:
        """The head alone: latents [B, C] of contexts [B, D]."""
        frame = self.system.head_step(state, z)
        if self.lsd:
            frame = frame + state.audio_draws[:, state.step - 1 - state.prompt_end, 0]
        return frame


def _transformer(module: Any, **more: Any) -> TransformerConfig:
    """The shape of one of the package's transformers."""
    layer = module.layers[0]
    return TransformerConfig(
        dim=layer.self_attn.embed_dim,
        layers=len(module.layers),
        heads=layer.self_attn.num_heads,
        mlp_dim=layer.linear1.out_features,
        norm="layer",
        gelu="tanh",
        rope_base=module.max_period,
        **more,
    )


def _calm_config(model: Any) -> CalmConfig:
    head = model.flow_lm.flow_net
    return CalmConfig(
        backbone=_transformer(model.flow_lm.transformer),
        head=AdaLnConfig(blocks=head.num_res_blocks, width=head.model_channels),
        latent_channels=model.flow_lm.ldim,
    )


def _vae_config(model: Any) -> VaeConfig:
    """The decoder's shape; the encoder, which nothing here runs, is as small as it can be."""
    mimi = model.mimi
    decoder, transformer = mimi.decoder, mimi.decoder_transformer.transformer
    ratios = tuple(decoder.ratios[::-1])
    return VaeConfig(
        latent_channels=mimi.quantizer.dimension,
        trunk=TrunkConfig(
            sample_rate=mimi.sample_rate,
            front_end="waveform",
            ratios=ratios,
            encoder_dims=(4,) * (len(ratios) + 1),
            encoder_blocks=(0,) * (len(ratios) + 1),
            decoder_dims=tuple(
                decoder.model[-1].conv.in_channels * 2**i for i in range(len(ratios) + 1)
            ),
            decoder_blocks=(*(1,) * len(ratios), 0),
            resample=round(mimi.encoder_frame_rate / mimi.frame_rate),
            join_kernel=decoder.model[0].conv.kernel_size[0],
            end_kernel=decoder.model[-1].conv.kernel_size[0],
            transformer=_transformer(
                transformer, context=transformer.context, layer_scale=0.01, final_norm=False
            ),
        ),
    )


def _layers(transformer: Any) -> list[LayerWeights]:
    return [
        LayerWeights(
            qkv=layer.self_attn.in_proj.weight,
            out=layer.self_attn.out_proj.weight,
            up=layer.linear1.weight,
            down=layer.linear2.weight,
            norm_attention=(layer.norm1.weight, layer.norm1.bias),
            norm_mlp=(layer.norm2.weight, layer.norm2.bias),
            scales=None
            if isinstance(layer.layer_scale_1, torch.nn.Identity)
            else (layer.layer_scale_1.scale, layer.layer_scale_2.scale),
        )
        for layer in transformer.layers
    ]


def _fill_backbone(system: CalmSystem, lm: Any) -> None:
    norm = (lm.out_norm.weight, lm.out_norm.bias)
    fill_transformer(system.backbone, _layers(lm.transformer), norm, neighbours=True)
    fill_linear(system.latent_input, lm.input_linear.weight)
    put(system.audio_start, lm.input_linear(lm.bos_emb))


def _fill_head(system: CalmSystem, lm: Any) -> None:
    own, head = system.mlp, lm.flow_net
    condition = head.cond_embed.weight
    if lm.z_proj is not None:
        condition = condition @ lm.z_proj.weight
    fill_linear(own.condition, condition, head.cond_embed.bias)
    fill_linear(own.input, head.input_proj.weight, head.input_proj.bias)
    for block, source in zip(own.blocks, head.res_blocks, strict=True):
        put(block.norm.weight, source.in_ln.weight)  # type: ignore[union-attr,arg-type]
        put(block.norm.bias, source.in_ln.bias)  # type: ignore[union-attr,arg-type]
        pairs = {"first": source.mlp[0], "second": source.mlp[2]}
        for name, linear in {**pairs, "modulation": source.adaLN_modulation[1]}.items():
            fill_linear(getattr(block, name), linear.weight, linear.bias)
    final = head.final_layer
    modulation = final.adaLN_modulation[1]
    fill_linear(own.final_modulation, modulation.weight, modulation.bias)
    # One consistency step from pure noise is -F.
    fill_linear(own.output, -final.linear.weight, -final.linear.bias)
    _fix_time(own, _time_constant(head))


def _time_constant(head: Any) -> Tensor:
    """What the package's time embeddings add to the condition in one step from 0 to 1."""
    if not head.num_time_conds:
        return torch.zeros(head.model_channels)
    pairs = zip(head.time_embed, torch.tensor([[0.0], [1.0]]), strict=True)
    return torch.stack([embed(t) for embed, t in pairs]).mean(0)


def _fix_time(mlp: Any, value: Tensor) -> None:
    """Make the time embedding give `value` at any time: the norm of a constant, scaled."""
    put(mlp.time.second.weight, torch.zeros_like(mlp.time.second.weight))
    put(mlp.time.second.bias, torch.ones_like(mlp.time.second.bias))
    put(mlp.time.norm.weight, value * math.sqrt(1 + NORM_EPS))


def fill_codec(codec: VaeCodec, model: Any) -> None:
    """Copy everything that decodes."""
    mimi = model.mimi
    bottleneck = codec.decoder.bottleneck
    assert bottleneck is not None
    fill_linear(codec.from_latent, mimi.quantizer.output_proj.weight[..., 0])
    put(codec.latent_mean, model.flow_lm.emb_mean)
    put(codec.latent_std, model.flow_lm.emb_std)
    layers = _layers(mimi.decoder_transformer.transformer)
    fill_transformer(bottleneck.transformer, layers, None, neighbours=True)
    parts = list(mimi.decoder.model)
    ratios = len(mimi.decoder.ratios)
    weights = SeanetWeights(
        first=(parts[0].conv.weight, parts[0].conv.bias),
        ups=[(parts[3 * i + 2].convtr.weight, parts[3 * i + 2].convtr.bias) for i in range(ratios)],
        blocks=[
            tuple((c.conv.weight, c.conv.bias) for c in parts[3 * i + 3].block[1::2])  # type: ignore[misc]
            for i in range(ratios)
        ],
        last=(parts[-1].conv.weight, parts[-1].conv.bias),
    )
    fill_decoder(codec.decoder, weights, mimi.upsample.convtr.convtr.weight)
