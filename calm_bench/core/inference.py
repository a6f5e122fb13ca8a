"""Tests of effects whose intervals are known: p values, several trainings, families, power.

An effect is normal or Student about the truth; its standard error is what the half of its interval
on the null's side says, so that a p value is below 0.05 exactly where the 95 % interval has left
the null.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

ALPHA = 0.05
POWER = 0.8
PLANNED = (3, 5, 10)
"""Trainings whose detectable effect is told."""
_MOST_TRAININGS = 50
_MOST_PROMPTS = 1000  # times those at hand: beyond it trainings are what is lacking


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A difference, ratio or value with its 95 % interval.

    Attributes:
        n: Prompts (or recordings), or rounds of timing.
        df: Degrees of freedom behind the interval.
        trainings: How many of each model it is of.
        spread: The standard deviation over trainings; None of one alone.
        prompt_error: The standard error over prompts that trainings share; None of one training.
        marked: Whether there were too few prompts for the interval to hold its level.
        paired: Whether the run paired the rows; None where one row alone was judged.
    """

    value: float
    low: float
    high: float
    n: int
    df: float
    trainings: int = 1
    spread: float | None = None
    prompt_error: float | None = None
    marked: bool = False
    paired: bool | None = None

    def error(self, null: float) -> float:
        """The standard error that the interval's half towards a number says."""
        reach = self.value - self.low if self.value > null else self.high - self.value
        return reach / quantile(1 - ALPHA / 2, self.df)

    def p_not(self, *, above: bool, null: float) -> float:
        """One-sided: how likely a value so far above (or below) a number is if the truth is not."""
        from scipy.special import stdtr

        gap = self.value - null if above else null - self.value
        if self.spread is not None:
            p = self._missed(abs(gap), self.spread)
            return p / 2 if gap > 0 else 1 - p / 2
        error = self.error(null)
        if error <= 0:
            # Values that are all alike have no width, but each lies on its side by a coin's toss.
            least = 0.5**self.n if math.isfinite(self.df) else 0.0
            return least if gap > 0 else 1.0
        return float(stdtr(self.df, -gap / error))

    def _missed(self, gap: float, spread: float) -> float:
        """The share that may be missed at which the interval over trainings reaches just so far."""
        from scipy.optimize import brentq

        given = spread, self.prompt_error or 0.0, self.trainings, self.n
        least, most = 1e-12, 1.0
        if given[:2] == (0.0, 0.0):  # trainings that are all alike: the sign test
            return 2 * 0.5**self.trainings if gap > 0 else most
        if gap >= reach_over_trainings(*given, least):
            return least
        return float(brentq(lambda p: reach_over_trainings(*given, p) - gap, least, most))

    def p_within(self, low: float, high: float) -> float:
        """Of two one-sided tests (TOST): how likely an effect so near is if the truth is beyond."""
        return max(self.p_not(above=True, null=low), self.p_not(above=False, null=high))

    @property
    def detectable(self) -> dict[int, float]:
        """Which effect so many trainings would show; empty where one training was seen."""
        if self.spread is None:
            return {}
        given = self.spread, self.prompt_error or 0.0
        return {k: detectable(*given, k, self.n) for k in PLANNED}


