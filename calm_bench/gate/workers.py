"""Worker processes that take turns: one interpreter per tree, one thread each, on one core."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from calm_bench.errors import BenchError

Times = dict[str, dict[str, int]]
"""Nanoseconds of a block by clock (cpu, wall) and stage."""

SCRIPT = Path(__file__).with_name("worker.py")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PROBE_NS = 40_000_000


class Worker:
    """`worker.py` over one tree; it sleeps unless it is asked for a block."""

    def __init__(
        self, tree: Path, name: str, systems: Mapping[str, dict[str, str]], core: int | None
    ) -> None:
        """Start it over the folder `tree`, which messages call `name`, and let it load systems.

        Args:
            tree: A checkout.
            name: What it is called in messages.
            systems: By their names in `block`, {"model": name, **options of load_system}.
            core: The only core it may use; None leaves that to the operating system.
        """
        self.name = name
        self._tree = tree.resolve()
        # An empty folder to run in: ./models would be searched before the tree's own.
        self._folder = tempfile.TemporaryDirectory(prefix="calm-bench-worker-")
        self._errors = Path(self._folder.name, "stderr.txt")
        paths = [str(self._tree), *filter(None, [os.environ.get("PYTHONPATH")])]
        with self._errors.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(SCRIPT)],
                cwd=self._folder.name,
                env=os.environ | ONE_THREAD | {"PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._say({"load": dict(systems), "core": core})

    def __enter__(self) -> Self:
        """The worker itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process and remove its folder."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def ready(self) -> list[str]:
        """Wait until all is loaded; what there is to say of it.

        Raises:
            BenchError: If this tree cannot load one of the systems.
        """
        reply = self._hear()
        if not Path(reply["package"]).resolve().is_relative_to(self._tree):
            raise BenchError(f"{self.name} runs {reply['package']}, not what lies in {self._tree}")
        return [f"{self.name}: {note}" for note in reply["notes"]]

    def block(self, system: str, n_frames: int) -> Times:
        """Time one generation of `n_frames` frames."""
        self._say({"block": system, "frames": n_frames})
        return self._hear()

    def _say(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then there will be no reply, and stderr says why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._errors.read_text(encoding="utf-8").strip().splitlines()
            raise BenchError(f"timing {self.name} broke off: {said[-1] if said else 'no message'}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise BenchError(f"{self.name} cannot be timed: {reply['error']}")
        return reply


def quietest_core() -> int | None:
    """The core on which a spinning process is kept waiting least; None where none can be chosen.

    All workers are bound to it: on different cores, one of them busy or of a slower kind, equal
    trees would differ.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    allowed = os.sched_getaffinity(0)
    try:
        return max(sorted(allowed), key=_share_of_core)
    finally:
        os.sched_setaffinity(0, allowed)


def _share_of_core(core: int) -> float:
    """The share of a core's time that this process gets while it wants all of it."""
    os.sched_setaffinity(0, {core})
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    while time.perf_counter_ns() - wall < PROBE_NS:
        pass
    return (time.process_time_ns() - cpu) / (time.perf_counter_ns() - wall)
