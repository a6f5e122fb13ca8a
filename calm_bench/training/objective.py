"""What is trained: batches, losses and validation, apart from how it is trained (`loop.py`).

Everything random is a function of (seed, step): batches and noise come from generators made for the
step. So a run that was killed and resumed takes exactly the steps of one that was not, and systems
trained with one seed see the same clips in the same order.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from calm_bench.seeds import derive_seed


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
    """

    module: nn.Module

    @abstractmethod
    def batch(self, step: int, size: int) -> Mapping[str, Tensor]:
        """The batch of a step, on the CPU; the same for the same step, whatever came before."""

    @abstractmethod
    def loss(self, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """The loss of a batch."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Held-out numbers of the module as it is; called with averaged weights in place."""

    def sample(self, folder: Path, step: int) -> None:
        """Write held-out samples worth listening to; nothing by default."""
        return

    def second_loss(self, batch: Mapping[str, Tensor], step: int) -> Tensor | None:
        """An adversary's loss, stepped by its own optimiser; None without an adversary."""
        return None

    @property
    def adversary(self) -> nn.Module | None:
        """The module that `second_loss` trains."""
        return None

    @abstractmethod
    def export(self) -> dict[str, Tensor]:
        """The weights to ship, by name, from the averaged module."""

    def facts(self) -> dict[str, Any]:
        """What the card says of the training besides the loop's own facts."""
        return {}
