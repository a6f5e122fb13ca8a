"""The depth transformer: parallel training pass and sequential sampling are one function."""

import pytest
import torch

from calm_bench.config import parse
from calm_bench.errors import InputError
from calm_bench.nn.depth import Chooser, DepthConfig, DepthTransformer

SHAPE = DepthConfig(dim=16, layers=2, heads=2, mlp_dim=24, schedule=(0, 1, 1, 2))


@torch.inference_mode()
def test_sampling_follows_the_training_logits() -> None:
    torch.manual_seed(0)
    depth = DepthTransformer(SHAPE, context=8, codebook_size=11, text_size=5)
    z, text = torch.randn(6, 8), torch.randint(5, (6,))
    greedy = depth.sample(z, text, torch.zeros(6, 4), depth.new_cache(6, z), Chooser(0.0))
    # Teacher forcing on the greedy codes must give logits whose argmax are those codes.
    assert torch.equal(depth(z, greedy, text).argmax(-1), greedy)


def test_a_code_depends_on_the_codes_before_it_only() -> None:
    torch.manual_seed(0)
    depth = DepthTransformer(SHAPE, context=8, codebook_size=11, text_size=None)
    z, codes = torch.randn(1, 8), torch.tensor([[1, 2, 3, 4]])
    changed = codes.clone()
    changed[0, 2] = 9
    same = (depth(z, codes, None) == depth(z, changed, None)).all(-1)[0]
    assert same.tolist() == [True, True, True, False]


def test_codebooks_share_weights_by_schedule() -> None:
    depth = DepthTransformer(SHAPE, context=8, codebook_size=11, text_size=None)
    assert depth.layers[0].qkv.weight.shape[0] == 3
    with pytest.raises(InputError, match="every weight set"):
        parse(DepthConfig, {**SHAPE.model_dump(), "schedule": (0, 2)}, "x")


def test_chooser_draws_the_stated_softmax() -> None:
    # logits (2, 1, 0, -1) at temperature 0.8, and its top 2.
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).expand(200_000, 4)
    draws = (torch.arange(200_000) + 0.5) / 200_000
    shares = torch.bincount(Chooser(0.8)(logits, draws), minlength=4) / 200_000
    expected = torch.tensor([0.718335, 0.205807, 0.058965, 0.016894])
    torch.testing.assert_close(shares, expected, atol=2e-5, rtol=0)
    shares = torch.bincount(Chooser(0.8, top_k=2)(logits, draws), minlength=4) / 200_000
    torch.testing.assert_close(shares, torch.tensor([0.7773, 0.2227, 0, 0]), atol=2e-5, rtol=0)


def test_temperature_zero_ignores_the_draw() -> None:
    logits = torch.tensor([[0.1, 3.0, 2.9]])
    assert {Chooser(0.0)(logits, torch.tensor([u])).item() for u in (0.0, 0.5, 0.999)} == {1}


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    shape = SHAPE.model_copy(update={"dropout": 0.5})
    depth = DepthTransformer(shape, context=8, codebook_size=11, text_size=None)
    z, codes = torch.randn(2, 8), torch.randint(11, (2, 4))
    assert not torch.equal(depth(z, codes, None), depth(z, codes, None))
    depth.eval()
    assert torch.equal(depth(z, codes, None), depth(z, codes, None))
