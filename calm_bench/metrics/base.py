"""What a metric is: it looks at the clips of one row and returns values per clip or per row."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from calm_bench.types import Clip, Column, Estimate, MetricResult

Need = Literal["reference", "text", "transcript", "paired_reference"]
"""reference: a set of reference clips; paired_reference: the reference clip of the same prompt;
text: Clip.words; transcript: Clip.transcript."""


class Metric(ABC):
    """Scores one row: the clips of one system at one temperature.

    `recipe` names everything that changes the values (weights hash, rate, window, normalisation,
    versions); values with different recipes are never put in one column or compared.
    """

    name: ClassVar[str]
    scope: ClassVar[Literal["clip", "set"]]
    needs: ClassVar[frozenset[Need]] = frozenset()
    columns: ClassVar[tuple[Column, ...]]
    goes_beyond_reference: ClassVar[bool] = False
    """Whether it knows what to do where clips go on after the reference has ended."""
    fewest_clips: ClassVar[int] = 1
    """How many clips a row must have before the metric says anything of it."""

    @property
    def own_columns(self) -> tuple[Column, ...]:
        """The columns of this instance, where their number depends on the clips' length."""
        return self.columns

    @property
    @abstractmethod
    def recipe(self) -> Mapping[str, Any]:
        """What the values depend on besides the audio, as JSON-like values."""

    @abstractmethod
    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        """Score the clips of one row.

        Args:
            clips: The row's clips; a clip that cannot be scored is noted and counted, never zero.
            reference: The reference clips of the same benchmark; empty if `needs` has no reference.
        """

    def difference(
        self, clips: Sequence[Clip], baseline: Sequence[Clip], reference: Sequence[Clip]
    ) -> Mapping[str, Estimate]:
        """Paired difference (clips minus baseline) of `set` columns; clip columns need no code."""
        return {}
