"""When a ratio of times has regressed: pairs to a verdict, and the one repetition.

A ratio is made so that more is better and is judged by its 95 % interval over pairs: it passes if
the lower bound reaches the threshold, has regressed if the upper bound does not, and else is
inconclusive. Beside it stands a control: the reference against itself on the same schedule. If that
differs from 1 the machine is unfit, and where it is too wide to see what is looked for, no
regression is believed. Whatever does not pass is measured once more, twice as long, in fresh
processes, and that verdict counts: so nothing fails that has not failed to pass twice.

Processor time is judged first: other programs take wall time from a process, but not its processor
time. What waits (for a lock, a disk, a thread) shows in wall time alone, so wall time can fail a
ratio, too; where the machine is too busy for that, it says nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from calm_bench.core.stats import ratio_interval
from calm_bench.gate.workers import Times
from calm_bench.seeds import derive_seed
from calm_bench.types import Estimate

Verdict = Literal["pass", "regressed", "inconclusive", "unfit", "not gated"]

FLOOR_NS = 2_000_000
"""Blocks shorter than this are not gated: clocks and interrupts would decide."""

CONTROL_LEVEL = 0.99

Round = Mapping[str, Times]
"""One round: every arm's block."""

Part = tuple[str, str]
"""An arm and a stage: one time of a round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A ratio that is gated: a product of times over another, so made that more is better.

    Attributes:
        control: The same quotient made of two measurements of the reference; 1 on a fit machine.
        threshold: What the ratio must reach.
        slack: By how much a true ratio may lie under its reference; the control must see that.
        control_off: How far the control may be from 1.
    """

    name: str
    label: str
    above: tuple[Part, ...]
    below: tuple[Part, ...]
    control_above: tuple[Part, ...]
    control_below: tuple[Part, ...]
    threshold: float
    slack: float
    control_off: float = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A gated ratio with its interval, its control, and what they come to."""

    name: str
    label: str
    ratio: Estimate
    control: Estimate
    wall: Estimate
    threshold: float
    verdict: Verdict
    note: str = ""


def judge(quantity: Quantity, rounds: Sequence[Round]) -> Judgement:
    """The verdict on one ratio after some rounds."""
    cpu, cpu_control = _estimates(quantity, rounds, "cpu")
    wall, wall_control = _estimates(quantity, rounds, "wall")
    verdict, note = _verdict(quantity, cpu, cpu_control)
    by_wall, _ = _verdict(quantity, wall, wall_control)
    if verdict in ("pass", "inconclusive") and by_wall == "regressed":
        verdict, note = "regressed", f"in wall time, {wall.value:.2f}: it waits longer"
    shortest = min(
        median(one[arm]["cpu"][stage] for one in rounds)
        for arm, stage in (*quantity.above, *quantity.below)
    )
    if shortest < FLOOR_NS:
        verdict, note = "not gated", f"a block of {shortest / 1e6:.2f} ms is too short to be timed"
    return Judgement(
        name=quantity.name,
        label=quantity.label,
        ratio=cpu,
        control=cpu_control,
        wall=wall,
        threshold=quantity.threshold,
        verdict=verdict,
        note=note,
    )


def settle(
    measure: Callable[[int], Sequence[Judgement]],
) -> list[Judgement]:
    """The final verdicts: what did not pass at length 1 is judged again by `measure(2)`."""
    first = list(measure(1))
    if all(_is_settled(found) for found in first):
        return first
    second = {found.name: found for found in measure(2)}
    final = []
    for found in first:
        again = second[found.name]
        note = again.note or f"measured twice, first {found.verdict}"
        final.append(found if _is_settled(found) else replace(again, note=note))
    return final


def _is_settled(found: Judgement) -> bool:
    return found.verdict in ("pass", "not gated")


def _estimates(
    quantity: Quantity, rounds: Sequence[Round], clock: str
) -> tuple[Estimate, Estimate]:
    """The ratio and its control on one clock."""

    def product(one: Round, parts: Sequence[Part]) -> float:
        return math.prod(float(one[arm][clock][stage]) for arm, stage in parts)

    seed = derive_seed("check", quantity.name, clock)
    ratio = ratio_interval(
        [product(one, quantity.above) for one in rounds],
        [product(one, quantity.below) for one in rounds],
        seed,
    )
    control = ratio_interval(
        [product(one, quantity.control_above) for one in rounds],
        [product(one, quantity.control_below) for one in rounds],
        seed,
        CONTROL_LEVEL,
    )
    return ratio, control


def _verdict(quantity: Quantity, ratio: Estimate, control: Estimate) -> tuple[Verdict, str]:
    if None in (ratio.low, ratio.high, control.value, control.low, control.high):
        raise ValueError(f"{quantity.name}: an interval needs two rounds")
    assert ratio.low is not None
    assert ratio.high is not None
    assert control.value is not None
    assert control.low is not None
    assert control.high is not None
    if not control.low <= 1.0 <= control.high and abs(control.value - 1) > quantity.control_off:
        off = f"{100 * (control.value - 1):+.1f} %"
        return "unfit", f"the reference differs from itself by {off}"
    if ratio.low >= quantity.threshold:
        return "pass", ""
    if ratio.high >= quantity.threshold:
        return "inconclusive", "the interval includes the threshold"
    # As wide as the slack itself, it would also let equal trees look this different.
    if math.log(control.high / control.low) > -2 * math.log(1 - quantity.slack):
        width = f"{control.low:.2f} to {control.high:.2f}"
        return "unfit", f"too noisy: the reference against itself gives {width}"
    return "regressed", ""
