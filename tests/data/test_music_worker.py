import io
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from calm_bench.core.audio import read_audio
from calm_bench.core.waves import integrated_loudness
from calm_bench.data import music_worker
from calm_bench.data.music import soundfont_path
from calm_bench.data.music_scores import Score, _notes, kept_score, read_score
from calm_bench.data.music_worker import (
    ENSEMBLES,
    MAX_SECONDS,
    Unusable,
    apart,
    as_midi,
    level,
    longest_pause,
    perform,
    render,
)
from calm_bench.errors import InputError

RATE = 16000


def chorale(n: int = 40, low: int = 48, high: int = 72) -> Score:
    """Four parts in quarter notes."""
    rng = np.random.default_rng(0)
    pitches = rng.integers(low, high + 1, (4, n))
    pitches[0, 0], pitches[3, 0] = high, low
    return Score(
        title="",
        parts=tuple(tuple((float(i), 1.0, int(p)) for i, p in enumerate(part)) for part in pitches),
    )


def sine(seconds: float, amplitude: float = 0.01) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


def test_the_seed_decides_the_performance() -> None:
    assert perform(chorale(), 1) == perform(chorale(), 1)
    played = [perform(chorale(), seed) for seed in range(40)]
    assert len({p.ensemble for p in played}) > len(ENSEMBLES) / 2
    assert len({p.transpose for p in played}) > 6
    assert len({p.quarters_per_minute for p in played}) == 40


@pytest.mark.parametrize("seed", range(8))
def test_notes_are_those_of_the_score_in_another_key(seed: int) -> None:
    score, played = chorale(), perform(chorale(), seed)
    assert len(played.parts) == 4
    for part, (program, notes) in zip(score.parts, played.parts, strict=True):
        assert program in ENSEMBLES[played.ensemble]
        assert [p for _, _, p, _ in notes] == [p + played.transpose for _, _, p in part]
        assert all(0 <= start < end for start, end, _, _ in notes)
        assert all(30 <= velocity <= 120 for _, _, _, velocity in notes)
    assert 40 / 4.5 - 1 < played.seconds < 40 / 2.0 + 1


