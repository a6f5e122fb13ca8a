"""Both objectives of TrigFlow and their samplers against closed forms for Gaussian data.

Data x ~ N(MU, S^2), noise N(0, 1): F_FM is the exact velocity, sigma_t^2 = S^2 cos^2 t + sin^2 t.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from calm_bench.nn.trigflow import (
    ConsistencyConfig,
    TimeLaw,
    TimeWeight,
    consistency_path,
    consistency_target,
    consistency_terms,
    draw_times,
    flow_terms,
    noised,
    rotation_path,
    rotation_times,
    sample,
)

MU, S = 0.7, 0.5
PLAIN = ConsistencyConfig(normalise_tangent=False)


def flow_velocity(x: Tensor, t: Tensor, mu: float = MU, s: float = S) -> Tensor:
    cos, sin = t.cos()[:, None], t.sin()[:, None]
    variance = s**2 * cos**2 + sin**2
    return -mu * sin + (1 - s**2) * sin * cos * (x - mu * cos) / variance


def response(s: float, steps: int, spread: float = 1.0) -> tuple[float, float]:
    """Mean and variance gain of the sampler, which is affine: push 0 and 1 through."""
    start = torch.tensor([[[0.0]], [[1.0]]], dtype=torch.float64)
    low, high = sample(partial(flow_velocity, s=s), start, rotation_path(steps, spread))[
        :, 0
    ].tolist()
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
    terms = flow_terms(flow_velocity, lambda t: 0.3 * torch.ones_like(t), x, t, noise)
    assert terms.flow_error.mean().item() == pytest.approx(0.3520131, rel=0.01)
    expected = math.exp(0.3) * terms.flow_error.double() - 0.3
    torch.testing.assert_close(terms.loss.double(), expected, atol=1e-5, rtol=0)


def test_both_objectives_draw_times_from_one_law() -> None:
    draws = [
        draw_times(1000, law, torch.Generator().manual_seed(3))
        for law in (TimeLaw(), ConsistencyConfig())
    ]
    assert torch.equal(*draws)


# Consistency


def consistency_function(x: Tensor, t: Tensor, mu: float = MU, s: float = S) -> Tensor:
    cos, sin = t.cos()[:, None], t.sin()[:, None]
    return mu + s * (x - mu * cos) / (s**2 * cos**2 + sin**2).sqrt()


def exact_velocity(mu: float = MU, s: float = S) -> Callable[[Tensor, Tensor], Tensor]:
    """F_CM in the form that is safe at t -> 0."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        cos, sin = t.cos()[:, None], t.sin()[:, None]
        sigma = (s**2 * cos**2 + sin**2).sqrt()
        u = (x - mu * cos) / sigma
        bend = (cos**2 - s**2 * (1 + cos**2)) / (sigma * cos + s)
        return -mu * sin + u * sin * bend

    return velocity


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_closed_forms_agree_with_each_other() -> None:
    x, t = column(1.2), torch.tensor([0.9], dtype=torch.float64)
    assert flow_velocity(x, t).item() == pytest.approx(-0.1550229246, abs=1e-9)
    assert consistency_function(x, t).item() == pytest.approx(1.1538044742, abs=1e-9)
    f = t.cos() * x - t.sin() * exact_velocity()(x, t)
    assert f.item() == pytest.approx(1.1538044742, abs=1e-9)


@pytest.mark.parametrize("t_value", [0.05, 0.4, 0.9, 1.3, 1.55])
def test_expected_tangent_vanishes_at_the_consistency_function(t_value: float) -> None:
    # C3: with the marginal velocity in place of the sample's own, the tangent of the exact f
    # is zero.
    x = column(-1.0, 0.2, 1.7)
    t = torch.full((3,), t_value, dtype=torch.float64)
    _, g = consistency_target(exact_velocity(), x, t, flow_velocity(x, t), PLAIN, ramp=1.0)
    assert g.abs().max() < 1e-12


