"""Clips to vectors, each clip once: the metrics and the rows of a run share one cache.

Vectors describe the continuation alone, at the embedding's own rate. Clips that are too short for
the embedding are refused by name; they are not padded, because the padding would be described too.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calm_bench.audio import RESAMPLER, resample
from calm_bench.embeddings.base import Embedding
from calm_bench.seeds import content_hash
from calm_bench.types import Clip

__all__ = ["ClipEmbedder", "EmbeddedClips", "MemoryCache", "VectorCache", "Vectors", "shared_cache"]

Vectors = NDArray[np.float32]
"""The vectors of one clip, [N, E]."""

_BATCH = 16


class VectorCache(Protocol):
    """Vectors by the hash of the audio and of all that turned it into vectors."""

    def read(self, key: str) -> Vectors | None:
        """The vectors under a key, or None."""

    def write(self, key: str, value: Vectors) -> None:
        """Keep vectors under a key."""


class MemoryCache:
    """A cache that lasts as long as the process and forgets what was used longest ago."""

    def __init__(self, max_bytes: int = 512 * 2**20) -> None:
        """Hold up to `max_bytes` of vectors."""
        self.max_bytes = max_bytes
        self._held: OrderedDict[str, Vectors] = OrderedDict()
        self._bytes = 0

    def read(self, key: str) -> Vectors | None:
        """The vectors under a key, or None."""
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def write(self, key: str, value: Vectors) -> None:
        """Keep vectors under a key."""
        if key in self._held:
            return
        self._held[key] = value
        self._bytes += value.nbytes
        while self._bytes > self.max_bytes and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes


@cache
def shared_cache() -> MemoryCache:
    """The cache of every metric that was given none of its own."""
    return MemoryCache()


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedClips:
    """The vectors of the clips that could be embedded, by clip id, and why the others could not."""

    vectors: Mapping[str, Vectors]
    notes: Mapping[str, str]


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
        return {
            "embedding": embedding.name,
            "embedding_version": embedding.version,
            "dim": embedding.dim,
            "sample_rate": embedding.sample_rate,
            "resampler": RESAMPLER,
            "scope": "continuation",
            **embedding.recipe,
        }

    def embed(self, clips: Sequence[Clip]) -> EmbeddedClips:
        """Vectors [N, E] of each clip's continuation; none is computed twice."""
        recipe = content_hash(self.recipe)
        keys = {c.clip_id: content_hash(c.clip_id, *c.span, recipe) for c in clips}
        notes = {clip.clip_id: note for clip in clips if (note := self._too_short(clip))}
        found: dict[str, Vectors] = {}
        missing: dict[str, Clip] = {}
        for clip in clips:
            if clip.clip_id in notes or clip.clip_id in found:
                continue
            kept = self.store.read(keys[clip.clip_id])
            if kept is None:
                missing[clip.clip_id] = clip
            else:
                found[clip.clip_id] = kept
        for clip_id, vectors in self._compute(list(missing.values())).items():
            self.store.write(keys[clip_id], vectors)
            found[clip_id] = vectors
        return EmbeddedClips(vectors=found, notes=notes)

    def _too_short(self, clip: Clip) -> str | None:
        seconds = len(clip.continuation) / clip.sample_rate
        if seconds >= self.embedding.min_seconds:
            return None
        least = f"{self.embedding.name} needs {self.embedding.min_seconds:g} s"
        return f"too short to embed: {seconds:.2f} s after the prompt, {least}"

    def _compute(self, clips: Sequence[Clip]) -> dict[str, Vectors]:
        found: dict[str, Vectors] = {}
        for start in range(0, len(clips), _BATCH):
            batch = clips[start : start + _BATCH]
            rate = self.embedding.sample_rate
            waves = [resample(clip.continuation, clip.sample_rate, rate) for clip in batch]
            for clip, vectors in zip(batch, self.embedding.embed(waves), strict=True):
                _, E = vectors.shape
                if self.embedding.dim != E or not np.isfinite(vectors).all():
                    raise ValueError(
                        f"{self.embedding.name} gave {vectors.shape} vectors for {clip.clip_id}, "
                        f"which must be finite and {self.embedding.dim} wide"
                    )
                found[clip.clip_id] = vectors
        return found
