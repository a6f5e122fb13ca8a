"""Intervals: from per-clip values to a number, its 95 % interval and the clips behind it.

What counts as one observation is the group: a prompt with all its clips, or a recording with all
that was cut from it, because these are not independent. Rows are compared over the clips both have
scored, group by group, so that what makes a prompt hard cancels.

How an interval is made follows from the kind of column, chosen by measured coverage
(`tests/core/prove.py`, docs/intervals.md):

    share       Clopper-Pearson on the groups' effective number; differences Bonett-Price
    median      percentiles of resampled groups, moved outwards as Student's t is from the normal
    all others  bootstrap-t: a quotient of two sums (a mean's denominator counts clips), studentised
                by its linearised error over groups, and never nearer than Student's t itself

An interval speaks of recordings like these and of this reference set; it knows nothing of a model
that would come out of another training run.
"""

import math
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calm_bench.types import Column, Estimate, Floats

RESAMPLES = 2000
_MISSED = 0.05  # by a 95 % interval, half of it on each side
_MAX_BLOCKS = 32  # of groups, each left out once
_BLOCK = 2_000_000  # counts held at once
_UNDEFINED = "the sums behind it are zero, infinite or NaN"

HOLDS_FROM = {
    "share": 2,
    "median": 6,
    "near-normal": 8,
    "mean": 32,
    "ratio": 32,
    "exp_mean": 64,
    "exp_ratio": 64,
    "set": 16,
}
"""By kind of column, from how many groups on its interval covers at least 93 times in 100."""

ClipValues = Mapping[str, Mapping[str, float | None]]
"""The fields of each clip by its pair key, `prompt_id/seed_index`."""

GroupOf = Mapping[str, str]
"""The group of each clip by its pair key; a clip that is not there stands for itself."""


Owners = NDArray[np.int64]
"""The group of each clip, [n], numbered from 0 on."""


def summarise(
    column: Column, clips: ClipValues, seed: int, groups: GroupOf = MappingProxyType({})
) -> Estimate:
    """A column's value over a row's clips, with its 95 % interval over groups.

    Clips that lack one of the column's fields are left out of the value and of n.
    """
    found = _over(column, _scored(column, clips), [clips], seed, groups)
    return found or Estimate(value=None, reason=f"no clip has a value for {column.label}")


def compare(
    column: Column, a: ClipValues, b: ClipValues, seed: int, groups: GroupOf = MappingProxyType({})
) -> Estimate:
    """The column's value in `a` minus that in `b` over the clips both score, paired by group."""
    in_b = set(_scored(column, b))
    keys = [key for key in _scored(column, a) if key in in_b]
    lacking = f"no prompt has a value for {column.label} in both rows"
    return _over(column, keys, [a, b], seed, groups) or Estimate(value=None, reason=lacking)


def ratio_interval(
    a: Sequence[float], b: Sequence[float], seed: int, level: float = 0.95
) -> Estimate:
    """The median of a_i / b_i over pairs measured next to each other, with its interval.

    The median of ratios, not the ratio of medians: a pair shares the state the machine was in.
    """
    if len(a) != len(b):
        raise ValueError(f"pairs need equal counts, not {len(a)} and {len(b)}")
    if not a:
        return Estimate(value=None, reason="nothing was measured")
    with np.errstate(all="ignore"):  # a time of nothing has no ratio
        logs = np.log(np.asarray(a, dtype=np.float64)) - np.log(np.asarray(b, dtype=np.float64))
        found = _median([logs], np.arange(len(logs)), seed, 1 - level).moved(np.exp)
    return _estimate("median", found, len(logs), len(logs))


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
    dealt = np.zeros((n_blocks, len(sides)))
    for owner in sorted(set(owners.values()), reverse=True):
        stratum = [group for group in groups if owners[group] == owner]
        for index in rng.permutation(len(stratum)):
            place = int(np.argmin(dealt @ owner))  # where its sets have fewest
            members[place].append(stratum[index])
            dealt[place] += owner
    return members


