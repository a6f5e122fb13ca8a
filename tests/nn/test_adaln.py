"""The AdaLN head: a closed start, and a usable JVP."""

import torch

from calm_bench.nn.adaln import AdaLnConfig, AdaLnMlp


def test_starts_at_zero_velocity() -> None:
    mlp = AdaLnMlp(AdaLnConfig(blocks=2, width=16), 4, 8)
    assert mlp(torch.randn(3, 4), torch.rand(3), torch.randn(3, 8)).abs().max() == 0


def test_forward_mode_derivative_equals_finite_differences() -> None:
    torch.manual_seed(0)
    mlp = AdaLnMlp(AdaLnConfig(blocks=2, width=16, start_closed=False), 4, 8).double()
    x, t, z = torch.randn(3, 4).double(), torch.rand(3).double(), torch.randn(3, 8).double()
    dx, dt, h = torch.randn(3, 4).double(), torch.rand(3).double(), 1e-6
    _, jvp = torch.func.jvp(lambda a, b: mlp(a, b, z), (x, t), (dx, dt))
    difference = (mlp(x + h * dx, t + h * dt, z) - mlp(x - h * dx, t - h * dt, z)) / (2 * h)
    torch.testing.assert_close(jvp, difference, atol=1e-7, rtol=1e-6)
