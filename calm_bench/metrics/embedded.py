"""What the metrics of an embedding have in common: two sets of vectors, by group of clips.

The group (the clips of a prompt, or of a recording) is the unit of everything that follows. Vectors
of one clip are neighbours in time and clips of one group share what was said, so neither is a fresh
draw; and the evaluated and the reference clips of one group belong together, which is why both are
left out or drawn together.

Vectors are read clip by clip, as often as they are needed: no set of clips lies in memory.
"""

import logging
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import Any, ClassVar

import numpy as np

from calm_bench import registry
from calm_bench.core.recordings import few
from calm_bench.embeddings.base import Embedding
from calm_bench.embeddings.vectors import ClipEmbedder, VectorCache
from calm_bench.metrics.base import Metric, Need
from calm_bench.types import Clip, Estimate, Floats, MetricResult

DEFAULT_EMBEDDING = "whisper"
FEW_CLIPS = 500
"""Sets of fewer clips are said to be small."""
_SAME_LENGTH = 0.05
_LOST_BESIDE = "the other row's clip cannot be embedded"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSet:
    """The vectors of a set of clips: how many each clip has, and how to read them.

    Attributes:
        clips: Those that could be embedded, by group.
        sizes: How many vectors each of them has.
        lost: Those that could not.
        notes: By clip id, why not.
    """

    clips: tuple[Clip, ...]
    sizes: tuple[int, ...]
    lost: tuple[Clip, ...]
    notes: Mapping[str, str]
    embedder: ClipEmbedder

    @property
    def n_clips(self) -> int:
        """How many clips could be embedded."""
        return len(self.clips)

    @property
    def n_vectors(self) -> int:
        """How many vectors all clips have together."""
        return sum(self.sizes)

    def has(self, n: int) -> str:
        """What there is `n` of, and, if some clips could not be embedded, which and why not."""
        if not self.lost:
            return f"has {n}"
        reasons = [f"{c.prompt_id.removeprefix('./')}, {self.notes[c.clip_id]}" for c in self.lost]
        whole = self.n_clips + len(self.lost)
        return f"has {n}: of its {whole} clips {self.n_clips} can be embedded (not {few(reasons)})"

    @property
    def groups(self) -> frozenset[str]:
        """The groups that the clips belong to."""
        return frozenset(clip.group for clip in self.clips)

    @property
    def identity(self) -> list[list[Any]]:
        """Which stretch of which clips these are."""
        return [[clip.clip_id, *clip.span] for clip in self.clips]

    def with_keys(self, keys: Collection[str]) -> "VectorSet":
        """The set of the clips with these pair keys; the others are lost."""
        kept = [c.pair_key in keys for c in self.clips]
        out = tuple(clip for clip in self.clips if clip.pair_key not in keys)
        return replace(
            self,
            clips=tuple(compress(self.clips, kept)),
            sizes=tuple(compress(self.sizes, kept)),
            lost=(*self.lost, *out),
            notes={**self.notes, **{clip.clip_id: _LOST_BESIDE for clip in out}},
        )

    def parts(self) -> Iterator[tuple[str, Floats]]:
        """Group and vectors [N, E] of each clip."""
        for clip, vectors in self.embedder.embed(self.clips, {}):
            yield clip.group, vectors.astype(np.float64)

    def thinned(self, most: int) -> tuple[Floats, list[str]]:
        """Every n-th vector, so that no more than `most` are left, and the group of each."""
        step, place = max(1, -(-self.n_vectors // most)), 0
        vectors, groups = [np.zeros((0, self.embedder.embedding.dim))], list[str]()
        for group, found in self.parts():
            vectors.append(found[-place % step :: step])
            groups += [group] * len(vectors[-1])
            place += len(found)
        return np.concatenate(vectors), groups


class EmbeddingMetric(Metric):
    """A set metric over the vectors of an embedding that is chosen by name."""

    scope = "set"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})

    def __init__(
        self, embedding: str | Embedding = DEFAULT_EMBEDDING, cache: VectorCache | None = None
    ) -> None:
        """Use a registered embedding (or one at hand); `cache` keeps vectors for other metrics too.

        The embedding is loaded when the first clip or the recipe is asked for, not here.
        """
        self._embedding = embedding
        self._cache = cache
        self._said: set[str] = set()

    @cached_property
    def embedder(self) -> ClipEmbedder:
        """The embedding behind its cache."""
        chosen = self._embedding
        if isinstance(chosen, str):
            chosen = registry.load("embedding", chosen)()
        return ClipEmbedder(chosen, self._cache)

    def vectors_of(self, clips: Sequence[Clip]) -> VectorSet:
        """The vectors of clips: computed where they are new, counted, and not held."""
        in_order = sorted(clips, key=lambda clip: (clip.group, clip.pair_key))
        notes: dict[str, str] = {}
        counted = [(c, len(v)) for c, v in self.embedder.embed(in_order, notes)]
        return VectorSet(
            clips=tuple(clip for clip, _ in counted),
            sizes=tuple(size for _, size in counted),
            lost=tuple(clip for clip in in_order if clip.clip_id in notes),
            notes=notes,
            embedder=self.embedder,
        )

    def vectors_of_both(self, clips: Sequence[Clip], baseline: Sequence[Clip]) -> list[VectorSet]:
        """The vectors of two rows, of the prompts of which both have a clip with vectors."""
        shared = {c.pair_key for c in clips} & {c.pair_key for c in baseline}
        rows = ([c for c in row if c.pair_key in shared] for row in (clips, baseline))
        found = [self.vectors_of(row) for row in rows]
        a, b = ({clip.pair_key for clip in row.clips} for row in found)
        return [row.with_keys(a & b) for row in found]

    @abstractmethod
    def estimates(
        self, rows: Sequence[VectorSet], theirs: VectorSet
    ) -> tuple[dict[str, Estimate], dict[str, float]]:
        """The columns of a row, or by how much they exceed those of a second; and its counts."""

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        """The columns beside the counts that tell how far to trust them."""
        ours, theirs = self.vectors_of(clips), self.vectors_of(reference)
        estimates, counts = self.estimates([ours], theirs)
        sizes = {
            "n_clips": ours.n_clips,
            "n_vectors": ours.n_vectors,
            "dim": self.embedder.embedding.dim,
            "n_reference_clips": theirs.n_clips,
            "n_reference_vectors": theirs.n_vectors,
            "n_too_short": len(ours.notes),
            "few_clips": float(min(ours.n_clips, theirs.n_clips) < FEW_CLIPS),
            "unequal_lengths": float(self._uneven(ours, theirs)),
        }
        return MetricResult(notes=ours.notes, estimates=estimates, counts={**sizes, **counts})

    def difference(
        self, clips: Sequence[Clip], baseline: Sequence[Clip], reference: Sequence[Clip]
    ) -> Mapping[str, Estimate]:
        """All columns over the prompts both rows have: `clips` minus `baseline`."""
        rows = self.vectors_of_both(clips, baseline)
        return self.estimates(rows, self.vectors_of(reference))[0]

    def _uneven(self, ours: VectorSet, theirs: VectorSet) -> bool:
        """Whether clips are not as long as the reference's, which is said once.

        A network that knows where in its input it is (Whisper's does) tells clips of 6 s from clips
        of 9 s of the same recordings better than it tells clean speech from noisy.
        """
        if not ours.n_clips or not theirs.n_clips:
            return False
        a, b = ours.n_vectors / ours.n_clips, theirs.n_vectors / theirs.n_clips
        uneven = abs(a - b) > _SAME_LENGTH * b
        if uneven:
            self._say_once(
                "%s compares clips of %.0f vectors with reference clips of %.0f: their lengths "
                "differ, and part of the distance is that",
                *(self.name, a, b),
            )
        return uneven

    def _say_once(self, warning: str, *parts: Any) -> None:
        if warning not in self._said:
            self._said.add(warning)
            logger.warning(warning, *parts)
