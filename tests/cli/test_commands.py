import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from commands import call, refused
from typer.main import get_command

from calm_bench.cli.app import app
from calm_bench.core import paths
from calm_bench.store.records import TrialRecord
from calm_bench.store.results import Results
from calm_bench.store.run_store import RunStore


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished smoke run."""
    out = tmp_path_factory.mktemp("runs") / "smoke"
    call("run", "smoke", "--out", out)
    return out


def quality(results: Results) -> list[object]:
    """What does not depend on how fast the machine was."""
    timed = {row.metric for row in results.rows if row.metric.endswith(("_ms", "_mb"))}
    timed |= {"overall_speedup", "head_speedup", "head_share", "rtf", "aa_ratio"}
    rows = [row for row in results.rows if row.metric not in timed]
    return [*rows, *results.differences, *results.trials.items()]


def test_copies_of_a_recording_are_no_further_recordings(tmp_path: Path) -> None:
    results = {}
    for seeds in ("1", "2"):
        out = tmp_path / seeds
        options = ["--seeds", seeds, "--temps", "0", "1", "--no-latency", "--out", out]
        call("run", "smoke", *options)
        results[seeds] = RunStore(out).read_results()
    rows = {
        seeds: {(r.cell_id, r.metric): r for r in found.rows if r.metric == "loudness"}
        for seeds, found in results.items()
    }
    for (cell, metric), row in rows["2"].items():
        if cell.endswith("-t1"):
            assert row.n == 4  # the only rows that a second seed makes any different
        else:
            assert row == rows["1"][cell, metric]
            assert row.n == 2 or row.value is None
    read = {r.n for r in results["2"].rows if r.metric == "text_nll" and r.value is not None}
    assert read == {2}  # of the recordings, not of what was drawn
    counts = {cell: count.ok for cell, count in results["2"].trials.items()}
    assert counts == {cell: 4 if cell.endswith("-t1") else 2 for cell in counts}
    paired = {
        (d.cell_id, d.baseline_cell_id): d.n
        for d in results["2"].differences
        if d.metric == "loudness"
    }
    assert {n for pair, n in paired.items() if all(c.endswith("-t0") for c in pair)} == {2}
    assert {n for pair, n in paired.items() if any(c.endswith("-t1") for c in pair)} == {4}


# -- help ----------------------------------------------------------------------------------------


def test_the_lines_of_a_docstring_flow() -> None:
    command: Any = get_command(app)
    text = command.commands["data"].commands["prompts"].help
    assert "which recording each is of, and intervals resample them together." in text


@pytest.mark.parametrize("command", ["run", "score", "report"])
def test_help_teaches_by_examples_that_parse(command: str) -> None:
    text = call(command, "--help").out
    examples = re.findall(rf"calm-bench {command} (.*?)  ", text)
    assert len(examples) >= 3
    assert all("--" in example or "speech" in example for example in examples)


def test_version() -> None:
    assert call("--version").out.startswith("calm-bench 0.")


# -- run -----------------------------------------------------------------------------------------


def test_a_run_writes_everything_a_reader_needs(finished: Path) -> None:
    for name in ("manifest.json", "trials.jsonl", "latency.jsonl", "scores.jsonl", "results.json"):
        assert (finished / name).is_file(), name
    for name in ("tables/smoke.md", "tables/smoke.csv", "tables/smoke.tex", "page/index.html"):
        assert (finished / name).is_file(), name
    assert any((finished / "plots").glob("*.svg"))
    manifest = RunStore(finished).read_manifest()
    assert manifest.status == "finished"
    assert manifest.environment["device"] == "cpu"
    assert manifest.weights == dict.fromkeys(("calm-debug", "rq-debug", "rvq-debug", "vae-debug"))


def test_the_same_command_again_makes_nothing_and_says_the_same(finished: Path) -> None:
    before = (finished / "results.json").read_bytes()
    records = {p.name: p.stat().st_mtime_ns for p in finished.glob("*.jsonl")}
    found = call("run", "smoke", "--out", finished, "--json").json
    assert found.pop("folder") == str(finished)
    assert (finished / "results.json").read_bytes() == before
    assert Results.model_validate(found) == RunStore(finished).read_results()
    assert {p.name: p.stat().st_mtime_ns for p in finished.glob("*.jsonl")} == records


def test_the_plan_comes_first_and_the_table_last(tmp_path: Path) -> None:
    options = ["--systems", "calm", "--temps", "0.5", "--prompts", "1"]
    result = call("run", "smoke", *options, "--out", tmp_path / "run")
    assert result.err.startswith("smoke (version 1)")
    assert "5 rows × 1 prompt = 5 clips" in result.err
    assert "CALM (debug)" in result.out
    assert "noise variance" in result.out
    assert str(tmp_path / "run" / "page" / "index.html") in result.out


def test_a_dry_run_meets_what_a_run_would(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("x")
    said = refused("run", "smoke", "--dry-run", "--out", taken)
    assert "is a file: --out names the folder of the run" in said
    assert "did you mean calm?" in refused("run", "smoke", "--dry-run", "--systems", "clam")


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert "temp 0" in call("run", "--temps", "0", "smoke", "--dry-run", "--out", out).out
    assert not out.exists()
    plan = call("run", "smoke", "--dry-run", "--json").json
    assert plan["n_trials"] == 16
    assert plan["folder"].endswith(plan["run_id"])


def test_fresh_starts_over_and_gives_the_same(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    old = RunStore(out).read_manifest()
    RunStore(out).write_manifest(old.model_copy(update={"created": "long ago"}))
    call("run", "smoke", "--out", out, "--fresh")
    assert RunStore(out).read_manifest().created != "long ago"
    assert quality(RunStore(out).read_results()) == quality(RunStore(finished).read_results())


def test_failed_clips_are_counted_and_give_exit_code_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from calm_bench.systems.calm import CalmSystem

    def broken(self: CalmSystem, *args: object) -> None:
        raise RuntimeError("the head fell off")

    monkeypatch.setattr(CalmSystem, "finish", broken)
    assert "4 clips failed" in call("run", "smoke", "--out", tmp_path / "run", code=4).err
    results = RunStore(tmp_path / "run").read_results()
    assert results.trials["calm-debug-t1"].failed == 2
    assert any("the head fell off" in note for note in results.notes)
    assert RunStore(tmp_path / "run").read_manifest().status == "partial"


def test_ones_own_voice_is_continued(tmp_path: Path) -> None:
    voice = tmp_path / "me.wav"
    rng = np.random.default_rng(0)
    soundfile.write(voice, rng.normal(0, 0.1, (8000, 2)), 22050)
    out = tmp_path / "run"
    result = call("run", "--prompt-audio", voice, "smoke", "--out", out)
    assert "1 of 1 recordings end before the clips' 0.96 s" in result.text
    records = RunStore(out).read(TrialRecord)
    assert {record.prompt_text_source for record in records} == {"none"}
    assert {record.cell_id for record in records} >= {"reference", "silence", "calm-debug-t1"}


def test_without_latency_the_clips_are_the_same_and_nothing_is_timed(
    finished: Path, tmp_path: Path
) -> None:
    result = call("run", "smoke", "--no-latency", "--out", tmp_path)
    assert "latency:" not in result.text
    assert "overall ×" not in result.text
    assert not (tmp_path / "latency.jsonl").exists()

    def heard(folder: Path) -> dict[str, str | None]:
        return {t.trial_id: t.clip_id for t in RunStore(folder).read(TrialRecord)}

    assert heard(tmp_path) == heard(finished)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("clips/**/*.flac")}

    timed = call("run", "smoke", "--out", tmp_path)  # on a quiet machine, say, the day after
    assert "overall ×" in timed.text
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert "--no-latency" not in RunStore(tmp_path).read_manifest().command
    times = (tmp_path / "latency.jsonl").read_bytes()

    again = call("run", "smoke", "--no-latency", "--out", tmp_path)
    assert "overall ×" in again.text
    assert (tmp_path / "latency.jsonl").read_bytes() == times
    assert RunStore(tmp_path).read_manifest().latency is not None


# -- a kill --------------------------------------------------------------------------------------


# One Python imports what a run needs, and then starts a run for each kill.
DIES = """
import gc, os, signal, sys
import calm_bench.run, calm_bench.score.scorer, calm_bench.systems.loading, scipy.signal, torch
from calm_bench.core import files
from calm_bench.cli.app import main

