"""KAD against pairs by hand and the closed form for Gaussians: unbiased, with a fixed kernel."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from clips import clip_of

from calm_bench.core.cache import MemoryCache
from calm_bench.embeddings.base import Embedding
from calm_bench.metrics import kad
from calm_bench.metrics.kad import KadMetric, bandwidth_of
from calm_bench.types import Clip, Wave


class Rows(Embedding):
    """A wave is its vectors, `dim` numbers each."""

    name, version, sample_rate, dim, min_seconds = "rows", "1", 100, 4, 0.0

    def __init__(self, dim: int = 4) -> None:
        self.dim = dim

    @property
    def recipe(self) -> dict[str, Any]:
        return {}

    def embed(self, waves: Sequence[Wave]) -> list[np.ndarray]:
        return [wave.reshape(-1, self.dim) for wave in waves]


def clips_of(waves: Sequence[Wave], prefix: str) -> list[Clip]:
    return [clip_of(wave, f"{prefix}{i}", 100) for i, wave in enumerate(waves)]


def metric_of(dim: int) -> KadMetric:
    return KadMetric(Rows(dim), MemoryCache())


def brute_force(x: np.ndarray, y: np.ndarray, sigma: float) -> float:
    """100 × unbiased MMD² by its definition, each row an independent draw."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * sigma**2))

    m, n = len(x), len(y)
    xx, yy = kernel(x, x), kernel(y, y)
    within = (xx.sum() - m) / (m * (m - 1)) + (yy.sum() - n) / (n * (n - 1))
    return 100 * (within - 2 * kernel(x, y).mean())


def test_golden_scalars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kad, "bandwidth_of", lambda reference: 1.0)
    x, y = clips_of([0.0, 1.0, 3.0], "x"), clips_of([0.0, 2.0], "y")
    found = metric_of(1).score(x, y).estimates["kad"]
    within = (np.exp(-0.5) + np.exp(-4.5) + np.exp(-2.0)) / 3 + np.exp(-2.0)
    across = (1.0 + np.exp(-2.0) + 3 * np.exp(-0.5) + np.exp(-4.5)) / 6
    assert found.value == pytest.approx(100 * (within - 2 * across), abs=1e-9)
    assert found.value == pytest.approx(-60.23518232, abs=1e-7)


def test_the_definition_and_the_reference_bandwidth() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 4)), 0.5 + 1.3 * rng.standard_normal((30, 4))
    found = metric_of(4).score(clips_of(x, "x"), clips_of(y, "y"))
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(y) for b in y[i + 1 :]]
    assert found.counts["bandwidth"] == pytest.approx(np.median(gaps), rel=1e-6)
    expected = brute_force(x, y, found.counts["bandwidth"])
    assert found.estimates["kad"].value == pytest.approx(expected, rel=1e-6)


def test_large_offsets_cost_no_digits() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 4)) + 0.5
    here = metric_of(4).score(clips_of(x, "x"), clips_of(y, "y")).estimates["kad"]
    x64, y64 = (np.float32(1024.0) + wave.astype(np.float32) for wave in (x, y))
    there = metric_of(4).score(clips_of(x64, "x"), clips_of(y64, "y")).estimates["kad"]
    assert there.value == pytest.approx(here.value, abs=0.02)


def test_mean_over_draws_is_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    # d=4, a=1, b=1.3, a shift of .3 in each dimension, bandwidth 2: 4.2209.
    monkeypatch.setattr(kad, "bandwidth_of", lambda reference: 2.0)
    rng, found = np.random.default_rng(1), []
    for _ in range(40):
        x = rng.standard_normal((12, 3, 4))
        y = 0.3 + 1.3 * rng.standard_normal((60, 4))
        found.append(metric_of(4).score(clips_of(x, "x"), clips_of(y, "y")).estimates["kad"].value)
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - 4.2209) < 3 * error


def test_frames_that_share_a_clip_leave_it_unbiased() -> None:
    # Same law on both sides, frames strongly correlated: the mean must be zero, not positive.
    rng, found = np.random.default_rng(2), []
    for _ in range(40):
        x, y = (
            rng.standard_normal((16, 1, 4)) + 0.3 * rng.standard_normal((16, 8, 4))
            for _ in range(2)
        )
        found.append(metric_of(4).score(clips_of(x, "x"), clips_of(y, "y")).estimates["kad"].value)
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error
    assert min(found) < 0.0


