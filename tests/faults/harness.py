"""Runs one command line in a forked child, which may be killed at a point, and says what it did.

A child has all modules loaded already, so that thousands of commands can be tried. It is killed by
SIGKILL just before it opens a file for writing, renames, removes or syncs one below its folders.
If power is lost, too, what was not synced by then is gone, or half of it.
"""

import gc
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    """Of a processor; without end where it was stopped."""

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
    power: bool = True,
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
        power: Whether it stays on; without it a kill loses what was not synced.
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
            disk = Disk((str(folder), str(home)), kill_at, power) if kill_at is not None else None
            code = _child(words, folder, said, {"CALM_BENCH_HOME": str(home), **environ}, disk)
        finally:
            os._exit(code)
    code, seconds = _wait(pid, begun + limit)
    return Said(code, said.read_text(errors="replace"), seconds)


def _wait(pid: int, until: float) -> tuple[int, float]:
    """A child's exit code and processor time."""
    pause = 0.001
    while True:
        found, status, used = os.wait4(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -int(signal.SIGKILL), math.inf
        time.sleep(pause)
        pause = min(0.05, 2 * pause)


def _child(
    words: Sequence[str], folder: Path, said: Path, environ: dict[str, str], disk: "Disk | None"
) -> int:
    gc.freeze()  # what all children share stays shared
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
    if disk is not None:
        disk.watch()
    try:
        command(list(words), prog_name="calm-bench")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.write(f"points: {disk.n}" if disk else "")
        sys.stderr.flush()
        if disk and not disk.power:
            disk.lose()
    return 0


@dataclass
class Disk:
    """What a child does to files below some folders, and the end it finds in it.

    Attributes:
        kill_at: The number of the point at which it dies.
        power: Whether what it has not synced then stays.
        n: Points so far.
        synced: By path of what it wrote, how many bytes of it are certain to be on the disk.
    """

    roots: tuple[str, ...]
    kill_at: int
    power: bool = True
    n: int = 0
    synced: dict[str, int] = field(default_factory=dict)

    def watch(self) -> None:
        """Look at all that this process does from now on."""
        sync: Callable[[int], None] = os.fsync

        def fsync(file: int) -> None:
            path = str(Path(f"/proc/self/fd/{file}").readlink())
            if self._point(path):
                self.synced[path] = os.fstat(file).st_size
            sync(file)

        os.fsync = fsync  # type: ignore[assignment]
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        flags = arguments[2] if event == "open" else 0
        if event not in POINTS or (event == "open" and not (flags or 0) & WRITING):
            return
        path = arguments[POINTS[event]]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = str(Path.cwd() / os.fsdecode(path))
        if not self._point(place):
            return
        if event == "open":
            whole = (
                0 if flags & os.O_TRUNC or not Path(place).exists() else Path(place).stat().st_size
            )
            self.synced[place] = min(whole, self.synced.get(place, whole))
        elif event == "os.rename":
            old = str(Path.cwd() / os.fsdecode(arguments[0]))
            for known in [p for p in self.synced if p == old or p.startswith(f"{old}/")]:
                self.synced[place + known.removeprefix(old)] = self.synced.pop(known)

    def _point(self, place: str) -> bool:
        """Whether a path lies below the folders; if its turn has come the process dies."""
        if not place.startswith(self.roots):
            return False
        if self.n == self.kill_at:
            if not self.power:
                self.lose()
            os.kill(os.getpid(), signal.SIGKILL)
        self.n += 1
        return True

    def lose(self) -> None:
        """Cut off what was not synced, or half of it, which tears a line or an array."""
        torn, self.kill_at = self.kill_at % 2, -1
        for name, whole in self.synced.items():
            path = Path(name)
            left = path.stat().st_size - whole if path.is_file() else 0
            if left > 0:
                os.truncate(path, whole + (left // 2 if torn else 0))
