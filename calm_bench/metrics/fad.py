"""Fréchet audio distance: how far the distribution of a row's sound is from the reference's.

Two numbers. `fad` is the plain distance, which small sets inflate: compare rows with equal clip
counts only, and never a small run with a published value. `fad_inf` extrapolates the distance to
infinitely many clips; it may come out slightly negative where the truth is near zero.

Intervals are jackknifed over recordings, evaluated and reference clips together. The interval of
`fad_inf` has the width of that of `fad`, because removing the bias leaves the first-order influence
of each clip as it is; in simulations of 32 to 200 clips it covered the truth 89 to 98 times in 100.

FAD over time says where in a continuation a system leaves the real music: each segment of the
continuations is compared with the same segment of the reference clips. Errors that accumulate show
as a distance that grows from segment to segment; a system that is merely of lower quality is far
from the start. Every segment is embedded by itself, so that no vector knows what came before, and
all have the same length, count and bias: compare them with one another, and not with the FAD of
whole continuations, whose vectors are several times as many. Beyond the end of the reference clips
(long generation) a segment is compared with their last one: real music does not drift on average.

All in float64 and by symmetric eigenvalues: tr((ΣₐΣ_b)^½) is the sum of the square roots of the
eigenvalues of Σₐ^½ Σ_b Σₐ^½, which is symmetric, so no complex number can turn up. A matrix square
root of the product ΣₐΣ_b, as most code has it, loses digits and turns complex when a set is small.

The distance between samples is biased upwards by about c/n. The bias follows the number of clips,
not of vectors, which are correlated within a clip, so every resample here moves whole blocks of
groups (the clips of a prompt, or of a recording), on both sides at once. Of the vectors nothing is
held but the moments of each block.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from calm_bench.core.stats import deal_blocks, student_interval
from calm_bench.embeddings.base import Embedding
from calm_bench.embeddings.vectors import VectorCache
from calm_bench.metrics.embedded import DEFAULT_EMBEDDING, FEW_CLIPS, EmbeddingMetric, VectorSet
from calm_bench.seeds import content_hash, derive_seed
from calm_bench.types import Clip, Column, Estimate, Floats, MetricResult

_SEED = derive_seed("fad")
_SIZES = 8
_WINDOWS = 8
_LIMIT_HOLDS_FROM = 32  # groups; a line through smaller sets misses the limit (tests/core/prove.py)


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A mean [E] and a covariance [E, E] with denominator N - 1."""

    mean: Floats
    covariance: Floats


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """‖μₐ − μ_b‖² + tr Σₐ + tr Σ_b − 2 tr((ΣₐΣ_b)^½), never negative.

    Raises:
        ArithmeticError: If the result is negative by more than rounding can explain.
    """
    products = _eigenvalues(a.covariance, b.covariance)
    # What is left of a zero eigenvalue after rounding has a root of 1e-8, and small sets have many.
    rounding = products[-1] * len(products) * np.finfo(np.float64).eps
    overlap = np.sqrt(products[products > rounding]).sum()
    spread = float(np.trace(a.covariance) + np.trace(b.covariance))
    distance = float(np.sum((a.mean - b.mean) ** 2)) + spread - 2.0 * float(overlap)
    if distance < -1e-6 * spread:
        raise ArithmeticError(f"Fréchet distance {distance} of sets with total variance {spread}")
    return max(distance, 0.0)