def run(name, lines, append=files.append_lines):
    def dies(path, data):
        if path.name == name and path.exists() and path.read_bytes().count(10) >= lines:
            os.kill(os.getpid(), signal.SIGKILL)
        append(path, data)

    files.append_lines = dies
    main()

gc.freeze()  # each timing collects garbage first
while len(sys.argv) > 1 and ":" in sys.argv[1]:
    name, lines = sys.argv.pop(1).split(":")
    child = os.fork()
    if child == 0:
        sys.argv = [word for word in sys.argv if ":" not in word]
        run(name, int(lines))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_table(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = ["run", "smoke", "--out", str(out)]
    # Once while clips are made, once while systems are timed, each time with work not yet recorded.
    kills = {"trials.jsonl": 5, "latency.jsonl": 4}
    command = [sys.executable, "-c", DIES, *(f"{name}:{n}" for name, n in kills.items()), *run]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * 2
    for name, lines in kills.items():
        assert (out / name).read_bytes().count(b"\n") >= lines
    call(*run)
    assert quality(RunStore(out).read_results()) == quality(RunStore(finished).read_results())
    clips = {p.relative_to(out): p.read_bytes() for p in out.glob("clips/*/*.flac")}
    assert clips == {
        p.relative_to(finished): p.read_bytes() for p in finished.glob("clips/*/*.flac")
    }


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("run smoek", "unknown benchmark 'smoek'; did you mean smoke?"),
        ("run nowhere.yaml", "cannot read nowhere.yaml: No such file"),
        ("run smoke --systems kalm-debug", "unknown system 'kalm-debug'; did you mean calm-debug"),
        ("run smoke --systems vae-debug", "vae-debug is a codec; a system is needed here"),
        ("run smoke --temps nan", "a temperature is a number from 0 to 10, not nan"),
        ("run smoke --temps 0.8 inf", "a number from 0 to 10, not inf"),
        ("run smoke --temps -1", "a number from 0 to 10, not -1"),
        ("run smoke --temps 1e9", "a number from 0 to 10, not 1e+09"),
        ("run smoke --temps=-inf", "a number from 0 to 10, not -inf"),
        ("run smoke --temps warm", "'warm' is no temperature"),
        ("run smoke --temps", "--temps needs at least one value"),
        ("run smoke --text-temp nan", "a number from 0 to 10, not nan"),
        ("run smoke --text-temp sane", "'sane' is no temperature"),
        ("run smoke --prompts 3", "smoke has 2 prompts, not the 3 asked for"),
        ("run smoke --prompt-audio lost.wav", "lost.wav does not exist"),
        ("run smoke --language de", "smoke listens to no words: it takes no --asr and no"),
        ("run speech --language de", "knows English alone and cannot listen to 'de'"),
        ("run speech --language german", "'german' is no language's code: name German, for one"),
        ("run speech --language dee", "unknown language 'dee'"),
        ("run speech --asr fast-whisper", "; did you mean faster-whisper"),
        ("score . --language de", "knows English alone and cannot listen to 'de'"),
        ("run smoke --device gpu", "unknown device 'gpu': use auto, cpu or cuda"),
        ("report nowhere", "unknown run 'nowhere'"),
        ("report nowhere --out site", "unknown run 'nowhere'"),
        ("report one two", "several runs make one page that stands alone: name it with --out"),
        ("report one --clips 4", "--clips is for a page that stands alone"),
        ("report one two --out site --json", "--json prints the numbers of one run"),
        ("score nowhere", "unknown run 'nowhere'"),
        ("score no/where", "no/where does not exist"),
        ("train lost", "unknown model 'lost'"),
    ],
)
def test_what_is_wrong_is_one_line(
    args: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(*args.split())


@pytest.mark.parametrize("args", ["run smoke --seeds 0", "run smoke --prompts 0", "run"])
def test_usage_errors_exit_with_2(args: str) -> None:
    assert "Usage:" in call(*args.split(), code=2).err


def test_a_device_that_is_not_there_exits_with_3(tmp_path: Path) -> None:
    line = refused("run", "smoke", "--device", "cuda:77", "--out", tmp_path, code=3)
    assert "no device cuda:77" in line


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "has sha256"),
    ],
)
def test_a_damaged_prompt_stops_the_run_before_it_begins(
    tmp_path: Path, damage: object, message: str
) -> None:
    shutil.copytree(paths.benchmarks_dir() / "prompts", tmp_path / "prompts")
    shutil.copy(paths.benchmarks_dir() / "smoke.yaml", tmp_path / "mine.yaml")
    damage(tmp_path / "prompts" / "smoke" / "smoke-1.flac")  # type: ignore[operator]
    line = refused("run", tmp_path / "mine.yaml", "--out", tmp_path / "run")
    assert message in line
    assert "smoke-1" in line
    assert not (tmp_path / "run" / "trials.jsonl").exists()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0), "holds no audio"),
        (np.full(8000, np.nan), "holds NaN or infinite samples"),
        (np.zeros(8000), "is silent"),
        (np.full(100, 0.1), "too short for the prompt of 0.24 s"),
    ],
)
def test_recordings_that_are_no_prompts_are_refused(
    tmp_path: Path, samples: np.ndarray, message: str
) -> None:
    path = tmp_path / "me.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    assert message in refused("run", "smoke", "--prompt-audio", path, "--out", tmp_path / "run")


