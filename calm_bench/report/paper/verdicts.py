"""The verdict rule, fixed before any run it judges; docs/claims.md defines every word of it.

The 95 % interval of an effect is held against a null and, where a number is claimed, against the
margin of that number; an order is as strong as its weakest link; no effect is claimed within a
margin by two one-sided tests. No number without an interval gets a verdict.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from calm_bench.core.inference import ALPHA, Effect

Verdict = Literal[
    "reproduced", "exceeds", "falls short", "equivalent", "direction holds", "direction only",
    "direction only (one training)", "other direction (one training)",
    "other direction (elsewhere)", "contradicted", "mixed", "inconclusive", "not measured",
]  # fmt: skip
Side = Literal["above", "below", "level"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
SHOWN = VERDICTS[:7]
"""The claimed side, from the strongest word to the weakest."""
AGAINST = VERDICTS[7:10]
_OF_SIZE = {"reproduced", "exceeds", "falls short"}


def judge(
    links: Sequence[Effect], side: Side, null: float, margin: tuple[float, float] | None = None
) -> tuple[Verdict, float]:
    """The verdict on what was claimed of an effect, or of each link of an order; with its p value.

    Args:
        links: On the scale of the null and the margin: logarithms, of factors.
        side: Where the effect should lie, seen from the null; or level with it, within the margin.
        null: The value without an effect.
        margin: The lower and upper end of what counts as the published number, or as no effect.
    """
    first = links[0]
    if side == "level":
        assert margin is not None
        low, high = margin
        inside = first.p_within(low, high)
        beyond = 2 * min(first.p_not(above=False, null=low), first.p_not(above=True, null=high))
        p = min(1.0, inside, beyond)
        if p > ALPHA:
            return "inconclusive", p
        return ("equivalent" if inside <= ALPHA else "contradicted"), p
    above = side == "above"
    held = 2 * max(link.p_not(above=above, null=null) for link in links)
    turned = 2 * len(links) * min(link.p_not(above=not above, null=null) for link in links)
    p = min(1.0, held, turned)
    if p > ALPHA:
        return "inconclusive", p
    return (_size(first, above, margin) if held <= ALPHA else "contradicted"), p


def _size(effect: Effect, above: bool, margin: tuple[float, float] | None) -> Verdict:
    if margin is None:
        return "direction only"
    low, high = margin
    if low <= effect.low and effect.high <= high:
        return "reproduced"
    if effect.low > high or effect.high < low:
        return "exceeds" if (effect.low > high) == above else "falls short"
    return "direction only"


def capped(verdict: Verdict, *, elsewhere: bool, one_training: bool) -> Verdict:
    """The strongest word that a time from elsewhere, or one training, may have."""
    if elsewhere and verdict != "inconclusive":
        return "direction holds" if verdict in SHOWN else "other direction (elsewhere)"
    if not one_training or verdict == "inconclusive":
        return verdict
    if verdict == "equivalent":
        return "inconclusive"
    return "direction only (one training)" if verdict in SHOWN else "other direction (one training)"


def settled(verdicts: Iterable[Verdict]) -> Verdict:
    """What several pieces of evidence say together: their weakest word, or that they disagree.

    Where they agree on the side and not on the size, that is the side.
    """
    found = set(verdicts)
    if not found:
        return "not measured"
    if len(found & _OF_SIZE) > 1:
        found.add("direction only")
    if found <= set(SHOWN):
        return max(found, key=SHOWN.index)
    if found <= set(AGAINST):
        return min(found, key=AGAINST.index)
    return found.pop() if len(found) == 1 else "mixed"


def joined(verdicts: Iterable[Verdict]) -> Verdict:
    """What claims say together that must all hold."""
    found = set(verdicts)
    if against := found & set(AGAINST):
        return settled(against)
    if found <= set(SHOWN):
        return max(found, key=SHOWN.index)
    return next(v for v in ("not measured", "mixed", "inconclusive") if v in found)
