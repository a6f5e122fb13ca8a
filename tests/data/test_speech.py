import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calm_bench.asr import load_recognizer
from calm_bench.asr.words import align, tokens_of
from calm_bench.config import PromptSpec
from calm_bench.core.audio import read_audio
from calm_bench.data import speech as module
from calm_bench.data.chunks import run_worker
from calm_bench.data.corpus import default_dir, read_card, read_manifest
from calm_bench.data.prompts import read_prompt_specs
from calm_bench.data.speech import Speech, check_overlap, make_speech
from calm_bench.data.stories import Story
from calm_bench.data.voice_worker import match_groups
from calm_bench.errors import BenchError, InputError, MissingExtraError
from calm_bench.types import timed

SMALL = Speech(train=3, validation=1, test=2)
ONE = Speech(train=0, validation=0, test=1)


@pytest.fixture
def spoken(worker: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A worker in Piper's place, and by chunk what it was asked for."""
    monkeypatch.setattr(module, "WORKER", replace(module.WORKER, command=[str(worker)]))
    monkeypatch.setattr(module, "voice_path", lambda: Path("voice.onnx"))
    monkeypatch.setattr(module, "CHUNK_STORIES", 4)
    return asked


@pytest.mark.parametrize("train", [3, 6])
def test_later_test_stories_are_spoken_alike_beside_any_number_of_others(
    tmp_path: Path, spoken: dict[str, Any], train: int
) -> None:
    out = tmp_path / "speech"
    make_speech(out, Speech(train=train, validation=0, test=66), jobs=1)
    assert spoken["test-0000"]["seed"] == 500
    assert [item.id for item in read_manifest(out)][-2:] == ["test-00064", "test-00065"]


def test_every_story_is_spoken_and_listed_with_its_words(
    tmp_path: Path, spoken: dict[str, Any]
) -> None:
    out = tmp_path / "speech"
    card = make_speech(out, SMALL, jobs=1)
    assert list(spoken) == ["0001", "0000"]  # the test stories first
    items = read_manifest(out)
    stories = SMALL.stories()
    assert [(i.id, i.split, i.text) for i in items] == [
        (s.story_id, s.split, s.text) for s in stories
    ]
    for item in items:
        wave, rate = read_audio(out / item.audio)
        assert item.words is not None
        assert [word for word, _, _ in item.words] == (item.text or "").split()
        assert item.seconds == pytest.approx(len(wave) / rate) == pytest.approx(item.words[-1][2])
    assert card == read_card(out)
    assert (card.counts["train"], card.counts["validation"], card.counts["test"]) == (3, 1, 2)
    assert card.checks["text"]["test_stories_in_training"] == 0


def test_finished_chunks_are_kept_and_a_missing_one_gives_the_same_audio(
    tmp_path: Path, spoken: dict[str, Any]
) -> None:
    out = tmp_path / "speech"
    make_speech(out, SMALL)
    before = (out / "manifest.jsonl").read_bytes()
    (out / "chunks" / "0001.jsonl").unlink()
    (out / "audio" / "test-00001.flac").unlink()
    spoken.clear()
    make_speech(out, SMALL)
    assert list(spoken) == ["0001"]
    assert (out / "manifest.jsonl").read_bytes() == before


def test_the_seed_changes_words_and_noise(tmp_path: Path, spoken: dict[str, Any]) -> None:
    one = Speech(train=1, validation=0, test=1)
    other = Speech(train=1, validation=0, test=1, seed=1)
    make_speech(tmp_path / "a", one)
    make_speech(tmp_path / "b", other)
    first, second = (read_manifest(tmp_path / name)[0] for name in "ab")
    assert first.text != second.text
    assert first.sha256 != second.sha256


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_other_stories_is_refused(
    tmp_path: Path, spoken: dict[str, Any], finished: bool
) -> None:
    out = tmp_path / "speech"
    make_speech(out, SMALL)
    if not finished:  # killed before the manifest was written
        (out / "corpus.json").unlink()
        (out / "chunks" / "0001.jsonl").unlink()
    with pytest.raises(InputError, match="choose another folder with --out"):
        make_speech(out, Speech(train=3, validation=1, test=2, seed=7))


def test_a_failing_voice_is_quoted_and_leaves_no_chunk(
    tmp_path: Path, worker: Path, spoken: dict[str, Any]
) -> None:
    worker.write_text(worker.read_text() + "\nraise RuntimeError('no voice today')")
    with pytest.raises(BenchError, match=r"the synthesiser failed .*no voice today"):
        make_speech(tmp_path / "speech", SMALL, jobs=1)
    assert list((tmp_path / "speech" / "chunks").iterdir()) == []


def test_a_worker_that_dies_at_once_is_an_error_too(tmp_path: Path) -> None:
    dead = tmp_path / "dead.py"
    dead.write_text("import sys; sys.exit('cannot start')")
    worker = replace(module.WORKER, command=[str(dead)])
    job = {"stories": [{"id": "x", "sentences": ["a " * 200000]}]}
    with pytest.raises(BenchError, match="cannot start"):
        run_worker(worker, job, tmp_path / "0000.jsonl", 1, lambda n: None)


def test_a_story_that_the_worker_leaves_out_is_noticed(tmp_path: Path) -> None:
    lazy = tmp_path / "lazy.py"
    lazy.write_text("import sys; sys.stdin.read()")
    worker = replace(module.WORKER, command=[str(lazy)])
    with pytest.raises(BenchError, match="exit code 0"):
        run_worker(worker, {"stories": [{}]}, tmp_path / "0000.jsonl", 1, lambda n: None)


def test_without_piper_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"calm-bench\[data\]"):
        make_speech(tmp_path / "speech", SMALL)


