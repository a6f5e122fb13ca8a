"""The verdict rule, fixed before any run it judges; docs/claims.md says it in words.

A claim says on which side of a null an effect lies (a difference of 0, a ratio of 1), and may say
how large it is. The 95 % interval alone decides:

    reproduced      wholly on the claimed side and, if a number is claimed, reaching it or beyond
    direction only  wholly on the claimed side, the claimed number not reached
    contradicted    wholly on the other side
    inconclusive    anything else: the null is inside of the interval or touches it
    not measured    no interval

No number without an interval gets a verdict, and no rounding comes before a comparison.
"""

import math
from typing import Literal, get_args

from calm_bench.core.stats import n_needed
from calm_bench.types import Estimate

Verdict = Literal["reproduced", "direction only", "contradicted", "inconclusive", "not measured"]
Side = Literal["above", "below"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def judge(
    low: float | None, high: float | None, *, side: Side, null: float, number: float | None = None
) -> Verdict:
    """The verdict on a claim from the 95 % interval of its effect.

    Args:
        low: Lower end of the interval; None if there is none.
        high: Upper end.
        side: Where the claim says the effect lies, seen from the null.
        null: The value at which there is no effect: 0 for a difference, 1 for a ratio.
        number: The published effect, on the same scale; None if only its side is claimed.

    Raises:
        ValueError: If the interval's ends are not finite or in the wrong order.
    """
    if low is None or high is None:
        return "not measured"
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"[{low}, {high}] is no interval")
    if side == "below":
        low, high, null = -high, -low, -null
        number = None if number is None else -number
    if low > null:
        return "reproduced" if number is None or high >= number else "direction only"
    return "contradicted" if high < null else "inconclusive"


def clips_needed(
    value: float, low: float, high: float, n: int, *, null: float, log: bool
) -> int | None:
    """At how many samples an inconclusive interval would just leave the null.

    Taken as in `stats.n_needed`, on the log scale for ratios. None where no number would do: the
    observed effect is nil, or the interval has left the null already.
    """
    if log:
        value, low, high, null = (math.log(x) for x in (value, low, high, null))
    return n_needed(Estimate(value=value - null, low=low - null, high=high - null, n=n))
