"""What is trained, and by which recipe: apart from the loop that trains it (`loop.py`).

Everything random is a function of (seed, step): batches and noise come from generators made for the
step. So a run that was killed and resumed takes exactly the steps of one that was not, and systems
trained with one seed see the same clips in the same order.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from calm_bench.errors import BenchError
from calm_bench.seeds import MAX_SEED, derive_seed
from calm_bench.types import StrictModel


class TrainingError(BenchError):
    """Training that cannot go on: a loss that is not a number, or state of another run."""


Share = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(StrictModel):
    """The `training` section of a model's config.yaml: how it is trained.

    `objective` holds what only its objective knows.

    Attributes:
        keep_every: Keep the averaged weights of every so many steps, as models of their own below
            the run's folder; 0 keeps none.
        start_from: A text model whose backbone and text tables a language model begins with.
        start_rate: Times the learning rate for these (the paper's two rates: 1/4).
    """

    model_config = ConfigDict(allow_inf_nan=False)

    corpus: str = Field(min_length=1)
    steps: int = Field(gt=0, le=10**9)
    batch_size: int = Field(gt=0, le=10**6)
    learning_rate: float = Field(gt=0)
    warmup: int = Field(default=1000, ge=0)
    final_learning_rate: float = Field(default=0.0, ge=0)
    weight_decay: float = Field(default=0.1, ge=0)
    betas: tuple[Share, Share] = (0.9, 0.95)
    clip: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.999, ge=0, le=1)
    accumulate: int = Field(default=1, ge=1, le=10**6)
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"] = "bf16-mixed"
    checkpoint_minutes: float = Field(default=3.0, ge=0)
    log_every: int = Field(default=50, ge=1)
    validate_every: int = Field(default=1000, ge=1)
    keep_every: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    start_from: str | None = Field(default=None, min_length=1)
    start_rate: float = Field(default=1.0, ge=0)
    objective: dict[str, Any] = Field(default_factory=dict)

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then cosine to the final rate."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine


class StepLoss(NamedTuple):
    """A scalar loss to differentiate and the numbers worth logging."""

    loss: Tensor
    logs: dict[str, float]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw what is initialised inside from a seed, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def step_rng(seed: int, step: int, purpose: str) -> np.random.Generator:
    """The numpy generator of one step and purpose."""
    return np.random.default_rng(derive_seed("training", seed, step, purpose))


def step_generator(seed: int, step: int, purpose: str, device: torch.device) -> torch.Generator:
    """The torch generator of one step and purpose."""
    return torch.Generator(device).manual_seed(derive_seed("training", seed, step, purpose))


class Objective(ABC):
    """A module with its data and loss.

    Attributes:
        module: What the optimiser updates and the checkpoint keeps.
        origin: What some of its weights were before training; None where all were drawn.
        given: The names of these.
        adversary: The module that `second_loss` trains; None for none.
        batches: How many make an optimiser step, over all ranks; each has a number of its own.
    """

    module: nn.Module
    origin: str | None = None
    given: tuple[str, ...] = ()
    adversary: nn.Module | None = None
    batches: int = 1

    @abstractmethod
    def batch(self, step: int, size: int) -> Mapping[str, Tensor]:
        """The batch of a number, on the CPU; the same for the same one, whatever came before."""

    @abstractmethod
    def loss(self, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """The loss of the batch of a number, which is of optimiser step `step // batches`."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Held-out numbers of the module as it is; called with averaged weights in place."""

    def second_loss(self) -> Tensor | None:
        """An adversary's loss on the last batch, stepped by its own optimiser; None for none."""
        return None

    @abstractmethod
    def export(self) -> dict[str, Tensor]:
        """The weights to ship, by name, from the averaged module."""

    def facts(self) -> dict[str, Any]:
        """What the card says of the training besides the loop's own facts."""
        return {}
