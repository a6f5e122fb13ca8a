"""Intervals: from per-clip values to a number, its 95 % interval and the clips behind it.

What is resampled is the group: a prompt with all its clips, or a recording with all that was cut
from it, because these are not independent. Cells are compared over the clips both have scored, with
the same resampled groups on both sides, so that what makes a prompt hard cancels. Every aggregate
of a column is a quotient of two sums (the mean's denominator counts clips), which makes 2,000
resamples one matrix product.

An interval speaks of recordings like these and of this reference set; it knows nothing of a model
that would come out of another training run.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from calm_bench.types import Column, Estimate

__all__ = [
    "RESAMPLES",
    "ClipValues",
    "GroupOf",
    "compare",
    "n_needed",
    "percentile_interval",
    "ratio_interval",
    "resample_counts",
    "summarise",
]

RESAMPLES = 2000
_BLOCK = 2_000_000  # counts held at once

ClipValues = Mapping[str, Mapping[str, float | None]]
"""The fields of each clip by its pair key, `prompt_id/seed_index`."""

GroupOf = Mapping[str, str]
"""The group of each clip by its pair key; a clip that is not there stands for itself."""

Floats = NDArray[np.float64]


def summarise(
    column: Column, clips: ClipValues, seed: int, groups: GroupOf = MappingProxyType({})
) -> Estimate:
    """A column's value over a cell's clips, with its percentile bootstrap interval over groups.

    Clips that lack one of the column's fields are left out of the value and of n.
    """
    keys = _scored(column, clips)
    if not keys:
        return Estimate(value=None, reason=f"no clip has a value for {column.name}")
    sums = _group_sums(column, clips, keys, groups)  # [G, 2]
    draws = _quotients(column, _resampled(sums, seed))
    return _estimate(float(_quotients(column, sums.sum(axis=0))), draws, len(keys), len(sums))


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
    if not keys:
        return Estimate(value=None, reason=f"no prompt has a value for {column.name} in both rows")
    sums_a, sums_b = (_group_sums(column, side, keys, groups) for side in (a, b))
    drawn = _resampled(np.hstack([sums_a, sums_b]), seed)  # [R, 4]
    draws = _quotients(column, drawn[:, :2]) - _quotients(column, drawn[:, 2:])
    value = _quotients(column, sums_a.sum(axis=0)) - _quotients(column, sums_b.sum(axis=0))
    return _estimate(float(value), draws, len(keys), len(sums_a))


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


def resample_counts(n: int, seed: int) -> Floats:
    """How often each of n groups is drawn in each bootstrap resample, [RESAMPLES, n]."""
    return _draw(np.random.default_rng(seed), n, RESAMPLES)


def _resampled(sums: Floats, seed: int) -> Floats:
    """The sums of each resample of groups, [G, F] to [RESAMPLES, F], a block at a time."""
    rng, n = np.random.default_rng(seed), len(sums)
    block = max(1, _BLOCK // n)
    starts = range(0, RESAMPLES, block)
    return np.concatenate([_draw(rng, n, min(block, RESAMPLES - at)) @ sums for at in starts])


def _draw(rng: np.random.Generator, n: int, resamples: int) -> Floats:
    return rng.multinomial(n, np.full(n, 1.0 / n), size=resamples).astype(np.float64)


def percentile_interval(draws: Floats, level: float = 0.95) -> tuple[float, float] | None:
    """The central interval that holds `level` of the draws; None if no draw is a finite number."""
    # A resample without a single denominator (all empty transcripts, say) has no value at all.
    finite = draws[np.isfinite(draws)]
    if finite.size == 0:
        return None
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _scored(column: Column, clips: ClipValues) -> list[str]:
    """The keys of the clips that have every field of the column, in a fixed order."""
    if column.aggregate == "set":
        raise ValueError(f"{column.name} has no clip values: its metric estimates it")
    return sorted(
        key
        for key, values in clips.items()
        if all(values.get(name) is not None for name in column.fields)
    )


def _group_sums(column: Column, clips: ClipValues, keys: Sequence[str], groups: GroupOf) -> Floats:
    """Numerator and denominator of the column summed over each group's clips, [G, 2]."""
    rows = {groups.get(key, key): np.zeros(2) for key in keys}
    for key in keys:
        fields = [clips[key][name] for name in column.fields]
        pair = fields if len(fields) == 2 else [fields[0], 1.0]
        rows[groups.get(key, key)] += np.asarray(pair, dtype=np.float64)
    return np.stack(list(rows.values()))


def _quotients(column: Column, sums: Floats) -> Floats:
    """The column's value for each pair of sums, [..., 2] to [...]; NaN over a denominator of 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        value = sums[..., 0] / np.where(sums[..., 1] == 0, np.nan, sums[..., 1])
        if column.aggregate in ("exp_mean", "exp_ratio"):
            value = np.exp(value)
    scaled: Floats = value * column.scale
    return scaled


def _estimate(
    value: float, draws: Floats, n: int, n_independent: int, level: float = 0.95
) -> Estimate:
    """The value with the draws' interval, or with the reason why one of them is missing."""
    if not math.isfinite(value):
        return Estimate(value=None, n=n, reason="the sums behind it are zero, infinite or NaN")
    interval = percentile_interval(draws, level) if n_independent > 1 else None
    if interval is None:
        return Estimate(value=value, n=n, reason="an interval needs two independent samples")
    return Estimate(value=value, low=interval[0], high=interval[1], n=n)
