"""Intervals against closed forms, what they go with, and coverage by simulation."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats

from calm_bench.core import stats
from calm_bench.types import Column, Estimate

MEAN = Column(
    name="x", label="x", unit="", higher_is_better=True, aggregate="mean", fields=("x",), scale=100
)
RATIO = Column(
    name="r", label="r", unit="", higher_is_better=True, aggregate="ratio", fields=("a", "b")
)
GEOMETRIC = Column(
    name="g", label="g", unit="", higher_is_better=False, aggregate="exp_mean", fields=("x",)
)
POOLED = Column(
    name="p", label="p", unit="", higher_is_better=False, aggregate="exp_ratio", fields=("a", "b")
)


MEDIAN = Column.of("m", "m", "", "x", better=False, aggregate="median")
SHARE = Column.of("s", "s", "%", "x", better=False, aggregate="share")


def clips(values: Sequence[float], field: str = "x") -> dict[str, dict[str, float]]:
    return {f"p{i:03d}/0": {field: value} for i, value in enumerate(values)}


def pairs(a: Sequence[float], b: Sequence[float]) -> dict[str, dict[str, float]]:
    return {f"p{i}/0": {"a": x, "b": y} for i, (x, y) in enumerate(zip(a, b, strict=True))}


def test_the_aggregates_are_their_formulas() -> None:
    # Perplexity of three utterances: summed log-likelihoods −10, −40, −3 over 5, 10, 3 tokens.
    losses, tokens = (10.0, 40.0, 3.0), (5.0, 10.0, 3.0)
    assert stats.summarise(MEAN, clips((1.0, 2.0, 6.0)), 0).value == pytest.approx(300.0)
    assert stats.summarise(RATIO, pairs(losses, tokens), 0).value == pytest.approx(53 / 18)
    assert stats.summarise(POOLED, pairs(losses, tokens), 0).value == pytest.approx(19.000104)
    rates = [loss / n for loss, n in zip(losses, tokens, strict=True)]
    assert stats.summarise(GEOMETRIC, clips(rates), 0).value == pytest.approx(10.312259)
    assert stats.summarise(MEDIAN, clips(rates), 0).value == 2.0
    assert stats.summarise(MEDIAN, clips([*rates, 3.0]), 0).value == 2.5


def ends(found: Estimate) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_intervals_agree_with_scipys_where_they_are_wide_enough() -> None:
    values = np.random.default_rng(1).normal(size=80)
    t = scipy.stats.ttest_1samp(100 * values, 0.0).confidence_interval()
    low, high = ends(stats.summarise(MEAN, clips(values.tolist()), 3))
    assert low <= t.low < t.high <= high
    assert high - low == pytest.approx(t.high - t.low, rel=0.06)
    percentile = scipy.stats.bootstrap(
        (values,), np.median, method="percentile", n_resamples=4000, rng=0
    ).confidence_interval
    low, high = ends(stats.summarise(MEDIAN, clips(values.tolist()), 3))
    width = percentile.high - percentile.low
    assert (low, high) == pytest.approx((percentile.low, percentile.high), abs=0.15 * width)


def test_two_values_have_students_interval_of_two() -> None:
    t = scipy.stats.ttest_1samp([100.0, 400.0], 0.0).confidence_interval()
    assert ends(stats.summarise(MEAN, clips([1.0, 4.0]), 0)) == pytest.approx((t.low, t.high))


@pytest.mark.parametrize(("ones", "n"), [(0, 64), (1, 8), (5, 32), (8, 8)])
def test_a_share_has_clopper_and_pearsons_interval(ones: int, n: int) -> None:
    exact = scipy.stats.binomtest(ones, n).proportion_ci(method="exact")
    found = stats.summarise(SHARE, clips([1.0] * ones + [0.0] * (n - ones)), 0)
    assert ends(found) == pytest.approx((100 * exact.low, 100 * exact.high))
    assert (found.method, found.marked) == ("Clopper-Pearson", False)


def test_a_share_of_none_says_how_many_there_might_be() -> None:
    assert stats.summarise(SHARE, clips([0.0] * 64), 0).high == pytest.approx(5.6, abs=0.05)
    rate = RATIO.model_copy(update={"unit": "%", "scale": 100.0})
    none = stats.summarise(rate, pairs([0.0] * 32, [30.0] * 32), 0)
    assert (none.value, none.low, none.high) == (0.0, 0.0, pytest.approx(10.9, abs=0.05))
    few = stats.summarise(rate, pairs([3.0, *[0.0] * 31], [30.0] * 32), 0)
    assert few.low == 0.0
    assert few.high > 16 * few.value / 5  # one clip in 32 may be one in 6


def test_a_rate_stays_between_none_and_all() -> None:
    silent = Column.of("silence", "Silence", "%", "x")
    most = stats.summarise(silent, clips([1.0, 1.0, 1.0, 0.7, 1.0, 0.2]), 0)
    assert ends(most)[1] == 100.0
    least = stats.summarise(silent, clips([0.0, 0.3, 0.0, 0.0, 0.8, 0.0]), 0)
    assert ends(least)[0] == 0.0


def test_clips_of_one_prompt_are_no_more_than_the_prompt_to_a_share() -> None:
    ones = [1.0, 1.0, 0.0, 1.0, *[0.0] * 16]
    alone = ends(stats.summarise(SHARE, clips(ones), 0))
    thrice = {f"p{i}/{k}": {"x": x} for i, x in enumerate(ones) for k in range(3)}
    groups = {key: key.partition("/")[0] for key in thrice}
    together = ends(stats.summarise(SHARE, thrice, 0, groups))
    assert together[0] <= alone[0] < alone[1] <= together[1]
    assert together == pytest.approx(alone, rel=0.15)


@pytest.mark.parametrize("n", [8, 16, 32, 64])
def test_paired_shares_differ_where_the_exact_test_says_so(n: int) -> None:
    """McNemar's exact test looks at the clips where only one side has a one."""
    for more, fewer in itertools.product(range(9), range(5)):
        if 0 < more + fewer <= n:
            a = clips([1.0] * more + [0.0] * (n - more))
            b = clips([0.0] * more + [1.0] * fewer + [0.0] * (n - more - fewer))
            low, high = ends(stats.compare(SHARE, a, b, 0))
            exact = scipy.stats.binomtest(more, more + fewer).pvalue
            assert (low > 0 or high < 0) == (exact < 0.05), (more, fewer)