@pytest.mark.skipif(os.name == "nt", reason="folders are protected otherwise there")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused("run", "smoke", "--out", tmp_path / "file" / "run")
    for more in ((), ("--dry-run",)):
        assert "cannot write" in refused("run", "smoke", "--out", "/proc/run", *more)
    assert "cannot write" in refused("speed", "speech", "--out", "/proc/run", "--dry-run")


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        ("train vae-speech-tiny --device cpu", "CALM_BENCH_HOME names another place"),
        ("data speech", "CALM_BENCH_HOME names another place"),
        ("data folder {} --out {}/file/deeper", "choose another folder with --out"),
        ("run smoke --out {}/file/deeper", "choose another folder with --out"),
        ("score {} --metrics loudness --out {}/file/run", "choose another folder with --out"),
        ("listen {run} --votes {}/file/votes.jsonl", "--votes names another file"),
    ],
)
def test_what_cannot_be_written_names_what_its_command_has(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, instead: str
) -> None:
    (tmp_path / "file").write_text("")
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(32000) / 9), 16000)
    monkeypatch.setenv("CALM_BENCH_HOME", str(tmp_path / "file" / "home"))
    line = refused(*(word.format(tmp_path, run=finished) for word in command.split()))
    assert line.startswith("cannot write ")
    assert line.endswith(f"; {instead}")