def student_interval(
    value: float,
    deleted: Floats,
    n: int,
    holds_from: int = HOLDS_FROM["set"],
    fewest: int | None = None,
) -> Estimate:
    """A value and its 95 % jackknife interval; `deleted[g]` is the value without group g.

    Where a set has some of the groups alone, it is known as well as the `fewest` of a set allow.
    """
    from scipy.special import stdtrit

    G = len(deleted)
    fewest = G if fewest is None else min(fewest, G)
    if G < 2 or not np.isfinite(deleted).all():
        return Estimate(value=value, n=n, reason="an interval needs more recordings")
    error = np.sqrt((G - 1) / G * np.sum((deleted - deleted.mean()) ** 2))
    reach = float(stdtrit(fewest - 1, 0.975) * error)
    return Estimate(
        value=value,
        low=value - reach,
        high=value + reach,
        n=n,
        method="jackknife",
        marked=holds_from > fewest,
        deleted=tuple(deleted.tolist()),
    )


class _Interval(NamedTuple):
    """A value with its interval and how that was made; `is_sure` unless it could not be made so."""

    value: float
    low: float
    high: float
    method: str
    is_sure: bool = True

    def moved(self, by: Callable[[float], float]) -> "_Interval":
        """The same of what is monotone in the value."""
        value, low, high = (float(by(end)) for end in self[:3])
        return self._replace(value=value, low=low, high=high)


def _over(
    column: Column, keys: Sequence[str], sides: Sequence[ClipValues], seed: int, groups: GroupOf
) -> Estimate | None:
    """The column's value over these clips, or how far it is above that of a second side."""
    if not keys:
        return None
    owners = numbered([groups.get(key, key) for key in keys])
    fields = [
        [np.array([side[key][name] for key in keys], dtype=np.float64) for name in column.fields]
        for side in sides
    ]
    if np.isnan(np.array(fields)).any():
        return Estimate(value=None, n=len(keys), reason=_UNDEFINED)
    with np.errstate(all="ignore"):  # what is infinite or divided by zero has no value below
        if column.aggregate == "share":
            found = _share([first for (first,) in fields], owners)
        elif column.aggregate == "median":
            found = _median([first for (first,) in fields], owners, seed)
        else:
            found = _quotient(column, fields, owners, seed)
    kind = "near-normal" if column.near_normal else column.aggregate
    found = found.moved(lambda end: end * column.scale)
    return _estimate(kind, found, len(keys), int(owners.max()) + 1)


def _estimate(kind: str, found: _Interval, n: int, n_groups: int) -> Estimate:
    if not math.isfinite(found.value):
        return Estimate(value=None, n=n, reason=_UNDEFINED)
    if n_groups < 2 or not (math.isfinite(found.low) and math.isfinite(found.high)):
        return Estimate(value=found.value, n=n, reason="an interval needs two independent samples")
    return Estimate(
        value=found.value,
        low=found.low,
        high=found.high,
        n=n,
        method=found.method,
        marked=n_groups < HOLDS_FROM[kind] or not found.is_sure,
    )


def _share(sides: Sequence[Floats], owners: Owners) -> _Interval:
    """The share of ones, or a share minus that of a second side, from counts of groups.

    Clips of one group say less than as many of different groups: counts are those of the effective
    number of clips (Korn and Graubard 1998). A difference is that of the clips where only one side
    has a one, each count with one more (Bonett and Price 2012): no difference at all has a width.
    It leaves zero only where McNemar's exact test does, too.
    """
    from scipy.special import betainc, ndtri

    each = sides[0] - sum(sides[1:])
    value, n = float(each.mean()), _effective_number(each, owners)
    if len(sides) == 1:
        low, high = clopper_pearson(value * n, n)
        return _Interval(value, low, high, "Clopper-Pearson")
    counts = [float(np.mean(each == one)) * n for one in (1, -1)]
    more, fewer = ((count + 1) / (n + 2) for count in counts)
    error = math.sqrt((more + fewer - (more - fewer) ** 2) / (n + 2))
    reach, middle = -float(ndtri(_MISSED / 2)) * error, float(more - fewer)
    low, high = max(middle - reach, -1.0), min(middle + reach, 1.0)
    if max(counts) == 0 or 2 * betainc(max(counts), min(counts) + 1, 0.5) > _MISSED:
        low, high = min(low, 0.0), max(high, 0.0)
    return _Interval(value, low, high, "Bonett-Price")


