"""Loudness against the standard's table and its test tones; silence share and drift by hand."""

import numpy as np
import pytest
from clips import clip_of

from calm_bench.core import waves
from calm_bench.core.waves import integrated_loudness, k_weighting
from calm_bench.metrics import loudness
from calm_bench.metrics.loudness import LoudnessMetric, silence_share, spectral_drift
from calm_bench.types import Wave


def sine(seconds: float, rate: int, hertz: float = 997.0, level_db: float = 0.0) -> Wave:
    time = np.arange(round(seconds * rate)) / rate
    return (10 ** (level_db / 20) * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def test_filters_at_48_khz_are_those_of_the_standard() -> None:
    (shelf, shelf_poles), (high, high_poles) = k_weighting(48_000)
    assert shelf == pytest.approx([1.53512485958697, -2.69169618940638, 1.19839281085285], abs=1e-9)
    assert shelf_poles == pytest.approx([1.0, -1.69065929318241, 0.73248077421585], abs=1e-9)
    assert high.tolist() == [1.0, -2.0, 1.0]
    assert high_poles == pytest.approx([1.0, -1.99004745483398, 0.99007225036621], abs=1e-9)


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_a_full_scale_tone_is_at_minus_three(rate: int) -> None:
    assert integrated_loudness(sine(2, rate), rate) == pytest.approx(-3.01, abs=0.05)
    assert integrated_loudness(sine(2, rate, level_db=-20.0), rate) == pytest.approx(-23.0, abs=0.1)


def test_gates_leave_out_pauses_and_quiet_parts() -> None:
    rate = 16_000
    tone = sine(4, rate, level_db=-23.0)
    padded = np.concatenate([tone, np.zeros(4 * rate, np.float32), 0.01 * tone])
    assert integrated_loudness(padded, rate) == pytest.approx(
        integrated_loudness(tone, rate), abs=0.3
    )


def test_silence_and_too_short_waves_have_no_loudness() -> None:
    assert integrated_loudness(np.zeros(16_000, np.float32), 16_000) is None
    assert integrated_loudness(sine(0.3, 16_000), 16_000) is None


def test_a_rate_below_the_filters_is_brought_up_to_them() -> None:
    low, high = (sine(2, rate, hertz=300.0, level_db=-20.0) for rate in (1000, 16_000))
    assert integrated_loudness(low, 1000) == pytest.approx(
        integrated_loudness(high, 16_000), abs=0.2
    )


def test_a_constant_offset_changes_nothing() -> None:
    rate = 16_000
    half = np.concatenate([sine(2, rate, level_db=-20.0), np.zeros(2 * rate, np.float32)])
    moved = half + np.float32(0.01)
    assert integrated_loudness(moved, rate) == pytest.approx(
        integrated_loudness(half, rate), abs=0.01
    )
    assert silence_share(moved, rate) == silence_share(half, rate)
    assert spectral_drift(moved, rate) == pytest.approx(spectral_drift(half, rate), abs=0.01)
    constant = np.full(2 * rate, 0.3, np.float32)
    assert integrated_loudness(constant, rate) is None
    assert silence_share(constant, rate) == 1.0
    assert spectral_drift(constant, rate) is None


def test_silence_share() -> None:
    rate = 16_000
    half = np.concatenate([sine(1, rate, level_db=-20.0), np.zeros(rate, np.float32)])
    assert silence_share(half, rate) == pytest.approx(0.5)
    assert silence_share(sine(1, rate, level_db=-40.0), rate) == 0.0
    assert silence_share(sine(1, rate, level_db=-60.0), rate) == 1.0
    assert silence_share(np.zeros(10, np.float32), rate) is None


def test_drift_sees_level_and_timbre_and_is_nil_without_change() -> None:
    rng, rate = np.random.default_rng(0), 16_000
    noise = (0.1 * rng.standard_normal(12 * rate)).astype(np.float32)
    assert spectral_drift(noise, rate) < 0.7
    fading = noise * np.repeat([1.0, 0.8, 0.5, 0.1], 3 * rate).astype(np.float32)
    assert spectral_drift(fading, rate) == pytest.approx(20.0, abs=0.5)
    dull = noise.copy()
    dull[-3 * rate :] = np.convolve(dull[-3 * rate :], np.ones(8) / 8, mode="same")
    assert spectral_drift(dull, rate) > 5.0
    assert spectral_drift(np.zeros(rate, np.float32), rate) is None
    assert spectral_drift(noise[:1000], rate) is None


def test_the_metric_notes_what_it_cannot_say() -> None:
    rate = 16_000
    tone = sine(4, rate, level_db=-20.0)
    cases = {"tone": tone, "silent": np.zeros_like(tone), "faded": np.concatenate([tone, 0 * tone])}
    clips = [clip_of(wave, name, rate, prompt_seconds=1.0) for name, wave in cases.items()]
    found = LoudnessMetric().score(clips, [])
    assert set(found.notes) == {"silent"}
    assert found.clips["silent"] == {"loudness": None, "silence_share": 1.0, "spectral_drift": None}
    assert found.clips["tone"]["silence_share"] == 0.0
    assert found.clips["faded"]["silence_share"] == pytest.approx(4 / 7, abs=0.01)
    assert found.clips["faded"]["spectral_drift"] > 5.0


@pytest.mark.parametrize("piece", [1000, 4097, 10**6])
def test_a_long_clip_is_looked_at_in_pieces_that_leave_no_seam(
    monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    rng = np.random.default_rng(0)
    wave = (np.linspace(0, 0.2, 33_075) * rng.standard_normal(33_075)).astype(np.float32)
    looks = (integrated_loudness, silence_share, spectral_drift)
    whole = [look(wave, 11_025) for look in looks]
    monkeypatch.setattr(loudness, "SAMPLES_AT_ONCE", piece)
    monkeypatch.setattr(waves, "SAMPLES_AT_ONCE", piece)
    monkeypatch.setattr(waves, "_PIECE", piece)
    assert [look(wave, 11_025) for look in looks] == pytest.approx(whole, rel=1e-12)
