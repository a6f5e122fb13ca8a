"""A chunk of recordings made by a worker in a process of its own: whole on disk, or not at all."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from calm_bench.core.files import replace
from calm_bench.errors import BenchError


def run_worker(
    command: Sequence[str],
    job: dict[str, Any],
    path: Path,
    made: Callable[[], None],
    *,
    n_lines: int,
    doing: str,
) -> None:
    """Give a worker its job on standard input; its JSON lines appear at `path` when all are there.

    Args:
        command: What Python is to run: a script's path, or -m and a module.
        job: What the worker reads.
        path: Where its lines go.
        made: Called after every line.
        n_lines: How many lines there must be.
        doing: Who does what, for the message if it fails.

    Raises:
        BenchError: If the worker fails; the message ends with its last line.
    """
    lines: list[str] = []
    with tempfile.TemporaryFile("w+") as problems:
        worker = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=problems,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            with worker.stdin as stdin:
                stdin.write(json.dumps(job))
            for line in worker.stdout:
                lines.append(line)
                made()
        except BrokenPipeError:
            pass  # the worker died before it read its job: its exit code and last words follow
        except BaseException:
            worker.kill()
            raise
        finally:
            worker.stdout.close()
            code = worker.wait()
        problems.seek(0)
        last = (problems.read().strip().splitlines() or ["no message"])[-1]
    if code or len(lines) != n_lines:
        raise BenchError(f"{doing} {path.stem} (exit code {code}): {last}")
    replace(path, "".join(lines).encode())
