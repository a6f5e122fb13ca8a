"""Clips to vectors, each clip once: the metrics and the rows of a run share one cache.

Vectors describe the continuation alone, at the embedding's own rate. Clips that are too short for
the embedding are refused by name; they are not padded, because the padding would be described too.
Clips that are longer than it takes are cut into as few equal windows as will do, without overlap; a
short last window would be heard like the start of another clip.
"""

from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calm_bench.core.audio import RESAMPLER, resample
from calm_bench.core.cache import ArrayCache, MemoryCache
from calm_bench.core.code import computed_by
from calm_bench.embeddings.base import Embedding
from calm_bench.errors import BenchError, called
from calm_bench.seeds import content_hash
from calm_bench.types import Clip, Wave

Vectors = NDArray[np.float32]
"""The vectors of one clip, [N, E]."""

_AT_ONCE = 16  # clips


VectorCache = ArrayCache | MemoryCache
"""Vectors by the hash of the audio and of all that turned it into vectors."""


@cache
def shared_cache() -> MemoryCache:
    """The cache of every metric that was given none of its own."""
    return MemoryCache()


class ClipEmbedder:
    """An embedding applied to the continuations of clips, with a cache in between."""

    def __init__(self, embedding: Embedding, store: VectorCache | None = None) -> None:
        """Embed with `embedding`, keeping vectors in `store` or in the shared cache."""
        self.embedding = embedding
        self.store = shared_cache() if store is None else store

    @property
    def recipe(self) -> dict[str, Any]:
        """All that the vectors depend on besides the audio."""
        embedding = self.embedding
        recipe = {
            "embedding": embedding.name,
            "embedding_version": embedding.version,
            "dim": embedding.dim,
            "sample_rate": embedding.sample_rate,
            "resampler": RESAMPLER,
            "scope": "continuation",
            **embedding.recipe,
        }
        if embedding.max_seconds is not None:
            longest = f"equal windows of at most {embedding.max_seconds:g} s, without overlap"
            recipe["longer_clips"] = longest
        return recipe

    @cached_property
    def _code(self) -> str:
        return computed_by(__name__, type(self.embedding).__module__)

    def embed(self, clips: Sequence[Clip], notes: dict[str, str]) -> Iterator[tuple[Clip, Vectors]]:
        """Clips with the vectors [N, E] of their continuations; none is computed twice.

        A few clips are in memory at a time. `notes` takes why others cannot be embedded.
        """
        made_by = content_hash(self.recipe, self._code)
        for start in range(0, len(clips), _AT_ONCE):
            some = clips[start : start + _AT_ONCE]
            notes.update((clip.clip_id, note) for clip in some if (note := self._too_short(clip)))
            keys = [
                (clip, content_hash(clip.audio_id, *clip.span, made_by))
                for clip in some
                if clip.clip_id not in notes
            ]
            known = {key: self.store.read(key) for key in {key for _, key in keys}}
            found = {key: v for key, v in known.items() if v is not None and self._fit(v)}
            missing = {key: clip for clip, key in keys if key not in found}
            for key, vectors in zip(missing, self._compute([*missing.values()]), strict=True):
                self.store.write(key, vectors)
                found[key] = vectors
            yield from ((clip, found[key]) for clip, key in keys)

    def _too_short(self, clip: Clip) -> str | None:
        seconds = clip.continuation_seconds
        if seconds >= self.embedding.min_seconds:
            return None
        least = f"{self.embedding.name} needs {self.embedding.min_seconds:g} s"
        return f"too short to embed: {seconds:.2f} s after the prompt, {least}"

    def _compute(self, clips: Sequence[Clip]) -> list[Vectors]:
        rate = self.embedding.sample_rate
        waves = (resample(clip.continuation, clip.sample_rate, rate) for clip in clips)
        windows = [self._windows(wave) for wave in waves]
        given = [part for parts in windows for part in parts]
        found = self.embedding.embed(given) if given else []
        if len(found) != len(given):
            n = f"{len(found)} waves for {len(given)}"
            raise BenchError(f"{called(self.embedding)} gave vectors of {n}")
        vectors = iter(found)
        return [np.concatenate([self._checked(next(vectors)) for _ in parts]) for parts in windows]

    def _windows(self, wave: Wave) -> list[Wave]:
        """A wave in equal windows, to the sample, that the embedding takes."""
        if self.embedding.max_seconds is None:
            return [wave]
        longest = int(self.embedding.max_seconds * self.embedding.sample_rate)
        return np.array_split(wave, max(1, -(-len(wave) // longest)))

    def _checked(self, vectors: Vectors) -> Vectors:
        if not self._fit(vectors):
            raise BenchError(
                f"{called(self.embedding)} gave vectors of the shape {np.shape(vectors)}, which "
                f"must be finite and [N, {self.embedding.dim}]"
            )
        return vectors

    def _fit(self, vectors: Vectors) -> bool:
        wide = np.ndim(vectors) == 2 and np.shape(vectors)[1] == self.embedding.dim
        return wide and bool(np.isfinite(vectors).all())
