"""The rotation sampler and flow matching against closed forms for Gaussian data.

Data x ~ N(MU, S^2), noise N(0, 1): F_FM is the exact velocity, sigma_t^2 = S^2 cos^2 t + sin^2 t.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from calm_bench.nn.trigflow import (
    ConsistencyConfig,
    TimeLaw,
    draw_times,
    flow_terms,
    noised,
    rotation_path,
    rotation_times,
    sample,
)

MU = 0.7


def exact(mu: float, s: float) -> Callable[[Tensor, Tensor], Tensor]:
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        cos, sin = t.cos()[:, None], t.sin()[:, None]
        variance = s**2 * cos**2 + sin**2
        return -mu * sin + (1 - s**2) * sin * cos * (x - mu * cos) / variance

    return velocity


def response(s: float, steps: int, spread: float = 1.0) -> tuple[float, float]:
    """Mean and variance gain of the sampler, which is affine: push 0 and 1 through."""
    start = torch.tensor([[[0.0]], [[1.0]]], dtype=torch.float64)
    low, high = sample(exact(MU, s), start, rotation_path(steps, spread))[:, 0].tolist()
    return low, (high - low) ** 2


@pytest.mark.parametrize("s", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 4, 10, 100])
def test_variance_is_the_product_of_squared_cosines(s: float, steps: int) -> None:
    mean, variance = response(s, steps)
    phis = [math.atan2(math.sin(t), s * math.cos(t)) for t in rotation_times(steps)]
    product = math.prod(math.cos(a - b) ** 2 for a, b in pairwise(phis))
    assert mean == pytest.approx(MU, abs=1e-12)
    assert variance == pytest.approx(s**2 * product, abs=1e-13)


SHARES = {
    1.0: {1: 0.0, 2: 0.25, 4: 0.53079, 10: 0.78055, 25: 0.90596, 50: 0.95184, 100: 0.97563},
    0.5: {4: 0.44473, 10: 0.73286, 100: 0.96963},
    0.1: {4: 0.05377, 10: 0.26086, 100: 0.88268},
}


@pytest.mark.parametrize("s", SHARES)
def test_few_uniform_steps_lose_the_published_share_of_variance(s: float) -> None:
    found = {steps: response(s, steps)[1] / s**2 for steps in SHARES[s]}
    assert found == pytest.approx(SHARES[s], abs=1e-5)


@pytest.mark.parametrize("s", [0.1, 0.5])
@pytest.mark.parametrize("steps", [4, 25])
def test_the_grid_of_a_known_spread_loses_least(s: float, steps: int) -> None:
    _, variance = response(s, steps, spread=s)
    assert variance / s**2 == pytest.approx(math.cos(math.pi / 2 / steps) ** (2 * steps), abs=1e-9)
    assert variance > response(s, steps)[1]


def test_the_spread_grid_brings_a_narrow_distribution_to_its_stated_share() -> None:
    _, variance = response(0.1, 100, spread=0.3)
    assert variance / 0.01 == pytest.approx(0.960, abs=5e-4)


def test_grids_fall_from_noise_to_data() -> None:
    for steps in (1, 4, 100):
        for spread in (1.0, 0.3):
            times = rotation_times(steps, spread)
            assert len(times) == steps + 1
            assert (times[0], times[-1]) == (math.pi / 2, 0.0)
            assert list(times) == sorted(times, reverse=True)
    assert rotation_times(4) == pytest.approx([math.pi * k / 8 for k in (4, 3, 2, 1, 0)])


def test_rotations_are_exact_for_a_true_velocity() -> None:
    # One sample's own velocity leads back to it in any number of steps.
    x = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    noise = torch.tensor([[1.5, 0.4]], dtype=torch.float64)
    for steps in (1, 3, 10):
        path = rotation_path(steps, 0.5)
        drawn = sample(lambda _, t: noised(x, t, noise)[1], noise[:, None], path)
        torch.testing.assert_close(drawn, x, atol=1e-14, rtol=0)


def test_flow_matching_error_at_the_optimum() -> None:
    # E (F_FM - v)^2 = s^2 / sigma_t^2, here at t = 0.9 for s = 0.5.
    generator = torch.Generator().manual_seed(0)
    n = 400_000
    x = MU + 0.5 * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    t = torch.full((n,), 0.9, dtype=torch.float64)
    terms = flow_terms(exact(MU, 0.5), lambda t: 0.3 * torch.ones_like(t), x, t, noise)
    assert terms.flow_error.mean().item() == pytest.approx(0.3520131, rel=0.01)
    expected = math.exp(0.3) * terms.flow_error.double() - 0.3
    torch.testing.assert_close(terms.loss.double(), expected, atol=1e-5, rtol=0)


def test_both_objectives_draw_times_from_one_law() -> None:
    draws = [
        draw_times(1000, law, torch.Generator().manual_seed(3))
        for law in (TimeLaw(), ConsistencyConfig())
    ]
    assert torch.equal(*draws)
