"""Clips of the kind that break things, through every metric: a finite number or a reason, no crash.

What is odd stands beside plain clips in one row, as copies and, for round trips, as originals.
"""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from clips import clip_of

from calm_bench import registry
from calm_bench.errors import MissingExtraError, WeightsError
from calm_bench.metrics.base import Metric
from calm_bench.types import Clip, MetricResult, TimedWord, Transcript, Wave

RATE = 16_000


def speech(seconds: float = 1.6, rate: int = RATE) -> Wave:
    """A gliding voice in syllables, with a little noise."""
    rng, time = np.random.default_rng(0), np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * time)) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    wave = 0.1 * voice * np.clip(np.sin(2 * np.pi * 3 * time), 0, 1)
    return (wave + 0.003 * rng.standard_normal(len(time))).astype(np.float32)


def tone(hertz: float) -> Wave:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)).astype(np.float32)


ODD_WAVES = {
    "no sample": speech()[:0],
    "one sample": speech()[:1],
    "2 ms": speech()[:32],
    "20 ms": speech()[:320],
    "0.2 s": speech()[:3200],
    "0.39 s": speech()[:6240],
    "0.41 s": speech()[:6560],
    "0.99 s": speech()[:15_840],
    "digital silence": np.zeros(2 * RATE, np.float32),
    "silence, then speech": np.concatenate([np.zeros(RATE, np.float32), speech()]),
    "speech, then silence": np.concatenate([speech(), np.zeros(RATE, np.float32)]),
    "far below one bit": 1e-9 * speech(),
    "below the normal numbers": (1e-41 * speech(0.5).astype(np.float64)).astype(np.float32),
    "peaks of 4": 40 * speech(),
    "peaks of 32768": 300_000 * speech(),
    "full scale throughout": np.sign(tone(100)),
    "a constant": np.full(RATE, 0.5, np.float32),
    "a large offset": speech() + np.float32(0.3),
    "a step": np.repeat(np.float32([0.0, 0.5]), RATE),
    "one click": np.eye(1, RATE, 5000, dtype=np.float32)[0],
    "alternating signs": np.tile(np.float32([1.0, -1.0]), RATE // 2),
    "half waves": np.maximum(speech(), 0.0),
    "upside down": -speech(),
    "a hum": tone(50),
    "a whistle": tone(7900),
    "noise": np.random.default_rng(1).normal(0, 0.1, RATE).astype(np.float32),
}
ODD_RATES = (1000, 8000, 22_051, 44_100, 192_000)


def one_word(name: str, wave: Wave, rate: int = RATE, prompt_seconds: float = 0.0) -> Clip:
    word = TimedWord(word="once", start=prompt_seconds, end=prompt_seconds + 0.2)
    heard = Transcript(text="once", words=(word,))
    return clip_of(wave, name, rate, words=(word,), prompt_seconds=prompt_seconds, transcript=heard)


@cache
def odd_clips() -> tuple[Clip, ...]:
    """All of them, a clip that ends with its prompt, and one that ends before."""
    by_wave = [one_word(name, wave) for name, wave in ODD_WAVES.items()]
    by_rate = [one_word(f"{rate} Hz", speech(1.6, rate), rate) for rate in ODD_RATES]
    by_prompt = [one_word(f"prompt {s} s", speech(), prompt_seconds=s) for s in (1.6, 3.0)]
    return (*by_wave, *by_rate, *by_prompt)


@cache
def plain_clips() -> tuple[Clip, ...]:
    """A clean clip for each of the odd ones, for the same prompt."""
    return tuple(
        replace(clip, wave=speech(2.0), sample_rate=RATE, prompt_seconds=0.0, clip_id=f"{i} plain")
        for i, clip in enumerate(odd_clips())
    )


@pytest.fixture
def metric(name: str) -> Metric:
    found: Metric = registry.load("metric", name)()
    try:
        found.score(plain_clips()[:1], plain_clips()[:1])
    except (MissingExtraError, WeightsError) as error:
        pytest.skip(str(error))
    return found


def check(metric: Metric, clips: tuple[Clip, ...], result: MetricResult) -> None:
    names = {field for column in metric.columns for field in column.fields}
    for clip in clips if metric.scope == "clip" else ():
        values = [result.clips[clip.clip_id].get(name) for name in names]
        assert all(v is None or math.isfinite(v) for v in values), (clip.clip_id, values)
        assert None not in values or result.notes.get(clip.clip_id), clip.clip_id
    numbers = [n for e in result.estimates.values() for n in (e.value, e.low, e.high)]
    assert all(number is None or math.isfinite(number) for number in numbers)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", registry.METRICS)
def test_odd_clips_have_numbers_or_reasons(metric: Metric) -> None:
    check(metric, odd_clips(), metric.score(odd_clips(), plain_clips()))
    if {"reference", "paired_reference"} & metric.needs:
        check(metric, plain_clips(), metric.score(plain_clips(), odd_clips()))
