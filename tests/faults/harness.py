"""Runs one command line in a forked child, which may be killed at a point, and says what it did.

A child has all modules loaded already, so that thousands of commands can be tried. It is killed by
SIGKILL just before it opens a file for writing, renames, removes or syncs one below its folders.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT = 20.0
STOPPED = 180.0
"""Seconds of a processor that no refusal may take, and after how many in all a child is stopped."""
WRITING = os.O_WRONLY | os.O_RDWR
POINTS = {"open": 0, "os.rename": 1, "os.remove": 0, "os.truncate": 0, "os.rmdir": 0}
"""By audit event, which of its arguments is the path that matters: of a rename, the new one."""


@dataclass(frozen=True)
class Said:
    """What a command did: its exit code, negative for a signal, what it said, and what it took."""

    code: int
    text: str
    seconds: float
    """Of a processor; as many as it was given where it was stopped."""

    @property
    def fault(self) -> str | None:
        """What is wrong with it whatever was asked; None if nothing is."""
        if self.seconds >= LIMIT:
            return f"took {self.seconds:.0f} s"
        if "Traceback" in self.text or self.code == 70:
            return "a traceback, or an error that nobody expected"
        return None


def call(
    words: Sequence[str],
    folder: Path,
    home: Path,
    *,
    kill_at: int | None = None,
    limit: float = STOPPED,
    **environ: str,
) -> Said:
    """Run `calm-bench` with these words in a child that works in a folder.

    Args:
        words: What stands behind the command's name.
        folder: Where the child works.
        home: Its CALM_BENCH_HOME.
        kill_at: The number of the point at which it is killed; None for none. Points are counted
            below the folder and the home.
        limit: Seconds after which it is stopped.
        environ: More of its environment.
    """
    said = folder.parent / f"{folder.name}.said"
    sys.stdout.flush()
    sys.stderr.flush()
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 71
        try:
            code = _child(words, folder, said, {"CALM_BENCH_HOME": str(home), **environ}, kill_at)
        finally:
            os._exit(code)
    code, seconds = _wait(pid, begun + limit)
    return Said(code, said.read_text(errors="replace"), seconds or limit)


def _wait(pid: int, until: float) -> tuple[int, float]:
    """A child's exit code and processor time; no time if it had to be stopped."""
    pause = 0.001
    while True:
        found, status, used = os.wait4(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -int(signal.SIGKILL), 0.0
        time.sleep(pause)
        pause = min(0.05, 2 * pause)


def _child(
    words: Sequence[str], folder: Path, said: Path, environ: dict[str, str], kill_at: int | None
) -> int:
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    for number, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, os.fdopen(number, "w", errors="replace"))
    os.environ.update({"COLUMNS": "400", "TERM": "dumb", **environ})
    sys.argv = ["calm-bench", *words]
    import typer.main

    from calm_bench.cli.app import app

    command = typer.main.get_command(app)
    if "stay" not in environ:  # in a folder that is gone
        os.chdir(folder)
    points = [0]
    if kill_at is not None:
        _arm((str(folder), environ["CALM_BENCH_HOME"]), kill_at, points)
    try:
        command(list(words), prog_name="calm-bench")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.write(f"points: {points[0]}" if kill_at is not None else "")
        sys.stderr.flush()
    return 0


def _arm(roots: tuple[str, ...], kill_at: int, points: list[int]) -> None:
    """Die at the point of this number; count those before it."""

    def point(path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            place = str(Path.cwd() / os.fsdecode(path))
            if place.startswith(roots):
                if points[0] == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                points[0] += 1

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        if event in POINTS:
            point(arguments[POINTS[event]])

    sync: Callable[[int], None] = os.fsync

    def fsync(file: int) -> None:
        point(Path(f"/proc/self/fd/{file}").readlink())
        sync(file)

    os.fsync = fsync  # type: ignore[assignment]
    sys.addaudithook(hook)