@pytest.mark.parametrize("seed", range(8))
def test_no_note_begins_before_the_last_of_its_pitch_has_ended(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = rng.integers([0, 1, 60], [160, 9, 64], (300, 3))
    notes = sorted((onset / 4, length / 4, int(pitch)) for onset, length, pitch in drawn)
    played = perform(Score(title="", parts=(tuple(notes),)), seed)
    ((_, heard),) = played.parts
    for pitch in {note[2] for note in heard}:
        spans = [(start, end) for start, end, p, _ in heard if p == pitch]
        assert all(end - start >= 0.05 - 1e-9 for start, end in spans)
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
    begun = {(onset, pitch) for onset, _, pitch in notes}
    assert len(begun) == len(heard) < len(notes)  # unisons are one note; nothing else is lost


def test_voices_in_unison_sound_as_long_and_as_loud_as_either() -> None:
    voices = [(0.0, 0.4, 60, 70), (0.02, 1.0, 60, 90), (0.8, 1.5, 60, 50), (0.8, 1.5, 61, 50)]
    assert apart(voices) == ((0.0, 0.8, 60, 90), (0.8, 1.5, 60, 50), (0.8, 1.5, 61, 50))


def test_the_lowest_part_has_the_lowest_instrument() -> None:
    for seed in range(40):
        played = perform(chorale(), seed)
        programs = ENSEMBLES[played.ensemble]
        assert played.parts[0][0] == programs[0]
        assert played.parts[-1][0] == programs[-1]


def test_a_work_at_the_edge_of_the_range_is_moved_inwards_or_not_at_all() -> None:
    high = [perform(chorale(low=60, high=93), seed).transpose for seed in range(20)]
    assert max(high) <= 0
    assert {perform(chorale(low=20, high=100), seed).transpose for seed in range(5)} == {0}


def test_a_long_work_is_entered_in_its_midst_and_cut() -> None:
    played = [perform(chorale(2000), seed) for seed in range(10)]
    assert len({p.start for p in played}) == 10
    for performance in played:
        assert MAX_SECONDS - 2 < performance.seconds <= MAX_SECONDS + 0.1
        assert min(start for _, notes in performance.parts for start, _, _, _ in notes) < 0.1


@pytest.mark.extra("data")
def test_the_midi_file_has_every_note_and_instrument() -> None:
    import pretty_midi

    played = perform(chorale(), 3)
    midi = pretty_midi.PrettyMIDI(io.BytesIO(as_midi(played)))
    assert [track.program for track in midi.instruments] == [p for p, _ in played.parts]
    for track, (_, notes) in zip(midi.instruments, played.parts, strict=True):
        assert sorted(n.pitch for n in track.notes) == sorted(n[2] for n in notes)
        np.testing.assert_allclose(
            sorted(n.start for n in track.notes), sorted(n[0] for n in notes), atol=0.002
        )


def test_loudness_is_that_aimed_for_unless_peaks_forbid_it() -> None:
    wave, facts = level(sine(3.0), RATE)
    assert integrated_loudness(wave, RATE) == pytest.approx(-20.0, abs=0.01)
    assert facts["loudness"] == pytest.approx(-20.0, abs=0.01)
    peaky = sine(3.0)
    peaky[1000] = 0.9
    wave, facts = level(peaky, RATE)
    assert np.abs(wave).max() == pytest.approx(music_worker.PEAK, abs=1e-4)
    assert facts["loudness"] < -25
    with pytest.raises(Unusable, match="silent"):
        level(np.zeros(RATE, np.float32), RATE)


def test_the_longest_pause_is_found() -> None:
    wave = np.concatenate([sine(1.0), np.zeros(RATE // 2), sine(1.0), np.zeros(RATE), sine(0.5)])
    assert longest_pause(wave.astype(np.float32), RATE) == pytest.approx(1.0, abs=0.03)
    assert longest_pause(sine(1.0), RATE) == 0.0
    assert longest_pause(np.zeros(RATE, np.float32), RATE) == pytest.approx(1.0)


def job(folder: Path, score: Score, seeds: list[int]) -> dict[str, Any]:
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    (folder / "audio").mkdir(exist_ok=True)
    (folder / "scores" / "bach--x.mxl.json").write_text(score.model_dump_json())
    return {
        "soundfont": str(soundfont_path()),
        "folder": str(folder / "audio"),
        "scores": str(folder / "scores"),
        "sample_rate": RATE,
        "recordings": [
            {"id": f"r{seed}", "path": "bach/x.mxl", "seed": seed, "key": "k"} for seed in seeds
        ],
    }


def work(given: dict[str, Any]) -> list[dict[str, Any]]:
    out = io.StringIO()
    music_worker.main(io.StringIO(json.dumps(given)), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.extra("data")
def test_another_process_and_another_order_give_the_same_samples(tmp_path: Path) -> None:
    here = work(job(tmp_path / "a", chorale(45), [1, 2]))
    given = job(tmp_path / "b", chorale(45), [2, 1])
    command = [sys.executable, "-m", "calm_bench.data.music_worker"]
    done = subprocess.run(command, input=json.dumps(given), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    there = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(there, key=lambda line: line["id"]) == here
    for line in here:
        ours, theirs = (tmp_path / name / "audio" / line["audio"] for name in "ab")
        assert ours.read_bytes() == theirs.read_bytes()
        wave, rate = read_audio(ours)
        assert rate == line["sample_rate"] == RATE
        assert len(wave) / rate == pytest.approx(line["seconds"], abs=1e-4)
        assert integrated_loudness(wave, rate) == pytest.approx(line["loudness"], abs=0.02)
        assert np.abs(wave).max() < 0.9
        assert np.abs(wave[: rate // 4]).max() > 0.01  # it begins with music


@pytest.mark.extra("data")
def test_what_cannot_be_used_is_said_and_leaves_no_audio(tmp_path: Path) -> None:
    gap = tuple(
        (*part[:20], *((o + 12.0, n, p) for o, n, p in part[20:])) for part in chorale(50).parts
    )
    for name, score, reason in (
        ("short", chorale(8), "too short"),
        ("gap", Score(title="", parts=gap), "silent for"),
    ):
        lines = work(job(tmp_path / name, score, [1]))
        assert reason in lines[0]["reason"]
        assert list((tmp_path / name / "audio").iterdir()) == []
    missing = job(tmp_path / "missing", chorale(), [1])
    missing["recordings"][0]["path"] = "bach/nothing.mxl"
    assert "cannot read bach/nothing.mxl" in work(missing)[0]["reason"]


def test_what_the_renderer_clips_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wav(samples: list[float]) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, np.array([samples, samples]).T, 48000, format="WAV")
        return file.getvalue()

    renderer = SimpleNamespace(render_wave_from=lambda soundfont, midi: wav([0.5, 0.99, -0.25]))
    monkeypatch.setitem(sys.modules, "midirenderer", renderer)
    wave, rate = render(b"", b"", 2 / 48000)
    assert rate == 48000
    assert len(wave) == 2
    renderer.render_wave_from = lambda soundfont, midi: wav([0.5, 1.0, -1.0])
    with pytest.raises(Unusable, match="clipped: 4 samples"):
        render(b"", b"", 1.0)


@pytest.mark.extra("data")
@pytest.mark.slow
def test_a_chorale_is_read_as_it_sounds(tmp_path: Path) -> None:
    score = read_score("bach/bwv66.6.mxl")
    soprano = score.parts[0]
    assert len(score.parts) == 4
    assert [p for _, _, p in soprano[:6]] == [73, 71, 69, 71, 73, 76]
    assert [o for o, _, _ in soprano[:6]] == [0.0, 0.5, 1.0, 2.0, 3.0, 4.0]
    assert max(o + n for part in score.parts for o, n, _ in part) == 36.0
    assert kept_score("bach/bwv66.6.mxl", tmp_path) == score
    assert len(list(tmp_path.iterdir())) == 1
    assert kept_score("bach/bwv66.6.mxl", tmp_path) == score


@pytest.mark.extra("data")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # music21 leaves a book of tunes open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_tune_of_a_book_is_found_by_its_number() -> None:
    tune = read_score("airdsAirs/book1.abc#12")
    assert tune.title == "The Queen of Hearts."
    assert len(tune.parts) == 1
    with pytest.raises(InputError, match=r"cannot read airdsAirs/nothing\.abc#1"):
        read_score("airdsAirs/nothing.abc#1")


@pytest.mark.extra("data")
@pytest.mark.slow
def test_ties_are_joined_and_what_does_not_sound_is_left_out() -> None:
    import music21

    part = music21.stream.Part()
    first, second = music21.note.Note("C4"), music21.note.Note("C4", quarterLength=2.0)
    first.tie, second.tie = music21.tie.Tie("start"), music21.tie.Tie("stop")
    chord = music21.chord.Chord(["E4", "G4"])
    for element in (first, second, music21.note.Rest(), chord, music21.note.Note("A4").getGrace()):
        part.append(element)
    assert _notes(part) == [(0.0, 3.0, 60), (4.0, 1.0, 64), (4.0, 1.0, 67)]
