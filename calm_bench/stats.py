"""Intervals: from per-clip values to a number, its 95 % interval and the clips behind it.

What is resampled is the prompt, with all its clips, because clips that continue one prompt are not
independent. Cells are compared over the clips both have scored, with the same resampled prompts on
both sides, so that what makes a prompt hard cancels. Every aggregate of a column is a quotient of
two sums (the mean's denominator counts clips), which makes 2,000 resamples one matrix product.

An interval speaks of prompts like these and of this reference set; it knows nothing of a model that
would come out of another training run.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from calm_bench.types import Column, Estimate

__all__ = [
    "RESAMPLES",
    "ClipValues",
    "compare",
    "n_needed",
    "percentile_interval",
    "prompt_of",
    "ratio_interval",
    "resample_counts",
    "summarise",
]

RESAMPLES = 2000

ClipValues = Mapping[str, Mapping[str, float | None]]
"""The fields of each clip by its pair key, `prompt_id/seed_index`."""

Floats = NDArray[np.float64]


def summarise(column: Column, clips: ClipValues, seed: int) -> Estimate:
    """A column's value over a cell's clips, with its percentile bootstrap interval over prompts.

    Clips that lack one of the column's fields are left out of the value and of n.
    """
    keys = _scored(column, clips)
    if not keys:
        return Estimate(value=None, reason=f"no clip has a value for {column.name}")
    sums = _prompt_sums(column, clips, keys)  # [P, 2]
    draws = _quotients(column, resample_counts(len(sums), seed) @ sums)
    return _estimate(float(_quotients(column, sums.sum(axis=0))), draws, len(keys), len(sums))


def compare(column: Column, a: ClipValues, b: ClipValues, seed: int) -> Estimate:
    """The column's value in `a` minus that in `b` over the clips both score, paired by prompt."""
    in_b = set(_scored(column, b))
    keys = [key for key in _scored(column, a) if key in in_b]
    if not keys:
        return Estimate(value=None, reason=f"no prompt has a value for {column.name} in both rows")
    sums_a, sums_b = _prompt_sums(column, a, keys), _prompt_sums(column, b, keys)
    counts = resample_counts(len(sums_a), seed)
    draws = _quotients(column, counts @ sums_a) - _quotients(column, counts @ sums_b)
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


def resample_counts(n: int, seed: int, resamples: int = RESAMPLES) -> Floats:
    """How often each of n prompts is drawn in each bootstrap resample, [resamples, n]."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=resamples)
    return counts.astype(np.float64)


def percentile_interval(draws: Floats, level: float = 0.95) -> tuple[float, float] | None:
    """The central interval that holds `level` of the draws; None if no draw is a finite number."""
    # A resample without a single denominator (all empty transcripts, say) has no value at all.
    finite = draws[np.isfinite(draws)]
    if finite.size == 0:
        return None
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def prompt_of(pair_key: str) -> str:
    """The prompt's part of a pair key; a key without a seed index stands for itself."""
    prompt, slash, _ = pair_key.rpartition("/")
    return prompt if slash else pair_key


def _scored(column: Column, clips: ClipValues) -> list[str]:
    """The keys of the clips that have every field of the column, in a fixed order."""
    if column.aggregate == "set":
        raise ValueError(f"{column.name} has no clip values: its metric estimates it")
    return sorted(
        key
        for key, values in clips.items()
        if all(values.get(name) is not None for name in column.fields)
    )


def _prompt_sums(column: Column, clips: ClipValues, keys: Sequence[str]) -> Floats:
    """Numerator and denominator of the column summed over each prompt's clips, [P, 2]."""
    rows = {prompt_of(key): np.zeros(2) for key in keys}
    for key in keys:
        fields = [clips[key][name] for name in column.fields]
        pair = fields if len(fields) == 2 else [fields[0], 1.0]
        rows[prompt_of(key)] += np.asarray(pair, dtype=np.float64)
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