def test_tangent_equals_finite_differences_of_f() -> None:
    mlp = torch.nn.Sequential(
        torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)
    ).double()

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = mlp(torch.cat([x, t[:, None]], dim=1))
        return out

    x0 = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    noise = torch.tensor([[1.1, 0.4]], dtype=torch.float64)

    def f(t: float) -> Tensor:
        x_t = math.cos(t) * x0 + math.sin(t) * noise
        with torch.no_grad():
            return math.cos(t) * x_t - math.sin(t) * velocity(
                x_t, torch.tensor([t], dtype=torch.float64)
            )

    at, h = 0.8, 1e-5
    expected = math.cos(at) * (f(at + h) - f(at - h)) / (2 * h)
    t = torch.tensor([at], dtype=torch.float64)
    x_t, v = math.cos(at) * x0 + math.sin(at) * noise, math.cos(at) * noise - math.sin(at) * x0
    _, g = consistency_target(velocity, x_t, t, v, PLAIN, ramp=1.0)
    torch.testing.assert_close(g, expected, atol=1e-8, rtol=0)


def test_without_ramp_the_target_is_the_flow_velocity() -> None:
    x = column(0.1, 2.0)
    t = torch.tensor([0.5, 1.2], dtype=torch.float64)
    v = column(0.3, -0.4)
    held, g = consistency_target(exact_velocity(), x, t, v, PLAIN, ramp=0.0)
    torch.testing.assert_close(g, -(t.cos()[:, None] ** 2) * (held - v))


def test_normalised_tangent_has_rms_below_one() -> None:
    x, t, v = torch.randn(64, 8), torch.full((64,), 0.7), 30 * torch.randn(64, 8)
    config = ConsistencyConfig(tangent_constant=0.1)
    _, g = consistency_target(lambda x, t: torch.zeros_like(x), x, t, v, config, ramp=1.0)
    rms = g.square().mean(-1).sqrt()
    assert (rms < 1).all()
    assert (rms > 0.9).all()


def test_loss_at_the_optimum_is_not_zero() -> None:
    # C4: E g^2 = cos^2 t s^4 / sigma_t^4, though F is exact.
    generator = torch.Generator().manual_seed(0)
    n = 400_000
    x = MU + S * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    t = torch.full((n,), 0.9, dtype=torch.float64)
    terms = consistency_terms(exact_velocity(), torch.zeros_like, x, t, noise, PLAIN, 1.0)
    assert terms.loss.mean().item() == pytest.approx(0.0478799, rel=0.02)


@pytest.mark.parametrize("steps", [1, 2, 4, 10])
def test_sampler_is_exact_on_any_grid_and_scales_variance_by_temperature(steps: int) -> None:
    # C5: output is linear in each noise, so the response to unit noises gives the variance
    # without sampling.
    tau, velocity = 0.8, exact_velocity()
    zero, path = torch.zeros(1, steps, 1, dtype=torch.float64), consistency_path(steps)
    mean = sample(velocity, zero, path)
    variance = 0.0
    for k in range(steps):
        unit = zero.clone()
        unit[:, k] = math.sqrt(tau)
        variance += (sample(velocity, unit, path) - mean).item() ** 2
    assert mean.item() == pytest.approx(MU, abs=1e-12)
    assert variance == pytest.approx(tau * S**2, rel=1e-12)


def test_unscaled_renoise_would_lose_the_temperature() -> None:
    # C5 at s = 1: with unit re-noise, temperature 0.8 has all but vanished after 4 steps.
    velocity, path = exact_velocity(0.0, 1.0), consistency_path(4)
    zero = torch.zeros(1, 4, 1, dtype=torch.float64)
    variance = 0.0
    for k, std in enumerate([math.sqrt(0.8), 1.0, 1.0, 1.0]):
        unit = zero.clone()
        unit[:, k] = std
        variance += sample(velocity, unit, path).item() ** 2
    lost = math.prod(math.cos(math.pi / 16 * k) ** 2 for k in (7, 6, 5))
    assert variance == pytest.approx(1 - 0.2 * lost, abs=1e-6)
    assert lost < 0.002


def test_times_follow_the_stated_law() -> None:
    config = ConsistencyConfig()
    t = draw_times(200_000, config, torch.Generator().manual_seed(1))
    assert t.median().item() == pytest.approx(0.634, abs=0.01)
    assert t.min() > 0
    assert t.max() < math.pi / 2


