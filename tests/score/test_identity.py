"""What a clip is known by: no score is another clip's, and none comes from where it should not."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from commands import call, refused
from numpy.typing import NDArray
from typer.testing import CliRunner

from calm_bench.cli.app import app
from calm_bench.core import sounds
from calm_bench.metrics.fidelity import FidelityMetric, si_sdr
from calm_bench.store.records import ScoreRecord
from calm_bench.store.run_store import RunStore

RATE = 16_000
METRICS = ("loudness", "drift", "fidelity", "stoi", "fad", "kad")

Floats = NDArray[np.float64]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Takes another home, with caches of its own."""

    def move_to(name: str) -> None:
        monkeypatch.setenv("CALM_BENCH_HOME", str(tmp_path / "homes" / name))

    move_to("first")
    return move_to


def noise(seed: int, seconds: float = 1.5) -> Floats:
    rng = np.random.default_rng(seed)
    wave: Floats = 0.1 * rng.standard_normal(round(seconds * RATE))
    return wave * (1 + np.sin(np.arange(len(wave)) / 700))


def write(path: Path, wave: Floats, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, options.pop("rate", RATE), **options)


def score(folder: Path, *options: str, code: int = 0) -> dict[str, Any]:
    """The results of the command."""
    out = folder.parent / f"{folder.name}-scores"
    found: dict[str, Any] = call("score", folder, *options, "--out", out, "--json", code=code).json
    return found


def value(found: dict[str, Any], metric: str, row: str = "clips") -> float:
    rows = [r for r in found["rows"] if (r["metric"], r["cell_id"]) == (metric, row)]
    assert rows[0]["value"] is not None, rows
    return float(rows[0]["value"])


def by_clip(folder: Path, field: str) -> dict[str, float | None]:
    """What the records of a row's scores hold, by trial."""
    records = RunStore(folder.parent / f"{folder.name}-scores").read(ScoreRecord)
    own = (r for r in records if r.cell_id == "clips" and field in r.values)
    return {record.trial_id: record.values[field] for record in own}


def test_the_same_clip_has_one_value_per_original(tmp_path: Path) -> None:
    same, near, far = noise(0), noise(0) + 0.1 * noise(1), noise(2)
    for name, original in (("near", near), ("far", far)):
        write(tmp_path / "made" / f"{name}.wav", same, subtype="FLOAT")
        write(tmp_path / "originals" / f"{name}.wav", original, subtype="FLOAT")
    options = ["--reference", tmp_path / "originals", "--metrics", "fidelity"]
    found = score(tmp_path / "made", *options)
    values = [v for v in by_clip(tmp_path / "made", "si_sdr").values() if v is not None]
    wanted = [si_sdr(same.astype("f4"), other.astype("f4")) for other in (far, near)]
    assert sorted(values) == pytest.approx(wanted, abs=1e-3)
    assert value(found, "si_sdr") == pytest.approx(np.mean(np.float64(wanted)), abs=1e-3)


def odd_corpus(root: Path) -> None:
    """Inputs that are alike, extreme, silent, short, damaged or of another kind than the others."""
    for seed in range(18):
        write(root / "originals" / f"{seed:02d}.wav", noise(seed), subtype="FLOAT")
        write(root / "clips" / f"{seed:02d}.flac", noise(seed) + 0.02 * noise(seed + 50))
    clips = {
        "silence": np.zeros(RATE),
        "loud": 40 * noise(3),
        "loud_cut": np.clip(40 * noise(3), -1, 1),
        "copy": noise(3) + 0.02 * noise(53),
        "offset": noise(4) + 0.3,
        "tiny": 1e-6 * noise(5),
        "stereo": np.stack([noise(6), noise(7)], axis=1),
        "short": noise(8)[:320],
        "one": np.array([0.5]),
    }
    for name, wave in clips.items():
        write(root / "clips" / f"{name}.wav", wave, subtype="FLOAT")
        write(root / "originals" / f"{name}.wav", noise(30), subtype="FLOAT")
    write(root / "clips" / "slow.ogg", noise(9), rate=11_025)
    for name in ("cut.wav", "text.flac", "empty.mp3"):
        (root / "clips" / name).write_bytes(b"RIFF of nothing"[: 100 * (name != "empty.mp3")])