def quantile(p: float, df: float) -> float:
    """Of Student's distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(df, p))


def reach_over_trainings(
    spread: float, prompt_error: float, trainings: int, n: int, missed: float = ALPHA
) -> float:
    """How far an interval over trainings reaches to either side of the mean.

    All trainings continue the same prompts, so what these have in common does not show in how far
    the trainings lie apart: it is added, each part with its own Student quantile (the modified
    large-sample interval of Graybill and Wang, 1980).

    It reaches from at least two trainings' `spread` and the `prompt_error` that they share, and
    the truth may lie beyond it as often as `missed` says.
    """
    of_trainings = quantile(1 - missed / 2, trainings - 1) * spread / math.sqrt(trainings)
    return math.hypot(of_trainings, quantile(1 - missed / 2, n - 1) * prompt_error)


def over_trainings(effects: Sequence[Effect], prompt_error: float | None = None) -> Effect:
    """The effects of one claim in several trainings as one, with its interval over trainings.

    They are of the same prompts. Without the standard error over prompts of their mean, all that
    prompts do is taken to be alike in all trainings, which makes the interval wider.
    """
    k = len(effects)
    if k == 1:
        return effects[0]
    n = min(effect.n for effect in effects)
    variance = fmean(((e.high - e.low) / 2 / quantile(1 - ALPHA / 2, e.df)) ** 2 for e in effects)
    if prompt_error is not None:
        # What each training draws anew is in the spread already: prompts have their common part.
        common = prompt_error**2 - (variance - prompt_error**2) / (k - 1)
        variance = min(variance, max(0.0, common))
    values = [effect.value for effect in effects]
    mean, spread, shared = fmean(values), stdev(values), math.sqrt(variance)
    reach = reach_over_trainings(spread, shared, k, n)
    return Effect(
        value=mean,
        low=mean - reach,
        high=mean + reach,
        n=n,
        df=k - 1,
        trainings=k,
        spread=spread,
        prompt_error=shared,
        marked=any(effect.marked for effect in effects),
        paired=all(effect.paired for effect in effects) if effects[0].paired is not None else None,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number (Holm, 1979), in their order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    found, least = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        found[i] = least
    return found


def detectable(spread: float, prompt_error: float, trainings: int, n: int) -> float:
    """The effect that so many trainings show at 5 % (two-sided) with 80 % power."""
    from scipy.special import nctdtrinc, stdtridf

    total = math.hypot(spread / math.sqrt(trainings), prompt_error)
    if total == 0:
        return 0.0
    critical = reach_over_trainings(spread, prompt_error, trainings, n) / total
    df = float(stdtridf(1 - ALPHA / 2, critical))  # whose quantile that is
    return float(nctdtrinc(df, 1 - POWER, critical)) * total


def range_needed(effect: Effect, null: float) -> tuple[int | None, int | None, int | None]:
    """At how many prompts the observed effect would be shown with 80 % power.

    And at how many were the effect greater by its standard error, or smaller; None where at none.
    """
    gap, error = abs(effect.value - null), effect.error(null)
    n, few, many = (prompts_needed(effect, x, null) for x in (gap, gap + error, gap - error))
    return n, few, many


def prompts_needed(effect: Effect, gap: float, null: float) -> int | None:
    """At how many prompts a gap from the null would be shown with 80 % power; None where at none.

    Widths shrink as 1/√n, but for the part of them that is of trainings.
    """
    if gap <= 0:
        return None
    if effect.spread is None:
        wanted = quantile(1 - ALPHA / 2, effect.df) + quantile(POWER, effect.df)
        return max(2, math.ceil(effect.n * (wanted * effect.error(null) / gap) ** 2))
    least = detectable(effect.spread, 0.0, effect.trainings, effect.n)
    if gap <= least:
        return None
    few, many = 1, 1
    while _at(effect, many) > gap:
        few, many = many, 2 * many
        if few > _MOST_PROMPTS * effect.n:
            return None
    while many - few > max(1, few // 100):
        middle = (few + many) // 2
        few, many = (few, middle) if _at(effect, middle) <= gap else (middle, many)
    return max(2, many)


def _at(effect: Effect, n: int) -> float:
    error = (effect.prompt_error or 0.0) * math.sqrt(effect.n / n)
    return detectable(effect.spread or 0.0, error, effect.trainings, max(n, 2))


def trainings_needed(effect: Effect, gap: float) -> tuple[int | None, bool]:
    """How many trainings, and more than now, would show a gap with 80 % power; None if over 50.

    And whether that takes more prompts as well.
    """
    counts = range(effect.trainings + 1, _MOST_TRAININGS + 1)
    for error in (effect.prompt_error or 0.0, 0.0):
        for k in counts:
            if detectable(effect.spread or 0.0, error, k, effect.n) <= gap:
                return k, error == 0.0
    return None, False