def test_the_weight_settles_where_the_weighted_error_is_one() -> None:
    # Up to the times that are drawn at all; a row at pi/2 would drive w to infinity, see TimeLaw.
    torch.manual_seed(0)
    config, weight = ConsistencyConfig(), TimeWeight()
    generator = torch.Generator().manual_seed(2)
    optimizer = torch.optim.Adam(weight.parameters(), lr=1e-2)

    def terms(rows: int) -> tuple[Tensor, Tensor]:
        x, noise = (torch.randn(rows, 8, generator=generator) for _ in range(2))
        t = draw_times(rows, config, generator)
        velocity = exact_velocity(0.0, 0.5)  # of narrower data: wrong, as a head in training is
        return t, consistency_terms(velocity, weight, x, t, noise, config, 1.0).tangent

    for _ in range(300):
        t, error = terms(512)
        w = weight(t)
        loss = (w.exp() * error - w).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    t, error = terms(50_000)
    weighted = weight(t).exp() * error
    for low, high in ((0.2, 0.8), (0.8, 1.4), (1.4, 1.5), (1.5, math.pi / 2)):
        chosen = (t >= low) & (t < high)
        assert weighted[chosen].mean().item() == pytest.approx(1.0, abs=0.35), (low, high)


def test_training_on_gaussian_data_learns_mean_and_variance() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 64),
        torch.nn.SiLU(),
        torch.nn.Linear(64, 64),
        torch.nn.SiLU(),
        torch.nn.Linear(64, 1),
    )

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = net(torch.stack([x[:, 0], t.cos(), t.sin()], dim=1))
        return out

    config = ConsistencyConfig(time_mean=0.5)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(900):
        x = MU + S * torch.randn(512, 1, generator=generator)
        noise = torch.randn(512, 1, generator=generator)
        t = draw_times(512, config, generator)
        ramp = min(1.0, step / 200)
        loss = consistency_terms(velocity, torch.zeros_like, x, t, noise, config, ramp).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / 900)
    with torch.no_grad():
        noises = torch.randn(20_000, 1, 1, generator=generator)
        drawn = sample(velocity, noises, consistency_path(1))
    assert drawn.mean().item() == pytest.approx(MU, abs=0.1)
    assert drawn.std().item() == pytest.approx(S, abs=0.12)


def test_on_a_mixture_of_two_modes_four_steps_are_nearer_than_one() -> None:
    # A share of .3 about (1.4, 1.4), the rest about (-.6, -.6): mean 0 and variance 1. The tangent
    # as it is: normalised row by row it leads to less of the smaller mode, in any number of steps.
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        *(torch.nn.Linear(4, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU()),
        torch.nn.Linear(64, 2),
    )

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = net(torch.cat([x, t.cos()[:, None], t.sin()[:, None]], dim=1))
        return out

    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    generator, updates = torch.Generator().manual_seed(0), 700
    for update in range(updates):
        places = torch.where(torch.rand(512, 1, generator=generator) < 0.3, 1.4, -0.6)
        x = places + 0.4 * torch.randn(512, 2, generator=generator)
        noise = torch.randn(512, 2, generator=generator)
        t = draw_times(512, PLAIN, generator)
        ramp = min(1.0, 4 * update / updates)
        terms = consistency_terms(velocity, torch.zeros_like, x, t, noise, PLAIN, ramp)
        optimizer.zero_grad()
        terms.loss.mean().backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - update / updates)
    shares, variances = [], []
    for steps in (1, 4):
        noises = torch.randn(40_000, steps, 2, generator=generator)
        with torch.no_grad():
            drawn = sample(velocity, noises, consistency_path(steps))
        assert drawn.mean(0).abs().max() < 0.08
        shares.append(abs((drawn.mean(1) > 0.4).float().mean().item() - 0.3))
        variances.append(abs(drawn.var(0).mean().item() - 1))
    assert shares[0] < 0.05
    assert shares[1] <= shares[0]
    assert variances[1] <= variances[0] < 0.12