def test_a_warm_cache_says_what_a_cold_one_does(
    tmp_path: Path, home: Callable[[str], None]
) -> None:
    odd_corpus(tmp_path)
    options = ["--metrics", *METRICS, "--embedding", "mel"]
    clips, originals = tmp_path / "clips", tmp_path / "originals"
    paired, turned = (["--reference", str(other), *options] for other in (originals, clips))

    def scored() -> list[dict[str, Any]]:
        return [score(clips, *paired, code=4), score(originals, *turned, code=4)]

    cold = scored()
    assert scored() == cold
    home("second")  # in another order, so that other clips are the first to be kept
    (tmp_path / "some").mkdir()
    for name in ("loud_cut", "copy"):
        shutil.copy(clips / f"{name}.wav", tmp_path / "some")
    score(tmp_path / "some", *paired)
    score(originals, *turned, code=4)
    assert scored() == cold


def test_a_metric_that_raises_on_a_clip_costs_that_clip_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Callable[[str], None]
) -> None:
    for seed in range(4):
        write(tmp_path / "originals" / f"{seed}.wav", noise(seed))
        write(tmp_path / "clips" / f"{seed}.wav", noise(seed) + 0.1 * noise(seed + 50))
    options = ["--reference", tmp_path / "originals", "--metrics", "fidelity", "loudness"]
    whole = score(tmp_path / "clips", *options)
    values = by_clip(tmp_path / "clips", "si_sdr")
    home("second")
    compare = FidelityMetric.compare

    def broken(self: FidelityMetric, wave: Any, original: Any, rate: int) -> Any:
        found = compare(self, wave, original, rate)
        if found["si_sdr"] == max(v for v in values.values() if v is not None):
            raise ValueError("axis 1 is out of\nbounds")
        return found

    monkeypatch.setattr(FidelityMetric, "compare", broken)
    for _ in ("cold", "warm"):
        found = score(tmp_path / "clips", *options, code=4)
        assert found["trials"]["clips"] == {"ok": 4, "failed": 0, "unscored": 1}
        row = next(r for r in found["rows"] if (r["metric"], r["cell_id"]) == ("si_sdr", "clips"))
        assert row["n"] == 3
        left = by_clip(tmp_path / "clips", "si_sdr")
        assert all(values[trial] == v for trial, v in left.items() if v is not None)
        assert value(found, "loudness") == value(whole, "loudness")
        (note,) = [n for n in found["notes"] if n.startswith("fidelity failed on 1 clip")]
        assert ".wav: ValueError: axis 1 is out of bounds" in note


def test_a_decoder_that_raises_costs_one_file_and_shows_its_traceback_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        write(tmp_path / "clips" / f"{seed}.wav", noise(seed))
    examine = sounds.examine

    def broken(path: Path, *stretch: Any) -> Any:
        if path.name == "1.wav":
            raise ValueError("array is too big")
        return examine(path, *stretch)

    monkeypatch.setattr(sounds, "examine", broken)
    found = score(tmp_path / "clips", "--metrics", "loudness", code=4)
    assert found["trials"]["clips"] == {"ok": 2, "failed": 1, "unscored": 0}
    assert any("1.wav cannot be read: ValueError: array is too big" in n for n in found["notes"])
    line = ["score", str(tmp_path / "clips"), "--metrics", "loudness"]
    result = CliRunner().invoke(app, line, env={"BENCH_DEBUG": "1"})
    assert 'raise ValueError("array is too big")' in result.stderr


def test_what_nobody_expected_is_one_line_that_says_how_to_see_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "clips" / "a.wav", noise(0))
    monkeypatch.setattr("calm_bench.score.folders.Clips", None)
    line = refused("score", tmp_path / "clips", code=70)
    assert "TypeError: 'NoneType' object is not callable" in line
    assert "BENCH_DEBUG=1" in line
