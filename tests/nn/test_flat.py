"""The pieces of the flat step against the operators they stand for."""

import math
from functools import partial
from typing import Any

import pytest
import torch

from calm_bench.nn.adaln import AdaLnConfig, AdaLnMlp, FlatHead
from calm_bench.nn.depth import Chooser, draw_tokens
from calm_bench.nn.kernels import ByRows, pack
from calm_bench.nn.product import Split
from calm_bench.nn.transformer import (
    FlatTransformer,
    KvCache,
    RmsNorm,
    Transformer,
    TransformerConfig,
)
from calm_bench.nn.trigflow import consistency_path, rotation_path, sample
from calm_bench.systems.engine import bucket_of


def deviation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max())


def test_half_weights_leave_activations_alone() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(200, 300).half().float(), torch.randn(5, 300)
    x[0] *= 1e6  # neither its size nor its neighbours' matter to a row
    true = torch.nn.functional.linear(x.double(), weight.double())
    for row, expected in zip(pack(weight, None, "fp16")(x), true, strict=True):
        assert deviation(expected, row) < 1e-6


@pytest.mark.usefixtures("packs_all")
def test_split_weights_keep_their_digits() -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 60) * torch.logspace(-6, 3, 40)[:, None]  # float16 alone loses rows
    product = pack(weight, None, "fp32")
    assert isinstance(product, ByRows)
    assert isinstance(product.source, Split)
    torch.testing.assert_close(product.whole(), weight, rtol=2**-21, atol=1e-10)
    x = torch.randn(1, 60)
    true = torch.nn.functional.linear(x.double(), weight.double())
    torch.testing.assert_close(product(x).double(), true, rtol=1e-4, atol=1e-9)


@pytest.mark.usefixtures("packs_all")
def test_few_rows_of_bfloat16_weights_lose_nothing_more() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(40, 60), torch.randn(5, 60)
    product = pack(weight, torch.ones(40), "bf16")
    assert isinstance(product, ByRows)
    rounded = weight.bfloat16().double()
    true = torch.nn.functional.linear(x.double(), rounded, torch.ones(40).double())
    for rows in (1, 2):  # activations stay float32
        torch.testing.assert_close(product(x[:rows]).double(), true[:rows], rtol=1e-5, atol=1e-5)
    assert "bfloat16" not in product.packed
    torch.testing.assert_close(product(x).double(), true, rtol=0.02, atol=0.1)
    assert product.nbytes == product.packed["bfloat16"].nbytes + 2 * 40  # this bias is float32


def test_rms_norm_keeps_its_floor() -> None:
    x = torch.randn(4, 24) * torch.tensor([1.0, 1e-3, 1e-5, 0.0])[:, None]
    true = torch.nn.functional.rms_norm(x, (24,), None, 1e-6)
    torch.testing.assert_close(RmsNorm(24, x.device)(x), true, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("top_k", [0, 1, 9, 400])
@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_the_same_token_for_the_same_draw(temperature: float, top_k: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2000, 50) * 3
    draws = torch.rand(2000)
    draws[:2] = torch.tensor([0.0, 1 - 2**-24])
    fast = draw_tokens(logits, draws[:, None], temperature, top_k)
    same = fast == Chooser(temperature, top_k)(logits, draws)
    assert same.float().mean() > 0.999, "a draw on an edge may fall to either side by rounding"
    assert int(fast.max()) < 50


@pytest.mark.parametrize(
    "shape",
    [
        *({"norm": norm, "gated": gated} for norm in ("rms", "layer") for gated in (False, True)),
        *({"norm": "layer", **other} for other in (  # of other packages
            {"gelu": "tanh"}, {"positions": "sinusoidal"}, {"final_norm": False},
            {"layer_scale": None},
        )),
    ],
)  # fmt: skip
@pytest.mark.parametrize("context", [None, 3])
@torch.inference_mode()
def test_steps_and_chunks_are_the_whole(shape: dict[str, Any], context: int | None) -> None:
    torch.manual_seed(0)
    size = {"dim": 32, "layers": 2, "heads": 4, "mlp_dim": 64, "layer_scale": 0.3}
    config = TransformerConfig(**size | {"context": context} | shape)
    module = Transformer(config).eval()
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.copy_(torch.rand_like(parameter) + 0.5)
    x = torch.randn(2, 21, 32)
    flat, whole = FlatTransformer(module, "fp32"), module(x)
    cache, at, parts = KvCache(config, 2, 21 if context is None else 9, x), 0, []
    for length in (4, 1, 1, 5, 1, 3, 1, 5):
        parts.append(flat(x[:, at : at + length].clone(), cache, every=True))
        at += length
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)
    last = flat(x, KvCache(config, 2, 30, x))
    torch.testing.assert_close(last, whole[:, -1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 7])
@torch.inference_mode()
def test_both_samplers_along_their_paths(steps: int) -> None:
    torch.manual_seed(0)
    mlp = AdaLnMlp(AdaLnConfig(blocks=2, width=24, start_closed=False), 6, 16)
    z, noises = torch.randn(3, 16), torch.randn(3, steps, 6)
    velocity = partial(lambda embedded, x, t: mlp.velocity(x, t, embedded), mlp.condition(z))
    for path in (consistency_path, partial(rotation_path, spread=0.7)):
        plain = sample(velocity, noises, path(steps))
        assert deviation(plain, FlatHead(mlp, path, "fp32").sample(z, noises, steps)) < 1e-5


def test_many_steps_read_the_modulations_once() -> None:
    W, C, D, blocks = 24, 6, 16, 2
    mlp = AdaLnMlp(AdaLnConfig(blocks=blocks, width=W), C, D)
    flat = FlatHead(mlp, consistency_path, "fp32")
    each = 4 * (C * W + W + blocks * 2 * (W * W + W) + W * C + C)
    once = 4 * (D * W + (3 * blocks + 2) * (W * W + W))
    assert flat.weight_bytes(1) == once + each
    assert flat.weight_bytes(100) == once + 100 * each


def test_buckets() -> None:
    assert [bucket_of(n, 700) for n in (1, 256, 257, 512, 513)] == [256, 256, 512, 512, 700]
    assert math.log2(bucket_of(5000, 10**9)).is_integer()
