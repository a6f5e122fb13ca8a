"""FAD as a metric: identity, order, refusals, caching, intervals and paired differences."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from clips import Rows, clip_of

from calm_bench.core.cache import MemoryCache
from calm_bench.core.stats import student_interval
from calm_bench.metrics.fad import FadMetric
from calm_bench.types import Clip, Wave

RATE = Rows.sample_rate


def clips_of(
    n: int,
    seed: int,
    *,
    scale: float = 1.0,
    shift: float = 0.0,
    frames: int = 10,
    prefix: str = "p",
    common: np.ndarray | None = None,
) -> list[Clip]:
    """Clips with one vector of prompt and `frames` of continuation; frames share a clip's part."""
    rng = np.random.default_rng(seed)
    own = rng.standard_normal((n, 1, 4)) if common is None else common
    vectors = scale * (own + 0.5 * rng.standard_normal((n, frames, 4))) + shift
    waves = np.concatenate([np.full((n, 1, 4), 9.0), vectors], axis=1).astype(np.float32)
    return [
        clip_of(
            wave, f"{prefix}{seed}-{i}", RATE, prompt=f"{prefix}{i:03d}", prompt_seconds=4 / RATE
        )
        for i, wave in enumerate(waves)
    ]


@pytest.fixture
def metric() -> FadMetric:
    return FadMetric(Rows(), MemoryCache())


def test_a_set_is_at_no_distance_from_itself(metric: FadMetric) -> None:
    clips = clips_of(32, 0)
    found = metric.score(clips, clips)
    for estimate in found.estimates.values():
        assert estimate.value == pytest.approx(0.0, abs=1e-9)
        assert estimate.high == pytest.approx(0.0, abs=1e-9)
    assert found.counts["n_vectors"] == 320
    assert found.counts["n_clips"] == found.counts["n_reference_clips"] == 32
    assert found.counts["dim"] == 4


def test_only_the_continuation_counts(metric: FadMetric) -> None:
    # The prompt's vector is (9, 9, 9, 9); with it the shift below would be diluted.
    clips = clips_of(32, 0)
    waves = [np.concatenate([c.wave[:4], c.wave[4:] + 1.0]).astype(np.float32) for c in clips]
    moved = [
        replace(clip, clip_id=f"moved-{clip.clip_id}", wave=wave)
        for clip, wave in zip(clips, waves, strict=True)
    ]
    found = metric.score(moved, clips).estimates["fad"]
    assert found.value == pytest.approx(4.0, rel=1e-5)
    assert found.low == pytest.approx(4.0, rel=1e-4)


def test_worse_sets_are_farther_and_the_limit_lies_below(metric: FadMetric) -> None:
    reference = clips_of(64, 0)
    near, far = clips_of(64, 1), clips_of(64, 2, shift=1.0)
    near, far = metric.score(near, reference), metric.score(far, reference)
    assert near.estimates["fad"].value < far.estimates["fad"].value
    assert near.estimates["fad_inf"].value < near.estimates["fad"].value
    assert 0.0 <= near.counts["fad_inf_r_squared"] <= 1.0
    for found in (near, far):
        fad = found.estimates["fad"]
        assert 0.0 <= fad.low < fad.value < fad.high
        assert fad.n == 64


def test_what_a_set_is_without_each_group_is_kept(metric: FadMetric) -> None:
    found = metric.score(clips_of(40, 1), clips_of(40, 0)).estimates
    for estimate in found.values():
        again = student_interval(estimate.value, np.array(estimate.deleted), estimate.n)
        assert len(estimate.deleted) == 32
        assert (again.low, again.high) == pytest.approx((estimate.low, estimate.high), abs=0.2)
        assert (estimate.method, estimate.marked) == ("jackknife", False)
    few = metric.score(clips_of(24, 1), clips_of(24, 0)).estimates
    assert [few[name].marked for name in ("fad", "fad_inf")] == [False, True]


def test_interval_of_the_limit_covers_the_truth() -> None:
    covered, truth = 0, 4 * 0.5**2
    for seed in range(24):
        metric = FadMetric(Rows(), MemoryCache())
        reference = clips_of(48, 100 + seed, prefix="r")
        found = metric.score(clips_of(48, seed, shift=0.5), reference).estimates["fad_inf"]
        covered += found.low <= truth <= found.high
    assert covered >= 20


def test_pairing_narrows_the_interval_of_a_difference(metric: FadMetric) -> None:
    reference = clips_of(64, 0)
    own = np.random.default_rng(9).standard_normal((64, 1, 4))
    a, b = clips_of(64, 1, common=own, shift=1.1), clips_of(64, 2, common=own, shift=0.8)
    gap = metric.difference(a, b, reference)["fad"]
    alone = [metric.score(clips, reference).estimates["fad"] for clips in (a, b)]
    assert gap.value == pytest.approx(alone[0].value - alone[1].value)
    widths = [estimate.high - estimate.low for estimate in alone]
    assert gap.high - gap.low < 0.7 * np.hypot(*widths)
    assert gap.low > 0.0
    nothing = metric.difference(a, a, reference)
    assert nothing["fad"].value == nothing["fad_inf"].value == 0.0


def test_difference_is_over_the_prompts_both_rows_have(metric: FadMetric) -> None:
    reference = clips_of(40, 0)
    a, b = clips_of(40, 1), clips_of(40, 2)
    gap = metric.difference(a, b[:24], reference)["fad"]
    assert gap.n == 24
    assert gap == metric.difference(a[:24], b[:24], reference)["fad"]


