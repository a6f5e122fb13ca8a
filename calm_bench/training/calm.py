"""Training CALM: consistency or flow matching in the head, noise in what the backbone reads.

B batch, T frames, R real frames times head-batch copies, D width, C latent channels (paper sections
3.1 to 3.4). Backbone, short context and head learn jointly; Z is computed once per frame and the
head runs on several copies of it, with times and noise of their own (the head-batch multiplier).
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from calm_bench.nn.trigflow import TimeLaw, consistency_terms, draw_times, flow_terms
from calm_bench.systems.calm import CalmSystem, inject_noise
from calm_bench.training.language import VALIDATION_STEP, LanguageObjective
from calm_bench.training.objective import StepLoss, step_generator


class Copies(NamedTuple):
    """The head's batch: clean latents and noise [R, C], times [R]."""

    x: Tensor
    t: Tensor
    noise: Tensor


class LatentObjective(LanguageObjective):
    """What both heads share."""

    system: CalmSystem

    def read(self, frames: Tensor, step: int) -> Tensor:
        """Noised latents if the system is trained so, in training only; the head's stay clean."""
        if not (self.system.config.noise_injection and self.system.training):
            return frames
        seed = self.recipe.seed
        return inject_noise(frames, step_generator(seed, step, "injection", frames.device))

    def copies(self, batch: Mapping[str, Tensor], step: int, law: TimeLaw) -> Copies:
        """Every real frame `law.multiplier` times, each with a time and noise of its own."""
        x = batch["frames"][batch["mask"]].repeat(law.multiplier, 1)
        generator = step_generator(self.recipe.seed, step, "head", x.device)
        t = draw_times(len(x), law, generator)
        return Copies(x, t, torch.randn(x.shape, generator=generator, device=x.device))


class CalmObjective(LatentObjective):
    """Consistency training of the head (paper section 3.2)."""

    def head_loss(self, z: Tensor, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """Mean consistency loss over frames and head-batch copies.

        The tangent is taken in float32: bfloat16 noise in it would be normalised to full size.
        """
        config, mlp = self.config.consistency, self.system.mlp
        x, t, noise = self.copies(batch, step, config)
        ramp = 1.0 if step < 0 else min(1.0, step / max(1, config.warmup * self.recipe.accumulate))
        embedded = mlp.condition(z).float().repeat(config.multiplier, 1)
        held = embedded.detach()

        def velocity(x_t: Tensor, time: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                return mlp.velocity(x_t, time, embedded)
            with torch.autocast(z.device.type, enabled=False):
                return mlp.velocity(x_t, time, held)

        terms = consistency_terms(velocity, self.system.time_weight, x, t, noise, config, ramp)
        logs = {"flow": float(terms.flow_error.mean()), "tangent": float(terms.tangent.mean())}
        if step == VALIDATION_STEP:
            logs |= self._one_step(z, x[: len(z)], noise[: len(z)])
        return StepLoss(terms.loss.mean(), logs)

    def _one_step(self, z: Tensor, x: Tensor, noise: Tensor) -> dict[str, float]:
        """Error and spread of one-step samples: the loss itself says nothing of convergence."""
        t = torch.full((len(x),), torch.pi / 2, device=x.device)
        drawn = -self.system.mlp(noise, t, z.float())
        return {"one_step_mse": float(F.mse_loss(drawn, x)), "one_step_var": float(drawn.var())}


class FlowObjective(LatentObjective):
    """Flow matching of the head on TrigFlow's path (paper section 3.1)."""

    def head_loss(self, z: Tensor, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """Mean flow-matching loss over frames and head-batch copies."""
        law, mlp = self.config.flow, self.system.mlp
        x, t, noise = self.copies(batch, step, law)
        embedded = mlp.condition(z).float().repeat(law.multiplier, 1)
        terms = flow_terms(
            lambda x_t, time: mlp.velocity(x_t, time, embedded),
            self.system.time_weight,
            x,
            t,
            noise,
        )
        return StepLoss(terms.loss.mean(), {"flow": float(terms.flow_error.mean())})
