"""What an embedding is: audio to vectors whose distribution a set metric compares."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from calm_bench.types import Size, Wave


class Embedding(ABC):
    """Audio at a declared rate to vectors [N, E].

    The caller resamples, refuses clips that are too short and cuts those that are too long.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    sample_rate: ClassVar[Size]
    dim: ClassVar[Size]
    min_seconds: ClassVar[Annotated[float, Field(gt=0)]]
    max_seconds: ClassVar[float | None] = None
    """The longest wave that `embed` takes, at least twice `min_seconds`; None for any length."""

    @property
    @abstractmethod
    def recipe(self) -> Mapping[str, Any]:
        """Weights hash, window, hop, normalisation: all that changes the vectors."""

    @abstractmethod
    def embed(self, waves: Sequence[Wave]) -> list[NDArray[np.float32]]:
        """Each wave [S] at `sample_rate` to its vectors [N, E], float32."""
