"""The Fréchet distance against closed forms and scipy's matrix root, its bias and its limit."""

import numpy as np
import pytest
import scipy.linalg

from calm_bench.core.stats import deal_blocks
from calm_bench.metrics.fad import Blocks, Gaussian, extrapolate, frechet_distance, subset_sizes


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def fitted(vectors: np.ndarray) -> Gaussian:
    """The Gaussian with the moments of [N, E] vectors."""
    return Blocks.of({"": vectors}.items(), [[""]]).gaussian(np.ones(1))


def fit_distance(x: np.ndarray, y: np.ndarray) -> float:
    return frechet_distance(fitted(x), fitted(y))


@pytest.mark.parametrize(("n", "d", "tolerance"), [(200, 12, 1e-10), (8, 20, 1e-9)])
class TestExactOnSamples:
    def sample(self, n: int, d: int) -> np.ndarray:
        rng = np.random.default_rng(3)
        return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 2.0

    def test_itself(self, n: int, d: int, tolerance: float) -> None:
        x = self.sample(n, d)
        assert fit_distance(x, x) == pytest.approx(0.0, abs=tolerance)

    def test_shift(self, n: int, d: int, tolerance: float) -> None:
        x, shift = self.sample(n, d), np.linspace(-1, 1, d)
        assert fit_distance(x, x + shift) == pytest.approx(shift @ shift, abs=tolerance)

    def test_scale(self, n: int, d: int, tolerance: float) -> None:
        x = self.sample(n, d)
        size = np.trace(np.cov(x, rowvar=False)) + x.mean(axis=0) @ x.mean(axis=0)
        assert fit_distance(x, 0.7 * x) == pytest.approx(0.3**2 * size, abs=tolerance * size)

    def test_symmetric_map(self, n: int, d: int, tolerance: float) -> None:
        x = self.sample(n, d)
        half = np.random.default_rng(4).standard_normal((d, d)) / np.sqrt(d)
        A = 0.1 * np.eye(d) + half @ half.T
        rest = np.eye(d) - A
        expected = np.trace(rest @ np.cov(x, rowvar=False) @ rest) + np.sum(
            (rest @ x.mean(axis=0)) ** 2
        )
        assert fit_distance(x, x @ A) == pytest.approx(expected, rel=1e-9)

    def test_order_does_not_matter(self, n: int, d: int, tolerance: float) -> None:
        x, y = self.sample(n, d), self.sample(n, d)[::2] * 1.5
        assert fit_distance(x, y) == pytest.approx(fit_distance(y, x), rel=tolerance)


def test_two_by_two() -> None:
    a = Gaussian(np.array([1.0, 0.0]), np.array([[2.0, 1.0], [1.0, 2.0]]))
    b = Gaussian(np.array([0.0, 1.0]), np.diag([1.0, 3.0]))
    assert frechet_distance(a, b) == pytest.approx(10 - 2 * np.sqrt(14), abs=1e-12)


def test_diagonal_covariances() -> None:
    a = Gaussian(np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    b = Gaussian(np.ones(3), np.diag([4.0, 4.0, 0.0]))
    assert frechet_distance(a, b) == pytest.approx(1 + 0 + 9 + 3)


def test_agrees_with_the_matrix_root_of_the_product(rng: np.random.Generator) -> None:
    a, b = (
        fitted(rng.standard_normal((300, 20)) @ rng.standard_normal((20, 20))) for _ in range(2)
    )
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_a_flat_reference_is_measured_too(rng: np.random.Generator) -> None:
    wide = np.diag([1.0, 4.0, 9.0, 0.0])  # no Cholesky factor
    other = np.cov(rng.standard_normal((50, 4)), rowvar=False)
    expected = (
        np.trace(wide + other) - 2 * np.sqrt(np.linalg.eigvals(wide @ other).real.clip(0)).sum()
    )
    a, b = Gaussian(np.zeros(4), other), Gaussian(np.zeros(4), wide)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)
    flat = Gaussian(np.zeros(4), np.zeros((4, 4)))
    assert frechet_distance(flat, flat) == 0.0


def test_a_negative_distance_beyond_rounding_is_an_error() -> None:
    broken = Gaussian(np.zeros(2), np.diag([1.0, -3.0]))
    with pytest.raises(ArithmeticError):
        frechet_distance(broken, Gaussian(np.zeros(2), np.eye(2)))


