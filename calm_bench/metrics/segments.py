"""Stretches of a continuation, so that a metric can say where in a clip it finds what it finds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from calm_bench.types import Clip, Column

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
