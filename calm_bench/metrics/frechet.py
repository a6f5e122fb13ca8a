"""The Fréchet distance between Gaussians fitted to two sets of vectors, and its limit.

All in float64 and by symmetric eigenvalues: tr((ΣₐΣ_b)^½) is the sum of the square roots of the
eigenvalues of Σₐ^½ Σ_b Σₐ^½, which is symmetric, so no complex number can turn up. A matrix square
root of the product ΣₐΣ_b, as most code has it, loses digits and turns complex when a set is small.

The distance between samples is biased upwards by about c/n. The bias follows the number of clips,
not of vectors, which are correlated within a clip, so every resample here moves whole groups of
prompts, on both sides at once.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Gaussian",
    "Groups",
    "Limit",
    "deal_groups",
    "extrapolate",
    "frechet_distance",
    "subset_sizes",
]

Floats = NDArray[np.float64]

_MAX_GROUPS = 32
_SIZES = 8
_WINDOWS = 8


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A mean [E] and a covariance [E, E] with denominator N - 1."""

    mean: Floats
    covariance: Floats

    @classmethod
    def fit(cls, vectors: Floats) -> "Gaussian":
        """The Gaussian with the moments of [N, E] vectors, N ≥ 2."""
        return Groups([vectors]).gaussian(np.ones(1))


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


class Groups:
    """The moments of groups of vectors; those of any union of groups follow by adding up."""

    def __init__(self, groups: Sequence[Floats]) -> None:
        """Sum up [N, E] vectors of each group around the mean of all, which keeps the digits."""
        self.centre = np.concatenate(groups).mean(axis=0)  # [E]
        centred = [vectors - self.centre for vectors in groups]
        self.counts = np.array([len(vectors) for vectors in groups], dtype=np.float64)  # [G]
        self.sums = np.stack([vectors.sum(axis=0) for vectors in centred])  # [G, E]
        self.scatters = np.stack([vectors.T @ vectors for vectors in centred])  # [G, E, E]

    @classmethod
    def of_prompts(
        cls, by_prompt: Mapping[str, Floats], groups: Sequence[Sequence[str]]
    ) -> "Groups":
        """The moments of the prompts' vectors in each group; a group may have none of this set."""
        nothing = next(iter(by_prompt.values()))[:0]
        return cls(
            [
                np.concatenate([nothing, *(by_prompt[p] for p in group if p in by_prompt)])
                for group in groups
            ]
        )

    def gaussian(self, chosen: Floats) -> Gaussian:
        """The Gaussian of the union of the groups that `chosen` [G] marks with 1."""
        n = chosen @ self.counts
        mean = (chosen @ self.sums) / n
        scatter = np.tensordot(chosen, self.scatters, axes=1) - n * np.outer(mean, mean)
        return Gaussian(self.centre + mean, scatter / (n - 1))


def deal_groups(sides: Sequence[Collection[str]], seed: int) -> list[list[str]]:
    """Deal the prompts of several sets at random into at most 32 groups, evenly for every set.

    A group holds prompts of all sides, so leaving it out leaves out the same share of each, and a
    prompt that several sides have leaves all of them at once.
    """
    prompts = sorted(set().union(*sides))
    owners = {prompt: tuple(prompt in side for side in sides) for prompt in prompts}
    n_groups = min(_MAX_GROUPS, *(len(side) for side in sides))
    rng = np.random.default_rng(seed)
    members: list[list[str]] = [[] for _ in range(n_groups)]
    place = 0
    for owner in sorted(set(owners.values()), reverse=True):
        stratum = [prompt for prompt in prompts if owners[prompt] == owner]
        for index in rng.permutation(len(stratum)):
            members[place % n_groups].append(stratum[index])
            place += 1
    return members


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Where a distance goes as sets grow, and how straight the line there is (r_squared)."""

    value: float
    r_squared: float
    smallest: int


def subset_sizes(n_groups: int, n_clips: int, dim: int) -> list[int]:
    """Numbers of groups to sub-sample, evenly spread in 1/size, from the smallest useful to all.

    The smallest has as many clips as the vectors have dimensions where half of the clips are enough
    for that, else half of the clips, and never less than a fifth: below, the bias is no longer a
    straight line in 1/n.
    """
    least = max(n_clips / 5, min(dim, n_clips / 2))
    smallest = max(2, math.ceil(least / n_clips * n_groups))
    inverse = np.linspace(1 / smallest, 1 / n_groups, _SIZES)
    return sorted({round(1 / x) for x in inverse})


def extrapolate(
    distance: Callable[[Floats], float], n_groups: int, sizes: Sequence[int], seed: int
) -> Limit:
    """The intercept of a line through the mean distance at each size against 1/size.

    Subsets are drawn without replacement: drawing with replacement would keep the distance of the
    sample from the truth, and so the bias that the line is to remove. Those of one size are windows
    on one random circle of all groups, so that each group is in nearly the same number of them and
    what it contributes by itself cancels. `distance` gets the chosen groups as ones of [G], which
    hold for both sides.
    """
    rng = np.random.default_rng(seed)
    means = []
    for size in sizes:
        circle = rng.permutation(n_groups)
        n_windows = _WINDOWS if size < n_groups else 1
        found = []
        for start in np.arange(n_windows) * n_groups // n_windows:
            chosen = np.zeros(n_groups)
            chosen[np.roll(circle, -start)[:size]] = 1.0
            found.append(distance(chosen))
        means.append(np.mean(found))
    x, y = n_groups / np.array(sizes), np.array(means)
    slope, intercept = np.polyfit(x, y, 1)
    spread = float(np.sum((y - y.mean()) ** 2))
    missed = float(np.sum((y - intercept - slope * x) ** 2))
    r_squared = 1.0 - missed / spread if spread > 0 else 1.0
    return Limit(value=float(intercept), r_squared=r_squared, smallest=min(sizes))
