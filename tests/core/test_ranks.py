"""Ranks by themselves: real processes that take work, share what the first finds, and meet."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from calm_bench.core import progress
from calm_bench.core.ranks import ALONE, Ranks, join, tells_of_loss
from calm_bench.errors import InputError

Started = list[subprocess.CompletedProcess[str]]
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*LAUNCHERS, *(name for name in os.environ if name.startswith("SLURM_"))]:
        monkeypatch.delenv(name, raising=False)


def as_torchrun(rank: int, port: int) -> dict[str, str]:
    about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    about |= {"MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in about.items()}}


def as_slurm(rank: int) -> dict[str, str]:
    about: dict[str, object] = {
        "PROCID": rank,
        "LOCALID": rank,
        "NODEID": 0,
        "NTASKS": 2,
        "NTASKS_PER_NODE": 2,
    }
    about |= {"JOB_ID": 7, "NODELIST": "localhost"}
    return {f"SLURM_{name}": str(value) for name, value in about.items()}


def start(script: str) -> Started:
    """What two processes that run a script say, each with the variables of its rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = f"from calm_bench.core.ranks import join\nranks = join()\n{script}"
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, **as_torchrun(rank, port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    told = [process.communicate(timeout=120) for process in begun]
    return [
        subprocess.CompletedProcess(one.args, one.returncode, *said)
        for one, said in zip(begun, told, strict=True)
    ]


WORK = """
found = ranks.share(lambda: {"by": ranks.rank})
with ranks.meeting():
    taken = [n for n in range(100) if ranks.take("work", n)]
print(found["by"], ranks.count, *taken)
"""


@pytest.mark.slow
def test_every_piece_of_work_is_taken_by_one_rank_and_the_first_decides() -> None:
    done = start(WORK)
    assert [one.returncode for one in done] == [0, 0], done
    said = [[int(word) for word in one.stdout.split()] for one in done]
    assert [words[:2] for words in said] == [[0, 2], [0, 2]]
    assert sorted(said[0][2:] + said[1][2:]) == list(range(100))


@pytest.mark.slow
def test_an_error_of_one_rank_is_told_by_the_first_and_ends_both() -> None:
    failing = """
from calm_bench.errors import InputError
try:
    with ranks.meeting():
        if ranks.rank == 1:
            raise InputError("the disk of this machine is full")
except InputError as error:
    print("told by itself")
except Exception as error:
    print(error)
"""
    first, other = start(failing)
    assert "rank 1: the disk of this machine is full; what is finished is kept" in first.stdout
    assert other.stdout == ""
    assert other.returncode == 2


@pytest.mark.slow
def test_an_error_of_the_first_rank_is_its_own_and_the_others_end() -> None:
    first, other = start("ranks.share(lambda: 1 / 0)")
    assert "ZeroDivisionError" in first.stderr
    assert other.returncode == 2
    assert "Traceback" not in other.stderr


@pytest.mark.slow
def test_a_rank_that_is_killed_is_missed_at_the_next_meeting() -> None:
    killed = """
import os, signal
from calm_bench.errors import BenchError
try:
    with ranks.meeting():
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
except BenchError as error:
    print(error)
"""
    first, other = start(killed)
    assert "another rank has ended before its work was done" in first.stdout
    assert "the same command goes on" in first.stdout
    assert other.returncode == -9


AT_WORK = """
import os, signal, sys, time
import torch
import torch.distributed as dist
from calm_bench.core.ranks import tells_of_loss

def step(n):
    torch.ones(n, 3) @ torch.ones(3, 4)
    for _ in range(2):
        dist.all_reduce(torch.ones(9))

step(2)
try:
{}
except RuntimeError as error:
    print(tells_of_loss(error), type(error).__name__, error)
    raise
"""
"""Two ranks at steps of one work, in which something happens."""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)"])
def test_a_rank_that_is_gone_is_known_whatever_the_error_says(how: str) -> None:
    first, _ = start(AT_WORK.format(f"    {how} if ranks.rank else step(2)"))
    assert first.stdout.startswith("True RuntimeError"), first


@pytest.mark.slow
def test_an_error_of_ones_own_is_no_loss_though_it_speaks_of_gloo() -> None:
    own = """
    if ranks.rank == 0:
        raise RuntimeError("/home/gloo/transport: shapes do not fit")
    step(2)"""
    first, other = start(AT_WORK.format(own))
    assert first.stdout.startswith("False RuntimeError /home/gloo")
    assert first.returncode == other.returncode == 1  # neither waits for the other
    assert other.stdout.startswith("True")
    both = "    torch.ones(2, 3) @ torch.ones(4, 2)"
    for one in start(AT_WORK.format(both)):
        assert one.stdout.startswith("False RuntimeError mat1"), one


def test_one_process_has_lost_nobody() -> None:
    assert not tells_of_loss(RuntimeError("[/gloo/transport/tcp/pair.cc:537] Read error"))


def test_one_process_takes_all_and_waits_for_nobody() -> None:
    assert join() is ALONE
    assert [ALONE.take("work"), ALONE.take("work")] == [True, True]
    assert ALONE.share(lambda: 3) == 3
    assert ALONE.turned("abc") == ["a", "b", "c"]
    with pytest.raises(KeyError), ALONE.meeting():
        raise KeyError


def test_each_rank_begins_elsewhere_and_comes_to_all() -> None:
    second = Ranks()
    second.rank, second.count = 1, 3
    assert second.turned("abcdefg") == list("cdefgab")


def test_ranks_that_a_launcher_started_start_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in as_torchrun(0, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="--processes 3: 2 ranks were started already"):
        join(3)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join() is ALONE
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(InputError, match="variables of a launcher cannot be used"):
        join()


def test_a_shell_of_a_slurm_job_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**as_slurm(0), "SLURM_JOB_NAME": "interactive"}.items():
        monkeypatch.setenv(name, value)
    assert join() is ALONE


def test_tasks_of_slurm_without_their_number_on_each_node_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in as_slurm(0).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(InputError, match="ntasks-per-node"):
        join()


def test_ranks_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    assert progress.cores() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert progress.cores() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "9")
    assert progress.cores() == 1


def test_the_module_is_the_command(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "calm_bench", "--version"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("calm-bench ")
