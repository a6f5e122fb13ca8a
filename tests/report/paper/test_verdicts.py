"""The verdict rule on intervals whose verdict is known by definition, and how often it errs."""

import itertools
import runpy
from pathlib import Path

import numpy as np
import pytest

from calm_bench.core.inference import Effect
from calm_bench.report.paper.verdicts import (
    AGAINST,
    SHOWN,
    VERDICTS,
    Side,
    Verdict,
    capped,
    joined,
    judge,
    settled,
)


def effect(low: float, high: float) -> Effect:
    return Effect(value=(low + high) / 2, low=low, high=high, n=32, df=31)


@pytest.mark.parametrize(
    ("low", "high", "margin", "verdict"),
    [
        (0.1, 0.3, None, "direction only"),
        (0.81, 1.24, (0.8, 1.25), "reproduced"),
        (0.8, 1.25, (0.8, 1.25), "reproduced"),  # an end of the margin belongs to it
        (0.79, 1.2, (0.8, 1.25), "direction only"),
        (0.1, 3.0, (0.8, 1.25), "direction only"),  # a wide interval earns nothing
        (0.1, 0.79, (0.8, 1.25), "falls short"),
        (1.26, 3.0, (0.8, 1.25), "exceeds"),
        (-0.3, -0.1, None, "contradicted"),
        (-0.3, -0.1, (0.8, 1.25), "contradicted"),
        (-0.1, 0.3, None, "inconclusive"),
        (-0.1, 1.1, (-0.2, 1.25), "inconclusive"),  # within the margin, but on no side
        (0.0, 0.3, None, "inconclusive"),  # touching zero is not leaving it
        (-0.3, 0.0, None, "inconclusive"),
    ],
)
@pytest.mark.parametrize("side", ["above", "below"])
def test_the_rule(
    low: float, high: float, margin: tuple[float, float] | None, verdict: Verdict, side: Side
) -> None:
    if side == "below":  # the mirror image has the same verdict
        low, high = -high, -low
        margin = None if margin is None else (-margin[1], -margin[0])
    if low == 0 or high == 0:
        low, high = (low - 1e-9, high) if low == 0 else (low, high + 1e-9)
    assert judge([effect(low, high)], side, 0.0, margin)[0] == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.9, 0.9, "equivalent"),
        # Two tests at 5 % are a 90 % interval: it may be a little wider than the margin at 95 %.
        (-1.1, 1.1, "equivalent"),
        (-1.3, 1.3, "inconclusive"),
        (0.2, 1.4, "inconclusive"),
        (1.01, 2.0, "contradicted"),
        (-2.0, -1.01, "contradicted"),
    ],
)
def test_level_within_a_margin_is_two_one_sided_tests(
    low: float, high: float, verdict: Verdict
) -> None:
    assert judge([effect(low, high)], "level", 0.0, (-1.0, 1.0))[0] == verdict


def test_an_order_is_one_test() -> None:
    good, open_, bad = effect(0.1, 0.3), effect(-0.1, 0.3), effect(-0.3, -0.001)
    assert judge([good, good], "above", 0.0)[0] == "direction only"
    assert judge([good, open_], "above", 0.0)[0] == "inconclusive"
    assert judge([bad], "above", 0.0)[0] == "contradicted"
    # One of three links just on the other side is what chance does; one far there is not.
    assert judge([good, good, bad], "above", 0.0)[0] == "inconclusive"
    assert judge([good, good, effect(-0.3, -0.1)], "above", 0.0)[0] == "contradicted"


def test_times_from_elsewhere_and_one_training_have_weaker_words() -> None:
    for verdict in VERDICTS[:6]:
        assert capped(verdict, elsewhere=True, one_training=False) == "direction holds"
        once = capped(verdict, elsewhere=False, one_training=True)
        wanted = "inconclusive" if verdict == "equivalent" else "direction only (one training)"
        assert once == wanted
        assert capped(verdict, elsewhere=False, one_training=False) == verdict
    against = capped("contradicted", elsewhere=False, one_training=True)
    assert against == "other direction (one training)"
    elsewhere = capped("contradicted", elsewhere=True, one_training=False)
    assert elsewhere == "other direction (elsewhere)"
    assert capped("inconclusive", elsewhere=True, one_training=True) == "inconclusive"


def test_several_pieces_of_evidence_agree_or_are_mixed() -> None:
    assert settled([]) == "not measured"
    assert settled(["reproduced", "reproduced"]) == "reproduced"
    assert settled(["reproduced", "falls short", "direction only"]) == "direction only"
    assert settled(["reproduced", "exceeds"]) == "direction only"
    assert settled(["exceeds", "falls short"]) == "direction only"
    assert settled(["inconclusive"] * 2) == "inconclusive"
    assert settled([*AGAINST]) == "other direction (one training)"
    for pair in (("reproduced", "contradicted"), ("direction only", "inconclusive")):
        assert settled(pair) == "mixed"


def test_claims_that_must_hold_together_are_as_good_as_the_worst() -> None:
    worst = [*SHOWN, "inconclusive", "mixed", "not measured", "contradicted"]
    for better, worse in itertools.pairwise(worst):
        assert joined([better, worse]) == worse


def test_it_errs_as_seldom_as_it_says_and_sees_what_it_says() -> None:
    prove = runpy.run_path(str(Path(__file__).with_name("prove.py")))
    world = prove["World"](k=3, spread=1.0, shared=0.5)
    found = prove["measured"](world, np.random.default_rng(0), 60)
    false, alone, order, _, shown, *_ = found
    assert false <= 10 < alone
    assert order <= 8
    assert 65 <= shown <= 95