def test_a_clip_without_vectors_takes_that_of_the_other_row_along(metric: FadMetric) -> None:
    # FAD follows the size of a set: over 40 clips against 24 it would not be of the systems alone.
    reference = clips_of(40, 0)
    a, b = clips_of(40, 1), clips_of(40, 2)
    ended = [replace(clip, wave=clip.wave[:6]) for clip in b[24:]]
    gap = metric.difference(a, [*b[:24], *ended], reference)["fad"]
    assert gap == metric.difference(a[:24], b[:24], reference)["fad"]
    few = metric.difference(a, [*b[:9], *(replace(c, wave=c.wave[:6]) for c in b[9:])], reference)
    assert few["fad"].value is None
    assert "the row has 9: of its 40 clips 9 can be embedded" in few["fad"].reason


@pytest.mark.parametrize(
    ("n", "frames", "reason"),
    [(15, 10, "needs 16 clips, the row has 15"), (0, 10, "the row has 0")],
)
def test_too_few_clips_are_refused(metric: FadMetric, n: int, frames: int, reason: str) -> None:
    found = metric.score(clips_of(32, 1)[:n], clips_of(32, 0))
    assert found.estimates["fad"].value is None
    assert reason in found.estimates["fad_inf"].reason
    assert found.counts["n_clips"] == n


def test_fewer_vectors_than_dimensions_are_refused() -> None:
    class Wide(Rows):
        def embed(self, waves: Sequence[Wave]) -> list[np.ndarray]:
            return [np.tile(rows, (1, 10))[:2] for rows in Rows().embed(waves)]

    metric = FadMetric(Wide(40), MemoryCache())
    found = metric.score(clips_of(18, 1), clips_of(18, 0))
    assert "needs more than 40 vectors for 40 dimensions, the row has 36" in (
        found.estimates["fad"].reason
    )
    # Enough for the distance, but half of it is too few for the limit.
    found = metric.score(clips_of(24, 1), clips_of(24, 0))
    assert found.estimates["fad"].value is not None
    assert "sub-samples of more than 40 vectors" in found.estimates["fad_inf"].reason


def test_few_prompts_with_many_seeds_give_no_limit(metric: FadMetric) -> None:
    def seeds(clips: list[Clip]) -> list[Clip]:
        return [
            replace(c, prompt_id=f"p{i % 8}", seed_index=i // 8, group="")
            for i, c in enumerate(clips)
        ]

    found = metric.score(seeds(clips_of(32, 1)), seeds(clips_of(32, 0)))
    assert found.estimates["fad"].low is not None
    assert found.counts["n_groups"] == 8
    assert "needs 16 recordings on both sides, there are 8" in found.estimates["fad_inf"].reason


def test_cuts_of_a_recording_widen_the_interval_and_keep_the_distance(metric: FadMetric) -> None:
    def cuts(clips: list[Clip], by_recording: bool) -> list[Clip]:
        return [replace(c, group=f"r{i // 4}") if by_recording else c for i, c in enumerate(clips)]

    common = np.repeat(np.random.default_rng(5).standard_normal((20, 1, 4)), 4, axis=0)
    rows, reference = clips_of(80, 1, common=common, shift=0.5), clips_of(80, 0, prefix="q")
    alone, together = (
        metric.score(cuts(rows, by), cuts(reference, by)).estimates["fad"] for by in (False, True)
    )
    assert together.value == pytest.approx(alone.value, abs=1e-9)
    assert together.high - together.low > 1.3 * (alone.high - alone.low)


def test_too_short_clips_are_noted_and_counted_not_padded(metric: FadMetric) -> None:
    clips = clips_of(32, 1)
    short = replace(clips[0], clip_id="short", prompt_id="p900", wave=np.zeros(6, np.float32))
    found = metric.score([*clips, short], clips_of(32, 0))
    assert "too short to embed: 0.02 s" in found.notes["short"]
    assert found.counts["n_too_short"] == 1
    assert found.counts["n_clips"] == 32


def test_small_sets_are_warned_about_once(
    metric: FadMetric, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for seed in (1, 2):
            found = metric.score(clips_of(32, seed), clips_of(32, 0))
    assert found.counts["few_clips"] == 1.0
    assert sum("small sample" in message for message in caplog.messages) == 1


def test_clips_of_another_length_than_the_reference_are_warned_about(
    metric: FadMetric, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = metric.score(clips_of(32, 1, frames=8), clips_of(32, 0))
    assert found.counts["unequal_lengths"] == 1.0
    assert any("clips of 8 vectors with reference clips of 10" in text for text in caplog.messages)
    assert metric.score(clips_of(32, 2), clips_of(32, 0)).counts["unequal_lengths"] == 0.0


def test_silent_rows_have_a_distance(metric: FadMetric) -> None:
    reference = clips_of(32, 0)
    silent = [replace(c, clip_id="silence", wave=np.zeros_like(c.wave)) for c in reference]
    found = metric.score(silent, reference).estimates["fad"]
    vectors = np.concatenate([c.continuation.reshape(-1, 4) for c in reference])
    expected = np.sum(vectors.mean(axis=0) ** 2) + np.trace(np.cov(vectors, rowvar=False))
    assert found.value == pytest.approx(expected, rel=1e-6)


def test_the_recipe_names_the_embedding(metric: FadMetric) -> None:
    assert metric.recipe["embedding"] == "rows"
    assert metric.recipe["dim"] == 4
    assert metric.recipe["scope"] == "continuation"
