"""What benchmarks/ears.py does to music, by closed forms."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scripts import loaded


@pytest.fixture(scope="module")
def ears(checkout: Path) -> ModuleType:
    return loaded(checkout / "benchmarks" / "ears.py")


def tone(hz: float, seconds: float = 14.0) -> np.ndarray:
    return (0.1 * np.sin(2 * np.pi * hz * np.arange(round(seconds * 16_000)) / 16_000)).astype("f4")


def strongest(wave: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(wave)).argmax() * 16_000 / len(wave))


def test_every_dose_leaves_nine_seconds_and_weakens_nothing_but_what_it_names(
    ears: ModuleType,
) -> None:
    wave = tone(440) + tone(4000)
    for name, dose, spoil in ears.rungs():
        out = ears.clip_of("w", f"{name} {dose}", spoil(wave, 1)).wave
        assert out.shape == (9 * 16_000,), (name, dose)
        assert np.isfinite(out).all()


def test_levels_and_noise_are_as_many_decibels(ears: ModuleType) -> None:
    wave = tone(440)
    np.testing.assert_allclose(ears.level(wave, 0, db=6), wave * 10**-0.3, rtol=1e-5)
    added = ears.noise(wave, 0, snr=20) - wave
    assert 10 * np.log10(np.square(wave).mean() / np.square(added).mean()) == pytest.approx(
        20, abs=0.1
    )
    clipped = ears.clipping(wave, 0, db=12)
    assert np.square(clipped).mean() == pytest.approx(np.square(wave).mean(), rel=1e-4)
    assert np.abs(clipped).max() < 0.8 * np.abs(wave).max()


def test_low_pass_and_transposition_move_what_they_should(ears: ModuleType) -> None:
    both = tone(440) + tone(4000)
    np.testing.assert_allclose(ears.low_pass(both, 0, hz=1000), tone(440), atol=1e-3)
    assert strongest(ears.transposed(tone(440), 0, semitones=3)) == pytest.approx(523.25, abs=0.5)


def test_time_is_turned_shuffled_and_repeated(ears: ModuleType) -> None:
    wave = np.arange(14 * 16_000, dtype=np.float32)
    whole = wave[: 9 * 16_000]
    turned = ears.backwards(wave, 0, seconds=1)
    np.testing.assert_array_equal(turned[:16_000], whole[:16_000][::-1])
    np.testing.assert_array_equal(ears.backwards(turned, 0, seconds=1), whole)
    mixed = ears.shuffled(wave, 3, seconds=0.25)
    assert not np.array_equal(mixed, whole)
    np.testing.assert_array_equal(np.sort(mixed), whole)
    loop = ears.repeated(wave, 0, seconds=2.25)
    np.testing.assert_array_equal(loop[:36_000], loop[36_000:72_000])
