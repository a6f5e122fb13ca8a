"""Clips as tests make them, of samples."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from calm_bench.types import Clip


def clip_of(
    wave: ArrayLike, name: str = "a", rate: int = 16_000, *, prompt: str = "", **known: Any
) -> Clip:
    """A clip of these samples, of the prompt of its own name or of another."""
    return Clip(
        clip_id=name,
        prompt_id=prompt or name,
        seed_index=0,
        wave=np.asarray(wave, dtype=np.float32).reshape(-1),
        sample_rate=rate,
        **known,
    )
