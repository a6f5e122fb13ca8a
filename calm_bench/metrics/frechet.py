"""The Fréchet distance between Gaussians fitted to two sets of vectors, and its limit.

All in float64 and by symmetric eigenvalues: tr((ΣₐΣ_b)^½) is the sum of the square roots of the
eigenvalues of Σₐ^½ Σ_b Σₐ^½, which is symmetric, so no complex number can turn up. A matrix square
root of the product ΣₐΣ_b, as most code has it, loses digits and turns complex when a set is small.

The distance between samples is biased upwards by about c/n. The bias follows the number of clips,
not of vectors, which are correlated within a clip, so every resample here moves whole blocks of
groups (the clips of a prompt, or of a recording), on both sides at once. Of the vectors nothing is
held but the moments of each block.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MAX_BLOCKS = 32
_SIZES = 8
_WINDOWS = 8


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
    values, axes = np.linalg.eigh(a.covariance)
    root = (axes * np.sqrt(np.clip(values, 0.0, None))) @ axes.T
    inner = root @ b.covariance @ root
    products = np.linalg.eigvalsh((inner + inner.T) / 2)
    # What is left of a zero eigenvalue after rounding has a root of 1e-8, and small sets have many.
    rounding = products[-1] * len(products) * np.finfo(np.float64).eps
    overlap = np.sqrt(products[products > rounding]).sum()
    spread = float(np.trace(a.covariance) + np.trace(b.covariance))
    distance = float(np.sum((a.mean - b.mean) ** 2)) + spread - 2.0 * float(overlap)
    if distance < -1e-6 * spread:
        raise ArithmeticError(f"Fréchet distance {distance} of sets with total variance {spread}")
    return max(distance, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """The moments of blocks of vectors; those of any union of blocks follow by adding up."""

    centre: Floats  # [E]
    counts: Floats  # [B]
    sums: Floats  # around the centre, [B, E]
    scatters: Floats  # around the centre, [B, E, E]

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
        return cls(centre=start + shift, counts=counts, sums=sums, scatters=scatters)

    def gaussian(self, chosen: Floats) -> Gaussian:
        """The Gaussian of the union of the blocks that `chosen` [B] marks with 1."""
        n = chosen @ self.counts
        mean = (chosen @ self.sums) / n
        scatter = np.tensordot(chosen, self.scatters, axes=1) - n * np.outer(mean, mean)
        return Gaussian(self.centre + mean, scatter / (n - 1))


def deal_blocks(sides: Sequence[Collection[str]], seed: int) -> list[list[str]]:
    """Deal the groups of several sets at random into at most 32 blocks, evenly for every set.

    A block holds groups of all sides, so leaving it out leaves out the same share of each, and a
    group that several sides have leaves all of them at once.
    """
    groups = sorted(set().union(*sides))
    owners = {group: tuple(group in side for side in sides) for group in groups}
    n_blocks = min(_MAX_BLOCKS, *(len(side) for side in sides))
    rng = np.random.default_rng(seed)
    members: list[list[str]] = [[] for _ in range(n_blocks)]
    place = 0
    for owner in sorted(set(owners.values()), reverse=True):
        stratum = [group for group in groups if owners[group] == owner]
        for index in rng.permutation(len(stratum)):
            members[place % n_blocks].append(stratum[index])
            place += 1
    return members


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