def test_moments_add_up_to_those_of_the_union(rng: np.random.Generator) -> None:
    sizes = {"a": 3, "b": 10, "c": 1, "d": 7}
    groups = {name: 1e3 + rng.standard_normal((n, 5)) for name, n in sizes.items()}
    moments = Blocks.of(groups.items(), [["a"], ["b"], ["c"], ["d"]])
    found = moments.gaussian(np.array([1.0, 0.0, 1.0, 1.0]))
    union = np.concatenate([groups["a"], groups["c"], groups["d"]])
    assert np.allclose(found.mean, union.mean(axis=0), rtol=1e-14)
    assert np.allclose(found.covariance, np.cov(union, rowvar=False), rtol=1e-10)


def test_bias_of_a_small_sample_is_what_theory_says(rng: np.random.Generator) -> None:
    d, n = 6, 300
    truth = Gaussian(np.zeros(d), np.eye(d))
    found = [frechet_distance(fitted(rng.standard_normal((n, d))), truth) for _ in range(200)]
    bias = (d + d * (d + 1) / 4) / n
    assert np.mean(found) == pytest.approx(bias, rel=0.1)


def test_every_block_gets_its_share_of_every_side() -> None:
    a = [f"p{i}" for i in range(100)]
    b = a[:80] + [f"q{i}" for i in range(20)]
    blocks = deal_blocks([a, b], seed=1)
    assert len(blocks) == 32
    assert sorted(p for block in blocks for p in block) == sorted({*a, *b})
    for side in (a, b):
        sizes = [len(set(block) & set(side)) for block in blocks]
        assert min(sizes) >= 2
        assert max(sizes) <= 5
    assert blocks == deal_blocks([list(reversed(a)), b], seed=1)
    assert blocks != deal_blocks([a, b], seed=2)


def test_a_third_side_with_the_same_prompts_leaves_the_groups_as_they_are() -> None:
    a = [f"p{i}" for i in range(40)]
    assert deal_blocks([a, a], 0) == deal_blocks([a, a, a], 0)


def test_sets_that_share_some_groups_are_dealt_evenly() -> None:
    # As after pairing that found originals for 8 of 20 clips: no block may be without the others.
    shared, ours, theirs = (
        [f"{name}{i}" for i in range(n)] for name, n in zip("abc", (8, 12, 8), strict=True)
    )
    a, b = {*shared, *ours}, {*shared, *theirs}
    blocks = deal_blocks([a, b], seed=0)
    assert {len(b.intersection(block)) for block in blocks} == {1}
    assert {len(a.intersection(block)) for block in blocks} == {1, 2}
    assert sorted(group for block in blocks for group in block) == sorted(a | b)


def test_a_block_without_vectors_of_a_set_is_empty(rng: np.random.Generator) -> None:
    moments = Blocks.of([("a", rng.standard_normal((4, 2)))], [["a"], ["b"]])
    assert moments.counts.tolist() == [4.0, 0.0]


@pytest.mark.parametrize(
    ("n_blocks", "n_clips", "dim", "smallest"),
    [(32, 32, 384, 16), (32, 200, 24, 7), (32, 1000, 384, 13), (32, 100, 24, 8)],
)
def test_sizes_start_where_the_bias_is_straight(
    n_blocks: int, n_clips: int, dim: int, smallest: int
) -> None:
    sizes = subset_sizes(n_blocks, n_clips, dim)
    assert (sizes[0], sizes[-1]) == (smallest, n_blocks)
    assert len(sizes) >= 8


def test_a_straight_line_is_extrapolated_exactly() -> None:
    limit = extrapolate(lambda chosen: 0.5 + 3.0 / chosen.sum(), 32, [16, 20, 32], seed=0)
    assert limit.value == pytest.approx(0.5)
    assert limit.r_squared == pytest.approx(1.0)
    assert limit.smallest == 16


def test_the_limit_removes_most_of_the_bias_of_correlated_frames() -> None:
    # 60 clips of 10 frames that share half of their variance; both sides drawn from one law.
    d, n, raw, limits = 8, 60, [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        sides = []
        for name in "ab":
            clips, frames = rng.standard_normal((n, 1, d)), rng.standard_normal((n, 10, d))
            vectors = np.sqrt(0.5) * clips + np.sqrt(0.5) * frames
            sides.append({f"{name}{i}": vectors[i] for i in range(n)})
        blocks = deal_blocks(sides, seed=0)
        a, b = (Blocks.of(side.items(), blocks) for side in sides)

        def distance(chosen: np.ndarray, a: np.ndarray = a, b: np.ndarray = b) -> float:
            return frechet_distance(a.gaussian(chosen), b.gaussian(chosen))

        raw.append(distance(np.ones(len(blocks))))
        limits.append(extrapolate(distance, len(blocks), subset_sizes(32, n, d), 0).value)
    assert np.mean(raw) > 0.2
    assert abs(np.mean(limits)) < 0.2 * np.mean(raw)
