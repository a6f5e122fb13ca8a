"""The recipe of a training run: the `training` section of a model's config.yaml."""

import math
from typing import Any

from pydantic import Field

from calm_bench.errors import BenchError
from calm_bench.types import StrictModel


class TrainingError(BenchError):
    """Training that cannot go on: a loss that is not a number, or state of another run."""


class TrainingConfig(StrictModel):
    """How a model is trained; `objective` holds what only its objective knows.

    Attributes:
        keep_every: Keep the averaged weights of every so many steps, as models of their own below
            the run's folder; 0 keeps none.
    """

    corpus: str
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup: int = 1000
    final_learning_rate: float = 0.0
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    ema: float = 0.999
    accumulate: int = Field(default=1, ge=1)
    precision: str = "bf16-mixed"
    checkpoint_minutes: float = 3.0
    log_every: int = 50
    validate_every: int = 1000
    keep_every: int = Field(default=0, ge=0)
    seed: int = 0
    objective: dict[str, Any] = Field(default_factory=dict)

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then cosine to the final rate."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine
