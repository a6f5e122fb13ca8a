"""Which kernel a matrix takes: every kernel keeps its word, and a choice is more than noise."""

from collections.abc import Sequence
from itertools import cycle
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from calm_bench.errors import InputError
from calm_bench.nn import kernels
from calm_bench.nn.kernels import (
    KERNELS,
    Bench,
    ByRows,
    Choice,
    Kernels,
    Shape,
    as_choice,
    candidates,
    fixed,
    measure,
    pack,
)
from calm_bench.types import Precision


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("rows", [1, 2, 8, 40])
@pytest.mark.parametrize(("outputs", "inputs"), [(96, 64), (40, 300), (640, 512)])
def test_a_kernel_errs_by_no_more_than_it_says(
    name: str, rows: int, outputs: int, inputs: int
) -> None:
    draw = torch.Generator().manual_seed(rows)
    weight = torch.randn(outputs, inputs, generator=draw)
    x, base = (torch.randn(rows, n, generator=draw) for n in (inputs, outputs))
    kernel = KERNELS[name]
    for bias in (None, torch.randn(outputs, generator=draw)):
        true = x.double() @ weight.double().T + (0 if bias is None else bias)
        packed = kernel.make(weight, bias, False)
        out, kept, one = torch.empty(rows, outputs), base.clone(), base[:1].expand(rows, -1)
        packed.into(out, x)
        for made in (packed(x), out, packed.onto(base, x) - base, packed.onto(one, x) - one):
            assert rms(made - true) < kernel.error * rms(true)
        assert torch.equal(base, kept)
        torch.testing.assert_close(packed.gelu(x), F.gelu(packed(x)))
        assert rms(packed.whole() - weight) <= kernel.error
        assert 1 <= packed.nbytes / (kernel.nbytes * weight.numel()) < 1.3


@pytest.mark.parametrize("bad", [nan, inf, -inf, 1e30])
def test_rows_of_their_own_scale_fail_alone(bad: float) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(n, generator=draw) for n in ((96, 64), (96,), (3, 64)))
    packed = KERNELS["int8 by rows"].make(weight, bias, False)
    whole, spoiled = packed(x), x.clone()
    spoiled[1, 7] = bad
    spoiled = torch.cat([spoiled, torch.zeros(1, 64)])
    made = packed(spoiled)
    assert torch.equal(made[[0, 2]], whole[[0, 2]])
    assert abs(bad) == 1e30 or not made[1].isfinite().any()
    assert torch.equal(made[3], bias)


@pytest.mark.parametrize(
    ("outputs", "inputs", "precision", "choice"),
    [
        (192, 96, "int8", ((1, "dense"),)),
        (192, 96, "fp16", ((1, "dense"),)),
        (256, 128, "int8", ((1, "int8"),)),
        (256, 128, "fp16", ((1, "half"),)),
        (256, 128, "bf16", ((1, "dense"),)),
        (256, 256, "bf16", ((1, "half"), (3, "bfloat16"))),
        (256, 256, "fp32", ((1, "dense"), (3, "packed"))),
        (512, 256, "fp32", ((1, "split"), (4, "packed"))),
    ],
)
def test_the_constants(outputs: int, inputs: int, precision: Precision, choice: Choice) -> None:
    assert fixed(Shape(outputs, inputs, precision, True)) == choice


def test_weights_out_of_range_take_neither_float16_nor_its_parts() -> None:
    weight, x = torch.full((512, 256), 1e5), torch.ones(1, 256)
    assert fixed(Shape(1024, 1024, "fp32", True), in_range=False) == ((1, "dense"), (2, "packed"))
    for name, precision in (("split", "fp32"), ("half", "int8"), ("half", "bf16")):
        told = {str(Shape(512, 256, precision, True)): [[1, name]]}  # type: ignore[arg-type]
        with Kernels(told=told).choosing():
            y = pack(weight, None, precision, inner=True)(x)  # type: ignore[arg-type]
        torch.testing.assert_close(y, torch.full((1, 512), 256e5), rtol=0.01, atol=0)


