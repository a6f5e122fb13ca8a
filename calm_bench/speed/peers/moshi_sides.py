"""Moshi and Mimi against their twins: language model step, depth transformer and decoder."""

from functools import cache
from typing import Any

import torch

from calm_bench.speed.peers.items import PACKAGE_SINGLE, Item
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
from calm_bench.speed.peers.stubs import stub_codec, stub_system
from calm_bench.types import Precision, SamplingParams

SAMPLING = SamplingParams(temperature=0.8, text_temperature=0.7, top_k=250)  # the package's


@cache
def _moshi_lm(context: int) -> Any:
    from calm_bench.speed.peers.moshi import build_lm

    torch.manual_seed(0)
    return build_lm(context=context)


@cache
def _moshi_gen(context: int) -> Any:
    """The package's generator, streaming from here on; its ring costs the same at any position."""
    from moshi.models import LMGen

    sampling = SAMPLING
    gen = LMGen(
        _moshi_lm(context),
        temp=sampling.temperature,
        temp_text=sampling.text_temperature,
        top_k=sampling.top_k,
        top_k_text=25,
    )
    gen.streaming_forever(1)
    return gen


@cache
def _moshi_twin(context: int, precision: Precision) -> Any:
    from calm_bench.speed.peers.moshi import twin_system

    return fast(twin_system(_moshi_lm(context), stub_codec(8, 2048)), precision)


def side_of(item: Item, arm: str) -> Side:
    """The side of an item that an arm names; models are built once per process."""
    context, precision = 3000 if item.pair.endswith("3000") else 250, precision_of(arm)
    if precision is not None:
        frames = torch.randint(0, 2048, (1, 8, POSITION))
        system = _moshi_twin(context, precision)
        driven = Driven(system, frames, SAMPLING, item.calls + 1)
        if item.name == "step":
            return Side(driven.reset, driven.step)
        z = driven.context()
        return Side(nothing, lambda: driven.head(z))
    gen = _moshi_gen(context)
    if item.name == "step":
        nobody = torch.zeros(1, 0, 1, dtype=torch.long)
        return Side(nothing, lambda: gen.step(nobody))
    z = torch.randn(1, 1, gen.lm_model.dim)
    text = torch.zeros(1, dtype=torch.long)
    return Side(nothing, lambda: gen.depformer_step(text, z))


@cache
def _mimi_model(streaming: bool) -> Any:
    from calm_bench.speed.peers.moshi import build_codec

    torch.manual_seed(0)
    mimi = build_codec()
    if streaming:
        mimi.streaming_forever(1)
    return mimi


@cache
def _mimi_twin(precision: Precision) -> Any:
    from calm_bench.speed.peers.moshi import twin_codec

    return fast(stub_system(twin_codec(_mimi_model(False))), precision)


def mimi_side_of(item: Item, arm: str) -> Side:
    """The same for Mimi."""
    precision = precision_of(arm)
    codes = torch.randint(0, 2048, (1, 8, item.frames))
    before = torch.randint(0, 2048, (1, 8, DECODED))
    if precision is None:
        mimi = _mimi_model(item.name != "offline")
        parts = codes.chunk(item.frames if arm == PACKAGE_SINGLE else 1, dim=2)
        return Side(nothing, lambda: [mimi.decode(part) for part in parts])
    system = _mimi_twin(precision)
    if item.name == "offline":
        return Side(nothing, lambda: system.codec.decode(codes))
    return OurDecoder(system, codes.transpose(1, 2), before.transpose(1, 2)).side()
