"""FAD over time: where in a continuation a system leaves the real music.

Each segment of the continuations is compared with the same segment of the reference clips. Errors
that accumulate show as a distance that grows from segment to segment; a system that is merely of
lower quality is far from the start. Every segment is embedded by itself, so that no vector knows
what came before, and all have the same length, count and bias: compare them with one another, and
not with the FAD of whole continuations, whose vectors are several times as many.

Beyond the end of the reference clips (long generation) a segment is compared with their last one:
real music does not drift on average.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from calm_bench.embeddings.base import Embedding
from calm_bench.embeddings.vectors import VectorCache
from calm_bench.metrics.embedded import DEFAULT_EMBEDDING, EmbeddingMetric
from calm_bench.metrics.fad import FadMetric
from calm_bench.types import Clip, Column, Estimate, MetricResult

Span = tuple[float, float]
"""Start and end in seconds after the prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Successive stretches of a continuation, the first one right after the prompt.

    The default, three of 3 s, is what a prompt of 3 s leaves of a clip of 12 s; 3 s is also the
    window of the short-term loudness of EBU Tech 3341.

    Attributes:
        seconds: How long each is.
        n: How many there are.
    """

    seconds: float = 3.0
    n: int = 3

    @classmethod
    def within(cls, continuation_seconds: float, seconds: float) -> "Segments":
        """The whole segments that fit; what is left over at the end is not looked at."""
        return cls(seconds=seconds, n=int(round(continuation_seconds / seconds, 6)))

    @property
    def spans(self) -> tuple[Span, ...]:
        """Start and end of each, in seconds after the prompt."""
        ends = [round(self.seconds * (index + 1), 6) for index in range(self.n)]
        return tuple((round(end - self.seconds, 6), end) for end in ends)

    def name(self, base: str, span: Span) -> str:
        """The name of a column over one segment: `fad@0-3s`."""
        return f"{base}@{span[0]:g}-{span[1]:g}s"

    def columns(self, column: Column) -> tuple[Column, ...]:
        """A column over each segment, after the one over the whole continuation."""
        return tuple(
            replace(
                column,
                name=self.name(column.name, span),
                label=f"{column.label} {span[0]:g}–{span[1]:g} s",
                fields=tuple(self.name(field, span) for field in column.fields),
                span=span,
            )
            for span in self.spans
        )


def cut(clips: Sequence[Clip], span: Span) -> list[Clip]:
    """The clips that have all of a segment, each with that segment as its continuation."""
    found = []
    for clip in clips:
        start, end = (round(clip.prompt_seconds + at, 6) for at in span)
        if round(end * clip.sample_rate) <= clip.n_samples:
            found.append(clip.within(start, end))
    return found


_FAD = Column.of("fad", "FAD", "", better=False, aggregate="set")


class FadOverTime(EmbeddingMetric):
    """FAD of successive segments of the continuations against the reference's segments."""

    name: ClassVar[str] = "fad_over_time"
    columns: ClassVar[tuple[Column, ...]] = Segments().columns(_FAD)
    goes_beyond_reference: ClassVar[bool] = True
    fewest_clips: ClassVar[int] = FadMetric.fewest_clips

    def __init__(
        self,
        embedding: str | Embedding = DEFAULT_EMBEDDING,
        cache: VectorCache | None = None,
        segments: Segments | None = None,
    ) -> None:
        """Measure these segments (three of 3 s) with a registered embedding."""
        super().__init__(embedding, cache)
        self.segments = segments or Segments()
        self._fad = FadMetric(embedding, cache, quiet=True)

    @property
    def own_columns(self) -> tuple[Column, ...]:
        """A column for each segment."""
        return self.segments.columns(_FAD)

    @property
    def recipe(self) -> Mapping[str, Any]:
        """FAD's own recipe, and the segments."""
        return {
            **self._fad.recipe,
            "metric": "fad_over_time",
            "segment_seconds": self.segments.seconds,
            "segments": "each embedded alone; past the reference's end against its last one",
        }

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        estimates: dict[str, Estimate] = {}
        beyond = 0
        for span in self.segments.spans:
            theirs, is_last = self._reference(reference, span)
            beyond += is_last
            name = self.segments.name(_FAD.name, span)
            estimates[name] = self._fad.distance(cut(clips, span), theirs)
        return MetricResult(
            estimates=estimates, counts={"n_segments_beyond_reference": float(beyond)}
        )

    def difference(
        self, clips: Sequence[Clip], baseline: Sequence[Clip], reference: Sequence[Clip]
    ) -> Mapping[str, Estimate]:
        """Each segment's FAD over the prompts both rows have: `clips` minus `baseline`."""
        found = {}
        for span in self.segments.spans:
            theirs, _ = self._reference(reference, span)
            name = self.segments.name(_FAD.name, span)
            found[name] = self._fad.distance(cut(clips, span), theirs, cut(baseline, span))
        return found

    def _reference(self, reference: Sequence[Clip], span: Span) -> tuple[list[Clip], bool]:
        """What a segment is compared with, and whether that is an earlier stretch.

        Recordings may end one by one: a stretch that too few of them reach is no measure.
        """
        earlier = (other for other in reversed(self.segments.spans) if other <= span)
        found = [(cut(reference, other), other != span) for other in earlier]
        enough = (pair for pair in found if len(pair[0]) >= self.fewest_clips)
        return next(enough, max(found, key=lambda pair: len(pair[0])))
