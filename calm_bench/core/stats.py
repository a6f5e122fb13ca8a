"""Intervals: from per-clip values to a number, its 95 % interval and the clips behind it.

What is resampled is the group: a prompt with all its clips, or a recording with all that was cut
from it, because these are not independent. Rows are compared over the clips both have scored, with
the same resampled groups on both sides, so that what makes a prompt hard cancels. Every aggregate
of a column but the median is a quotient of two sums (the mean's denominator counts clips), which
makes 2,000 resamples one matrix product.

An interval speaks of recordings like these and of this reference set; it knows nothing of a model
that would come out of another training run.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from calm_bench.types import Column, Estimate

RESAMPLES = 2000
_MAX_BLOCKS = 32  # of groups, each left out once
_BLOCK = 2_000_000  # counts held at once

ClipValues = Mapping[str, Mapping[str, float | None]]
"""The fields of each clip by its pair key, `prompt_id/seed_index`."""

GroupOf = Mapping[str, str]
"""The group of each clip by its pair key; a clip that is not there stands for itself."""

Floats = NDArray[np.float64]

Owners = NDArray[np.int64]
"""The group of each clip, [n], numbered from 0 on."""

Statistic = Callable[[Floats], Floats]
"""Values [R] by how often each group is drawn, [R, G]."""


def summarise(
    column: Column, clips: ClipValues, seed: int, groups: GroupOf = MappingProxyType({})
) -> Estimate:
    """A column's value over a row's clips, with its percentile bootstrap interval over groups.

    Clips that lack one of the column's fields are left out of the value and of n.
    """
    found = _over(column, _scored(column, clips), [clips], seed, groups)
    return found or Estimate(value=None, reason=f"no clip has a value for {column.label}")


def compare(
    column: Column,
    a: ClipValues,
    b: ClipValues,
    seed: int,
    groups: GroupOf = MappingProxyType({}),
) -> Estimate:
    """The column's value in `a` minus that in `b` over the clips both score, paired by group."""
    in_b = set(_scored(column, b))
    keys = [key for key in _scored(column, a) if key in in_b]
    lacking = f"no prompt has a value for {column.label} in both rows"
    return _over(column, keys, [a, b], seed, groups) or Estimate(value=None, reason=lacking)


def _over(
    column: Column, keys: Sequence[str], sides: Sequence[ClipValues], seed: int, groups: GroupOf
) -> Estimate | None:
    """The column's value over these clips, or how far it is above that of a second side."""
    if not keys:
        return None
    owners = _owners(keys, groups)
    ours, *theirs = (_aggregate(column, side, keys, owners) for side in sides)
    draws = _resampled(lambda counts: ours(counts) - sum(t(counts) for t in theirs), owners, seed)
    return _estimate(float(draws[0]), draws[1:], len(keys), owners.max() + 1)


def n_needed(difference: Estimate) -> int | None:
    """The number of clips at which the interval of a difference would just leave zero.

    Takes the observed difference for the true one and widths to shrink as 1/√n. A run of that size
    has an even chance to show the difference; one of twice that size, four in five. None where the
    interval leaves zero already or the difference or its interval is missing or nil.
    """
    value, low, high = difference.value, difference.low, difference.high
    if not value or low is None or high is None or not low <= 0.0 <= high:
        return None
    reach = value - low if value > 0 else high - value
    return max(difference.n + 1, math.ceil(difference.n * (reach / value) ** 2))


def ratio_interval(
    a: Sequence[float], b: Sequence[float], seed: int, level: float = 0.95
) -> Estimate:
    """The median of a_i / b_i over pairs measured next to each other, with a bootstrap interval.

    The median of ratios, not the ratio of medians: a pair shares the state the machine was in.
    """
    if len(a) != len(b):
        raise ValueError(f"pairs need equal counts, not {len(a)} and {len(b)}")
    if not a:
        return Estimate(value=None, reason="nothing was measured")
    logs = np.log(np.asarray(a, dtype=np.float64)) - np.log(np.asarray(b, dtype=np.float64))
    picks = np.random.default_rng(seed).integers(0, len(logs), (RESAMPLES, len(logs)))
    draws = np.exp(np.median(logs[picks], axis=1))
    return _estimate(math.exp(float(np.median(logs))), draws, len(logs), len(logs), level)


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


