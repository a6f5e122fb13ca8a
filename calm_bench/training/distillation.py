"""Semantic distillation, optional: a linear map should turn latents into a teacher's features.

The paper pulls its speech latents towards WavLM with weight 25. No speech model is
shipped here, so the teacher is yours: any callable of audio, named in the recipe as
`package.module:attribute`.

B batch, S samples, T frames, C latent channels, E teacher features.
"""

import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.errors import InputError

Teacher = Callable[[Tensor, int], Tensor]
"""Audio [B, S] and its rate to features [B, T', E], T' frames over the same time."""


def load_teacher(target: str) -> Teacher:
    """The callable behind `package.module:attribute`.

    Raises:
        InputError: If it cannot be imported or called.
    """
    module, _, attribute = target.partition(":")
    try:
        teacher = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"the teacher {target!r} cannot be loaded: {error}") from error
    if not callable(teacher):
        raise InputError(f"the teacher {target!r} is not callable")
    return teacher  # type: ignore[no-any-return]


class Distillation(nn.Module):
    """One minus the cosine between projected latents and the teacher's features."""

    def __init__(self, teacher: Teacher, sample_rate: int, channels: int) -> None:
        """Ask the teacher for its width with a tenth of a second of silence."""
        super().__init__()
        self.teacher, self.sample_rate = teacher, sample_rate
        with torch.no_grad():
            width = teacher(torch.zeros(1, sample_rate // 10), sample_rate).shape[-1]
        self.projection = nn.Linear(channels, width)

    def forward(self, latents: Tensor, wave: Tensor) -> Tensor:
        """Mean loss of latents [B, T, C] for audio [B, S], features pooled to the frame rate."""
        with torch.no_grad():
            features = self.teacher(wave, self.sample_rate).float()  # [B, T', E]
        pooled = F.adaptive_avg_pool1d(features.transpose(1, 2), latents.shape[1]).transpose(1, 2)
        return 1 - F.cosine_similarity(self.projection(latents.float()), pooled, dim=-1).mean()
