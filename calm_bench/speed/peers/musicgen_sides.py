"""MusicGen's decoder step against its twin's."""

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor

from calm_bench.speed.peers.items import Item
from calm_bench.speed.peers.sides import Driven, Side, fast, precision_of
from calm_bench.speed.peers.stubs import stub_codec
from calm_bench.types import Precision, SamplingParams

MUSIC_POSITION = 256  # steps in the cache when a block begins
SAMPLING = SamplingParams(temperature=1.0, text_temperature=1.0, top_k=250)


@cache
def _musicgen_decoder() -> Any:
    from calm_bench.speed.peers.musicgen import build_decoder

    torch.manual_seed(0)
    return build_decoder()


@cache
def _musicgen_twin(precision: Precision) -> Any:
    from calm_bench.speed.peers.musicgen import twin_system

    return fast(twin_system(_musicgen_decoder(), stub_codec(4, 2048)), precision)


def side_of(item: Item, arm: str) -> Side:
    """The side of an item that an arm names; models are built once per process."""
    batch, precision = int(item.name[-1]), precision_of(arm)
    codes = torch.randint(0, 2048, (batch, 4, MUSIC_POSITION))
    if precision is None:
        return _MusicGenStep(_musicgen_decoder(), codes).side()
    driven = Driven(_musicgen_twin(precision), codes, SAMPLING, item.calls + 1)
    return Side(driven.reset, driven.step)


class _MusicGenStep:
    """The package's decoder and its own top-k, from a cache that holds the prompt."""

    def __init__(self, decoder: Any, codes: Tensor) -> None:
        from transformers import DynamicCache, TopKLogitsWarper

        self.decoder, self.warp = decoder, TopKLogitsWarper(SAMPLING.top_k)
        self.base, self.cache = DynamicCache(config=decoder.config), None
        self.first = codes.reshape(-1, codes.shape[-1])  # [B * K, T]
        decoder(input_ids=self.first, past_key_values=self.base, use_cache=True)
        self.tokens = self.first[:, -1:]

    def side(self) -> Side:
        return Side(self.reset, self.step)

    def reset(self) -> None:
        self.cache = copy.deepcopy(self.base)

    def step(self) -> None:
        found = self.decoder(input_ids=self.tokens, past_key_values=self.cache, use_cache=True)
        scores = self.warp(self.tokens, found.logits[:, -1])
        self.tokens = torch.multinomial(scores.softmax(-1), 1)