def test_what_is_told_is_taken_and_the_rest_is_found() -> None:
    asked: list[Shape] = []

    def find(shape: Shape) -> Choice:
        asked.append(shape)
        return ((1, "across"),)

    chosen = Kernels(find, {"96 x 64 fp32": [[1, "split"], [3, "packed"]]})
    weight, other = torch.randn(96, 64), torch.randn(64, 96)
    with chosen.choosing():
        told, found = pack(weight, None, "fp32"), pack(other, None, "fp32")
        pack(other, None, "fp32")
    assert asked == [Shape(64, 96, "fp32", False)]
    assert chosen.taken == {
        "96 x 64 fp32": ((1, "split"), (3, "packed")),
        "64 x 96 fp32": ((1, "across"),),
    }
    assert isinstance(told, ByRows)
    assert found.nbytes == 4 * 64 * 96
    assert not isinstance(pack(weight, None, "fp32"), ByRows), "the constants are back"


@pytest.mark.parametrize(
    "value",
    [None, 3, [], [[2, "dense"]], [[1, "dens"]], [[1, "dense"], [1, "packed"]], [["1", "dense"]]],
)
def test_no_choice_is_an_error(value: Any) -> None:
    with pytest.raises(InputError, match="no choice of kernels"):
        as_choice(value)


def test_rows_take_their_kernels_packed_when_they_are_needed() -> None:
    weight, x = torch.randn(40, 60), torch.randn(9, 60)
    choice = ((1, "packed"), (2, "split"), (5, "dense"))
    product = ByRows(choice, weight, None)
    assert [*product.packed] == ["dense", "packed"], (
        "what keeps the weights, and what one row takes"
    )
    for rows, name in ((1, "packed"), (2, "split"), (4, "split"), (5, "dense"), (9, "dense")):
        torch.testing.assert_close(product(x[:rows]), x[:rows] @ weight.T)
        torch.testing.assert_close(product.gelu(x[:rows]), F.gelu(x[:rows] @ weight.T))
        assert product.names[min(rows, product.last)] == name
    assert [*product.packed] == ["dense", "packed", "split"]


class Told(Bench):
    """A bench whose kernels take the times they are given, one after another."""

    def __init__(self, **times: Sequence[int]) -> None:
        super().__init__({name: [lambda x: x] for name in times})  # type: ignore[list-item,misc]
        self.told = {name: cycle(own) for name, own in times.items()}

    def time(self, name: str, x: Tensor) -> int:
        return next(self.told[name])


def test_a_faster_kernel_is_taken_when_it_gains_more_than_noise() -> None:
    x = torch.zeros(1, 1)
    for other, best in ((90, "other"), (99, "usual"), (110, "usual"), (50, "other")):
        assert Told(usual=[100] * 9, other=[other] * 9).fastest(x, "usual") == best
    shaken = Told(usual=[100] + [108] * 14, other=[92] * 9)  # one of the two is never below 108
    assert shaken.fastest(x, "usual") == "usual"


def test_what_is_far_slower_is_not_timed_to_the_end() -> None:
    x = torch.zeros(1, 1)
    times = Told(usual=[100] * 5, near=[120] * 5, far=[250] * 5).times(x, "usual")
    assert sorted(times) == ["", "near", "usual"]
    assert len(times["near"]) == kernels.ROUNDS
    assert len(Told(usual=[100] * 5, far=[250] * 5).times(x, "usual")["usual"]) == 1


def test_a_bench_times_products_and_sums() -> None:
    weight, x = torch.randn(64, 48), torch.randn(2, 48)
    packed = {n: [KERNELS[n].make(weight, None, True) for _ in range(2)] for n in ("dense", "int8")}
    bench = Bench(packed)
    assert bench.fastest(x, "dense") in packed
    assert min(bench.time("int8", x) for _ in range(3)) > 0


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_a_measured_choice_is_one_the_precision_admits(precision: Precision) -> None:
    shape = Shape(64, 48, precision, False)
    choice = measure(shape)
    assert as_choice([[*part] for part in choice]) == choice
    assert {name for _, name in choice} <= {*candidates(shape)}
    assert "dense" in candidates(shape), "fewer bits are never slower"
    large = candidates(Shape(4096, 4096, precision, False))
    assert len({KERNELS[name].nbytes for name in large}) == 1