def student_interval(value: float, deleted: Floats, n: int) -> Estimate:
    """A value and its 95 % jackknife interval; `deleted[g]` is the value without group g."""
    from scipy.special import stdtrit

    G = len(deleted)
    if G < 2 or not np.isfinite(deleted).all():
        return Estimate(value=value, n=n, reason="an interval needs more recordings")
    error = np.sqrt((G - 1) / G * np.sum((deleted - deleted.mean()) ** 2))
    reach = float(stdtrit(G - 1, 0.975) * error)
    return Estimate(value=value, low=value - reach, high=value + reach, n=n)


def _resampled(statistic: Statistic, owners: Owners, seed: int) -> Floats:
    """A statistic of all groups, and then of each resample of them, [1 + RESAMPLES]."""
    rng, block = np.random.default_rng(seed), max(1, _BLOCK // len(owners))
    n_groups = owners.max() + 1
    even = np.full(n_groups, 1.0 / n_groups)
    drawn = (
        rng.multinomial(n_groups, even, size=min(block, RESAMPLES - at)).astype(np.float64)
        for at in range(0, RESAMPLES, block)
    )
    return np.concatenate([statistic(counts) for counts in (np.ones((1, n_groups)), *drawn)])


def _scored(column: Column, clips: ClipValues) -> list[str]:
    """The keys of the clips that have every field of the column, in a fixed order."""
    if column.aggregate == "set":
        raise ValueError(f"{column.name} has no clip values: its metric estimates it")
    return sorted(
        key
        for key, values in clips.items()
        if all(values.get(name) is not None for name in column.fields)
    )


def _owners(keys: Sequence[str], groups: GroupOf) -> Owners:
    names = [groups.get(key, key) for key in keys]
    place = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return np.array([place[name] for name in names])


def _aggregate(column: Column, clips: ClipValues, keys: Sequence[str], owners: Owners) -> Statistic:
    """The column's value by how often each group is drawn; NaN over a denominator of 0."""
    fields = [[clips[key][name] for key in keys] for name in column.fields]
    above = np.array(fields[0], dtype=np.float64)
    if column.aggregate == "median":
        return lambda counts: column.scale * _weighted_medians(above, counts[:, owners])
    below = np.array(fields[1], dtype=np.float64) if len(fields) == 2 else np.ones(len(keys))
    sums = np.stack([np.bincount(owners, of) for of in (above, below)], axis=1)  # [G, 2]

    def quotients(counts: Floats) -> Floats:
        a, b = (counts @ sums).T
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            value = a / np.where(b == 0, np.nan, b)
            if column.aggregate in ("exp_mean", "exp_ratio"):
                value = np.exp(value)
        scaled: Floats = value * column.scale
        return scaled

    return quotients


def _weighted_medians(values: Floats, weights: Floats) -> Floats:
    """The median of values [n] of which each counts weights [R, n] times, [R]."""
    order = np.argsort(values)
    reached = weights[:, order].cumsum(axis=1)
    half = reached[:, -1:] / 2
    low, high = (reached >= half).argmax(axis=1), (reached > half).argmax(axis=1)
    medians: Floats = (values[order][low] + values[order][high]) / 2
    return medians


def _estimate(
    value: float, draws: Floats, n: int, n_independent: int, level: float = 0.95
) -> Estimate:
    if not math.isfinite(value):
        return Estimate(value=None, n=n, reason="the sums behind it are zero, infinite or NaN")
    # A resample without a single denominator (all empty transcripts, say) has no value at all.
    finite = draws[np.isfinite(draws)]
    if n_independent < 2 or not finite.size:
        return Estimate(value=value, n=n, reason="an interval needs two independent samples")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value=value, low=float(low), high=float(high), n=n)
