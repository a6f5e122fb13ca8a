"""Round-trip metrics: closed forms, invariances, and what has no value."""

import sys
from functools import partial

import clips
import numpy as np
import pytest

from calm_bench.core.waves import mel_filters, mel_power
from calm_bench.errors import MissingExtraError
from calm_bench.metrics import fidelity
from calm_bench.metrics.base import Metric
from calm_bench.metrics.fidelity import FidelityMetric, PesqMetric, StoiMetric
from calm_bench.types import Wave

RATE = 16_000
clip_of = partial(clips.clip_of, prompt="p")


def voice(seconds: float = 3.0, seed: int = 0) -> Wave:
    """Noise in syllables: enough like speech for intelligibility measures."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    carrier = np.convolve(rng.standard_normal(len(time)), np.ones(6) / 6, mode="same")
    return (0.2 * carrier * (0.2 + np.sin(2 * np.pi * 3 * time) ** 2)).astype(np.float32)


def orthogonal_noise(wave: Wave, ratio_db: float) -> Wave:
    """Noise at a known distance in dB, orthogonal to the wave and without a mean."""
    rng = np.random.default_rng(1)
    target = wave - wave.mean()
    noise = rng.standard_normal(len(wave))
    noise -= noise.mean()
    noise -= (noise @ target) / (target @ target) * target
    return noise * np.linalg.norm(target) / np.linalg.norm(noise) * 10 ** (-ratio_db / 20)


@pytest.mark.parametrize("ratio_db", [-5.0, 0.0, 17.0])
def test_si_sdr_is_the_ratio_and_ignores_scale_and_offset(ratio_db: float) -> None:
    wave = voice()
    noisy = wave + orthogonal_noise(wave, ratio_db)
    assert fidelity.si_sdr(noisy, wave) == pytest.approx(ratio_db, abs=1e-3)
    assert fidelity.si_sdr(0.1 * noisy + 0.3, wave) == pytest.approx(ratio_db, abs=1e-3)


def test_si_sdr_without_bound_has_no_value() -> None:
    wave = voice(0.5)
    assert "perfect copy" in fidelity.si_sdr(wave, wave)
    assert "silence" in fidelity.si_sdr(np.zeros_like(wave), wave)


def test_log_mel_distance_of_a_gain_is_the_gain() -> None:
    rng = np.random.default_rng(0)
    noise = (0.3 * rng.standard_normal(RATE)).astype(np.float32)
    assert fidelity.log_mel_distance(noise, noise, RATE) == 0.0
    assert fidelity.log_mel_distance(0.5 * noise, noise, RATE) == pytest.approx(6.02, abs=0.02)


def test_mel_bands_cover_the_spectrum_and_none_is_empty() -> None:
    for n_fft, n_mels in fidelity._RESOLUTIONS:
        filters = mel_filters(RATE, n_fft, n_mels)
        assert filters.shape == (n_mels, n_fft // 2 + 1)
        assert (filters.sum(axis=1) > 0).all()
    assert mel_filters(RATE, 2048, 40)[:, 20:900].sum(axis=0) == pytest.approx(1.0)


def test_mel_power_of_a_tone_is_its_mean_square() -> None:
    time = np.arange(RATE) / RATE
    tone = (0.5 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    power = mel_power(tone, RATE, 1024, 40)
    assert power.shape == (1 + (RATE - 1024) // 256, 40)
    assert power.sum(axis=1) == pytest.approx(0.125, rel=1e-2)


def test_a_worse_copy_is_worse_in_every_column() -> None:
    wave = voice()
    good, bad = (clip_of(wave + orthogonal_noise(wave, db), f"{db}") for db in (25.0, 0.0))
    for metric in (FidelityMetric(), StoiMetric()):
        found = metric.score([good, bad], [clip_of(wave, "reference")])
        for column in metric.columns:
            (name,) = column.fields
            better, worse = found.clips["25.0"][name], found.clips["0.0"][name]
            assert name == "coverage" or (better > worse) == column.higher_is_better


def test_only_the_continuation_is_compared() -> None:
    wave = voice()
    original = np.concatenate([np.zeros(RATE, np.float32), wave])
    noisy = np.concatenate([np.ones(RATE), wave + orthogonal_noise(wave, 10.0)])
    found = FidelityMetric().score(
        [clip_of(noisy, prompt_seconds=1.0)], [clip_of(original, "r", prompt_seconds=1.0)]
    )
    assert found.clips["a"]["si_sdr"] == pytest.approx(10.0, abs=1e-3)
    assert found.clips["a"]["coverage"] == 1.0


def test_a_copy_that_ends_early_is_held_against_all_of_the_original() -> None:
    wave = voice(5.0)
    noisy = wave + orthogonal_noise(wave, 55.0)
    short = FidelityMetric().score([clip_of(noisy[:4800])], [clip_of(wave, "r")]).clips["a"]
    assert short["coverage"] == pytest.approx(0.06)
    kept, lost = (float(np.sum(part**2)) for part in (wave[:4800], wave[4800:78_400]))
    assert short["si_sdr"] == pytest.approx(10 * np.log10(kept / lost), abs=0.1)
    whole = StoiMetric().score([clip_of(noisy)], [clip_of(wave, "r")]).clips["a"]
    half = StoiMetric().score([clip_of(noisy[:40_000])], [clip_of(wave, "r")]).clips["a"]
    assert half["stoi"] == pytest.approx(whole["stoi"] / 2, abs=0.05)


def test_audio_beyond_the_original_counts_against_a_copy() -> None:
    wave = voice(2.0)
    longer = np.concatenate([wave, voice(1.0, seed=1)])
    found = FidelityMetric().score([clip_of(longer)], [clip_of(wave, "r")]).clips["a"]
    assert found["coverage"] == 1.0
    assert 0.0 < found["si_sdr"] < 6.0


@pytest.mark.parametrize("samples", [-1, 1, -480, 480, -1280, 1280, -1600, 1600])
def test_a_codec_s_last_frame_is_forgiven(samples: int) -> None:
    wave = voice(5.0)
    noisy = wave + orthogonal_noise(wave, 30.0)
    copy = np.concatenate([noisy, 0.1 * voice(1.0)])[: len(wave) + samples]
    found = FidelityMetric().score([clip_of(copy)], [clip_of(wave, "r")]).clips["a"]
    assert found["si_sdr"] == pytest.approx(30.0, abs=0.1)


def test_the_forgiveness_has_no_edge() -> None:
    wave = voice(5.0)
    noisy = wave + orthogonal_noise(wave, 30.0)
    at_edge, beyond = (
        FidelityMetric().score([clip_of(noisy[:-n])], [clip_of(wave, "r")]).clips["a"]["si_sdr"]
        for n in (1600, 1601)
    )
    assert beyond == pytest.approx(at_edge, abs=0.1)


@pytest.mark.parametrize("metric", [FidelityMetric, StoiMetric, PesqMetric])
def test_a_constant_offset_changes_no_comparison(metric: type[Metric]) -> None:
    if metric is PesqMetric:
        pytest.importorskip("pesq")
    wave = voice()
    pauses = wave * (np.arange(len(wave)) % RATE < RATE // 2)  # where an offset stands alone
    noisy = pauses + orthogonal_noise(wave, 10.0)
    plain, moved = (
        metric().score([clip_of(noisy + by)], [clip_of(pauses + by / 2, "r")]).clips["a"]
        for by in (0.0, 0.02)
    )
    assert moved == pytest.approx(plain, abs=1e-3)


def test_a_copy_at_another_rate_is_brought_to_the_references() -> None:
    time = np.arange(48_000) / 24_000
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    same = np.sin(2 * np.pi * 440 * np.arange(32_000) / RATE).astype(np.float32)
    found = FidelityMetric().score([clip_of(tone, rate=24_000)], [clip_of(same, "r")])
    assert found.clips["a"]["si_sdr"] > 30.0


def test_what_has_no_value_is_noted_and_counted() -> None:
    wave = voice()
    silent = np.zeros_like(wave)
    clips = [
        clip_of(wave, "perfect", prompt="x"),
        clip_of(wave, "alone", prompt="y"),
        clip_of(wave, "silent reference", prompt="z"),
    ]
    reference = [clip_of(wave, "r1", prompt="x"), clip_of(silent, "r2", prompt="z")]
    found = FidelityMetric().score(clips, reference)
    assert found.clips["perfect"] == {"si_sdr": None, "mel_distance": 0.0, "coverage": 1.0}
    assert found.clips["alone"] == dict.fromkeys(("si_sdr", "mel_distance", "coverage"))
    assert "no reference" in found.notes["alone"]
    assert "silent" in found.notes["silent reference"]
    assert found.counts["n_undefined"] == 3


def test_stoi_of_a_copy_is_one_and_of_too_little_speech_none() -> None:
    wave = voice()
    metric = StoiMetric()
    found = metric.score([clip_of(0.5 * wave)], [clip_of(wave, "r")])
    assert found.clips["a"]["stoi"] == pytest.approx(1.0, abs=1e-6)
    found = metric.score([clip_of(wave[:3000])], [clip_of(wave[:3000], "r")])
    assert found.clips["a"]["stoi"] is None
    assert "STOI" in found.notes["a"]
    assert metric.recipe["pystoi"]
    click = np.eye(1, RATE, 500)[0]
    for nearly_nothing in (wave[:320], click):
        found = metric.score([clip_of(nearly_nothing)], [clip_of(nearly_nothing, "r")])
        assert found.notes == {"a": "less than 0.4 s of speech for STOI"}


@pytest.mark.extra("pesq")
def test_pesq_prefers_the_better_copy_and_names_what_it_cannot_do() -> None:
    wave = voice()
    good, bad = (clip_of(wave + orthogonal_noise(wave, db), f"{db}") for db in (30.0, 0.0))
    found = PesqMetric().score([good, bad], [clip_of(wave, "r")])
    assert 1.0 <= found.clips["0.0"]["pesq"] < found.clips["30.0"]["pesq"] <= 4.7
    short = PesqMetric().score([clip_of(wave[:200])], [clip_of(wave[:200], "r")])
    assert short.clips["a"]["pesq"] is None
    assert "no speech" in short.notes["a"]
    for silence in (np.zeros_like(wave), 1e-30 * wave, wave[:0]):
        silent = PesqMetric().score([clip_of(silence)], [clip_of(wave, "r")])
        assert silent.clips["a"]["pesq"] is None
        assert "silence" in silent.notes["a"]


def test_pesq_of_more_than_a_sentence_is_a_mean_over_windows() -> None:
    pytest.importorskip("pesq")
    pauses = np.tile(np.repeat([1.0, 0.0], 2 * RATE), 12)
    wave = voice(48.0) * pauses.astype(np.float32)
    noisy = wave + orthogonal_noise(wave, 20.0)
    found = PesqMetric().score([clip_of(noisy)], [clip_of(wave, "r")]).clips["a"]["pesq"]
    parts = [
        PesqMetric().score([clip_of(a)], [clip_of(b, "r")]).clips["a"]["pesq"]
        for a, b in zip(np.split(noisy, 3), np.split(wave, 3), strict=True)
    ]
    assert found == pytest.approx(np.mean(parts), abs=0.02)


@pytest.mark.parametrize(
    ("metric", "package", "extra"),
    [(StoiMetric, "pystoi", "offline"), (PesqMetric, "pesq", "pesq")],
)
def test_a_missing_package_names_its_extra(
    metric: type[Metric], package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    wave = voice(0.5)
    with pytest.raises(MissingExtraError, match=rf"{package}.*\[{extra}\]"):
        metric().score([clip_of(wave)], [clip_of(wave, "r")])


def test_bits_per_second_are_given_by_the_codec() -> None:
    assert fidelity.bit_rate(800.0).value == 800.0
    latents = fidelity.bit_rate(None)
    assert latents.value is None
    assert "continuous" in latents.reason
