"""A corpus made in chunks by workers in processes of their own: each whole on disk, or not at all.

`<corpus>/chunks/<name>.jsonl` has a line per recording of a chunk. What is there is kept, so that a
killed command goes on where it stopped.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from calm_bench.core.files import is_there, replace
from calm_bench.core.progress import Advance, ordered_map, stage
from calm_bench.data.corpus import read_card
from calm_bench.errors import BenchError, InputError

Lines = list[dict[str, Any]]
Part = TypeVar("Part")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A process that makes recordings.

    Attributes:
        command: What Python is to run: a script's path, or -m and a module.
        title: What stands before the progress bar.
        failed: Who failed at what, before the name of the chunk.
    """

    command: Sequence[str]
    title: str
    failed: str


def refuse_other_settings(
    out: Path, settings: Mapping[str, Any], growing: Collection[str], what: str
) -> None:
    """Refuse a folder that holds `what` made otherwise; the settings in `growing` may differ.

    Raises:
        InputError: If it does; the message names the settings.
    """
    if not is_there(out / "corpus.json"):
        return
    known = read_card(out).settings
    every = {*known, *settings}.difference(growing)
    if differing := sorted(key for key in every if known.get(key) != settings.get(key)):
        raise InputError(
            f"{out} holds {what} made with other settings ({', '.join(differing)}; see its "
            "corpus.json): choose another folder with --out, or remove this one to make it anew"
        )


def make_chunks(
    out: Path,
    chunks: Mapping[str, Sequence[Part]],
    worker: Worker,
    kept: Callable[[Path, Sequence[Part]], Lines | None],
    job: Callable[[str], dict[str, Any]],
    jobs: int | None,
) -> dict[str, Lines]:
    """Have the missing chunks made, in their order, and return the lines of all by name.

    `kept` gives the lines of a chunk at a path if it is there, and refuses what is another chunk;
    `job` what the worker reads to make one. `jobs` are made at a time, or one per core.

    Raises:
        BenchError: If a worker fails.
    """
    places = {name: out / "chunks" / f"{name}.jsonl" for name in chunks}
    # Whatever is refused is refused before hours go into the rest.
    missing = [name for name in chunks if kept(places[name], chunks[name]) is None]
    asked = {name: job(name) for name in missing}
    if missing:
        total = sum(map(len, chunks.values()))
        done = total - sum(len(chunks[name]) for name in missing)
        with stage(worker.title, total, done) as advance:

            def make(name: str) -> None:
                run_worker(worker, asked[name], places[name], len(chunks[name]), advance)

            for _ in ordered_map(make, missing, jobs):
                pass
    return {name: kept(places[name], chunk) or [] for name, chunk in chunks.items()}


def run_worker(
    worker: Worker, job: Mapping[str, Any], path: Path, n_lines: int, advance: Advance
) -> None:
    """Give a worker its job on standard input; its JSON lines appear at `path` when all are there.

    Raises:
        BenchError: If the worker fails or does not write `n_lines`; the message ends with its last
            line.
    """
    lines: list[str] = []
    with tempfile.TemporaryFile("w+") as problems:
        process = subprocess.Popen(
            [sys.executable, *worker.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=problems,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with process.stdin as stdin:
                stdin.write(json.dumps(job))
            for line in process.stdout:
                lines.append(line)
                advance(1)
        except BrokenPipeError:
            pass  # the worker died before it read its job: its exit code and last words follow
        except BaseException:
            process.kill()
            raise
        finally:
            process.stdout.close()
            code = process.wait()
        problems.seek(0)
        last = (problems.read().strip().splitlines() or ["no message"])[-1]
    if code or len(lines) != n_lines:
        raise BenchError(f"{worker.failed} {path.stem} (exit code {code}): {last}")
    replace(path, "".join(lines).encode())