def test_pairs_that_never_differ_still_have_a_width_as_shares() -> None:
    ones = clips([1.0, *[0.0] * 63])
    found = stats.compare(SHARE, ones, ones, 0)
    assert found.value == 0.0
    assert -5.0 < ends(found)[0] == -ends(found)[1] < -3.0


def test_an_interval_goes_with_its_values() -> None:
    values = np.random.default_rng(1).lognormal(size=24)

    def of(column: Column, values: np.ndarray) -> np.ndarray:
        return np.array(ends(stats.summarise(column, clips(values.tolist()), 7)))

    assert of(MEAN, values + 1e6) == pytest.approx(of(MEAN, values) + 1e8, rel=1e-10)
    assert of(MEAN, 3 * values) == pytest.approx(3 * of(MEAN, values))
    assert of(MEAN, -values) == pytest.approx(-of(MEAN, values)[::-1], rel=0.05)
    assert of(MEDIAN, 3 * values - 1) == pytest.approx(3 * of(MEDIAN, values) - 1)
    assert of(GEOMETRIC, values) == pytest.approx(np.exp(of(MEAN, values) / 100))


@pytest.mark.parametrize("aggregate", ["mean", "share", "exp_mean", "median"])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_equal_clips_few_clips_and_nan_give_no_nonsense(aggregate: str, n: int) -> None:
    column = Column.of("x", "x", "", aggregate=aggregate)
    rng = np.random.default_rng(n)
    sides = [clips((rng.random(n) < 0.5).astype(float).tolist()), clips([1.0] * n)]
    made = [stats.summarise(column, side, 0) for side in sides]
    made += [stats.compare(column, *pair, 0) for pair in (sides, sides[::-1], [sides[0]] * 2)]
    for found in made:
        assert found.value is not None
        assert (found.low is None) == (n == 1)
        if n > 1:
            low, high = ends(found)
            assert -math.inf < low <= found.value <= high < math.inf
    spoilt = {**sides[0], "p000/0": {"x": math.nan}}
    for found in (stats.summarise(column, spoilt, 0), stats.compare(column, spoilt, sides[1], 0)):
        assert (found.value, found.low) == (None, None)
        assert found.reason


