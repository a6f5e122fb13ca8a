"""Folders of recordings through the command: what is looked at, left out and said."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from commands import call, refused

from calm_bench.core.recordings import list_recordings

RATE = 16_000


def sound(path: Path, seed: int = 0, seconds: float = 0.6) -> Path:
    """A file of quiet noise, which one is drawn by the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.05 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    soundfile.write(path, wave, RATE)
    return path


@pytest.fixture
def score(tmp_path: Path) -> Any:
    """The command with --json: its exit code and what it printed, an error's text if it failed."""

    def run(*words: str | Path, metric: str = "loudness") -> tuple[int, Any]:
        out = tmp_path / "run"
        shutil.rmtree(out, ignore_errors=True)
        line = ["score", *words, "--metrics", metric, "--out", out, "--json"]
        said = call(*line, code=(0, 2, 4))
        return said.code, said.json if said.out else said.text

    return run


def counts(found: Any) -> dict[str, tuple[int, int]]:
    return {name: (count["ok"], count["failed"]) for name, count in found["trials"].items()}


def test_a_reference_folder_inside_is_not_scored_and_a_line_says_so(
    tmp_path: Path, score: Any
) -> None:
    for k in range(3):
        sound(tmp_path / "clips" / f"{k}.wav", k)
        sound(tmp_path / "clips" / "real" / f"{k}.wav", k + 10)
    code, found = score(tmp_path / "clips", "--reference", tmp_path / "clips" / "real")
    assert (code, counts(found)) == (0, {"reference": (3, 0), "clips": (3, 0)})
    (note,) = [note for note in found["notes"] if "left out" in note]
    assert note.startswith("3 sound files in ")
    assert str(tmp_path / "clips" / "real") in note
    code, found = score(tmp_path / "clips" / "real", "--reference", tmp_path / "clips")
    assert (code, counts(found)) == (0, {"reference": (3, 0), "clips": (3, 0)})


def test_a_link_to_the_reference_is_the_reference(tmp_path: Path, score: Any) -> None:
    sound(tmp_path / "clips" / "a.wav", 1)
    sound(tmp_path / "real" / "deep" / "a.wav", 2)
    (tmp_path / "clips" / "originals").symlink_to(tmp_path / "real")
    (tmp_path / "clips" / "part").symlink_to(tmp_path / "real" / "deep")
    code, found = score(tmp_path / "clips", "--reference", tmp_path / "real")
    assert (code, counts(found)) == (0, {"reference": (1, 0), "clips": (1, 0)})


def test_hidden_files_are_left_out_and_counted(tmp_path: Path, score: Any) -> None:
    sound(tmp_path / "clips" / "a.wav", 1)
    sound(tmp_path / "clips" / ".trash" / "b.wav", 2)
    (tmp_path / "clips" / "._a.wav").write_bytes(b"\0\5\26\7AppleDouble")
    code, found = score(tmp_path / "clips")
    assert (code, counts(found)) == (0, {"clips": (1, 0)})
    assert any("._a.wav, .trash/b.wav" in note for note in found["notes"])


def test_one_name_with_two_suffixes_is_two_clips(tmp_path: Path, score: Any) -> None:
    sound(tmp_path / "clips" / "a.wav", 1)
    sound(tmp_path / "clips" / "a.flac", 2)
    sound(tmp_path / "clips" / "B.WAV", 3)
    code, found = score(tmp_path / "clips")
    (row,) = [row for row in found["rows"] if row["metric"] == "loudness"]
    assert (code, counts(found), row["n"]) == (0, {"clips": (3, 0)}, 3)


def test_links_that_run_in_circles_end(tmp_path: Path, score: Any) -> None:
    sound(tmp_path / "clips" / "a.wav", 1)
    (tmp_path / "clips" / "round").symlink_to(tmp_path / "clips")
    (tmp_path / "clips" / "up").symlink_to(tmp_path)
    (tmp_path / "clips" / "self.wav").symlink_to(tmp_path / "clips" / "self.wav")
    code, found = score(tmp_path / "clips")
    assert (code, counts(found)) == (4, {"clips": (1, 1)})
    assert any("round, up" in note for note in found["notes"])


def test_folders_that_links_lead_to_are_listed_once(tmp_path: Path) -> None:
    sound(tmp_path / "elsewhere" / "b.wav", 1)
    folder = tmp_path / "clips"
    sound(folder / "a.wav", 2)
    for name in ("one", "two"):
        (folder / name).symlink_to(tmp_path / "elsewhere")
    found = list_recordings(folder)
    assert [found.name(path) for path in found.files] == ["a.wav", "one/b.wav"]
    assert found.repeated == [folder / "two"]


def test_what_a_reader_must_know_of_a_file_is_said(tmp_path: Path, score: Any) -> None:
    sound(tmp_path / "clips" / "a.wav", 1)
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    soundfile.write(tmp_path / "clips" / "anti.wav", np.stack([noise, -noise], axis=1), RATE)
    whole = sound(tmp_path / "clips" / "short.wav", 2)
    whole.write_bytes(whole.read_bytes()[:-20])
    for _ in range(2):  # the second time from what was kept
        code, found = score(tmp_path / "clips")
        (note,) = [note for note in found["notes"] if "listen to these" in note]
        assert "anti.wav (its channels cancel, their mean is 76 dB weaker)" in note
        assert "short.wav (it lacks its last 10 of 9600 samples)" in note
        assert (code, counts(found)) == (0, {"clips": (3, 0)})


def test_progress_counts_clips_and_a_repeat_decodes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(3):
        sound(tmp_path / "clips" / f"{k}.wav", k)
        sound(tmp_path / "real" / f"{k}.wav", k + 10)
    line = ["score", tmp_path / "clips", "--reference", tmp_path / "real", "--json"]
    line += ["--metrics", "loudness", "fidelity", "--out"]
    first = call(*line, tmp_path / "one")
    for said in ("reading clips: 3/3 in", "reading real: 3/3 in", "scoring: 12/12 in"):
        assert first.err.count(said) == 1

    def refuse(*_: Any) -> Any:
        raise AssertionError("a file is decoded again")

    monkeypatch.setattr("calm_bench.core.audio.Reader.blocks", refuse)
    assert call(*line, tmp_path / "two").json["rows"] == first.json["rows"]


@pytest.mark.parametrize(
    "text", ['{"name": "app"}', "[]", "no JSON", '{"run_id": "x"}', '{"audio": "a.wav"}\n{}']
)
def test_a_folder_with_a_foreign_manifest_is_a_folder_of_sound(
    tmp_path: Path, score: Any, text: str
) -> None:
    sound(tmp_path / "clips" / "a.wav", 1)
    (tmp_path / "clips" / "manifest.json").write_text(text)
    code, found = score(tmp_path / "clips")
    assert (code, counts(found)) == (0, {"clips": (1, 0)})


def test_a_run_s_own_manifest_makes_a_run(tmp_path: Path, score: Any) -> None:
    sound(tmp_path / "clips" / "a.wav", 1)
    assert score(tmp_path / "clips")[0] == 0
    (tmp_path / "run").rename(tmp_path / "clips" / "old")
    assert "repeat the command that made it" in refused("score", tmp_path / "clips" / "old")


def test_a_file_is_no_folder(tmp_path: Path, score: Any) -> None:
    code, said = score(sound(tmp_path / "a.wav"))
    assert code == 2
    assert "is a file: score takes the folder" in said
