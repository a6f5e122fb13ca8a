"""Several ranks make the run of one process, to the byte; a rank that dies costs its batch."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from calm_bench.plan.overrides import Overrides
from calm_bench.plan.plan import expand
from calm_bench.run import run
from calm_bench.store.records import TrialRecord
from calm_bench.store.run_store import RunStore

pytestmark = pytest.mark.slow

KILLED = """
import os, signal, sys, time
from pathlib import Path
from calm_bench.cli.app import main
from calm_bench.generate.clips import Studio

make, mark = Studio._run, Path(os.environ["CALM_BENCH_HOME"]) / "killed"

def killed(self, batch):
    if os.environ["RANK"] == "1":
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    while not mark.exists():
        time.sleep(0.05)
    return make(self, batch)

Studio._run = killed
sys.argv[0] = "calm-bench"
main()
"""
LAUNCHED = ("MASTER_", "SLURM_", "LOCAL_", "NODE_RANK", "RANK", "WORLD_SIZE")
"""How variables begin that a launcher sets, and a training in this process leaves behind."""
RECORDS = ("trials.jsonl", "scores.jsonl", "cell_scores.jsonl", "results.json")


def ended(
    folder: Path,
    places: list[Mapping[str, str]],
    *also: str,
    words: tuple[str, ...] = ("-m", "calm_bench"),
    verb: tuple[str, ...] = ("run", "smoke", "--no-latency", "--out"),
) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of `run smoke`, or another verb, in a process for each place."""
    home = folder.with_name(f"{folder.name}-home")
    home.mkdir(exist_ok=True)
    mine = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHED)}
    asked = [*verb, str(folder), *also]
    begun = [
        subprocess.Popen(
            [sys.executable, *words, *asked],
            env={**mine, "CALM_BENCH_HOME": str(home), **place},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in places
    ]
    told = [process.communicate(timeout=300) for process in begun]
    return [(one.returncode, *said) for one, said in zip(begun, told, strict=True)]


def torchrun(port: int) -> list[Mapping[str, str]]:
    about = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    return [{**about, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in (0, 1)]


def slurm(job: int) -> list[Mapping[str, str]]:
    about = {"JOB_ID": str(job), "NODELIST": "localhost", "NTASKS": "2", "NTASKS_PER_NODE": "2"}
    ranks = [{**about, "PROCID": str(n), "LOCALID": str(n), "NODEID": "0"} for n in (0, 1)]
    return [{f"SLURM_{name}": value for name, value in rank.items()} for rank in ranks]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    plan = expand("smoke", Overrides(latency=False))
    run(plan, out=folder, device="cpu")
    return folder


def same(folder: Path, other: Path) -> bool:
    clips = sorted(path.relative_to(folder) for path in folder.glob("clips/*/*.flac"))
    names = [Path(name) for name in RECORDS] + clips
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_two_processes_of_one_machine_make_the_run_of_one(alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    ((code, out, errors),) = ended(folder, [{}], "--processes", "2")
    assert code == 0, errors
    assert out.count("listen:") == 1
    assert same(alone, folder)
    assert not (folder / "ranks").exists()
    (folder / "results.json").unlink()
    subprocess.run(
        [sys.executable, "-m", "calm_bench", "score", str(folder), "--processes", "2"],
        env={**os.environ, "CALM_BENCH_HOME": str(tmp_path / "another")},
        check=True,
    )
    assert same(alone, folder)


def test_a_rank_that_dies_costs_its_batch_and_the_next_run_makes_it(
    alone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    (code, _, errors), (killed, _, _) = ended(folder, torchrun(29_411), words=("-c", KILLED))
    assert (code, killed) == (2, -signal.SIGKILL)
    assert "another rank has ended before its work was done" in errors
    made = RunStore(folder).of_rank(0).read(TrialRecord)
    assert len(made) == 16 - 2  # all but one batch
    before = {trial.clip: (folder / str(trial.clip)).stat().st_mtime_ns for trial in made}
    first, other = ended(folder, slurm(4_412))
    assert (first[0], other[0]) == (0, 0), first
    assert other[1] == other[2] == ""  # one rank speaks
    after = {clip: (folder / str(clip)).stat().st_mtime_ns for clip in before}
    assert after == before
    trials, of_one = (RunStore(path).read(TrialRecord) for path in (folder, alone))
    assert {t.trial_id: t for t in trials} == {t.trial_id: t for t in of_one}
    assert (folder / "results.json").read_bytes() == (alone / "results.json").read_bytes()


def apart(port: int, tmp_path: Path) -> list[Mapping[str, str]]:
    """Two ranks with a home each, as on two machines that share no disk."""
    homes = [tmp_path / f"home{rank}" for rank in (0, 1)]
    return [
        {**place, "CALM_BENCH_HOME": str(home)}
        for place, home in zip(torchrun(port), homes, strict=True)
    ]


def test_ranks_that_share_no_home_say_so_and_make_the_same_run(alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "apart"
    (first, _, _), (other, _, errors) = ended(folder, apart(29_413, tmp_path))
    assert (first, other) == (0, 0)
    assert "rank 1 does not see" in errors
    assert same(alone, folder)
    assert not list((tmp_path / "home0/locks").glob("rank-0-*"))


def test_a_training_whose_ranks_share_no_home_is_refused_in_one_line(
    tmp_path: Path, checkout: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    text = (checkout / "models/calm-debug/config.yaml").read_text()
    (folder / "config.yaml").write_text(
        text + "training: {corpus: none, steps: 1, batch_size: 1, learning_rate: 0.1}\n"
    )
    places = apart(29_414, tmp_path)
    (code, _, errors), (other, _, also) = ended(
        folder, places, "--device", "cpu", "--threads", "1", verb=("train",)
    )
    assert (code, other, also) == (2, 2, "")
    assert f"rank 1: it does not see {tmp_path / 'home0'} of rank 0: let CALM_BENCH_HOME" in errors