def test_an_interval_of_too_few_clips_is_marked() -> None:
    rng = np.random.default_rng(0)
    for column, holds_from in (
        (MEAN, stats.HOLDS_FROM["mean"]),
        (MEAN.model_copy(update={"near_normal": True}), stats.HOLDS_FROM["near-normal"]),
        (GEOMETRIC, stats.HOLDS_FROM["exp_mean"]),
    ):
        marks = [
            stats.summarise(column, clips(rng.normal(size=n).tolist()), 0).marked
            for n in (holds_from - 1, holds_from)
        ]
        assert marks == [True, False]


def test_the_median_differs_by_pairs() -> None:
    a, b = clips((7.4, 54.6, 2.7)), clips((7.4, 7.4, 7.4, 1.0))
    same = stats.compare(MEDIAN, a, a, 0)
    assert (same.value, same.low, same.high, same.n) == (0.0, 0.0, 0.0, 3)
    assert stats.compare(MEDIAN, clips((1.0, 9.0, 5.0)), b, 0).value == pytest.approx(-2.4)
    assert stats.compare(MEDIAN, a, {}, 0).reason


def test_pairing_removes_what_prompts_have_in_common() -> None:
    hardness = np.random.default_rng(0).normal(0.0, 50.0, size=40)
    found = stats.compare(MEAN, clips((hardness + 1.0).tolist()), clips(hardness.tolist()), seed=0)
    assert found.value == pytest.approx(100.0)
    assert found.low == pytest.approx(100.0)
    assert found.high == pytest.approx(100.0)


def test_only_shared_prompts_are_compared_and_order_does_not_matter() -> None:
    a = {"p1/0": {"x": 1.0}, "p2/0": {"x": 5.0}, "p3/0": {"x": None}, "p9/0": {"x": 100.0}}
    b = {"p3/0": {"x": 9.0}, "p2/0": {"x": 2.0}, "p1/0": {"x": 0.0}}
    found = stats.compare(MEAN, a, b, 0)
    assert (found.value, found.n) == (pytest.approx(200.0), 2)
    assert found == stats.compare(MEAN, dict(reversed(a.items())), b, 0)


def test_clips_of_one_prompt_do_not_count_as_independent() -> None:
    rng = np.random.default_rng(0)
    prompts = rng.normal(size=20)
    alone = {f"p{i}/0": {"x": x} for i, x in enumerate(prompts)}
    repeated = {f"p{i}/{k}": {"x": x} for i, x in enumerate(prompts) for k in range(10)}
    groups = {key: key.partition("/")[0] for key in repeated}
    one, ten = stats.summarise(MEAN, alone, 5), stats.summarise(MEAN, repeated, 5, groups)
    assert ten.n == 10 * one.n
    assert ten.high - ten.low == pytest.approx(one.high - one.low)


def test_resamples_do_not_depend_on_how_many_are_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = clips(np.random.default_rng(0).normal(size=30).tolist())
    whole = stats.summarise(MEAN, values, 1)
    monkeypatch.setattr(stats, "_BLOCK", 100)
    found = stats.summarise(MEAN, values, 1)
    assert (found.low, found.high) == pytest.approx((whole.low, whole.high), rel=1e-12)


def test_the_seed_decides_the_interval() -> None:
    values = clips(np.random.default_rng(0).normal(size=30).tolist())
    assert stats.summarise(MEAN, values, 1) == stats.summarise(MEAN, values, 1)
    assert stats.summarise(MEAN, values, 1) != stats.summarise(MEAN, values, 2)


