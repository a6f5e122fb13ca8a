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
from calm_bench.seeds import derive_seed
from calm_bench.types import Estimate

Verdict = Literal["pass", "regressed", "inconclusive", "unfit", "not gated"]

FLOOR_NS = 2_000_000
"""Blocks shorter than this are not gated: clocks and interrupts would decide."""

LEVEL, CONTROL_LEVEL = 0.95, 0.99

Times = dict[str, dict[str, int]]
"""Nanoseconds of a block by clock (cpu, wall) and stage."""

Round = Mapping[str, Times]
"""One round: every arm's block."""

Part = tuple[str, str]
"""An arm and a stage: one time of a round."""


@dataclass(frozen=True, slots=True)
class Quotient:
    """A product of times over another."""

    above: tuple[Part, ...]
    below: tuple[Part, ...]

    def over(self, rounds: Sequence[Round], clock: str, seed: int, level: float) -> Estimate:
        """Its median over rounds on one clock."""
        sides = [
            [math.prod(float(one[arm][clock][stage]) for arm, stage in parts) for one in rounds]
            for parts in (self.above, self.below)
        ]
        return ratio_interval(sides[0], sides[1], seed, level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A ratio that is gated, so made that more is better.

    Attributes:
        control: The same quotient made of two measurements of the reference; 1 on a fit machine.
        threshold: What the ratio must reach.
        slack: By how much a true ratio may lie under its reference; the control must see that.
        control_off: How far the control may be from 1.
    """

    name: str
    label: str
    ratio: Quotient
    control: Quotient
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
        for arm, stage in (*quantity.ratio.above, *quantity.ratio.below)
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


def settle(measure: Callable[[int], Sequence[Judgement]]) -> list[Judgement]:
    """The final verdicts: what did not pass at length 1 is judged again by `measure(2)`."""
    found = {one.name: one for one in measure(1)}
    open_ones = [one for one in found.values() if one.verdict not in ("pass", "not gated")]
    second = {one.name: one for one in measure(2)} if open_ones else {}
    for first in open_ones:
        again = second[first.name]
        note = again.note or f"measured twice, first {first.verdict}"
        found[first.name] = replace(again, note=note)
    return list(found.values())


def _estimates(
    quantity: Quantity, rounds: Sequence[Round], clock: str
) -> tuple[Estimate, Estimate]:
    seed = derive_seed("check", quantity.name, clock)
    ratio = quantity.ratio.over(rounds, clock, seed, LEVEL)
    return ratio, quantity.control.over(rounds, clock, seed, CONTROL_LEVEL)


def _verdict(quantity: Quantity, ratio: Estimate, control: Estimate) -> tuple[Verdict, str]:
    ends = ratio.low, ratio.high, control.value, control.low, control.high
    known = [end for end in ends if end is not None]
    if len(known) < len(ends):
        raise ValueError("an interval needs two rounds")
    low, high, own, own_low, own_high = known
    if not own_low <= 1.0 <= own_high and abs(own - 1) > quantity.control_off:
        return "unfit", f"the reference differs from itself by {100 * (own - 1):+.1f} %"
    if low >= quantity.threshold:
        return "pass", ""
    if high >= quantity.threshold:
        return "inconclusive", "the interval includes the threshold"
    # As wide as the slack itself, it would also let equal trees look this different.
    if math.log(own_high / own_low) > -2 * math.log(1 - quantity.slack):
        width = f"{own_low:.2f} to {own_high:.2f}"
        return "unfit", f"too noisy: the reference against itself gives {width}"
    return "regressed", ""
