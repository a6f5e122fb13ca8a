"""Several processes at one piece of work: ranks of torchrun, of SLURM, or of this machine.

Rank 0 decides, and tells the others (`share`). A piece of work is done by whoever is free and takes
it first (`take`), so that a slow machine takes less; and where the next step needs what all have
made, all meet (`meeting`). Results go through files; ranks tell each other only what is small.
One process is the case of one rank.
"""

import atexit
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from calm_bench.core import paths, progress
from calm_bench.core.files import disk_errors
from calm_bench.errors import BenchError, InputError, describe

T = TypeVar("T")

COMING = timedelta(minutes=5)
"""How long ranks wait for each other to be there at all."""
SEEING = 5.0
"""Seconds until a file that one machine has written is seen on the others."""
ANSWERING = 1.0
"""Seconds in which it is seen that a rank to which something is said is gone."""
WORKING = timedelta(days=7)
"""And at a meeting: a rank that has died is found at once, one that is slow has all the time."""


class Ranks:
    """This process by itself: it decides all, and does all.

    Attributes:
        rank: Its number; rank 0 writes the run, speaks, and is the one that is timed.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that decides and speaks."""
        return self.rank == 0

    def take(self, *work: object) -> bool:
        """Whether a piece of work is this rank's: of all that ask, the first has it."""
        return True

    def turned(self, items: Sequence[T]) -> list[T]:
        """Items from this rank's place in them on: each rank begins with what others end with.

        So few load the same networks for work that they take from each other.
        """
        first = self.rank * len(items) // self.count
        return [*items[first:], *items[:first]]

    def share(self, find: Callable[[], T]) -> T:
        """What rank 0 finds, on every rank."""
        return find()

    def apart(self) -> Path | None:
        """Rank 0's CALM_BENCH_HOME, if this rank's is another: looked for in a few seconds.

        Raises:
            InputError: If nothing can be written there.
        """
        token = self.share(_leave_token)
        with self.meeting():
            own = paths.home() / "locks" / token.name
            until = time.monotonic() + SEEING
            while not (seen := own.is_file()) and time.monotonic() < until:
                time.sleep(0.1)
        token.unlink(missing_ok=True)
        return None if seen else token.parent.parent

    @contextmanager
    def meeting(self) -> Iterator[None]:
        """What is inside is done by all ranks, each its part, before any goes on.

        Raises:
            BenchError: On rank 0, if another rank failed or has ended. The others then end.
        """
        yield

    def device(self, name: str) -> str:
        """Where this rank's systems run: of several GPUs of a machine, each rank has one."""
        return name


ALONE = Ranks()