def test_what_cannot_be_computed_is_none_with_a_reason() -> None:
    empty = stats.summarise(MEAN, {"p1/0": {"x": None}, "p2/0": {}}, 0)
    assert empty.value is None
    assert "no clip" in empty.reason
    nothing_shared = stats.compare(MEAN, {"a/0": {"x": 1.0}}, {"b/0": {"x": 1.0}}, 0)
    assert nothing_shared.value is None
    assert nothing_shared.reason
    single = stats.summarise(MEAN, clips([2.0]), 0)
    assert (single.value, single.low, single.n) == (200.0, None, 1)
    assert single.reason
    for bad in (pairs([1.0, 2.0], [0.0, 0.0]), pairs([math.nan, 1.0], [1.0, 1.0])):
        undefined = stats.summarise(RATIO, bad, 0)
        assert undefined.value is None
        assert undefined.reason
    overflow = stats.summarise(POOLED, pairs([1e6, 1e6], [1.0, 1.0]), 0)
    assert overflow.value is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("aggregate", ["mean", "share", "exp_mean", "median"])
def test_values_beyond_all_numbers_end_in_a_reason_and_no_warning(aggregate: str) -> None:
    column = Column.of("x", "x", "", aggregate=aggregate)
    for odd in ([1.0] * 8 + [math.inf], [-math.inf, 1.0, math.inf], [1e308] * 9):
        side = clips(odd)
        for found in (stats.summarise(column, side, 0), stats.compare(column, side, side, 0)):
            assert found.value is not None or found.reason
            assert all(math.isfinite(end) for end in (found.value, found.low) if end is not None)
    for a, b in (([1.0] * 3, [0.0] * 3), ([0.0] * 3, [0.0] * 3), ([math.inf, 1.0], [1.0, 1.0])):
        assert stats.ratio_interval(a, b, 0).value is None


def test_zero_denominators_in_some_resamples_do_not_spoil_the_interval() -> None:
    found = stats.summarise(RATIO, pairs([0.0, 1.0, 2.0], [0.0, 0.0, 4.0]), 0)
    assert found.value == pytest.approx(0.75)
    assert math.isfinite(found.low)
    assert math.isfinite(found.high)


def test_a_set_column_has_no_clip_values() -> None:
    column = Column(name="fad", label="", unit="", higher_is_better=False, aggregate="set")
    with pytest.raises(ValueError, match="metric estimates it"):
        stats.summarise(column, {}, 0)


def test_median_ratio_of_pairs() -> None:
    found = stats.ratio_interval([2.0, 6.0, 4.0], [1.0, 2.0, 2.0], seed=0)
    assert found.value == pytest.approx(2.0)
    assert found.low == pytest.approx(2.0)
    assert found.high == pytest.approx(3.0)
    # The ratio of the medians would be 2 too, but reversing one arm shows who is paired with whom.
    for a, b, median in (
        ([6.0, 4.0, 2.0], [1.0, 2.0, 2.0], 2.0),
        ([1.0, 9.0, 9.0], [1.0, 1.0, 9.0], 1.0),
    ):
        assert stats.ratio_interval(a, b, seed=0).value == pytest.approx(median)


def test_a_ratios_interval_is_wider_at_a_higher_level_and_not_by_drift() -> None:
    rng = np.random.default_rng(2)
    drift = np.exp(np.linspace(0.0, 0.8, 20))
    a, b = (drift * np.exp(rng.normal(0, 0.02, 20)) for _ in range(2))
    narrow = stats.ratio_interval(a.tolist(), b.tolist(), 0)
    wide = stats.ratio_interval(a.tolist(), b.tolist(), 0, level=0.99)
    assert wide.low <= narrow.low <= narrow.value <= narrow.high <= wide.high
    assert wide.high - wide.low < 0.1


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="equal counts"):
        stats.ratio_interval([1.0], [1.0, 2.0], 0)
    assert stats.ratio_interval([], [], 0).value is None
