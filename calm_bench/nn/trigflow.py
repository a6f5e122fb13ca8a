"""TrigFlow: the path between data and noise, flow matching on it, and its rotation sampler.

R rows, C latent channels. x_t = cos t * x + sin t * noise with t from 0 (data) to pi/2 (noise);
data have unit variance, and the velocity of a sample is v = cos t * noise - sin t * x (paper
section 3.1; sCM, Lu and Song 2024). Consistency training stands on the same path
(`nn/consistency.py`). The paper leaves open the law of t, its weight and the sampler's grid: what
is here is ours.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from calm_bench.types import StrictModel

Velocity = Callable[[Tensor, Tensor], Tensor]
"""F of noisy latents [R, C] and times [R], contexts bound: [R, C]."""


class TimeLaw(StrictModel):
    """At which times a head is trained, and how often per frame; the same for both objectives.

    Attributes:
        time_mean: t = arctan(e^u), u ~ N(time_mean, time_std^2). The default is sCM's law at unit
            variance, -1 + ln 2. So t stays below pi/2, where sampling starts: at pi/2 itself the
            consistency loss has no gradient but that of its weight, which it drives to infinity.
        multiplier: Copies of each frame with times and noise of their own (paper: 8).
    """

    time_mean: float = -1.0 + math.log(2.0)
    time_std: float = 1.4
    multiplier: int = 8


class TimeWeight(nn.Module):
    """The adaptive weight w(t): a small MLP that starts at zero."""

    def __init__(self, width: int = 32) -> None:
        """Three ReLU layers."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, t: Tensor) -> Tensor:
        """Times [R] to log-weights [R]."""
        y: Tensor = self.layers(t[:, None])
        return y.squeeze(-1)


def draw_times(rows: int, law: TimeLaw, generator: torch.Generator) -> Tensor:
    """Times [R] in (0, pi/2) on the generator's device."""
    u = torch.randn(rows, generator=generator, device=generator.device)
    return (u * law.time_std + law.time_mean).exp().atan()


def noised(x: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The noisy latent x_t and the velocity v of each row, both [R, C]."""
    cos, sin = t.cos()[:, None], t.sin()[:, None]
    return cos * x + sin * noise, cos * noise - sin * x


class FlowTerms(NamedTuple):
    """Per row [R]: the loss, and to be logged the mean squared error of the velocity."""

    loss: Tensor
    flow_error: Tensor


def flow_terms(
    velocity: Velocity, weight: Callable[[Tensor], Tensor], x: Tensor, t: Tensor, noise: Tensor
) -> FlowTerms:
    """The flow-matching loss e^w / C |F - v|^2 - w of each row.

    At its optimum e^w is one over the error, so that no time drowns another.

    Args:
        velocity: F, differentiable in its parameters.
        weight: Log-weights [R] of times [R].
        x: Clean latents [R, C].
        t: Times [R].
        noise: Standard Gaussian noise [R, C].
    """
    x_t, v = noised(x, t, noise)
    error = (velocity(x_t, t).float() - v).square().mean(-1)
    w = weight(t)
    return FlowTerms(w.exp() * error - w, error.detach())


def rotation_times(steps: int, spread: float = 1.0) -> tuple[float, ...]:
    """The `steps` + 1 times of the rotation sampler, from pi/2 down to 0.

    Args:
        steps: Evaluations of F.
        spread: tan t = spread * tan phi, phi evenly spaced. 1 is the uniform grid; the standard
            deviation of what is left to decide, if it is known, is the grid that loses least
            variance.
    """
    phis = (math.pi / 2 * (1 - k / steps) for k in range(1, steps))
    inner = tuple(math.atan(spread * math.tan(phi)) for phi in phis)
    return (math.pi / 2, *inner, 0.0)


def sample_trigflow(velocity: Velocity, noise: Tensor, times: Sequence[float]) -> Tensor:
    """Follow dx/dt = F by exact rotations from noise to data, one evaluation of F per step.

    Args:
        velocity: F with contexts bound.
        noise: Where the path starts [R, C], already scaled by the square root of the temperature.
        times: Falling from pi/2 to 0.
    """
    x = noise
    for start, end in pairwise(times):
        t = torch.full((x.shape[0],), start, dtype=x.dtype, device=x.device)
        step = start - end
        x = math.cos(step) * x - math.sin(step) * velocity(x, t)
    return x