def clopper_pearson(count: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a share of `count` in `n`, which need not be whole numbers."""
    from scipy.special import betaincinv

    low = betaincinv(count, n - count + 1, _MISSED / 2) if count > 0 else 0.0
    high = betaincinv(count + 1, n - count, 1 - _MISSED / 2) if count < n else 1.0
    return float(low), float(high)


def _effective_number(values: Floats, owners: Owners) -> float:
    """How many independent clips would say as much as these; of equal ones, the groups."""
    from scipy.special import stdtrit

    n, G = len(values), int(owners.max()) + 1
    errors = values - values.mean()
    between = float(np.sum(np.bincount(owners, errors) ** 2))
    if between == 0 or G < 2:
        return G
    found = min(n, n * float(np.sum(errors**2)) / between)
    return found * float(stdtrit(n - 1, 0.975) / stdtrit(G - 1, 0.975)) ** 2


def _median(
    sides: Sequence[Floats], owners: Owners, seed: int, missed: float = _MISSED
) -> _Interval:
    """The median, or a median minus that of a second side."""
    from scipy.special import ndtr, stdtrit

    n = int(owners.max()) + 1
    draws = np.concatenate(
        [
            _weighted_medians(sides[0], counts[:, owners])
            - sum(_weighted_medians(side, counts[:, owners]) for side in sides[1:])
            for counts in _counts(n, seed)
        ]
    )
    tail = missed / 2
    if len(sides) == 1 and n > 1:  # as wide as Student's t would have it
        tail = float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, tail)))
    low, high = np.quantile(draws[1:], [tail, 1 - tail])
    return _Interval(float(draws[0]), float(low), float(high), "percentile")


def _weighted_medians(values: Floats, weights: Floats) -> Floats:
    """The median of values [n] of which each counts weights [R, n] times, [R]."""
    order = np.argsort(values)
    reached = weights[:, order].cumsum(axis=1)
    half = reached[:, -1:] / 2
    low, high = (reached >= half).argmax(axis=1), (reached > half).argmax(axis=1)
    medians: Floats = (values[order][low] + values[order][high]) / 2
    return medians


def _quotient(
    column: Column, sides: Sequence[Sequence[Floats]], owners: Owners, seed: int
) -> _Interval:
    """A quotient of sums, its exponential, or either minus that of a second side."""
    ones = [np.ones(len(owners))]
    sums = np.stack(
        [[np.bincount(owners, of) for of in [*side, *ones][:2]] for side in sides], axis=-1
    )  # [2, G, k]
    above, below = sums.sum(axis=1)
    signs = np.array([1.0, -1.0][: len(sides)])
    rates = above / np.where(below == 0, np.nan, below)
    is_power = column.aggregate in ("exp_mean", "exp_ratio")
    # The interval of one perplexity is that of its logarithm.
    is_curved = is_power and len(sides) > 1
    weights = signs * (np.exp(rates) if is_curved else 1.0)
    value = float(np.sum(signs * (np.exp(rates) if is_curved else rates)))
    around = np.stack([sums[0] - rates * sums[1], sums[1]], axis=1)  # [G, 2, k]
    if not np.isfinite(weights).all() or not np.isfinite(around).all():
        return _Interval(math.nan, math.nan, math.nan, "")
    found = _bootstrap_t(value, around, weights, is_curved, seed)
    if is_power and len(sides) == 1:
        found = found.moved(np.exp)
    is_rate = column.aggregate == "ratio" or (column.aggregate, column.unit) == ("mean", "%")
    if is_rate and len(sides) == 1 and not (sums < 0).any():
        return _of_rates(found, sums[0, :, 0] / sums[1, :, 0], column.unit == "%")
    return found


def _of_rates(found: _Interval, rates: Floats, is_share: bool) -> _Interval:
    """An interval that is never below 0, and as wide as few groups that have any ask for.

    Its upper end lies no nearer than if as many groups had any as the upper end of their share;
    where none has, that share alone says how high the rate might be. A share is at most all, unless
    a group has more.
    """
    n, count = len(rates), int(np.sum(rates > 0))
    _, most = clopper_pearson(count, n)
    if not count:
        return found._replace(high=most, method="Clopper-Pearson") if is_share else found
    high = max(found.high, found.value * most * n / count)
    ceiling = max(1.0, float(np.nanmax(rates))) if is_share else math.inf
    return found._replace(low=max(found.low, 0.0), high=min(high, ceiling))


def _bootstrap_t(
    value: float, around: Floats, weights: Floats, is_curved: bool, seed: int
) -> _Interval:
    """Around a value as many standard errors as resamples lie from it, at least Student's t.

    Resamples without an error, of groups that are all alike, say nothing: where they are many, the
    interval is not sure.
    """
    from scipy.special import stdtrit

    n_groups = len(around)
    found = [_shifts(around, weights, is_curved, counts) for counts in _counts(n_groups, seed)]
    shifts, errors = (np.concatenate(part) for part in zip(*found, strict=True))
    error = float(errors[0])
    if not error > 1e-12 * float(np.abs(weights).max()):
        return _Interval(value, value, value, "bootstrap-t")
    ts = (shifts / errors)[1:][errors[1:] > 1e-6 * error]
    low, high = np.quantile(ts, [_MISSED / 2, 1 - _MISSED / 2]) if ts.size else (0.0, 0.0)
    least = float(stdtrit(n_groups - 1, 1 - _MISSED / 2))
    low, high = value - max(float(high), least) * error, value + max(float(-low), least) * error
    is_sure = ts.size >= (1 - _MISSED / 2) * RESAMPLES
    return _Interval(value, low, high, "bootstrap-t", is_sure)


def _shifts(
    around: Floats, weights: Floats, is_curved: bool, counts: Floats
) -> tuple[Floats, Floats]:
    """How far resamples lie from the value, and the linearised standard error of each, [R].

    `around` [G, 2, k] has by group and side what the numerator has beyond the rate, and the
    denominator: sums of squares of these keep their digits. `weights` [k] say what a change of each
    side's rate is worth; `counts` [R, G] how often each group is drawn.
    """
    G, _, k = around.shape
    flat = around.reshape(G, 2 * k)
    products = (flat[:, :, None] * flat[:, None, :]).reshape(G, -1)
    above, below = np.moveaxis((counts @ flat).reshape(-1, 2, k), 1, 0)  # [R, k]
    moments = (counts @ products).reshape(-1, 2 * k, 2 * k)
    moved = above / np.where(below == 0, np.nan, below)
    slopes = weights * (np.exp(moved) if is_curved else 1.0) / below
    gradients = np.concatenate([slopes, -slopes * moved], axis=1)  # [R, 2k]
    variances = np.einsum("ri,rij,rj->r", gradients, moments, gradients)
    changes = (np.expm1(moved) if is_curved else moved) @ weights
    return changes, np.sqrt(np.maximum(variances, 0.0) * G / max(1, G - 1))


def _counts(n_groups: int, seed: int) -> Iterator[Floats]:
    """How often each group is drawn, [R, G]: once, and then in each of RESAMPLES resamples."""
    rng, block = np.random.default_rng(seed), max(1, _BLOCK // n_groups)
    yield np.ones((1, n_groups))
    for at in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - at)
        drawn = rng.integers(0, n_groups, (size, n_groups)) + n_groups * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n_groups)
        yield counts.reshape(size, n_groups).astype(np.float64)


def _scored(column: Column, clips: ClipValues) -> list[str]:
    """The keys of the clips that have every field of the column, in a fixed order."""
    if column.aggregate == "set":
        raise ValueError(f"{column.name} has no clip values: its metric estimates it")
    return sorted(
        key
        for key, values in clips.items()
        if all(values.get(name) is not None for name in column.fields)
    )


def numbered(names: Sequence[Hashable]) -> Owners:
    """The number of each name, [n], from 0 on in the order in which they come first."""
    place = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return np.array([place[name] for name in names], dtype=np.int64)
