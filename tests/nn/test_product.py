"""Products on packed weights: what is broken in one row stays in that row, at every precision."""

from itertools import product
from math import inf, nan

import pytest
import torch
from torch import Tensor

from calm_bench.nn.kernels import pack
from calm_bench.nn.product import Quantised, set_aside
from calm_bench.types import Precision

PRECISIONS: list[Precision] = ["fp32", "fp16", "bf16", "int8"]
OFF = 0.03  # of the largest output: what int8 errs by on random weights, three times over


def case(rows: int, bias: bool = True) -> tuple[Tensor, Tensor | None, Tensor]:
    """Weights, bias and rows."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 64, generator=generator) / 8
    offset = torch.randn(96, generator=generator) if bias else None
    return weight, offset, torch.randn(rows, 64, generator=generator)


@pytest.mark.usefixtures("packs_all")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize("whole", [False, True])
def test_a_row_that_is_not_finite_fails_alone(
    precision: Precision, rows: int, bad: float, whole: bool
) -> None:
    for at, bias in product({0, rows - 1}, (False, True)):
        weight, offset, x = case(rows, bias)
        expected = x @ weight.T + (0 if offset is None else offset)
        x[at, ... if whole else 5] = bad
        given, packed = x.clone(), pack(weight, offset, precision)
        y, onto = packed(x), packed.onto(expected, x)
        others = [row for row in range(rows) if row != at]
        for made, wanted in ((y, expected), (onto, 2 * expected)):
            assert not made[at].isfinite().any()
            off = (made[others] - wanted[others]).abs()
            assert not others or off.max() < OFF * expected.abs().max()
        assert torch.equal(x.nan_to_num(9), given.nan_to_num(9))


@pytest.mark.usefixtures("packs_all")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("large", [1e4, -1e4, 1e30])
def test_a_large_row_leaves_the_others_their_digits(precision: Precision, large: float) -> None:
    for rows, bias in product((2, 16), (False, True)):
        weight, offset, x = case(rows, bias)
        x[0, 5] = large
        exact = x.double() @ weight.double().T + (0 if offset is None else offset)
        off = (pack(weight, offset, precision)(x) - exact).abs().amax(1)
        assert (off < OFF * exact.abs().amax(1)).all()


def test_rows_that_are_alike_are_multiplied_as_they_are() -> None:
    weight, offset, x = case(16)
    looks, inner = Quantised(weight, offset), Quantised(weight, offset, inner=True)
    assert torch.equal(looks(x), inner(x))
    scaled = looks(torch.cat([x, torch.zeros(1, 64)]))  # a row of zeros has no scale
    assert torch.equal(scaled[-1], offset)
    assert (scaled[:-1] - inner(x)).abs().max() < OFF * inner(x).abs().max()


def test_what_is_not_finite_is_set_aside() -> None:
    x = torch.randn(3, 4, 5)
    assert set_aside(x) == (x, None)
    x[1, 2, 3] = nan
    kept, broken = set_aside(x)
    assert broken is not None
    assert broken.tolist() == [False, True, False]
    assert torch.equal(kept[::2], x[::2])
    assert not kept[1].any()
