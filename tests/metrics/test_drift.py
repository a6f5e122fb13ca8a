"""Segments cut where they say, and drift, fading and blowing up by hand."""

from dataclasses import replace

import numpy as np
import pytest
from clips import clip_of

from calm_bench.metrics.drift import DriftMetric, bandwidth, clipped_share, segment_loudness
from calm_bench.metrics.fad import Segments, cut
from calm_bench.types import Clip

RATE = 16_000


def tone_of(
    *levels: float, prompt: float = 0.1, seconds: float = 3.0, hertz: float = 440.0
) -> Clip:
    """A tone whose amplitude is `prompt` for 3 s and then one of `levels` per segment."""
    parts = [np.full(3 * RATE, prompt), *(np.full(round(seconds * RATE), a) for a in levels)]
    gain = np.concatenate(parts)
    wave = gain * np.sin(2 * np.pi * hertz * np.arange(len(gain)) / RATE)
    return clip_of(wave, str(levels), RATE, prompt_seconds=3.0)


def fields(clip: Clip) -> dict[str, float | None]:
    return dict(DriftMetric().score([clip], []).clips[clip.clip_id])


def test_segments_follow_the_prompt_and_drop_what_is_not_whole() -> None:
    segments = Segments.within(10.0, 3.0)
    assert segments.spans == ((0.0, 3.0), (3.0, 6.0), (6.0, 9.0))
    clip = tone_of(0.1, 0.2, 0.3)
    (part,) = cut([clip], (3.0, 6.0))
    assert len(part.continuation) == 3 * RATE
    assert np.abs(part.continuation).max() == pytest.approx(0.2, abs=1e-3)
    assert part.span != clip.span
    assert cut([clip], (9.0, 12.0)) == []
    assert Segments.within(2.96, 3.0).n == 0


def test_the_last_segment_is_held_against_the_first_and_the_prompt() -> None:
    steady, faded, loud = (
        tone_of(0.1, 0.1, 0.1),
        tone_of(0.1, 0.05, 0.01),
        tone_of(0.1, 0.3, 0.5),
    )
    assert fields(steady)["loudness_drift"] == pytest.approx(0.0, abs=0.01)
    assert fields(faded)["loudness_drift"] == pytest.approx(-20.0, abs=0.1)
    ends = [(fields(c)["fades_out"], fields(c)["blows_up"]) for c in (steady, faded, loud)]
    assert ends == [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]
    assert fields(tone_of(0.0, 0.0, 0.0))["fades_out"] == 1.0


def test_one_segment_has_not_drifted_and_ends_by_its_prompt_alone() -> None:
    found = fields(tone_of(0.001))
    assert found["loudness_drift"] is found["bandwidth_drift"] is None
    assert (found["fades_out"], found["blows_up"]) == (1.0, 0.0)
    bare = fields(replace(tone_of(), prompt_seconds=0.0))
    assert bare["segment_loudness@0-3s"] is not None
    names = ("loudness_drift", "bandwidth_drift", "fades_out", "blows_up")
    assert [bare[name] for name in names] == [None] * 4


def test_full_scale_counts_as_blowing_up_however_loud_the_prompt_was() -> None:
    clip = tone_of(0.9, 0.9, 0.9, prompt=0.9)
    assert fields(clip)["blows_up"] == 0.0
    square = np.sign(clip.wave).astype(np.float32)
    assert clipped_share(square) > 0.9
    assert fields(replace(clip, wave=square))["blows_up"] == 1.0


def test_bandwidth_is_where_the_power_ends() -> None:
    time = np.arange(3 * RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    assert bandwidth(tone, RATE) == pytest.approx(1000, abs=20)
    white = np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32)
    assert bandwidth(white, RATE) == pytest.approx(0.95 * RATE / 2, rel=0.02)
    assert bandwidth(np.zeros(RATE, np.float32), RATE) is None
    low, high = tone_of(0.1, 0.1, 0.1), tone_of(0.1, 0.1, 0.1, hertz=880)
    mixed = np.concatenate([low.wave[: 9 * RATE], high.wave[9 * RATE :]])
    assert fields(replace(low, wave=mixed))["bandwidth_drift"] == pytest.approx(1.0, abs=0.05)


def test_an_offset_is_a_column_and_moves_no_other() -> None:
    plain = tone_of(0.1, 0.03, 0.02)
    moved = replace(plain, wave=plain.wave - np.float32(0.01))
    before, after = fields(plain), fields(moved)
    assert before.pop("offset") == pytest.approx(0.0, abs=1e-4)
    assert after.pop("offset") == pytest.approx(0.01, abs=1e-4)
    assert after == pytest.approx(before, abs=0.01)
    (column,) = (column for column in DriftMetric().columns if column.name == "offset")
    assert (column.unit, column.scale) == ("%", 100.0)


def test_silence_stands_at_the_gate_and_short_clips_say_why() -> None:
    assert segment_loudness(np.zeros(3 * RATE, np.float32), RATE) == -70.0
    assert segment_loudness(np.zeros(100, np.float32), RATE) is None
    result = DriftMetric().score([tone_of(0.1, seconds=1.0)], [])
    (note,) = result.notes.values()
    assert "too short" in note