def test_a_set_is_at_no_distance_from_itself() -> None:
    clips = clips_of(np.random.default_rng(0).standard_normal((20, 5, 4)), "p")
    found = metric_of(4).score(clips, clips).estimates["kad"]
    assert found.value == pytest.approx(0.0, abs=1e-10)
    assert found.low == pytest.approx(0.0, abs=1e-10)
    assert found.high == pytest.approx(0.0, abs=1e-10)


def test_a_more_scattered_row_is_worse_because_the_kernel_stays() -> None:
    rng = np.random.default_rng(0)
    reference = clips_of(rng.standard_normal((60, 4, 4)), "r")
    values = [
        metric_of(4)
        .score(clips_of(scale * rng.standard_normal((60, 4, 4)), "x"), reference)
        .estimates["kad"]
        .value
        for scale in (1.0, 1.5, 2.0)
    ]
    assert values[0] < values[1] < values[2]


def test_paired_difference_over_shared_prompts() -> None:
    rng = np.random.default_rng(0)
    common = rng.standard_normal((40, 1, 4))
    reference = clips_of(rng.standard_normal((40, 6, 4)), "p")
    a, b = (
        clips_of(common + shift + 0.2 * rng.standard_normal((40, 6, 4)), "p") for shift in (0.8, 0)
    )
    metrics = [metric_of(4), metric_of(4), metric_of(4)]
    a, b = (
        [replace(c, clip_id=f"{side}{c.clip_id}") for c in of] for side, of in (("a", a), ("b", b))
    )
    gap = metrics[0].difference(a, b, reference)["kad"]
    alone = [
        m.score(c, reference).estimates["kad"] for m, c in zip(metrics[1:], (a, b), strict=True)
    ]
    assert gap.value == pytest.approx(alone[0].value - alone[1].value)
    assert gap.low > 0.0
    assert gap.n == 40
    assert metrics[0].difference(a, b[:10], reference)["kad"].n == 10


def test_thinning_keeps_the_estimate_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 30, 4)), 0.5 + rng.standard_normal((20, 30, 4))
    whole = metric_of(4).score(clips_of(x, "x"), clips_of(y, "y")).estimates["kad"].value
    monkeypatch.setattr(kad, "_MAX_VECTORS", 200)
    monkeypatch.setattr(kad, "_MAX_BANDWIDTH_VECTORS", 100)
    thin = metric_of(4).score(clips_of(x, "x"), clips_of(y, "y")).estimates["kad"].value
    assert thin == pytest.approx(whole, rel=0.3)
    assert thin != whole


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([[0.0] * 4], np.eye(4), "the row has 1"),
        ([], np.eye(4), "the row has 0"),
        (np.eye(4), [], "the reference has 0"),
        (np.eye(4), np.ones((5, 4)), "no bandwidth"),
    ],
)
def test_what_cannot_be_compared_is_refused(x: np.ndarray, y: np.ndarray, reason: str) -> None:
    found = metric_of(4).score(clips_of(x, "x"), clips_of(y, "y")).estimates["kad"]
    assert found.value is None
    assert reason in found.reason


def test_two_prompts_give_a_value_without_interval() -> None:
    found = metric_of(4).score(clips_of(np.eye(4)[:2], "p"), clips_of(2 * np.eye(4)[:2], "p"))
    estimate = found.estimates["kad"]
    assert estimate.value is not None
    assert estimate.low is None
    assert estimate.reason


def test_a_few_clips_beside_many_others_are_still_few() -> None:
    rng = np.random.default_rng(3)
    few, many = rng.standard_normal((6, 4)), rng.standard_normal((60, 4))
    found = metric_of(4).score(clips_of(few, "x"), clips_of(many, "r")).estimates["kad"]
    without = np.array(found.deleted)
    error = np.sqrt(len(without) - 1) * without.std()
    assert len(without) == 66  # groups that only one of the sets has
    assert found.high - found.value == pytest.approx(2.5706 * error, rel=1e-4)  # t of 5
    assert found.marked


def test_bandwidth_of_nothing_is_nil() -> None:
    assert bandwidth_of(metric_of(4).vectors_of([])) == 0.0