def test_a_corpus_is_never_made_among_someones_files(tmp_path: Path) -> None:
    for name in ("song.flac", "corpus.json", "manifest.jsonl"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(InputError, match=name):
            make_speech(folder, SMALL)
        assert [path.name for path in folder.iterdir()] == [name]


def test_the_corpus_lies_under_the_home(calm_bench_home: Path) -> None:
    assert default_dir("speech") == calm_bench_home / "data" / "speech"


def story(split: str, *sentences: str) -> Story:
    return Story(story_id=f"{split}-0", split=split, sentences=sentences)


def test_a_test_story_in_training_is_refused_whatever_its_case() -> None:
    with pytest.raises(InputError, match="test-0"):
        check_overlap([story("train", "Tom sat."), story("test", "tom sat!")])


def test_overlap_counts_sentences() -> None:
    train = story("train", "Tom sat.", "He saw a red fox run.")
    test = story("test", "Tom sat.", "She saw a red fox.")
    assert check_overlap([train, test]) == {
        "test_stories_in_training": 0,
        "test_sentences_in_training": 0.5,
    }


def test_what_the_prompts_share_with_the_training_stories_is_what_we_say(checkout: Path) -> None:
    # The numbers of docs/footguns.md.
    stories = Speech().stories()
    assert round(check_overlap(stories)["test_sentences_in_training"], 2) == 0.69
    told = [
        " " + " ".join(re.sub(r"[^\w']", "", w).lower() for w in s.text.split()) + " "
        for s in stories
        if s.split == "train"
    ]

    def shared(prompt: PromptSpec, start: float, end: float) -> bool:
        words = [w for w, at, _ in prompt.words or () if start <= at < end]
        phrase = " ".join(re.sub(r"[^\w']", "", word).lower() for word in words)
        return any(f" {phrase} " in text for text in told)

    prompts = read_prompt_specs(checkout / "benchmarks/prompts/speech.jsonl")
    assert [sum(shared(p, 0.0, 3.0) for p in some) for some in (prompts, prompts[:32])] == [64, 16]
    assert not any(shared(prompt, 3.0, 12.0) for prompt in prompts)


def test_groups_of_phonemes_are_divided_among_the_words() -> None:
    assert match_groups(["ɪnðə", "haʊs"], ["ɪn", "ðə", "haʊs"]) == [2, 1]
    with pytest.raises(ValueError, match="cannot be divided"):
        match_groups(["a", "b"], ["a"])


@pytest.fixture(scope="module")
def real_speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One test story by Piper."""
    out = tmp_path_factory.mktemp("real") / "speech"
    make_speech(out, ONE, jobs=1)
    return out


@pytest.mark.extra("data")
@pytest.mark.slow
def test_piper_speaks_the_same_samples_twice(real_speech: Path, tmp_path: Path) -> None:
    make_speech(tmp_path, ONE, jobs=1)
    assert (tmp_path / "manifest.jsonl").read_bytes() == (
        real_speech / "manifest.jsonl"
    ).read_bytes()


@pytest.mark.extra("data")
@pytest.mark.slow
def test_piper_times_its_words_where_they_sound(real_speech: Path) -> None:
    item = read_manifest(real_speech)[0]
    wave, rate = read_audio(real_speech / item.audio)
    assert rate == 22050
    assert item.words is not None
    starts = [start for _, start, _ in item.words]
    assert starts == sorted(starts)
    assert all(0 <= start < end <= item.seconds for _, start, end in item.words)
    voiced = np.concatenate([wave[int(s * rate) : int(e * rate)] for _, s, e in item.words])
    assert np.sqrt(np.mean(voiced**2)) > np.sqrt(np.mean(wave**2))


@pytest.mark.extra("data", "offline")
@pytest.mark.slow
def test_whisper_hears_the_spoken_words_at_their_times(real_speech: Path) -> None:
    (item,) = read_manifest(real_speech)
    heard = load_recognizer().transcribe(*item.read(real_speech))
    meant, said = tokens_of(timed(item.words or ())), tokens_of(heard.words)
    steps = align([token.text for token in meant], [token.text for token in said])
    equal = [step for step in steps if step.kind == "equal"]
    assert len(steps) - len(equal) < 0.15 * len(meant)
    late = [said[step.heard].start - meant[step.reference].start for step in equal]
    assert abs(np.median(late)) < 0.12  # a recogniser's onsets stray by about a tenth of a second
