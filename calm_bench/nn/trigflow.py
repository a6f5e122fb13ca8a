"""TrigFlow: the path between data and noise, both objectives on it, and their samplers.

R rows, C latent channels. x_t = cos t * x + sin t * noise with t from 0 (data) to pi/2 (noise);
data have unit variance, and the velocity of a sample is v = cos t * noise - sin t * x (paper
section 3.1; sCM, Lu and Song 2024). Flow matching learns the velocity. Consistency training from
scratch learns F with f(x_t, t) = cos t * x_t - sin t * F(x_t, t), which is the data (section 3.2).
The paper leaves open the law of t, its weight and the sampler's grid, and more of the second
objective: what is here is ours, see `TimeLaw` and `ConsistencyConfig`.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from pydantic import ConfigDict, Field
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

    model_config = ConfigDict(allow_inf_nan=False)

    time_mean: float = -1.0 + math.log(2.0)
    time_std: float = Field(default=1.4, ge=0)
    multiplier: int = Field(default=8, ge=1, le=1000)


class TimeWeight(nn.Module):
    """The adaptive weight w(t): a small MLP that starts at zero."""

    def __init__(self, width: int = 32) -> None:
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


class ConsistencyConfig(TimeLaw):
    """What the paper leaves open of consistency training, besides the law of t.

    Attributes:
        warmup: Steps over which the part of the tangent beyond flow matching grows to full size.
        normalise_tangent: Divide the tangent by its RMS plus `tangent_constant`, per row.
        tangent_constant: sCM's by default. The division is of a random tangent, so it biases the
            fixed point where velocities are skewed; less so with a larger constant.
    """

    warmup: int = Field(default=1000, ge=0)
    normalise_tangent: bool = True
    tangent_constant: float = Field(default=0.1, ge=0)


def consistency_target(
    velocity: Velocity, x_t: Tensor, t: Tensor, v: Tensor, config: ConsistencyConfig, ramp: float
) -> tuple[Tensor, Tensor]:
    """F of each row and the detached tangent g that the loss adds to it, both [R, C].

    g = -cos^2 t (F - v) - r (cos t sin t x_t + JVP): cos t times df/dt, r warming up. The JVP goes
    along (cos t sin t v, cos t sin t), so its output already carries that factor.

    Args:
        velocity: F; one pass gives its value, differentiable in its parameters, and its JVP.
        x_t: Noisy latents [R, C].
        t: Times [R].
        v: cos t * noise - sin t * data, the sample's own velocity [R, C].
        config: Normalisation of the tangent.
        ramp: r, from 0 (pure flow matching) to 1.
    """
    cos, sin = t.cos()[:, None], t.sin()[:, None]
    both = cos * sin
    moving, jvp = torch.func.jvp(  # type: ignore[misc]
        velocity, (x_t, t), (both * v, both.squeeze(-1))
    )
    with torch.no_grad():
        g = -cos.square() * (moving - v) - ramp * (both * x_t + jvp)
        if config.normalise_tangent:
            g = g / (g.square().mean(-1, keepdim=True).sqrt() + config.tangent_constant)
    return moving, g


class ConsistencyTerms(NamedTuple):
    """Per row [R]: the loss, and to be logged the flow-matching error and the squared tangent."""

    loss: Tensor
    flow_error: Tensor
    tangent: Tensor


def consistency_terms(
    velocity: Velocity,
    weight: Callable[[Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    noise: Tensor,
    config: ConsistencyConfig,
    ramp: float,
) -> ConsistencyTerms:
    """The loss e^w / C |F - F_held - g|^2 - w of each row (paper section 3.2).

    The value says nothing of convergence, since F equals F_held; the logged terms do.

    Args:
        velocity: F, differentiable in its parameters.
        weight: Log-weights [R] of times [R].
        x: Clean latents [R, C].
        t: Times [R].
        noise: Standard Gaussian noise [R, C].
        config: Normalisation of the tangent.
        ramp: How far the tangent has warmed up, from 0 to 1.
    """
    x_t, v = noised(x, t, noise)
    moving, g = consistency_target(velocity, x_t, t, v, config, ramp)
    held, w = moving.detach(), weight(t)
    error = (moving - held - g).square().mean(-1)
    loss = w.exp() * error - w
    return ConsistencyTerms(loss, (held - v).square().mean(-1), g.square().mean(-1))


class Step(NamedTuple):
    """One evaluation of F at `time`: the next x is keep * x - turn * F.

    `renoise` (a, b) comes before it: x becomes a * x + b * fresh noise.
    """

    time: float
    keep: float
    turn: float
    renoise: tuple[float, float] | None = None


SamplerPath = tuple[Step, ...]


def consistency_path(steps: int) -> SamplerPath:
    """The consistency function at `steps` even times from pi/2 down to pi/4, which is left out.

    The paper does not say which; nearer to 0, what a head has learnt errs by more than a step
    mends. The re-noise of later steps is scaled like the first, or temperature would vanish.
    """
    path = [Step(math.pi / 2, 0.0, 1.0)]  # cos(pi / 2) as in exact arithmetic: f = -F
    for k in range(1, steps):
        t = math.pi / 2 - math.pi / 4 * k / steps
        path.append(Step(t, math.cos(t), math.sin(t), (math.cos(t), math.sin(t))))
    return tuple(path)


def rotation_path(steps: int, spread: float = 1.0) -> SamplerPath:
    """dx/dt = F by exact rotations from noise to data, on the grid of `rotation_times`."""
    times = pairwise(rotation_times(steps, spread))
    return tuple(Step(a, math.cos(a - b), math.sin(a - b)) for a, b in times)


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


def sample(velocity: Velocity, noises: Tensor, path: SamplerPath) -> Tensor:
    """Samples [R, C] by one evaluation of F per step of a path.

    Args:
        velocity: F with contexts bound.
        noises: Noise [R, 1 or n, C] for the start and where the path takes fresh one, already
            scaled by the square root of the temperature.
        path: The sampler.
    """
    x = noises[:, 0]
    for k, step in enumerate(path):
        if step.renoise is not None:
            x = step.renoise[0] * x + step.renoise[1] * noises[:, k]
        t = torch.full((x.shape[0],), step.time, dtype=x.dtype, device=x.device)
        turned = step.turn * velocity(x, t)
        x = -turned if step.keep == 0 else step.keep * x - turned
    return x