def _eigenvalues(a: Floats, b: Floats) -> Floats:
    """Those of the product of two covariances [E, E], ascending."""
    from scipy import linalg

    try:  # by a Cholesky factor of b, cheaper than its root
        values = linalg.eigh(a, b, type=2, driver="gv", eigvals_only=True)
    except linalg.LinAlgError:  # b is singular
        parts, axes = np.linalg.eigh(b)
        root = (axes * np.sqrt(np.clip(parts, 0.0, None))) @ axes.T
        inner = root @ a @ root
        values = np.linalg.eigvalsh((inner + inner.T) / 2)
    return np.asarray(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """The moments of blocks of vectors; those of any union of blocks follow by adding up."""

    centre: Floats  # [E]
    counts: Floats  # [B]
    sums: Floats  # around the centre, [B, E]
    scatters: Floats  # around the centre, [B, E, E]
    scatter: Floats  # of all blocks, [E, E]

    @classmethod
    def of(cls, parts: Iterable[tuple[str, Floats]], blocks: Sequence[Sequence[str]]) -> "Blocks":
        """The moments of the vectors [N, E] of groups, in the block that each group belongs to.

        Sums are taken around the mean of the first part and then moved to the mean of all, which
        keeps the digits. A block may have no vector of this set.
        """
        place = {group: index for index, block in enumerate(blocks) for group in block}
        B, start = len(blocks), np.zeros(0)
        counts, sums, scatters = np.zeros(B), np.zeros((B, 0)), np.zeros((B, 0, 0))
        for group, vectors in parts:
            if not start.size:
                start, E = vectors.mean(axis=0), vectors.shape[1]
                sums, scatters = np.zeros((B, E)), np.zeros((B, E, E))
            block, centred = place[group], vectors - start
            counts[block] += len(centred)
            sums[block] += centred.sum(axis=0)
            scatters[block] += centred.T @ centred
        shift = sums.sum(axis=0) / counts.sum()
        for n, total, scatter in zip(counts, sums, scatters, strict=True):
            cross = np.outer(shift, total)
            scatter += n * np.outer(shift, shift) - cross - cross.T
            total -= n * shift
        scatter = scatters.sum(axis=0)
        return cls(
            centre=start + shift, counts=counts, sums=sums, scatters=scatters, scatter=scatter
        )

    def gaussian(self, chosen: Floats) -> Gaussian:
        """The Gaussian of the union of the blocks that `chosen` [B] marks with 1."""
        n = chosen @ self.counts
        mean = (chosen @ self.sums) / n
        scatter = self.scatter - n * np.outer(mean, mean)
        for left_out in np.flatnonzero(chosen == 0):  # few, mostly one
            scatter -= self.scatters[left_out]
        return Gaussian(self.centre + mean, scatter / (n - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Where a distance goes as sets grow, and how straight the line there is (r_squared)."""

    value: float
    r_squared: float
    smallest: int


def subset_sizes(n_blocks: int, n_clips: int, dim: int) -> list[int]:
    """Numbers of blocks to sub-sample, evenly spread in 1/size, from the smallest useful to all.

    The smallest has as many clips as the vectors have dimensions where half of the clips are enough
    for that, else half of the clips, and never less than a fifth: below, the bias is no longer a
    straight line in 1/n.
    """
    least = max(n_clips / 5, min(dim, n_clips / 2))
    smallest = max(2, math.ceil(least / n_clips * n_blocks))
    inverse = np.linspace(1 / smallest, 1 / n_blocks, _SIZES)
    return sorted({round(1 / x) for x in inverse})


def extrapolate(
    distance: Callable[[Floats], float], n_blocks: int, sizes: Sequence[int], seed: int
) -> Limit:
    """The intercept of a line through the mean distance at each size against 1/size.

    Subsets are drawn without replacement: drawing with replacement would keep the distance of the
    sample from the truth, and so the bias that the line is to remove. Those of one size are windows
    on one random circle of all blocks, so that each block is in nearly the same number of them and
    what it contributes by itself cancels. `distance` gets the chosen blocks as ones of [B], which
    hold for both sides.
    """
    rng = np.random.default_rng(seed)
    means = []
    for size in sizes:
        circle = rng.permutation(n_blocks)
        n_windows = _WINDOWS if size < n_blocks else 1
        found = []
        for start in np.arange(n_windows) * n_blocks // n_windows:
            chosen = np.zeros(n_blocks)
            chosen[np.roll(circle, -start)[:size]] = 1.0
            found.append(distance(chosen))
        means.append(np.mean(found))
    x, y = n_blocks / np.array(sizes), np.array(means)
    slope, intercept = np.polyfit(x, y, 1)
    spread = float(np.sum((y - y.mean()) ** 2))
    missed = float(np.sum((y - intercept - slope * x) ** 2))
    r_squared = 1.0 - missed / spread if spread > 0 else 1.0
    return Limit(value=float(intercept), r_squared=r_squared, smallest=min(sizes))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """One set's distance from the reference: on all blocks, without each, and in the limit."""

    value: float
    deleted: Floats  # [B]
    limit: Limit | str | None  # why there is none, or None where nobody asked

    def minus(self, other: "_Measured") -> "_Measured":
        """By how much it exceeds another set's."""
        limit = other.limit if isinstance(self.limit, Limit) else self.limit
        if isinstance(self.limit, Limit) and isinstance(other.limit, Limit):
            limit = replace(self.limit, value=self.limit.value - other.limit.value)
        return _Measured(
            value=self.value - other.value, deleted=self.deleted - other.deleted, limit=limit
        )


_FAD = Column.of(
    *("fad", "FAD", ""),
    better=False,
    aggregate="set",
    note="FAD and its interval are about sets of this many clips, which make it greater than that "
    "of all clips that there could be; FAD∞ estimates the latter",
)


class FadMetric(EmbeddingMetric):
    """Fréchet distance of the continuations' embeddings from the reference's, and its limit."""

    name = "fad"
    columns: ClassVar[tuple[Column, ...]] = (
        _FAD,
        Column.of("fad_inf", "FAD∞", "", better=False, aggregate="set"),
    )
    fewest_clips = 16

    @cached_property
    def _measured(self) -> "dict[str, _Measured]":
        return {}

    @property
    def recipe(self) -> Mapping[str, Any]:
        return {
            "metric": "fad",
            "version": 2,
            "distance": "float64 symmetric eigenvalues, covariances over N - 1",
            "limit": "line in 1/n, recordings without replacement on both sides",
            "interval": "jackknife over at most 32 blocks of recordings",
            **self.embedder.recipe,
        }

    def distance(
        self,
        clips: Sequence[Clip],
        reference: Sequence[Clip],
        baseline: Sequence[Clip] | None = None,
    ) -> Estimate:
        """The plain distance with its interval, or by how much it exceeds that of a baseline."""
        rows = [self.vectors_of(clips)]
        if baseline is not None:
            rows = self.vectors_of_both(clips, baseline)
        estimates, _ = self.estimates(rows, self.vectors_of(reference), limit=False)
        return estimates["fad"]

    def estimates(
        self, rows: Sequence[VectorSet], theirs: VectorSet, *, limit: bool = True
    ) -> tuple[dict[str, Estimate], dict[str, float]]:
        """Both columns of a row, or by how much they exceed those of a second, and its counts.

        There are no counts where a set is too small. Without a `limit` only the plain distance is
        of use.
        """
        n = rows[0].n_clips
        for row in rows:
            if refused := self._refusal(row, theirs):
                missing = Estimate(value=None, n=n, reason=refused)
                return dict.fromkeys(("fad", "fad_inf"), missing), {}
        blocks = deal_blocks([row.groups for row in (*rows, theirs)], _SEED)
        found, *base = (self._measure(row, theirs, blocks, limit=limit) for row in rows)
        counts = {"n_groups": float(len(blocks))}
        if isinstance(found.limit, Limit):
            counts["fad_inf_r_squared"] = found.limit.r_squared
            counts["fad_inf_smallest"] = found.limit.smallest * n // len(blocks)
        for other in base:
            found = found.minus(other)
        fad = student_interval(found.value, found.deleted, n)
        if not base and fad.low is not None:
            fad = replace(fad, low=max(fad.low, 0.0))
        if isinstance(found.limit, Limit):
            limit_without = found.deleted + (found.limit.value - found.value)
            fad_inf = student_interval(found.limit.value, limit_without, n, _LIMIT_HOLDS_FROM)
        else:
            fad_inf = Estimate(value=None, n=n, reason=found.limit)
        fewest = min(n, theirs.n_clips)
        if limit and not base and fewest < FEW_CLIPS:
            self._say_once(
                "FAD of %d clips is inflated by its small sample: compare it within this run only, "
                "not with published values (%d clips and more)",
                *(fewest, FEW_CLIPS),
            )
        return {"fad": fad, "fad_inf": fad_inf}, counts

    def _measure(
        self, ours: VectorSet, theirs: VectorSet, blocks: list[list[str]], *, limit: bool
    ) -> _Measured:
        """The distances of one set from the reference; each pair of sets is measured once."""
        key = content_hash(ours.identity, theirs.identity, blocks, limit)
        if key not in self._measured:
            a, b = (Blocks.of(side.parts(), blocks) for side in (ours, theirs))

            def distance(chosen: Floats) -> float:
                return frechet_distance(a.gaussian(chosen), b.gaussian(chosen))

            B = len(blocks)
            without = [distance(1.0 - one) for one in np.eye(B)] if B > 1 else [1.0]
            self._measured[key] = _Measured(
                value=distance(np.ones(B)),
                deleted=np.array(without),
                limit=self._limit(distance, ours, theirs, B) if limit else None,
            )
        return self._measured[key]

    def _limit(
        self, distance: Callable[[Floats], float], ours: VectorSet, theirs: VectorSet, B: int
    ) -> Limit | str:
        """The distance at infinitely many clips, or why it cannot be told."""
        if self.fewest_clips > B:
            return f"needs {self.fewest_clips} recordings on both sides, there are {B}"
        dim = self.embedder.embedding.dim
        sizes = subset_sizes(B, min(ours.n_clips, theirs.n_clips), dim)
        fewest = min(ours.n_vectors, theirs.n_vectors) * sizes[0] // B
        if fewest <= dim:
            return f"needs sub-samples of more than {dim} vectors, the smallest has about {fewest}"
        return extrapolate(distance, B, sizes, _SEED)

    def _refusal(self, ours: VectorSet, theirs: VectorSet) -> str | None:
        dim = self.embedder.embedding.dim
        more = f"needs more than {dim} vectors for {dim} dimensions"
        for side, name in ((ours, "the row"), (theirs, "the reference")):
            if side.n_clips < self.fewest_clips:
                return f"needs {self.fewest_clips} clips, {name} {side.has(side.n_clips)}"
            if side.n_vectors <= dim:
                return f"{more}, {name} {side.has(side.n_vectors)}"
        return None


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
            column.model_copy(
                update={
                    "name": self.name(column.name, span),
                    "label": f"{column.label} {span[0]:g}–{span[1]:g} s",
                    "fields": tuple(self.name(field, span) for field in column.fields),
                    "span": span,
                }
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


class FadOverTime(FadMetric):
    """FAD of successive segments of the continuations against the reference's segments."""

    name = "fad_over_time"
    columns = Segments().columns(_FAD)
    goes_beyond_reference = True

    def __init__(
        self,
        embedding: str | Embedding = DEFAULT_EMBEDDING,
        cache: VectorCache | None = None,
        segments: Segments | None = None,
    ) -> None:
        super().__init__(embedding, cache)
        self.segments = segments or Segments()

    @property
    def own_columns(self) -> tuple[Column, ...]:
        return self.segments.columns(_FAD)

    @property
    def recipe(self) -> Mapping[str, Any]:
        return {
            **super().recipe,
            "metric": "fad_over_time",
            "segment_seconds": self.segments.seconds,
            "segments": "each embedded alone; past the reference's end against its last one",
        }

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        estimates, beyond = self._distances(reference, clips)
        return MetricResult(
            estimates=estimates, counts={"n_segments_beyond_reference": float(beyond)}
        )

    def difference(
        self, clips: Sequence[Clip], baseline: Sequence[Clip], reference: Sequence[Clip]
    ) -> Mapping[str, Estimate]:
        """Each segment's FAD over the prompts both rows have: `clips` minus `baseline`."""
        return self._distances(reference, clips, baseline)[0]

    def _distances(
        self, reference: Sequence[Clip], *rows: Sequence[Clip]
    ) -> tuple[dict[str, Estimate], int]:
        """The distance of each segment, and how many are compared with an earlier one.

        Recordings may end one by one: a stretch that too few of them reach is no measure.
        """
        estimates, beyond = {}, 0
        for span in self.segments.spans:
            earlier = (other for other in reversed(self.segments.spans) if other <= span)
            found = [(cut(reference, other), other != span) for other in earlier]
            enough = (pair for pair in found if len(pair[0]) >= self.fewest_clips)
            theirs, is_other = next(enough, max(found, key=lambda pair: len(pair[0])))
            beyond += is_other
            ours, *base = (cut(row, span) for row in rows)
            estimates[self.segments.name(_FAD.name, span)] = self.distance(ours, theirs, *base)
        return estimates, beyond
