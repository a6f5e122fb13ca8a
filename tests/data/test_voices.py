"""The corpus in several voices; flite is asked where it is installed, Piper is played."""

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from calm_bench.core.audio import read_audio
from calm_bench.data import voices as module
from calm_bench.data.corpus import read_manifest
from calm_bench.data.speech import VOICE, Speech
from calm_bench.data.voice_worker import speak_with_flite
from calm_bench.data.voices import (
    CHUNK_TEXTS,
    HELD_OUT,
    MADE_UP_SENTENCES,
    VOICES,
    Voice,
    flite_version,
    made_up,
    make_voices,
    plan,
)
from calm_bench.errors import BenchError, InputError

PIPER = Voice(name="joe", chunks=1, scales=VOICE)
FLITE = Voice(name="slt", chunks=2)


@pytest.fixture
def spoken(worker: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A worker in place of both synthesisers, and by chunk what it was asked for."""
    instead = replace(module.speech.WORKER, command=[str(worker)])
    monkeypatch.setattr(module.speech, "WORKER", instead)
    monkeypatch.setattr(module.speech, "voice_path", lambda: Path("voice.onnx"))
    monkeypatch.setattr(module, "flite_version", lambda: "flite-0")
    return asked


def test_every_voice_speaks_what_it_is_asked_and_held_out_voices_take_turns(
    tmp_path: Path, spoken: dict[str, Any]
) -> None:
    out = tmp_path / "voices"
    card = make_voices(out, (PIPER, FLITE), jobs=1)
    items = read_manifest(out)
    train = [item.speaker for item in items if item.split == "train"]
    assert train == ["joe"] * CHUNK_TEXTS + ["slt"] * 2 * CHUNK_TEXTS
    held_out = [item.speaker for item in items if item.split == "validation"]
    assert held_out == ["joe", "slt"] * HELD_OUT
    assert card.counts["speakers"] == 2
    assert len({item.text for item in items}) == len(items)
    for item in items[:3]:
        wave, rate = read_audio(out / item.audio)
        assert item.seconds == pytest.approx(len(wave) / rate)
    assert spoken["joe-00001"]["settings"] == VOICE
    assert spoken["joe-00001"]["voice"] == "voice.onnx"
    assert spoken["slt-00002"]["voice"] == "slt"
    before = (out / "manifest.jsonl").read_bytes()
    spoken.clear()
    make_voices(out, (PIPER, FLITE), jobs=1)
    assert spoken == {}
    assert (out / "manifest.jsonl").read_bytes() == before
    with pytest.raises(InputError, match=r"other settings \(seed, text_hash;"):
        make_voices(out, (PIPER, FLITE), seed=1, jobs=1)


def test_no_text_of_the_speech_corpus_tests_is_spoken() -> None:
    tests = {s.text for s in Speech().stories() if s.split == "test"}
    told = [story for chunk in plan(VOICES, 0) for story in chunk.stories]
    assert len({story.story_id for story in told}) == len(told)
    more = tuple(replace(voice, chunks=voice.chunks + 3) for voice in VOICES)
    again = {story.story_id: story for chunk in plan(more, 0) for story in chunk.stories}
    assert all(again[story.story_id] == story for story in told)
    assert all(
        " ".join(story.sentences[:-MADE_UP_SENTENCES]) not in tests for story in again.values()
    )


def test_made_up_sentences_are_those_of_their_generator() -> None:
    first, again = (made_up(random.Random(1)) for _ in range(2))
    assert first == again != made_up(random.Random(2))
    assert all(sentence[0].isupper() and sentence[-1] in ".?!" for sentence in first)


def test_without_flite_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"is not installed: `sudo apt install flite`"):
        make_voices(tmp_path / "voices", (FLITE,))


def test_a_flite_that_does_not_say_its_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for says in ("hello", "version:"):
        (tmp_path / "flite").write_text(f"#!/bin/sh\necho {says}\n")
        (tmp_path / "flite").chmod(0o755)
        with pytest.raises(BenchError, match="does not say"):
            flite_version()


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("echo no such voice >&2; exit 3", r"flite -voice slt \(exit code 3\): no such voice"),
        ("exit 0", r"flite -voice slt \(exit code 0\): no message"),
        ("cp {silent} $6", r"flite -voice slt spoke nothing of: a text"),
    ],
)
def test_a_flite_that_speaks_nothing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, said: str
) -> None:
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(800), 16000)
    (tmp_path / "flite").write_text(f"#!/bin/sh\n{does.format(silent=silent)}\n")
    (tmp_path / "flite").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(SystemExit, match=said):
        speak_with_flite("slt", ["a text"])


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_flite_speaks_the_same_samples_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_TEXTS", 1)
    made = []
    for name in "ab":
        make_voices(tmp_path / name, (replace(FLITE, chunks=1),), jobs=1)
        made.append([item.sha256 for item in read_manifest(tmp_path / name)])
    assert made[0] == made[1]
