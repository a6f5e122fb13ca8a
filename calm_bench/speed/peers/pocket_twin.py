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
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.codecs.vae import VaeCodec, VaeConfig
from calm_bench.nn.adaln import AdaLnConfig
from calm_bench.nn.kernels import pack
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
from calm_bench.speed.peers.items import PACKAGE_INT8, PACKAGE_SINGLE, Item
from calm_bench.speed.peers.sides import (
    DECODED,
    POSITION,
    Driven,
    Side,
    fast,
    our_decoder,
    precision_of,
    replayed,
)
from calm_bench.systems.calm import CalmConfig, CalmSystem
from calm_bench.systems.pocket_tts import END_THRESHOLD, at_random, shipped_config
from calm_bench.types import Precision, SamplingParams

ONE_STEP = SamplingParams(temperature=0.3, text_temperature=1.0)  # the package's default
POCKET = {"pocket-english": "english", "pocket-18m": "english_18m_2026-10"}
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
        _fill_codec(self.system.codec, model)

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


def _calm_config(model: Any) -> CalmConfig:
    head = model.flow_lm.flow_net
    return CalmConfig(
        backbone=transformer_config(model.flow_lm.transformer, norm="layer", gelu="tanh"),
        head=AdaLnConfig(blocks=head.num_res_blocks, width=head.model_channels),
        latent_channels=model.flow_lm.ldim,
    )


def _vae_config(model: Any) -> VaeConfig:
    context = model.mimi.decoder_transformer.transformer.context
    return VaeConfig(
        latent_channels=model.mimi.quantizer.dimension,
        trunk=trunk_config(model.mimi, context=context, gelu="tanh"),
    )


def _fill_backbone(system: CalmSystem, lm: Any) -> None:
    norm = norm_of(lm.out_norm)
    fill_transformer(system.backbone, layers_of(lm.transformer), norm, neighbours=True)
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


def _fill_codec(codec: VaeCodec, model: Any) -> None:
    fill_linear(codec.from_latent, model.mimi.quantizer.output_proj.weight[..., 0])
    put(codec.latent_mean, model.flow_lm.emb_mean)
    put(codec.latent_std, model.flow_lm.emb_std)
    fill_decoder(codec.decoder, model.mimi)


@cache
def _pocket_model(name: str, quantize: bool = False) -> Any:
    torch.manual_seed(0)
    return at_random(shipped_config(name), quantize=quantize)


@cache
def _pocket_twin(name: str, precision: Precision) -> Any:
    twin = PocketTwin(_pocket_model(name))
    twin.system = fast(twin.system, precision)
    return twin


def side_of(item: Item, arm: str) -> Side:
    """The side of an item that an arm names; models are built once per process."""
    name, precision = POCKET[item.pair], precision_of(arm)
    frames = torch.randn(item.rows, POSITION, 32)
    latents = torch.randn(1, item.frames, 32)
    if item.name == "linears-b8":
        return _linears(name, precision, item.rows if precision else 1)
    if precision is None:
        model = _pocket_model(name, quantize=arm == PACKAGE_INT8)
        if item.name.startswith("step"):
            return _pocket_step(model, frames[:1], item.calls)
        if item.name == "head":
            return Side(_pocket_head(model))
        return _pocket_decoder(model, latents, item, single=arm == PACKAGE_SINGLE)
    twin = _pocket_twin(name, precision)
    if item.name != "head" and not item.name.startswith("step"):
        return our_decoder(twin.system, latents, torch.randn(1, DECODED, 32))
    driven = Driven(twin.system, frames, ONE_STEP, item.calls + 1)
    if item.name.startswith("step"):
        return Side(lambda: twin.step(driven.state), driven.reset)
    z = driven.context()
    return Side(lambda: twin.draw(driven.state, z))


def _linears(name: str, precision: Precision | None, rows: int) -> Side:
    """Every matrix of the backbone multiplied once by so many rows; None for the package's own."""
    modules = _pocket_model(name).flow_lm.transformer.modules()
    inputs: dict[int, Tensor] = {}
    pairs: list[tuple[Callable[[Tensor], Tensor], Tensor]] = []
    for layer in modules:
        if isinstance(layer, nn.Linear):
            x = inputs.setdefault(layer.in_features, torch.randn(rows, layer.in_features))
            own = pack(layer.weight, layer.bias, precision, inner=True) if precision else layer
            pairs.append((own, x))

    def multiply() -> None:
        for call, x in pairs:
            call(x)

    return Side(multiply)


def _pocket_step(model: Any, frames: Tensor, calls: int) -> Side:
    """The package's own step from a cache that holds the prompt."""
    from pocket_tts.modules.stateful_module import increment_steps, init_states

    lm, T, latent = model.flow_lm, frames.shape[1], frames[:, -1:]
    base = init_states(lm, 1, T + calls)
    lm.backbone(lm.input_linear(frames), torch.empty(1, 0, lm.dim), frames, base)
    increment_steps(lm, base, T)

    def step(state: Any) -> None:
        nonlocal latent
        run = model._run_flow_lm_and_increment_step
        latent, _ = run(model_state=state, backbone_input_latents=latent)

    return replayed(base, step)


def _pocket_head(model: Any) -> Callable[[], Tensor]:
    """The package's sampler on a fixed context, noise included as in its own forward."""
    from pocket_tts.models import flow_lm as package

    lm = model.flow_lm
    decode = package.lsd_decode if lm.flow_type == "lsd" else package.drifting_decode
    z = torch.randn(1, lm.dim if lm.z_proj is None else lm.z_proj.out_features)
    noise = torch.empty(1, lm.ldim)

    def call() -> Tensor:
        noise.normal_(0.0, ONE_STEP.temperature**0.5)
        found: Tensor = decode(partial(lm.flow_net, z), noise, 1)
        return found

    return call


def _pocket_decoder(model: Any, latents: Tensor, item: Item, *, single: bool) -> Side:
    """The package's VAE decoder, streamed, after some frames; `single` takes a call for each."""
    from pocket_tts.modules.stateful_module import increment_steps, init_states

    mimi, lm = model.mimi, model.flow_lm
    positions = round(mimi.encoder_frame_rate / mimi.frame_rate)
    base = init_states(mimi, 1, positions * (DECODED + item.calls * item.frames))

    def decode(frames: Tensor, state: Any) -> None:
        mimi.decode_from_latent(frames * lm.emb_std + lm.emb_mean, state)
        increment_steps(mimi, state, positions * frames.shape[1])

    def decode_all(state: Any) -> None:
        for part in torch.split(latents, 1 if single else item.frames, dim=1):
            decode(part, state)

    decode(torch.randn(1, DECODED, 32), base)
    return replayed(base, decode_all)
