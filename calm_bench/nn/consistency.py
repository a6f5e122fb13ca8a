"""Consistency training from scratch in the TrigFlow parametrisation, and its samplers.

R rows, C latent channels. x_t = cos t * x + sin t * noise with t from 0 (data) to pi/2 (noise);
data have unit variance. The consistency function is f(x_t, t) = cos t * x_t - sin t * F(x_t, t)
(paper section 3.2; sCM, Lu and Song 2024). Where the paper is silent the choices are ours: see
`ConsistencyConfig`.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from calm_bench.nn.trigflow import TimeLaw, Velocity, noised


class ConsistencyConfig(TimeLaw):
    """What the paper leaves open of consistency training, besides the law of t.

    Attributes:
        warmup: Steps over which the part of the tangent beyond flow matching grows to full size.
        normalise_tangent: Divide the tangent by its RMS plus `tangent_constant`, per row.
    """

    warmup: int = 1000
    normalise_tangent: bool = True
    tangent_constant: float = 0.1


def consistency_target(
    velocity: Velocity, x_t: Tensor, t: Tensor, v: Tensor, config: ConsistencyConfig, ramp: float
) -> tuple[Tensor, Tensor]:
    """The detached F of each row and the tangent g that the loss adds to it, both [R, C].

    g = -cos^2 t (F - v) - r (cos t sin t x_t + JVP): cos t times df/dt, r warming up. The JVP goes
    along (cos t sin t v, cos t sin t), so its output already carries that factor.

    Args:
        velocity: F with parameters that need no gradient here.
        x_t: Noisy latents [R, C].
        t: Times [R].
        v: cos t * noise - sin t * data, the sample's own velocity [R, C].
        config: Normalisation of the tangent.
        ramp: r, from 0 (pure flow matching) to 1.
    """
    cos, sin = t.cos()[:, None], t.sin()[:, None]
    both = cos * sin
    with torch.no_grad():
        held, jvp = torch.func.jvp(  # type: ignore[misc]
            velocity, (x_t, t), (both * v, both.squeeze(-1))
        )
        g = -cos.square() * (held - v) - ramp * (both * x_t + jvp)
        if config.normalise_tangent:
            g = g / (g.square().mean(-1, keepdim=True).sqrt() + config.tangent_constant)
    return held, g


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
    held, g = consistency_target(velocity, x_t, t, v, config, ramp)
    w = weight(t)
    moving = velocity(x_t, t).float()
    # Equal to `held` in value; its own detached value keeps rounding of another precision out of g.
    error = (moving - moving.detach() - g).square().mean(-1)
    loss = w.exp() * error - w
    return ConsistencyTerms(loss, (held - v).square().mean(-1), g.square().mean(-1))


def uniform_times(steps: int) -> tuple[float, ...]:
    """The default grid of a sampler: `steps` times from pi/2 down, evenly spaced, without 0."""
    return tuple(math.pi / 2 * (1 - k / steps) for k in range(steps))


def sample_consistency(
    velocity: Velocity, noises: Sequence[Tensor] | Tensor, times: Sequence[float]
) -> Tensor:
    """Sample by one evaluation of F per time.

    Args:
        velocity: F with contexts bound.
        noises: One noise [R, C] per time, already scaled by the square root of the temperature. The
            re-noise of later steps is scaled like the first, or temperature would
            vanish.
        times: Falling from pi/2.
    """
    x = noises[0]
    for k, time in enumerate(times):
        t = torch.full((x.shape[0],), time, dtype=x.dtype, device=x.device)
        if k == 0:
            # cos(pi/2) is 0 in exact arithmetic: f = -F.
            clean = (
                -velocity(x, t)
                if time == math.pi / 2
                else math.cos(time) * x - math.sin(time) * velocity(x, t)
            )
        else:
            noisy = math.cos(time) * clean + math.sin(time) * noises[k]
            clean = math.cos(time) * noisy - math.sin(time) * velocity(noisy, t)
    return clean
