"""A comparison with other packages: which pairs, where to, each in a process of its own."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from calm_bench import __version__
from calm_bench.core import paths
from calm_bench.core.code import version_of
from calm_bench.core.files import is_there
from calm_bench.core.progress import cores
from calm_bench.errors import BenchError, InputError
from calm_bench.speed.peers.items import Pair, missing_package, refuse_if_none
from calm_bench.speed.peers.worker import PeerRequest
from calm_bench.store.environment import describe_environment
from calm_bench.store.run_store import RunStore
from calm_bench.types import KernelsOf, StrictModel

MACHINE_FILE = "machine.json"
PACKAGES = ("torch", "pocket-tts", "moshi", "transformers", "torchao")
"""What decides the times; torchao because pocket-tts prefers it for int8 wherever it is there."""


class Machine(StrictModel):
    """machine.json: where and with what the blocks were timed; one folder holds one of these."""

    processor: str
    cores: int
    threads: int
    kernels: KernelsOf = "fixed"
    python: str
    versions: dict[str, str | None]
    calm_bench: str
    commit: str | None
    command: tuple[str, ...]
    started: str

    def differs(self, other: "Machine") -> list[str]:
        """In what two descriptions differ that keeps their times apart."""
        names = ("processor", "threads", "kernels", "versions", "calm_bench", "commit")
        return [name for name in names if getattr(self, name) != getattr(other, name)]


def run_peers(request: PeerRequest, out: Path | None, *, fresh: bool = False) -> Path:
    """Time every pair whose package is here, and return the folder of the records.

    That is `out`, or a folder for this number of threads.

    Raises:
        BenchError: If no package is here, or a pair's process failed.
        InputError: If the folder was begun on another machine or with other versions.
    """
    refuse_if_none(request.pairs)
    n = request.threads
    folder = out or paths.runs_dir() / f"peers-{n}-thread{'s'[: n - 1]}"
    store = RunStore(folder)
    if is_there(folder / MACHINE_FILE):
        read_machine(folder)  # someone else's is refused
    elif folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no times of these: choose another --out")
    with store.lock():
        if fresh:
            store.clear("blocks.jsonl", MACHINE_FILE)
        _begin(store, request)
        for pair in request.pairs:
            if missing_package(pair) is None:
                _time(pair, request, folder)
    return folder


def read_machine(folder: Path) -> Machine:
    """What a folder's blocks were timed on.

    Raises:
        InputError: If it is no folder of this kind.
    """
    path = folder / MACHINE_FILE
    if not is_there(path):
        raise InputError(f"{folder} has no {MACHINE_FILE}: `calm-bench speed peers` writes one")
    return RunStore(folder).read_json(Machine, MACHINE_FILE)


def _begin(store: RunStore, request: PeerRequest) -> None:
    now = _describe(request)
    if not is_there(store.root / MACHINE_FILE):
        store.write_json(MACHINE_FILE, now)
        return
    if changes := read_machine(store.root).differs(now):
        raise InputError(
            f"{store.root} was begun with other {', '.join(changes)}: its times cannot be mixed "
            "with these; choose another folder with --out, or start over with --fresh"
        )


def _describe(request: PeerRequest) -> Machine:
    found = describe_environment("cpu")
    return Machine(
        processor=str(found["device_name"]),
        cores=cores(),
        threads=request.threads,
        kernels=request.kernels,
        python=platform.python_version(),
        versions={name: version_of(name) for name in PACKAGES},
        calm_bench=__version__,
        commit=found["commit"],
        command=request.command,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _time(pair: Pair, request: PeerRequest, folder: Path) -> None:
    """One pair in a process of its own: packages set threads and patch what they please."""
    environ = os.environ | {
        "OMP_NUM_THREADS": str(request.threads),
        "MKL_NUM_THREADS": str(request.threads),
        "NO_TORCH_COMPILE": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    worker = [sys.executable, "-m", "calm_bench.speed.peers.worker"]
    command = [*worker, str(folder), pair.name, request.model_dump_json()]
    done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise BenchError(
            f"timing {pair.name} failed with exit code {done.returncode}: its own message stands "
            "above; what was timed so far is kept"
        )
