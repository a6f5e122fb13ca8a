"""The notes that are heard: of scales, in silence and dither, at any level, of a rendered score."""

import random
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import pytest

from calm_bench.core.audio import resample
from calm_bench.embeddings import packaged
from calm_bench.embeddings.notes import (
    FRAME,
    WEIGHTS,
    NotesDriftEmbedding,
    NotesEmbedding,
    pitch_classes,
)
from calm_bench.errors import BenchError
from calm_bench.types import Wave

needs_package = pytest.mark.skipif(
    find_spec("basic_pitch") is None, reason=f"needs what is not installed: {WEIGHTS.install}"
)
RATE = NotesEmbedding.sample_rate


def played(pitches: Sequence[int], each: float) -> Wave:
    """Plucked notes, one after the other, `each` seconds long."""
    t = np.arange(round(each * RATE)) / RATE
    notes = []
    for pitch in pitches:
        hz = 440 * 2 ** ((pitch - 69) / 12)
        partials = sum(0.35**k * np.sin(2 * np.pi * hz * (k + 1) * t) for k in range(6))
        notes.append(
            partials
            * np.minimum(1, t / 0.005)
            * np.exp(-3 * t / each)
            * np.minimum(1, (each - t) / 0.02)
        )
    wave = np.concatenate(notes)
    return (0.2 * wave / np.abs(wave).max()).astype(np.float32)


def begun(wave: Wave) -> list[tuple[float, int]]:
    """Seconds and pitch classes of the notes that begin in a wave."""
    frames, classes = np.nonzero(pitch_classes(wave)[1])
    return [(t * FRAME / RATE, c) for t, c in zip(frames, classes, strict=True)]


def found_of(heard: Sequence[tuple[float, int]], true: Sequence[tuple[float, int]]) -> int:
    """How many true notes have one of their pitch class heard within 50 ms, each of them once."""
    left, n = list(heard), 0
    for start, pitch in true:
        near = [h for h in left if h[1] == pitch % 12 and abs(h[0] - start) < 0.05]
        if near:
            left.remove(min(near, key=lambda h: abs(h[0] - start)))
            n += 1
    return n


@pytest.fixture(scope="module")
def ear() -> NotesEmbedding:
    return NotesEmbedding()


@pytest.fixture(scope="module")
def drift() -> NotesDriftEmbedding:
    return NotesDriftEmbedding()


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(BenchError, match=r"pip install --no-deps basic-pitch==0\.4\.0"):
        dict(NotesEmbedding().recipe)


@needs_package
def test_the_notes_of_a_scale_are_heard_where_they_are() -> None:
    scale = list(range(60, 78))
    true = [(i * 0.5, pitch) for i, pitch in enumerate(scale)]
    heard = begun(played(scale, 0.5))  # 9 s: across the seams of windows
    assert found_of(heard, true) >= len(true) - 1
    assert len(heard) <= 2 * len(true)  # thirds and fifths are among the partials


@needs_package
def test_transposed_music_has_its_pitch_classes_turned(ear: NotesEmbedding) -> None:
    tune = [60, 64, 67, 64, 60, 64, 67, 72] * 2
    here, up = (ear.embed([played([p + s for p in tune], 0.4)])[0].mean(0) for s in (0, 5))
    assert set(np.argsort(here[:12])[-3:]) == {0, 4, 7}
    assert set(np.argsort(up[:12])[-3:]) == {5, 9, 0}
    np.testing.assert_allclose(up[:12], np.roll(here[:12], 5), atol=1.5)
    assert here[:12].sum() == pytest.approx(12, abs=1e-4)


@needs_package
def test_twice_as_many_onsets_are_nearly_one_more(ear: NotesEmbedding) -> None:
    tune = [60, 64, 67, 72]
    slow = ear.embed([played(tune * 6, 0.5)])[0][:, 12].mean()
    fast = ear.embed([played(tune * 12, 0.25)])[0][:, 12].mean()
    assert 0.5 * np.log2(5 / 3) < fast - slow < 1.2


@needs_package
def test_nothing_is_heard_in_silence_and_dither(
    ear: NotesEmbedding, drift: NotesDriftEmbedding
) -> None:
    dither = np.random.default_rng(0).integers(-1, 2, 9 * RATE).astype(np.float32) / 32768
    for wave in (np.zeros(9 * RATE, np.float32), dither):
        assert not ear.embed([wave])[0].any()
        assert not drift.embed([wave])[0].any()
    after = np.concatenate([played([60, 64, 67, 72], 0.75), dither])
    assert ear.embed([after])[0][0, 12] > 1
    assert not ear.embed([after])[0][4:].any()


@needs_package
@pytest.mark.parametrize("level", [-20, -6])
def test_level_does_not_matter(ear: NotesEmbedding, level: int) -> None:
    wave = played([60, 63, 67, 70, 72, 75] * 3, 0.5)
    quiet = wave * np.float32(10 ** (level / 20))
    np.testing.assert_allclose(ear.embed([quiet])[0], ear.embed([wave])[0], atol=0.1)


@needs_package
def test_drift_is_what_an_end_is_other_than_its_beginning(drift: NotesDriftEmbedding) -> None:
    major, minor = [60, 64, 67, 64], [61, 65, 68, 65]
    same, keys, faster = (
        drift.embed([wave])[0]
        for wave in (
            played(major * 6, 0.375),
            played(major * 3 + minor * 3, 0.375),
            np.concatenate([played(major * 3, 0.375), played(major * 6, 0.1875)]),
        )
    )
    assert same.shape == (1, 2)
    assert same[0, 0] < 0.3
    assert abs(same[0, 1]) < 0.2
    assert keys[0, 0] > 0.7
    assert 0.5 < faster[0, 1] < 1.2


@needs_package
@pytest.mark.extra("data")
@pytest.mark.slow
def test_most_notes_of_a_rendered_score_are_heard() -> None:
    from calm_bench.data.music import soundfont_path
    from calm_bench.data.music_scores import Score
    from calm_bench.data.music_worker import Performance, apart, as_midi, level, render

    assert Score.model_fields  # the extra is here
    rng = random.Random(0)
    chords = [(48, 64, 67, 72), (53, 65, 69, 72), (55, 62, 67, 71), (48, 60, 64, 67)]
    notes = [
        (0.6 * i + rng.gauss(0, 0.005), 0.6 * i + 0.55, pitch, 80)
        for i in range(16)
        for pitch in chords[i % 4]
    ]
    piano = Performance(
        ensemble="piano",
        quarters_per_minute=100,
        transpose=0,
        start=0,
        parts=((0, apart([(max(0, b), e, p, v) for b, e, p, v in notes])),),
    )
    wave, rate = render(as_midi(piano), soundfont_path().read_bytes(), 10)
    wave, _ = level(resample(wave, rate, 16_000), 16_000)
    heard = begun(resample(wave, 16_000, RATE))
    true = sorted({(0.6 * i, pitch % 12) for i in range(16) for pitch in chords[i % 4]})
    found = found_of(heard, true)
    assert found > 0.7 * len(true)
    assert found > 0.7 * len(heard)
