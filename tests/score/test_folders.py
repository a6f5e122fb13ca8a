import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import call

from calm_bench.errors import UnknownNameError
from calm_bench.score.folders import FolderScores, score_folders
from calm_bench.store.run_store import RunStore


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Originals, and the same with noise: a wav, a FLAC in a sub-folder at another rate."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder, noise in ((ours, 0.05), (theirs, 0.0)):
        (folder / "sub").mkdir(parents=True)
        for name, rate in (("a.wav", 16000), ("sub/b.flac", 22050)):
            rng = np.random.default_rng(7)
            t = np.arange(rate) / rate
            wave = 0.3 * np.sin(2 * np.pi * 220 * t) + noise * rng.normal(size=rate)
            soundfile.write(folder / name, wave, rate)
    return ours, theirs


def test_two_folders_are_scored_and_kept(folders: tuple[Path, Path], tmp_path: Path) -> None:
    ours, theirs = folders
    out = tmp_path / "run"
    found = score_folders(ours, theirs, FolderScores(metrics=("loudness", "fidelity")), out=out)
    assert found.folder == out
    assert RunStore(out).read_results() == found.results
    rows = {(row.cell_id, row.metric): row for row in found.results.rows}
    assert rows["clips", "si_sdr"].value is not None
    assert rows["clips", "si_sdr"].n == 2
    assert rows["reference", "si_sdr"].reason == "this row is the reference"
    assert rows["reference", "loudness"].value is not None
    assert found.results.trials.keys() == {"reference", "clips"}
    assert {(made.ok, made.failed) for made in found.results.trials.values()} == {(2, 0)}


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("fad", "fad measures against originals: there is no folder of originals: name one with"),
        ("fidelity", "fidelity measures against originals"),
        ("wer", "wer compares with the text that was meant to be said, .* be had: .*loudness"),
    ],
)
def test_a_metric_that_folders_cannot_have_is_refused_with_what_is_missing(
    folders: tuple[Path, Path], tmp_path: Path, metric: str, message: str
) -> None:
    line = ["score", folders[0], "--metrics", "loudness", metric]
    assert re.search(message, call(*line, "--out", tmp_path / "run", code=2).text)
    assert not (tmp_path / "run").exists()
    if metric == "wer":
        call(*line, "--reference", folders[1], code=2)


def test_without_a_reference_clip_metrics_remain(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    call("score", folders[0], "--out", tmp_path / "run")
    rows = {row.metric: row for row in RunStore(tmp_path / "run").read_results().rows}
    assert rows["loudness"].value is not None
    assert rows["fad"].reason == "there are no reference clips"


def test_unknown_names_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown metric 'fda'; did you mean fad"):
        score_folders(tmp_path, None, FolderScores(metrics=("fda",)))
    with pytest.raises(UnknownNameError, match="unknown embedding"):
        score_folders(tmp_path, None, FolderScores(metrics=("fad",), embeddings=("vgish",)))


def test_the_command_takes_metrics_before_the_folder(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    line = ["score", "--metrics", "loudness", "fidelity", folders[0]]
    line += ["--reference", folders[1], "--out", tmp_path / "run"]
    found = call(*line, "--json").json
    assert {row["metric"] for row in found["rows"]} >= {"loudness", "si_sdr"}
    assert (tmp_path / "run" / "tables" / "score.md").is_file()
    manifest = RunStore(tmp_path / "run").read_manifest()
    assert manifest.command[0] == "calm-bench"
    assert manifest.options["metrics"] == ["loudness", "fidelity"]
    (folders[0] / "broken.wav").write_bytes(b"RIFF and then nothing")
    said = call(*line[:-1], tmp_path / "other", code=4).text
    assert "listen:" not in said  # the clips are not in the run: there is no page


def test_copies_in_a_folder_are_said_and_count_once(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for index in range(20):
        for folder, seed in ((ours, 99), (theirs, index)):
            folder.mkdir(exist_ok=True)
            wave = 0.1 * np.random.default_rng(seed).normal(size=32000)
            soundfile.write(folder / f"{index}.wav", wave, 16000)
    out, options = tmp_path / "run", ["--metrics", "fad", "kad", "loudness", "fidelity"]
    line = ["score", ours, "--reference", theirs, "--embedding", "mel", *options]
    assert "n 20, distinct 1" in call(*line, "--out", out).text
    found = RunStore(out).read_results()
    rows = {row.metric: row for row in found.rows if row.cell_id == "clips"}
    assert rows["fad"].reason == "needs 16 clips, the row has 1"
    assert rows["kad"].value is None
    assert rows["loudness"].n == 1
    assert rows["si_sdr"].n == 20  # each with an original of its own


def write_cuts(folder: Path, seed: int, songs: int = 8, cuts: int = 4) -> None:
    """Cuts of 2 s of a few songs, each a noise of its own colour."""
    for song in range(songs):
        rng = np.random.default_rng([seed, song])
        colour = rng.normal(size=8)
        for cut in range(cuts):
            path = folder / f"song{song}" / f"{cut}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            wave = np.convolve(rng.normal(0, 0.02, 32000), colour, "same")
            soundfile.write(path, wave.clip(-1, 1), 16000)


def test_cuts_of_one_recording_are_resampled_together(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_cuts(ours, 1)
    write_cuts(theirs, 2)
    found = {}
    for rule in ("", "folder", r"^(song\d)/"):
        out = tmp_path / f"run{len(found)}"
        line = ["score", ours, "--reference", theirs, "--embedding", "mel"]
        line += ["--metrics", "fad", "loudness", "--pair-by", "path", "--out", out]
        call(*line, *(["--group-by", rule] if rule else []))
        found[rule] = RunStore(out).read_results()
    rows = {
        rule: {row.metric: row for row in results.rows if row.cell_id == "clips"}
        for rule, results in found.items()
    }
    alone, together = rows[""], rows["folder"]
    assert rows[r"^(song\d)/"] == together
    for name in ("fad", "loudness"):
        assert together[name].value == pytest.approx(alone[name].value)
        assert together[name].n == alone[name].n == 32
        assert together[name].low is not None
    widths = [row["loudness"].high - row["loudness"].low for row in (together, alone)]
    assert widths[0] > 1.5 * widths[1]
    assert together["fad_inf"].reason == "needs 16 recordings on both sides, there are 8"
    assert "recordings" not in str(alone["fad_inf"].reason)
    assert any("ours: 8 recordings, each resampled" in note for note in found["folder"].notes)
    assert not any("resampled" in note for note in found[""].notes)
