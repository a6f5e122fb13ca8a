"""Metrics ready to be used on a benchmark: with its embeddings, its segments and its recogniser."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from calm_bench import registry
from calm_bench.cache import ArrayCache
from calm_bench.config import BenchmarkSpec
from calm_bench.errors import describe
from calm_bench.metrics.base import Metric
from calm_bench.metrics.drift import DriftMetric
from calm_bench.metrics.embedded import DEFAULT_EMBEDDING, EmbeddingMetric
from calm_bench.metrics.fad_over_time import FadOverTime
from calm_bench.metrics.segments import Segments
from calm_bench.shelf import ClipShelf


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a benchmark says of how its clips are scored.

    Attributes:
        embeddings: What set metrics look through, each in columns of its own.
        optional: More of them, left out with a note where they cannot be loaded.
        segments: The stretches that metrics over time compare.
        unpaired: Why a row that is no round trip has no originals to be compared with.
        clip_seconds: How long clips are to be, where a recording that ends before that leaves its
            clips to be compared up to its end; None for clips of any length.
    """

    asr: str | None = None
    embeddings: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    segments: Segments = field(default_factory=Segments)
    unpaired: str = "only a codec's round trip can be compared with its original"
    clip_seconds: float | None = None

    @classmethod
    def of(cls, spec: BenchmarkSpec) -> Self:
        """A benchmark's."""
        return cls(
            asr=spec.asr,
            embeddings=spec.embedding,
            optional=spec.embedding_if_usable,
            segments=Segments.within(spec.seconds - spec.prompt_seconds, spec.segment_seconds),
            clip_seconds=spec.seconds,
        )

    def ends_for(
        self, metric: Metric, shelf: ClipShelf, reference: str | None
    ) -> Mapping[str, float]:
        """By prompt, where its recording ends: clips are compared with recordings up to there."""
        if "reference" not in metric.needs or metric.goes_beyond_reference:
            return {}
        known = reference is not None and self.clip_seconds is not None
        return shelf.ends_before(str(reference), self.clip_seconds or 0.0) if known else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """A metric, or why there is none.

    Attributes:
        embedding: What it looks through, where the run has more than one.
    """

    cls: type[Metric]
    metric: Metric | None
    embedding: str | None = None
    reason: str = ""


def usable_embeddings(setting: Setting) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The embeddings of a setting, and notes on the optional ones that cannot be loaded."""
    chosen, notes = list(setting.embeddings or (DEFAULT_EMBEDDING,)), []
    for name in setting.optional:
        try:
            dict(registry.load("embedding", name)().recipe)
            chosen.append(name)
        except Exception as error:
            notes.append(f"no columns with the embedding {name}: {describe(error)}")
    return tuple(dict.fromkeys(chosen)), tuple(notes)


def instruments_of(
    name: str, setting: Setting, embeddings: tuple[str, ...]
) -> Iterator[Instrument]:
    """A registered metric, once for each embedding if it looks through one."""
    cls = registry.load("metric", name)
    if not issubclass(cls, EmbeddingMetric):
        yield _built(cls, None, *([setting.segments] if issubclass(cls, DriftMetric) else []))
        return
    for embedding in embeddings:
        named = embedding if len(embeddings) > 1 else None
        more = [setting.segments] if issubclass(cls, FadOverTime) else []
        yield _built(cls, named, embedding, ArrayCache("vectors"), *more)


def _built(cls: type[Metric], embedding: str | None, *parts: Any) -> Instrument:
    try:
        return Instrument(cls=cls, metric=cls(*parts), embedding=embedding)
    except Exception as error:
        return Instrument(cls=cls, metric=None, embedding=embedding, reason=describe(error))
