"""DNSMOS: the reference code's polynomials, the window rule, a file found without imports."""

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest
from clips import clip_of

from calm_bench.errors import MissingExtraError
from calm_bench.metrics.dnsmos import DnsmosMetric

WINDOW = 144_160


class FakeSession:
    """Answers (1, 2, 3) plus the mean of each window, and remembers what it was fed."""

    def __init__(self) -> None:
        self.fed = []

    def run(self, outputs: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        windows = inputs["input_1"]
        self.fed.append(windows)
        return [windows.mean(axis=1, keepdims=True) + np.array([[1.0, 2.0, 3.0]], np.float32)]


@pytest.fixture
def metric() -> DnsmosMetric:
    found = DnsmosMetric()
    found.__dict__["_session"] = FakeSession()
    return found


def test_the_polynomials_are_those_of_the_reference_code(metric: DnsmosMetric) -> None:
    found = metric.score([clip_of(np.zeros(WINDOW))], []).clips["a"]
    assert found["dnsmos_sig"] == pytest.approx(
        np.poly1d([-0.08397278, 1.22083953, 0.0052439])(1.0)
    )
    assert found["dnsmos_bak"] == pytest.approx(
        np.poly1d([-0.13166888, 1.60915514, -0.39604546])(2.0)
    )
    assert found["dnsmos"] == pytest.approx(np.poly1d([-0.06766283, 1.11546468, 0.04602535])(3.0))


@pytest.mark.parametrize(
    ("seconds", "n_windows"), [(9.01, 1), (10.99, 1), (11.0, 2), (13.4, 4), (30.0, 21)]
)
def test_windows_begin_every_second(metric: DnsmosMetric, seconds: float, n_windows: int) -> None:
    wave = np.linspace(-0.5, 0.5, round(seconds * 16_000)).astype(np.float32)
    prompt = np.full(3 * 16_000, -1.0, np.float32)
    metric.score([clip_of(np.concatenate([prompt, wave]), prompt_seconds=3.0)], [])
    fed = np.concatenate(metric._session.fed)
    assert fed.shape == (n_windows, WINDOW)
    for second, window in enumerate(fed):
        expected = wave[second * 16_000 : second * 16_000 + WINDOW]
        np.testing.assert_allclose(window, expected, atol=1e-6)


def test_what_sounds_the_same_is_heard_once(metric: DnsmosMetric) -> None:
    rng = np.random.default_rng(0)
    prompts, tail = rng.uniform(-0.5, 0.5, (4, 100)), rng.uniform(-0.5, 0.5, 2 * 16_000)
    waves = [*(np.concatenate([prompt, tail]) for prompt in prompts), rng.uniform(-1, 1, 32_100)]
    clips = [clip_of(w, prompt_seconds=100 / 16_000, name=f"{i}") for i, w in enumerate(waves)]
    metric.score(clips[:1], [])
    assert len(metric._session.fed) == 1
    found = metric.score(clips, []).clips
    assert len(metric._session.fed) == 2
    assert list(found) == ["0", "1", "2", "3", "4"]
    assert found["0"] == found["3"] != found["4"]


@pytest.mark.parametrize("n_samples", [16_000, 100_000, 144_000])
def test_short_audio_is_repeated_to_one_window(metric: DnsmosMetric, n_samples: int) -> None:
    wave = np.linspace(-0.5, 0.5, n_samples).astype(np.float32)
    metric.score([clip_of(wave)], [])
    (fed,) = metric._session.fed
    np.testing.assert_allclose(fed, np.tile(wave, 10)[None, :WINDOW], atol=1e-6)


def test_an_offset_is_not_heard(metric: DnsmosMetric) -> None:
    wave = 0.3 * np.sin(np.arange(3 * WINDOW)).astype(np.float32)
    metric.score([clip_of(wave, name="a"), clip_of(wave + 0.1, name="b")], [])
    half = len(metric._session.fed) // 2
    plain, moved = (np.concatenate(metric._session.fed[at:][:half]) for at in (0, half))
    np.testing.assert_allclose(plain, moved, atol=1e-6)


def test_other_rates_are_resampled_and_loud_samples_clipped(metric: DnsmosMetric) -> None:
    square = np.tile(np.repeat([3.0, -3.0], 2400), 10)  # 5 Hz
    metric.score([clip_of(square, rate=24_000)], [])
    (fed,) = metric._session.fed
    assert np.abs(fed).max() == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(fed[0, :32_000], fed[0, 32_000:64_000], atol=1e-6)


def test_what_is_too_short_is_noted_not_scored(metric: DnsmosMetric) -> None:
    found = metric.score([clip_of(np.zeros(1280), name="short"), clip_of(np.zeros(WINDOW))], [])
    assert found.clips["short"] == {"dnsmos": None, "dnsmos_sig": None, "dnsmos_bak": None}
    assert "too short" in found.notes["short"]
    assert found.counts["n_too_short"] == 1
    assert len(metric._session.fed) == 1


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"speechmos.*calm-bench\[offline\]"):
        DnsmosMetric().score([clip_of(np.zeros(WINDOW))], [])


@pytest.mark.extra("offline")
def test_the_real_network_hears_noise_and_speechmos_is_not_imported() -> None:
    metric, rng = DnsmosMetric(), np.random.default_rng(0)
    noise = (0.1 * rng.standard_normal(WINDOW)).astype(np.float32)
    found = metric.score([clip_of(noise)], []).clips["a"]
    # speechmos' own DNSMOS class gives these for the same window.
    assert found["dnsmos"] == pytest.approx(1.1142, abs=2e-3)
    assert found["dnsmos_sig"] == pytest.approx(1.1770, abs=2e-3)
    assert found["dnsmos_bak"] == pytest.approx(1.0944, abs=2e-3)
    assert len(metric.recipe["model_sha256"]) == 64
    assert "speechmos" not in sys.modules
    assert "librosa" not in sys.modules
