"""P values, several trainings, families and power, against closed forms and SciPy."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from calm_bench.core.inference import (
    Effect,
    detectable,
    holm,
    over_trainings,
    prompts_needed,
    range_needed,
    reach_over_trainings,
    trainings_needed,
)


def effect(value: float, reach: float, n: int = 32) -> Effect:
    return Effect(value=value, low=value - reach, high=value + reach, n=n, df=n - 1)


def test_p_is_below_a_twentieth_exactly_where_the_interval_leaves_the_null() -> None:
    skewed = Effect(value=2.0, low=0.0, high=7.0, n=20, df=19)
    assert skewed.p_not(above=True, null=0.0) == pytest.approx(0.025)
    assert skewed.p_not(above=False, null=7.0) == pytest.approx(0.025)
    assert skewed.p_not(above=False, null=0.0) == pytest.approx(0.975)


def test_p_is_that_of_students_test() -> None:
    sample = np.random.default_rng(0).normal(0.4, 1.0, 12)
    low, high = stats.t.interval(0.95, 11, sample.mean(), stats.sem(sample))
    found = Effect(value=sample.mean(), low=low, high=high, n=12, df=11)
    wanted = stats.ttest_1samp(sample, 0.0, alternative="greater").pvalue
    assert found.p_not(above=True, null=0.0) == pytest.approx(wanted)


def test_what_is_exact_is_certain() -> None:
    exact = Effect(value=3.0, low=3.0, high=3.0, n=1, df=math.inf)
    assert exact.p_not(above=True, null=2.0) == 0.0
    assert exact.p_not(above=False, null=2.0) == 1.0


def test_values_that_are_all_alike_have_the_sign_tests_p() -> None:
    for n in (2, 5, 6, 32):
        alike = Effect(value=3.0, low=3.0, high=3.0, n=n, df=n - 1)
        assert (
            alike.p_not(above=True, null=0.0) == stats.binomtest(n, n, alternative="greater").pvalue
        )
        assert alike.p_not(above=False, null=0.0) == 1.0
        assert alike.p_within(2.0, 4.0) == 0.5**n
    trainings = over_trainings([effect(1.0, 0.0)] * 3)
    assert trainings.p_not(above=True, null=0.0) == 0.5**3
    assert trainings.p_within(0.0, 2.0) == 0.5**3
    assert over_trainings([effect(0.0, 0.0)] * 3).p_not(above=True, null=0.0) == 0.5


def test_over_trainings_alone_it_is_students_test() -> None:
    values = [1.0, 2.5, 0.5, 3.0]
    found = over_trainings([effect(value, 0.0) for value in values])
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    wanted = stats.ttest_1samp(values, 0.0, alternative="greater").pvalue
    assert found.p_not(above=True, null=0.0) == pytest.approx(wanted)
    assert found.spread == pytest.approx(np.std(values, ddof=1))
    assert found.trainings == 4


def test_prompts_alone_are_all_there_is_where_trainings_agree() -> None:
    one = effect(1.0, 0.5)
    found = over_trainings([one] * 3)
    assert (found.low, found.high) == pytest.approx((one.low, one.high))
    assert over_trainings([one]) is one


def test_what_each_training_draws_anew_is_not_counted_twice() -> None:
    rng = np.random.default_rng(1)
    prompts = rng.normal(0, 1, (400, 4, 32))  # nothing that trainings share
    found = []
    for run in prompts:
        errors = stats.sem(run, axis=1) * stats.t.ppf(0.975, 31)
        effects = [effect(m, e) for m, e in zip(run.mean(axis=1), errors, strict=True)]
        found.append(over_trainings(effects, float(stats.sem(run.mean(axis=0)))))
    assert np.mean([(one.prompt_error or 0.0) ** 2 for one in found]) < 0.4 / 32
    without = over_trainings(effects)
    assert without.low < found[-1].low
    assert without.high > found[-1].high


def test_holm_is_holms() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@pytest.mark.parametrize("k", [2, 3, 5, 10])
def test_the_detectable_effect_has_four_chances_in_five(k: int) -> None:
    found = detectable(1.0, 0.0, k, 32)
    t = stats.t.ppf(0.975, k - 1)
    assert stats.nct.sf(t, k - 1, found * math.sqrt(k)) == pytest.approx(0.8, abs=1e-4)


def test_prompts_help_as_far_as_trainings_do_not_bound() -> None:
    once = effect(1.0, 2.0)
    error = 2.0 / stats.t.ppf(0.975, 31)
    wanted = 32 * ((stats.t.ppf(0.975, 31) + stats.t.ppf(0.8, 31)) * error) ** 2
    assert prompts_needed(once, 1.0, 0.0) == math.ceil(wanted)
    assert prompts_needed(once, 0.0, 0.0) is None
    often = replace(once, trainings=5, spread=0.1, prompt_error=1.0, df=4)
    n = prompts_needed(often, 1.0, 0.0)
    assert n is not None
    assert detectable(0.1, math.sqrt(32 / n), 5, n) <= 1.0
    assert detectable(0.1, math.sqrt(32 / (0.95 * n)), 5, n) > 1.0
    bound = replace(often, spread=3.0)
    assert prompts_needed(bound, 2.0, 0.0) is None
    k, more = trainings_needed(bound, 2.0)
    assert k is not None
    assert more
    assert detectable(3.0, 0.0, k, 32) <= 2.0 < detectable(3.0, 0.0, k - 1, 32)
    assert trainings_needed(replace(bound, prompt_error=0.01), 2.0) == (k, False)
    assert trainings_needed(replace(often, spread=100.0), 1.0) == (None, False)
    # Just above what five trainings show at any number of prompts, a sixth is what is lacking.
    close = detectable(0.1, 0.0, 5, 32) * 1.000001
    assert prompts_needed(often, close, 0.0) is None
    assert trainings_needed(often, close) == (6, True)


def test_the_range_is_of_effects_a_standard_error_apart() -> None:
    once = effect(1.0, 2.0)
    error = 2.0 / stats.t.ppf(0.975, 31)
    n, few, many = range_needed(once, 0.0)
    assert (n, few) == tuple(prompts_needed(once, x, 0.0) for x in (1.0, 1.0 + error))
    assert many == prompts_needed(once, 1.0 - error, 0.0)
    assert range_needed(effect(0.1, 2.0), 0.0)[2] is None
    assert range_needed(effect(0.0, 2.0), 0.0)[0] is None


def test_the_reach_is_students_at_both_ends() -> None:
    assert reach_over_trainings(2.0, 0.0, 4, 32) == pytest.approx(stats.t.ppf(0.975, 3))
    assert reach_over_trainings(0.0, 1.0, 4, 32) == pytest.approx(stats.t.ppf(0.975, 31))
    three, four = (reach_over_trainings(*x, 4, 32) for x in ((2.0, 0.0), (0.0, 1.0)))
    assert reach_over_trainings(2.0, 1.0, 4, 32) == pytest.approx(math.hypot(three, four))
