import math

import pytest
from scipy import stats

from calm_bench.numbers.trainings import as_one
from calm_bench.store.results import Difference, Pooled

GAPS = [
    Difference(
        cell_id=f"a{i}", baseline_cell_id=f"b{i}", metric="m", value=v, low=v - 1, high=v + 1, n=32
    )
    for i, v in enumerate((1.0, 2.0, 4.0))
]


def test_an_interval_over_trainings_counts_prompts_and_not_their_draws() -> None:
    about = Pooled(cell_ids=("a0",), baseline_cell_ids=("b0",), metric="m", prompt_error=0.3, n=0)
    found = as_one(about, [0, 1, 2], GAPS, 4)  # eight draws of each of four prompts
    spread = stats.tstd([1.0, 2.0, 4.0])
    alone = (1 / stats.t.ppf(0.975, 3)) ** 2  # the variance of one training's difference
    shared = min(alone, max(0.0, 0.3**2 - (alone - 0.3**2) / 2)) ** 0.5
    reach = math.hypot(stats.t.ppf(0.975, 2) * spread / 3**0.5, stats.t.ppf(0.975, 3) * shared)
    assert found.value == pytest.approx(7 / 3)
    assert (found.low, found.high) == pytest.approx((7 / 3 - reach, 7 / 3 + reach))
