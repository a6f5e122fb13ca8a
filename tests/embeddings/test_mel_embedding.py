"""Mel statistics: what they react to, and what they cannot know."""

import numpy as np
import pytest
from clips import clip_of

from calm_bench.embeddings.mel import MelEmbedding
from calm_bench.metrics.fad import FadMetric
from calm_bench.types import Clip

RATE = 16_000


def test_a_second_gives_one_vector_and_three_seconds_nine() -> None:
    embedding = MelEmbedding()
    waves = [np.ones(round(s * RATE), np.float32) for s in (1.0, 3.0)]
    assert [v.shape for v in embedding.embed(waves)] == [(1, 128), (9, 128)]


def test_steady_sound_has_level_and_no_deviation() -> None:
    wave = (0.1 * np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE)).astype(np.float32)
    (soft,), (loud,) = (MelEmbedding().embed([gain * wave]) for gain in (1.0, 10.0))
    assert soft[:, 64:].max() < 0.05
    band = soft[0, :64].argmax()
    assert loud[0, band] - soft[0, band] == pytest.approx(2.0, abs=1e-4)  # bels


def test_silence_stands_at_the_floor() -> None:
    (vectors,) = MelEmbedding().embed([np.zeros(2 * RATE, np.float32)])
    assert np.array_equal(vectors[:, :64], np.full_like(vectors[:, :64], -8.0))


def test_lost_bandwidth_shows_in_fad_by_more_than_another_draw() -> None:
    def clips(seed: int, *, low_pass: bool) -> list[Clip]:
        found = []
        for index in range(16):
            noise = np.random.default_rng([seed, index]).standard_normal(6 * RATE)
            spectrum = np.fft.rfft(noise)
            spectrum[len(spectrum) // 2 :] *= 0.01 if low_pass else 1.0
            wave = 0.05 * np.fft.irfft(spectrum, len(noise))
            name = f"{seed}{index}{low_pass}"
            found.append(clip_of(wave, name, RATE, prompt=f"p{index}"))
        return found

    metric = FadMetric(MelEmbedding())
    real = clips(0, low_pass=False)
    same, dull = (metric.distance(clips(1, low_pass=cut), real) for cut in (False, True))
    assert same.value is not None
    assert dull.low is not None
    assert dull.low > 10 * same.value
