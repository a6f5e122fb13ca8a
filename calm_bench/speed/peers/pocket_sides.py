"""Pocket TTS against its twin: language model step, head and VAE decoder."""

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from calm_bench.nn.product import pack
from calm_bench.speed.peers.items import PACKAGE_INT8, PACKAGE_SINGLE, Item
from calm_bench.speed.peers.sides import (
    DECODED,
    POSITION,
    Driven,
    OurDecoder,
    Side,
    fast,
    nothing,
    precision_of,
)
from calm_bench.types import Precision, SamplingParams

ONE_STEP = SamplingParams(temperature=0.3, text_temperature=1.0)  # the package's default
POCKET = {"pocket-english": "english", "pocket-18m": "english_18m_2026-10"}


@cache
def _pocket_model(name: str, quantize: bool = False) -> Any:
    from calm_bench.systems.pocket_tts import at_random, shipped_config

    torch.manual_seed(0)
    return at_random(shipped_config(name), quantize=quantize)


@cache
def _pocket_twin(name: str, precision: Precision) -> Any:
    from calm_bench.speed.peers.pocket import PocketTwin

    twin = PocketTwin(_pocket_model(name))
    twin.system = fast(twin.system, precision)
    return twin


def side_of(item: Item, arm: str) -> Side:
    """The side of an item that an arm names; models are built once per process."""
    name, precision = POCKET[item.pair], precision_of(arm)
    frames = torch.randn(item.rows, POSITION, 32)
    latents = torch.randn(1, item.frames, 32)
    if precision is None:
        model = _pocket_model(name, quantize=arm == PACKAGE_INT8)
        if item.name == "linears-b8":
            return _linears(name, "package", 1)
        if item.name.startswith("step"):
            return _PocketStep(model, frames[:1], item.calls).side()
        if item.name == "head":
            return Side(nothing, _pocket_head(model))
        return _PocketDecoder(model, latents, item).side(single=arm == PACKAGE_SINGLE)
    if item.name == "linears-b8":
        return _linears(name, precision, item.rows)
    twin = _pocket_twin(name, precision)
    if item.name != "head" and not item.name.startswith("step"):
        return OurDecoder(twin.system, latents, torch.randn(1, DECODED, 32)).side()
    driven = Driven(twin.system, frames, ONE_STEP, item.calls + 1)
    if item.name.startswith("step"):
        return Side(driven.reset, lambda: twin.step(driven.state))
    z = driven.context()
    return Side(nothing, lambda: twin.draw(driven.state, z))


def _linears(name: str, precision: Precision | Literal["package"], rows: int) -> Side:
    """Every matrix of the backbone multiplied once by so many rows."""
    layers = [
        m for m in _pocket_model(name).flow_lm.transformer.modules() if isinstance(m, nn.Linear)
    ]
    calls: list[Callable[[Tensor], Tensor]] = list(layers)
    if precision != "package":
        calls = [pack(layer.weight, layer.bias, precision) for layer in layers]
    inputs = {layer.in_features: torch.randn(rows, layer.in_features) for layer in layers}
    pairs = [(call, inputs[m.in_features]) for call, m in zip(calls, layers, strict=True)]

    def multiply() -> None:
        for call, x in pairs:
            call(x)

    return Side(nothing, multiply)


class _PocketStep:
    """The package's own step from a cache that holds the prompt."""

    def __init__(self, model: Any, frames: Tensor, calls: int) -> None:
        from pocket_tts.modules.stateful_module import increment_steps, init_states

        lm, T = model.flow_lm, frames.shape[1]
        self.model, self.state, self.latent = model, None, frames[:, -1:]
        self.base = init_states(lm, 1, T + calls)
        lm.backbone(lm.input_linear(frames), torch.empty(1, 0, lm.dim), frames, self.base)
        increment_steps(lm, self.base, T)

    def side(self) -> Side:
        return Side(self.reset, self.step)

    def reset(self) -> None:
        self.state = copy.deepcopy(self.base)

    def step(self) -> None:
        run = self.model._run_flow_lm_and_increment_step
        self.latent, _ = run(model_state=self.state, backbone_input_latents=self.latent)


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


class _PocketDecoder:
    """The package's VAE decoder, streamed, after some frames."""

    def __init__(self, model: Any, latents: Tensor, item: Item) -> None:
        from pocket_tts.modules.stateful_module import init_states

        self.mimi, self.lm, self.latents, self.state = model.mimi, model.flow_lm, latents, None
        self.positions = round(model.mimi.encoder_frame_rate / model.mimi.frame_rate)
        total = self.positions * (DECODED + item.calls * item.frames)
        self.state = self.base = init_states(self.mimi, 1, total)
        self.decode(torch.randn(1, DECODED, 32))

    def side(self, *, single: bool) -> Side:
        return Side(self.reset, self.decode_each if single else self.decode_all)

    def reset(self) -> None:
        self.state = copy.deepcopy(self.base)

    def decode_all(self) -> None:
        self.decode(self.latents)

    def decode_each(self) -> None:
        for latent in self.latents.unbind(1):
            self.decode(latent[:, None])

    def decode(self, latents: Tensor) -> None:
        from pocket_tts.modules.stateful_module import increment_steps

        scaled = latents * self.lm.emb_std + self.lm.emb_mean
        self.mimi.decode_from_latent(scaled, self.state)
        increment_steps(self.mimi, self.state, self.positions * latents.shape[1])
