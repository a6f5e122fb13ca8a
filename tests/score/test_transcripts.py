from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calm_bench.asr import recognizer
from calm_bench.asr.recognizer import Heard, Recognizer
from calm_bench.config import BenchmarkSpec, PromptSpec
from calm_bench.core.audio import write_flac
from calm_bench.core.sounds import sound_of
from calm_bench.data import prompts
from calm_bench.data.prompts import PromptShelf
from calm_bench.score.clips import StoredClip
from calm_bench.score.transcripts import transcribe
from calm_bench.seeds import file_hash
from calm_bench.store.records import TranscriptRecord
from calm_bench.store.run_store import RunStore
from calm_bench.types import TimedWord, Wave

RATE = 16000


class Ear(Recognizer):
    """Hears how many seconds a clip lasts."""

    def __init__(self) -> None:
        self.heard: list[float] = []

    @property
    def recipe(self) -> Mapping[str, Any]:
        return {"engine": "ear"}

    def hear(self, wave: Wave) -> Heard:
        seconds = len(wave) / RATE
        self.heard.append(seconds)
        return Heard(words=[TimedWord(word=f"{seconds:.2f}", start=0.0, end=0.1)])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALM_BENCH_HOME", str(tmp_path / "home"))


def noise(path: Path, seconds: float) -> Wave:
    rng = np.random.default_rng(round(100 * seconds))
    return write_flac(path, rng.normal(0, 0.1, round(RATE * seconds)).astype(np.float32), RATE)


def by_audio(entries: Sequence[StoredClip]) -> dict[str, StoredClip]:
    return {entry.audio_id: entry for entry in entries}


def entry(path: Path, seconds: float, trial: str) -> StoredClip:
    noise(path, seconds)
    return StoredClip(
        clip_id=trial,
        prompt_id="p",
        seed_index=0,
        path=path,
        sound=sound_of(path),
        prompt_seconds=0.1,
    )


def test_each_clip_is_heard_once_by_any_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [entry(tmp_path / f"{i}.flac", s, str(i)) for i, s in enumerate((0.3, 0.4, 0.3))]
    ear = Ear()
    first, failed = transcribe(by_audio(entries), ear, RunStore(tmp_path / "one"))
    assert not failed
    assert {t.text for t in first.values()} == {"0.30", "0.40"}
    assert sorted(ear.heard) == [0.3, 0.4]  # two of the three clips are the same sound
    assert "transcribing: 2/2 in" in capsys.readouterr().err
    for name in ("one", "two"):
        assert transcribe(by_audio(entries), ear, RunStore(tmp_path / name)) == (first, {})
        assert len(RunStore(tmp_path / name).read(TranscriptRecord)) == 2
    assert len(ear.heard) == 2


def test_a_run_is_heard_again_by_a_recogniser_of_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Ear):
        def hear(self, wave: Wave) -> Heard:
            return Heard(words=[TimedWord(word="other", start=0.1, end=0.2)])

    entries = [entry(tmp_path / "a.flac", 0.3, "a")]
    store = RunStore(tmp_path / "run")
    transcribe(by_audio(entries), Ear(), store)
    monkeypatch.setattr(recognizer, "computed_by", lambda *roots: "other code")
    found, _ = transcribe(by_audio(entries), Other(), store)
    assert [t.text for t in found.values()] == ["other"]
    assert [r.text for r in store.read(TranscriptRecord)] == ["other"]


def test_transcripts_are_written_in_the_order_of_the_clips(tmp_path: Path) -> None:
    entries = [entry(tmp_path / f"{i}.flac", 0.9 - 0.1 * i, str(i)) for i in range(6)]
    transcribe(by_audio(entries[::2]), Ear(), RunStore(tmp_path / "some"))
    store = RunStore(tmp_path / "all")
    transcribe(by_audio(entries), Ear(), store)  # half of them are known to the cache
    assert [r.clip_id for r in store.read(TranscriptRecord)] == [e.audio_id for e in entries]


def test_a_clip_that_cannot_be_heard_keeps_no_other_from_being_heard(tmp_path: Path) -> None:
    class Choosy(Ear):
        def hear(self, wave: Wave) -> Heard:
            if len(wave) == round(0.4 * RATE):
                raise ValueError("will not hear this")
            return super().hear(wave)

    seconds = (0.3, 0.4, 0.5, 0.6, 0.7)
    entries = [entry(tmp_path / f"{s}.flac", s, str(s)) for s in seconds]
    entries[3].path.unlink()
    found, failed = transcribe(by_audio(entries), Choosy(), RunStore(tmp_path / "run"))
    assert [t.text for t in found.values()] == ["0.30", "0.50", "0.70"]
    assert failed.keys() == {entries[1].audio_id, entries[3].audio_id}
    assert failed[entries[1].audio_id] == "ValueError: will not hear this"
    assert "0.6.flac does not exist" in failed[entries[3].audio_id]
    again, _ = transcribe(by_audio(entries), Ear(), RunStore(tmp_path / "run"))
    assert [t.text for t in again.values()] == ["0.30", "0.40", "0.50", "0.70"]


def test_a_prompt_without_text_is_heard_and_nothing_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ear = Ear()
    monkeypatch.setattr(prompts, "load_recognizer", lambda spec: ear)
    noise(tmp_path / "me.flac", 1.0)
    prompt = PromptSpec(id="me", audio="me.flac", sha256=file_hash(tmp_path / "me.flac"))
    spec = BenchmarkSpec(
        name="mine",
        version=1,
        description="",
        systems=(),
        references=("reference",),
        prompt_seconds=0.4,
        seconds=1.0,
        prompts="none.jsonl",
        asr="ear",
    )
    shelf = PromptShelf(spec, tmp_path, RATE)
    loaded = shelf.load(prompt)
    assert loaded.text_source == "transcribed"
    assert [word.word for word in loaded.words or ()] == ["0.40"]
    assert len(loaded.wave) == RATE
    shelf.check([prompt])
    assert len(ear.heard) == 1
    silent = PromptShelf(spec.model_copy(update={"asr": None}), tmp_path, RATE).load(prompt)
    assert (silent.text_source, silent.words) == ("none", None)