class Connected(Ranks):
    """One of several ranks, which speak to each other in torch's process group."""

    def __init__(
        self, rank: int, count: int, children: Sequence[subprocess.Popen[bytes]] = ()
    ) -> None:
        """Of these ranks, some of them its children; they are connected, or `connect` does it."""
        self.rank, self.count, self._children, self._met = rank, count, children, 0

    def connect(self) -> None:
        """Find the others by Gloo, at MASTER_ADDR and MASTER_PORT.

        Raises:
            BenchError: If they do not come, or nothing says where.
        """
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost rank is told in our words
        import torch.distributed as dist
        from torch.distributed.rendezvous import rendezvous

        rank, count = self.rank, self.count
        try:
            self._store, *_ = next(iter(rendezvous("env://", rank, count, timeout=COMING)))
            dist.init_process_group(
                "gloo", store=self._store, rank=rank, world_size=count, timeout=WORKING
            )
        except (RuntimeError, ValueError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise BenchError(
                f"the {count} ranks did not find each other within {COMING} ({why}): "
                "under SLURM start them with srun, elsewhere with torchrun"
            ) from error
        atexit.register(dist.destroy_process_group)
        progress.silenced = rank > 0

    def take(self, *work: object) -> bool:
        name = "/".join(map(str, (self._met, *work)))  # between two meetings, a name is given once
        with self._listening():
            return int(self._store.add(name, 1)) == 1

    def share(self, find: Callable[[], T]) -> T:
        import torch.distributed as dist

        told: list[Any] = [None]
        with self.meeting():
            if self.is_first:
                told = [find()]
        with self._listening():
            dist.broadcast_object_list(told)
        found: T = told[0]
        return found

    @contextmanager
    def meeting(self) -> Iterator[None]:
        failed: Exception | None = None
        try:
            yield
        except Exception as error:
            failed = error
        try:
            faults = self._gathered(None if failed is None else describe(failed))
        except (BenchError, SystemExit):
            if failed is None:
                raise
            faults = []
        if failed is not None and self.is_first:
            raise failed
        if failed is not None or any(faults):
            self._end(next((f"rank {at}: {fault}" for at, fault in enumerate(faults) if fault), ""))

    def _gathered(self, own: str | None) -> list[str | None]:
        import torch.distributed as dist

        self._met += 1
        found: list[str | None] = [None] * self.count
        with self._listening():
            dist.all_gather_object(found, own)
        return found

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Where the others are spoken to, which some of them may have left."""
        try:
            yield
        except RuntimeError as error:
            describe(error)
            self._end(f"{self._who_ended()} has ended before its work was done")

    def _end(self, why: str) -> None:
        """End this rank; the first one says why, and until it has, a launcher must not end it."""
        import torch.distributed as dist

        if self.is_first:
            raise BenchError(f"{why}; what is finished is kept, the same command goes on from here")
        with suppress(RuntimeError):
            dist.barrier()
        raise SystemExit(BenchError.exit_code)

    def _who_ended(self) -> str:
        for rank, child in enumerate(self._children, 1):
            with suppress(subprocess.TimeoutExpired):
                if code := child.wait(timeout=1):
                    how = f"signal {-code}" if code < 0 else f"exit code {code}"
                    return f"rank {rank} ({how})"
        return "another rank"

    def device(self, name: str) -> str:
        if name != "cuda":
            return name
        import torch

        place = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0
        index = int(place) % torch.cuda.device_count()
        return f"{name}:{index}" if index else name


def tells_of_loss(error: RuntimeError) -> bool:
    """Whether an error came up because another rank of torch's process group is gone.

    Gloo tells of it by an error of no type, in words that change. So the others are asked again:
    where one is gone that fails at once, and those that are at work, or have the same error, do not
    fail.
    """
    import torch.distributed as dist

    if not dist.is_initialized() or dist.get_world_size() == 1:
        return False
    if isinstance(error, dist.DistError) or dist.get_backend() != "gloo":
        return isinstance(error, dist.DistError)
    options, end = dist.BarrierOptions(), time.monotonic() + ANSWERING
    options.timeout = timedelta(seconds=2 * ANSWERING)  # or it would outlast this process
    try:
        asked = dist.distributed_c10d._get_default_group().barrier(options)
    except RuntimeError:
        return True
    while not asked.is_completed() and time.monotonic() < end:
        time.sleep(0.01)
    return asked.is_completed() and not asked.is_success()


def _leave_token() -> Path:
    token = paths.home() / "locks" / f"rank-0-{uuid4().hex}"
    with disk_errors(token):
        token.parent.mkdir(parents=True, exist_ok=True)
        token.touch()
    return token


def join(processes: int = 1) -> Ranks:
    """The ranks that this process is one of, as torchrun's or SLURM's variables say.

    Args:
        processes: How many to be on this machine; more than one starts the others, with the words
            that this one was started with.

    Raises:
        InputError: If the variables cannot be used, or say something else.
        BenchError: If the other ranks do not come.
    """
    found, children = _place(), list[subprocess.Popen[bytes]]()
    if found is not None and processes not in (1, found[1]):
        raise InputError(
            f"--processes {processes}: {found[1]} ranks were started already, by torchrun or srun"
        )
    if found is None and processes > 1:
        found, children = (0, processes), _start(processes)
    if found is None or found[1] == 1:
        return ALONE
    ranks = Connected(*found, children)
    ranks.connect()
    return ranks


def _place() -> tuple[int, int] | None:
    """This process's rank and how many there are; None where it was started alone."""
    known = os.environ
    try:
        if "RANK" in known and "WORLD_SIZE" in known:
            return int(known["RANK"]), int(known["WORLD_SIZE"])
        return _place_of_slurm() if int(known.get("SLURM_NTASKS", 1)) > 1 else None
    except (ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"the variables of a launcher cannot be used: {error}") from error


def _place_of_slurm() -> tuple[int, int] | None:
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    if not SLURMEnvironment.detect():  # a shell of a job, as salloc gives it
        return None
    slurm = SLURMEnvironment(auto_requeue=False)
    os.environ["MASTER_ADDR"] = slurm.main_address
    os.environ["MASTER_PORT"] = str(slurm.main_port)
    return slurm.global_rank(), slurm.world_size()


def launched() -> tuple[int, int]:
    """How many ranks a launcher has started on each machine, and on how many; (1, 1) for none."""
    found = _place()
    if found is None:
        return 1, 1
    each = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE")
    here = int(each or found[1])
    return here, max(1, found[1] // here)


def _start(count: int) -> list[subprocess.Popen[bytes]]:
    """Start ranks 1 to `count` - 1 here, with this one's words; they share this machine's cores."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = max(1, progress.cores() // count)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # torch has not been loaded yet
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": count}
    os.environ.update({key: str(value) for key, value in shared.items()})
    os.environ["LOCAL_WORLD_SIZE"] = str(count)
    children = []
    for rank in range(1, count):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        words = [sys.executable, "-m", "calm_bench", *sys.argv[1:]]
        children.append(subprocess.Popen(words, env={**os.environ, **place}))
        atexit.register(children[-1].wait)
    return children
