"""The verdict rule on intervals whose verdict is known by definition."""

import math

import pytest

from calm_bench.report.paper.verdicts import Side, Verdict, clips_needed, judge


@pytest.mark.parametrize(
    ("low", "high", "number", "verdict"),
    [
        (0.1, 0.3, None, "reproduced"),
        (0.1, 0.3, 0.2, "reproduced"),
        (0.1, 0.3, 0.3, "reproduced"),  # reaching the number is enough
        (0.5, 0.9, 0.3, "reproduced"),  # beyond the number
        (0.1, 0.3, 0.31, "direction only"),
        (-0.3, -0.1, None, "contradicted"),
        (-0.3, -0.1, 0.2, "contradicted"),
        (-0.1, 0.3, None, "inconclusive"),
        (-0.1, 0.3, 0.2, "inconclusive"),
        (0.0, 0.3, 0.2, "inconclusive"),  # touching zero is not leaving it
        (-0.3, 0.0, None, "inconclusive"),
        (0.0, 0.0, None, "inconclusive"),
    ],
)
@pytest.mark.parametrize("side", ["above", "below"])
def test_the_rule(
    low: float, high: float, number: float | None, verdict: Verdict, side: Side
) -> None:
    if side == "below":  # the mirror image has the same verdict
        low, high = -high, -low
        number = None if number is None else -number
    assert judge(low, high, side=side, null=0.0, number=number) == verdict


@pytest.mark.parametrize(("low", "high"), [(None, None), (1.0, None), (None, 1.0)])
def test_without_an_interval_there_is_no_verdict(low: float | None, high: float | None) -> None:
    assert judge(low, high, side="above", null=0.0) == "not measured"


def test_a_ratio_is_judged_against_its_own_null() -> None:
    assert judge(3.3, 3.6, side="above", null=1.0, number=12.3) == "direction only"
    assert judge(11.0, 12.5, side="above", null=1.0, number=12.3) == "reproduced"
    assert judge(0.2, 0.28, side="below", null=1.0, number=0.3) == "reproduced"
    assert judge(0.4, 0.6, side="below", null=1.0, number=0.3) == "direction only"
    assert judge(1.1, 1.4, side="below", null=1.0, number=0.3) == "contradicted"


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (math.nan, 1.0), (0.0, math.inf)])
def test_what_is_no_interval_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="is no interval"):
        judge(low, high, side="above", null=0.0)


def test_n_grows_with_the_square_of_what_is_missing() -> None:
    # The interval reaches 0.2 below the value; half of that is needed, so four times the clips.
    assert clips_needed(0.1, -0.1, 0.3, 32, null=0.0, log=False) == 128
    # On the log scale: e^0.1 with a reach of e^0.2 is the same question.
    ends = (math.exp(x) for x in (0.1, -0.1, 0.3))
    assert clips_needed(*ends, 32, null=1.0, log=True) == 128
    assert clips_needed(0.0, -0.1, 0.1, 32, null=0.0, log=False) is None
