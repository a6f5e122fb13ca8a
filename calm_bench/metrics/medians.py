"""The median clip of a row, with the interval that resampling groups of clips gives it."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from calm_bench import stats
from calm_bench.seeds import derive_seed
from calm_bench.types import Clip, Estimate

__all__ = ["groups_of", "median_of"]

Floats = NDArray[np.float64]


def groups_of(clips: Sequence[Clip]) -> Mapping[str, str]:
    """The group of each clip by its pair key."""
    return {clip.pair_key: clip.group for clip in clips}


def median_of(
    field: str,
    mine: stats.ClipValues,
    group_of: stats.GroupOf,
    theirs: stats.ClipValues | None = None,
    *,
    scale: float = 1.0,
) -> Estimate:
    """The median of a field over clips, or its difference to that of `theirs`.

    Clips without the field are left out, of both sides.
    """

    def has(side: stats.ClipValues, key: str) -> bool:
        return side.get(key, {}).get(field) is not None

    keys = sorted(k for k in mine if has(mine, k) and (theirs is None or has(theirs, k)))
    if not keys:
        return Estimate(value=None, reason=f"no clip has a value for {field}")
    groups = sorted({group_of[key] for key in keys})
    place = {group: index for index, group in enumerate(groups)}
    owner = [place[group_of[key]] for key in keys]
    draws = stats.resample_counts(len(groups), derive_seed(f"{field}_median", groups))
    weights = np.vstack([np.ones(len(keys)), draws[:, owner]])  # [1 + resamples, n]
    medians = scale * _weighted_medians(_values(field, mine, keys), weights)
    if theirs is not None:
        medians = medians - scale * _weighted_medians(_values(field, theirs, keys), weights)
    interval = stats.percentile_interval(medians[1:]) if len(groups) > 1 else None
    value, n = float(medians[0]), len(keys)
    if interval is None:
        return Estimate(value=value, n=n, reason="an interval needs two independent samples")
    return Estimate(value=value, low=interval[0], high=interval[1], n=n)


def _values(field: str, clips: stats.ClipValues, keys: Sequence[str]) -> Floats:
    return np.array([clips[key][field] for key in keys], dtype=np.float64)


def _weighted_medians(values: Floats, weights: Floats) -> Floats:
    """The median of values [n] of which each counts weights [R, n] times, [R]."""
    order = np.argsort(values)
    reached = weights[:, order].cumsum(axis=1)
    half = reached[:, -1:] / 2
    low, high = (reached >= half).argmax(axis=1), (reached > half).argmax(axis=1)
    medians: Floats = (values[order][low] + values[order][high]) / 2
    return medians