def test_a_full_disk_is_one_line_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from calm_bench.generate import clips

    real, calls = clips.write_flac, list[Path]()

    def full(path: Path, *args: object) -> int:
        calls.append(path)
        if len(calls) > 5:
            raise clips.BenchError(f"cannot write {path}: No space left on device")
        return real(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(clips, "write_flac", full)
    assert "No space left" in refused("run", "smoke", "--out", tmp_path / "run")
    assert len(RunStore(tmp_path / "run").read(TrialRecord)) == 4


@pytest.mark.parametrize(
    ("error", "code"), [(OSError(5, "Input/output error", "x"), 2), (OSError("no such word"), 70)]
)
def test_what_a_library_calls_an_os_error_is_not_the_machines(
    monkeypatch: pytest.MonkeyPatch, error: OSError, code: int
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("calm_bench.plan.plan.expand", broken)
    assert (refused("run", "smoke", code=code) == "x: Input/output error") == (code == 2)


def test_someone_elses_folder_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    assert "is not empty and holds no run" in refused("run", "smoke", "--out", tmp_path)


def test_another_plans_folder_is_not_mixed_with(finished: Path) -> None:
    line = refused("run", "smoke", "--temps", "0.1", "--out", finished)
    assert "cannot go on: it was planned with other options" in line


def test_weights_of_another_hash_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "calm-wrong"
    folder.mkdir(parents=True)
    config = yaml.safe_load((paths.models_dirs()[-1] / "calm-debug" / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "weights": {"sha256": "0" * 64}}))
    (folder / "weights.safetensors").write_bytes(b"not these")
    monkeypatch.chdir(tmp_path)
    line = refused("run", "smoke", "--systems", "calm-wrong", "--out", tmp_path / "run")
    assert "weights.safetensors has sha256" in line


# -- the way back --------------------------------------------------------------------------------


@pytest.mark.usefixtures("drawn")
def test_a_report_is_rebuilt_from_the_records(finished: Path) -> None:
    table = finished / "tables" / "smoke.md"
    before = table.read_bytes()
    shutil.rmtree(finished / "tables")
    call("report", finished)
    assert table.read_bytes() == before
    assert min(path.stat().st_size for path in (finished / "plots").iterdir()) > 5000
    found = call("report", finished, "--json").json
    assert found["run_id"] == RunStore(finished).read_results().run_id


def test_a_run_is_scored_again(finished: Path) -> None:
    before = quality(RunStore(finished).read_results())
    call("score", finished)
    assert quality(RunStore(finished).read_results()) == before
    assert "which has its own" in refused("score", finished, "--pair-by", "stem")


def test_a_run_without_its_clips_keeps_its_scores(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "stored"
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("clips"))
    before = (copy / "results.json").read_bytes()
    assert "clips are on disk, so that nothing can be scored again" in refused("score", copy)
    assert (copy / "results.json").read_bytes() == before


def test_everything_that_has_a_name_is_listed() -> None:
    found = call("list", "--json").json
    assert "smoke" in found["benchmarks"]
    assert "calm-debug" in found["models"]
    text = call("list").out
    assert "calm-debug" in text
    assert "loudness" in text
