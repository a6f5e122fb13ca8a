"""Prompts cut from a corpus by `calm-bench data prompts`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from clips import contents
from commands import Said, call

from calm_bench.config import PromptSpec
from calm_bench.core import audio
from calm_bench.core.audio import read_audio
from calm_bench.data.prompts import read_prompt_specs

RATE = 8000


def lay(root: Path, recordings: Mapping[str, tuple[float, dict[str, Any]]]) -> Path:
    """A corpus of recordings whose samples count up, so that a cut tells where it is from."""
    (root / "source").mkdir(parents=True)
    lines = []
    for name, (seconds, known) in recordings.items():
        # Recordings differ by less than a hundredth of a second's worth of the ramp.
        ramp = (np.arange(round(seconds * RATE)) + ord(name[0]) / 4) / (60 * RATE)
        soundfile.write(root / "source" / f"{name}.wav", ramp, RATE, subtype="FLOAT")
        lines.append({"audio": f"{name}.wav", "split": "test", "speaker": name, **known})
    (root / "source" / "list.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines))
    source, corpus = root / "source" / "list.jsonl", root / "corpus"
    call("data", "folder", source, "--out", corpus)
    return root


def asked(root: Path, *options: str, seconds: float = 2.0, code: int = 0) -> Said:
    places = [str(root / "corpus"), "--out", str(root / "benchmarks" / "prompts")]
    length = ["--seconds", str(seconds), "--sample-rate", str(RATE)]
    return call("data", "prompts", *places, *length, *options, code=code)


def cut(root: Path, *options: str, seconds: float = 2.0) -> list[PromptSpec]:
    asked(root, *options, "--fresh", seconds=seconds)
    return read_prompt_specs(root / "benchmarks" / "prompts" / "speech.jsonl")


def starts(root: Path, specs: list[PromptSpec]) -> dict[str, float]:
    """Where in its recording each prompt begins, as its samples tell."""
    found = {}
    for spec in specs:
        wave, rate = read_audio(root / "benchmarks" / spec.audio)
        assert (len(wave), rate) == (2 * RATE, RATE)
        found[spec.id] = round(float(wave[0]) * 60, 1)
    return found


def test_one_prompt_lies_in_the_middle_of_its_recording(tmp_path: Path) -> None:
    lay(tmp_path, {"a": (10.0, {}), "b": (2.0, {}), "c": (1.5, {})})
    specs = cut(tmp_path, "--n", "2")
    assert starts(tmp_path, specs) == {"a": 4.0, "b": 0.0}
    assert [spec.group for spec in specs] == ["a", "b"]


def test_several_prompts_are_spread_over_the_recording_and_take_turns(tmp_path: Path) -> None:
    lay(tmp_path, {"a": (12.0, {}), "b": (12.0, {}), "c": (5.2, {})})
    specs = cut(tmp_path, "--n", "8", "--per-recording", "3")
    spread = {f"{name}-{k}": at for name in "ab" for k, at in ((1, 1.0), (2, 5.0), (3, 9.0))}
    assert starts(tmp_path, specs) == spread | {"c-1": 0.3, "c-2": 2.9}
    assert [spec.id for spec in specs[:3]] == ["a-1", "b-2", "c-1"]
    assert all(spec.group == spec.id[0] for spec in specs)
    few = cut(tmp_path, "--n", "3", "--per-recording", "3")
    assert {spec.group for spec in few} == {"a", "b", "c"}


def test_an_offset_says_where_the_first_begins(tmp_path: Path) -> None:
    lay(tmp_path, {"a": (12.0, {}), "b": (4.0, {})})
    assert starts(tmp_path, cut(tmp_path, "--n", "2", "--offset", "0")) == {"a": 0.0, "b": 0.0}
    assert starts(tmp_path, cut(tmp_path, "--n", "1", "--offset", "3.5")) == {"a": 3.5}
    two = cut(tmp_path, "--n", "2", "--offset", "4", "--per-recording", "2")
    assert starts(tmp_path, two) == {"a-1": 4.0, "a-2": 8.0}
    result = asked(tmp_path, "--n", "2", "--offset", "3.5", code=2)
    assert "1 test recordings of at least 5.5 s, not 2: --n asks for fewer" in result.err
    result = asked(tmp_path, "--n", "9", "--per-recording", "3", code=2)
    assert "which give 5 clips, not 9" in result.err
    result = asked(tmp_path, "--n", "1", seconds=13.0, code=2)
    assert "no test recording of at least 13 s: the longest of 2 lasts 12.00 s" in result.err


def test_the_same_prompts_are_written_again_and_others_refused(tmp_path: Path) -> None:
    lay(tmp_path, {"a": (10.0, {}), "b": (8.0, {})})
    asked(tmp_path, "--n", "2")
    whole = contents(tmp_path)
    (tmp_path / "benchmarks/prompts/speech/a.flac").unlink()
    asked(tmp_path, "--n", "2")
    assert contents(tmp_path) == whole
    for others in (["--n", "1"], ["--n", "2", "--offset", "0"]):
        refused = asked(tmp_path, *others, code=2)
        assert "speech.jsonl lists other prompts than these" in refused.err
        assert contents(tmp_path) == whole
    asked(tmp_path, "--n", "2", "--offset", "0", "--name", "heads")
    assert contents(tmp_path).items() > whole.items()
    assert starts(tmp_path, cut(tmp_path, "--n", "2", "--offset", "0")) == {"a": 0.0, "b": 0.0}


def test_audio_without_a_list_is_taken_if_it_is_the_same(tmp_path: Path) -> None:
    lay(tmp_path, {"a": (10.0, {}), "b": (8.0, {})})
    asked(tmp_path, "--n", "2")
    whole = contents(tmp_path)
    (tmp_path / "benchmarks/prompts/speech.jsonl").unlink()  # as a kill leaves it
    asked(tmp_path, "--n", "2")
    assert contents(tmp_path) == whole
    (tmp_path / "benchmarks/prompts/speech.jsonl").unlink()
    mine = tmp_path / "benchmarks/prompts/speech/b.flac"
    mine.write_bytes(b"mine")
    refused = asked(tmp_path, "--n", "2", code=2)
    assert "b.flac is there already and is another prompt" in refused.err
    assert mine.read_bytes() == b"mine"
    asked(tmp_path, "--n", "2", "--fresh")
    assert contents(tmp_path) == whole


def test_fresh_prompts_take_along_those_of_the_list_before_and_nothing_else(tmp_path: Path) -> None:
    lay(tmp_path, {"a": (10.0, {}), "b": (8.0, {})})
    cut(tmp_path, "--n", "2")
    folder = tmp_path / "benchmarks/prompts/speech"
    (folder / "mine.flac").write_bytes(b"mine")
    cut(tmp_path, "--n", "1")
    assert sorted(path.name for path in folder.iterdir()) == ["a.flac", "mine.flac"]
    index = folder.with_suffix(".jsonl")
    index.write_text(index.read_text().replace("prompts/speech/", "elsewhere/speech/"))
    cut(tmp_path, "--n", "1", "--offset", "0")  # the folder had another name when that was written
    assert sorted(path.name for path in folder.iterdir()) == ["a.flac", "mine.flac"]


def test_prompts_beside_the_reader_are_found_by_their_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, {"a": (10.0, {})})
    (tmp_path / "benchmarks" / "prompts").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "benchmarks" / "prompts")
    length = ("--seconds", 2, "--sample-rate", RATE)
    call("data", "prompts", tmp_path / "corpus", "--out", ".", "--n", 1, *length)
    (spec,) = read_prompt_specs(tmp_path / "benchmarks" / "prompts" / "speech.jsonl")
    assert starts(tmp_path, [spec]) == {"a": 4.0}


def test_choices_are_made_on_prompts_of_the_validation_split(tmp_path: Path) -> None:
    lay(tmp_path, {"a": (10.0, {}), "b": (8.0, {"split": "validation"})})
    assert starts(tmp_path, cut(tmp_path, "--n", "1", "--split", "validation")) == {"b": 3.0}
    failed = asked(tmp_path, "--n", "2", "--split", "validation", code=2)
    assert "1 validation recordings of at least 2 s, not 2" in failed.err


def test_a_cut_begins_with_a_word_and_keeps_its_times(tmp_path: Path) -> None:
    words = [["one", 0.5, 1.0], ["two", 3.7, 4.1], ["three", 5.5, 5.9], ["four", 5.6, 6.4]]
    lay(tmp_path, {"a": (10.0, {"words": words})})
    (spec,) = cut(tmp_path, "--n", "1")
    assert starts(tmp_path, [spec]) == {"a": 3.7}
    assert spec.words == (("two", 0.0, 0.4), ("three", 1.8, 2.0), ("four", 1.9, 2.0))


def test_stretches_of_one_file_are_one_recording(tmp_path: Path) -> None:
    stretches = {
        f"s{k}": (1.0, {"audio": "long.wav", "id": f"s{k}", "offset": 4.0 * k, "seconds": 4.0})
        for k in (1, 2)
    }
    lay(tmp_path, {"long": (12.0, {"split": "train", "speaker": None}), **stretches})
    specs = cut(tmp_path, "--n", "2")
    assert starts(tmp_path, specs) == {"s1": 5.0, "s2": 9.0}
    assert {spec.group for spec in specs} == {"long"}


def test_the_rest_of_a_recording_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, {"a": (30.0, {})})
    decoded = []
    joined = audio._joined

    def watched(blocks: Any, expected: int) -> Any:
        wave = joined(blocks, expected)
        decoded.append(len(wave))
        return wave

    monkeypatch.setattr(audio, "_joined", watched)
    cut(tmp_path, "--n", "1")
    assert decoded == [2 * RATE]


def test_a_recording_that_was_changed_since_it_was_listed_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, {"a": (10.0, {})})
    soundfile.write(tmp_path / "source" / "a.wav", np.ones(10 * RATE) / 2, RATE, subtype="FLOAT")
    assert "was changed since" in asked(tmp_path, "--n", "1", code=2).err
    assert not (tmp_path / "benchmarks" / "prompts" / "speech.jsonl").exists()


def test_a_continuation_that_training_holds_word_by_word_makes_no_prompt(tmp_path: Path) -> None:
    texts = {"a": "So now, two three.", "b": "so now he two", "c": "We are all on"}
    texts["d"] = "Two, three"
    known: dict[str, tuple[float, dict[str, Any]]] = {
        name: (5.0, {"words": [[word, k + 0.5, k + 1] for k, word in enumerate(text.split())]})
        for name, text in texts.items()
    }
    known["d"][1]["split"] = "train"
    lay(tmp_path, known)
    # After the prompt of 3 s a goes on with "3.", which d of the training split says too.
    specs = cut(tmp_path, "--n", "1", "--offset", "0", seconds=5.0)
    assert [spec.id for spec in specs] == ["c"]
    result = asked(tmp_path, "--n", "2", "--offset", "0", seconds=5.0, code=2)
    assert "1 test recordings of at least 5 s, not 2" in result.err
