"""Crops that differ as recordings do."""

from typing import Any

import numpy as np
import pytest

from calm_bench.training.augment import PEAK, Augment, Changes, change_crops, draw_changes

RATE, S = 16000, 16000


def noise(size: int = 1, level: float = 0.07) -> Any:
    rng = np.random.default_rng(0)
    return (level * rng.standard_normal((size, S))).astype(np.float32)


def changes(**values: float) -> Changes:
    neutral = {
        "speed": 1.0,
        "low_pass": np.inf,
        "high_pass": 0.0,
        "gain": 0.0,
        "snr": np.inf,
        "colour": 0.0,
        "offset": 0.0,
    }
    return Changes(**{k: np.full(1, v, np.float32) for k, v in {**neutral, **values}.items()})


def changed(waves: Any, **values: float) -> tuple[Any, Any]:
    return change_crops(waves, changes(**values), RATE, np.random.default_rng(1))


def power(wave: Any, low: float, high: float) -> float:
    spectrum = np.abs(np.fft.rfft(wave.astype(np.float64))) ** 2
    frequencies = np.fft.rfftfreq(len(wave), 1 / RATE)
    return float(spectrum[(frequencies >= low) & (frequencies < high)].sum())


def decibels(wave: Any) -> float:
    return float(10 * np.log10(np.mean(np.square(wave, dtype=np.float64))))


def test_a_share_stays_clean_and_each_kind_has_its_own() -> None:
    drawn = draw_changes(Augment(clean=0.4, share=0.5), 4000, np.random.default_rng(0))
    kinds = [
        drawn.speed != 1,
        drawn.low_pass < np.inf,
        drawn.high_pass > 0,
        drawn.gain != 0,
        drawn.snr < np.inf,
        drawn.offset != 0,
    ]
    assert all(abs(kind.mean() - 0.6 * 0.5) < 0.03 for kind in kinds)
    assert abs(np.any(kinds, axis=0).mean() - 0.6 * (1 - 0.5**6)) < 0.03


def test_values_are_of_their_ranges_and_of_the_generator_alone() -> None:
    config = Augment(clean=0.0, share=1.0)
    drawn, again = (draw_changes(config, 500, np.random.default_rng(5)) for _ in range(2))
    for name in ("speed", "low_pass", "high_pass", "gain", "snr"):
        values, (low, high) = getattr(drawn, name), getattr(config, name)
        np.testing.assert_array_equal(values, getattr(again, name))
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < values.max() <= high
    assert np.abs(drawn.offset).max() <= config.offset


def test_a_crop_that_is_left_alone_is_bit_for_bit_its_recording() -> None:
    waves = noise(1)
    for found in changed(waves):
        np.testing.assert_array_equal(found, waves)


def test_a_band_limit_removes_what_lies_beyond_and_keeps_the_rest() -> None:
    waves = noise()
    heard, target = changed(waves, low_pass=4000.0, high_pass=300.0)
    np.testing.assert_array_equal(heard, target)
    for low, high in ((0, 300), (4000, 8001)):
        assert power(target[0], low, high) < 1e-8 * power(waves[0], low, high)
    assert power(target[0], 330, 3600) == pytest.approx(power(waves[0], 330, 3600), rel=1e-4)


@pytest.mark.parametrize("colour", [0, 1, 2])
def test_noise_is_as_far_below_the_crop_as_asked(colour: int) -> None:
    t = np.arange(S) / RATE
    tone = (0.1 * np.sin(2 * np.pi * 1000 * t)).astype(np.float32)[None]
    _, target = changed(tone, snr=20.0, colour=colour)
    rest = target - tone
    assert decibels(tone) - decibels(rest) == pytest.approx(20.0, abs=0.1)
    # An octave of white noise has twice the power of the one below; pink as much; brown half.
    ratio = power(rest[0], 2000, 4000) / power(rest[0], 1000, 2000)
    assert ratio == pytest.approx(2.0 ** (1 - colour), rel=0.15)


def test_levels_are_those_asked_for_but_nothing_clips() -> None:
    waves = noise()
    _, quiet = changed(waves, gain=-30.0)
    assert decibels(quiet) == pytest.approx(decibels(waves) - 30.0, abs=0.01)
    _, loud = changed(waves, gain=40.0)
    assert np.abs(loud).max() == pytest.approx(PEAK, abs=1e-4)
    # Scaled, not cut: its shape is that of the crop.
    assert np.corrcoef(loud[0], waves[0])[0, 1] == pytest.approx(1.0, abs=1e-5)


def test_an_offset_is_heard_but_not_asked_for() -> None:
    waves = noise()
    heard, target = changed(waves, offset=0.01)
    np.testing.assert_array_equal(target, waves)
    np.testing.assert_allclose(heard - target, 0.01, atol=1e-6)


def test_silence_stays_silent() -> None:
    every = {"low_pass": 4000.0, "high_pass": 100.0, "gain": 9.0, "snr": 10.0, "colour": 1.0}
    heard, target = changed(np.zeros((1, S), np.float32), **every)
    assert not target.any()
    assert np.isfinite(heard).all()
