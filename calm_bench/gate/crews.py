"""The processes of the time gates: which trees they run, who works when, a core for all of them.

Two processes of one and the same tree differ by a few percent, because memory falls differently;
within a process that never averages out. So the rounds are spread over several crews, each started
anew, and the control is a process of its own wherever the other side is one. Processes take turns:
one interpreter per tree, one thread each, on one core. A tree is this one, or another version of it
laid out beside it for as long as it is timed.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import calm_bench
from calm_bench.core.progress import stage
from calm_bench.errors import BenchError, InputError
from calm_bench.gate.rule import Round, Times
from calm_bench.seeds import derive_seed

CREWS = 3
ROUNDS = 8
FRAMES = 12
WARM_UP = 2
COMMIT = 12
"""Digits of a commit's name that are shown."""
SCRIPT = Path(__file__).with_name("worker.py")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PROBE_NS = 40_000_000


class Arm(NamedTuple):
    """A block of a round: which process makes it, of which of the systems it has loaded."""

    worker: str
    system: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Which processes there are, what each loads, and what a round consists of.

    Attributes:
        trees: The tree of each worker.
        systems: What each worker loads, {system: {"model": name, **options of load_system}}.
        groups: Arms by name; those of a group are compared, and so are timed next to each other.
    """

    title: str
    trees: Mapping[str, Path]
    systems: Mapping[str, Mapping[str, dict[str, str]]]
    groups: Sequence[Mapping[str, Arm]]


def timed_rounds(schedule: Schedule, length: int, notes: list[str]) -> list[Round]:
    """The blocks of `length` times the usual number of rounds; what workers say goes to `notes`."""
    rng = random.Random(derive_seed("check", schedule.title, length))
    found: list[Round] = []
    with stage(schedule.title, length * CREWS * ROUNDS) as advance:
        for _ in range(length * CREWS):
            with ExitStack() as stack:
                crew = _started(schedule, stack, notes)
                for _ in range(ROUNDS):
                    found.append(_round(schedule, crew, rng))
                    advance(1)
    return found


def _started(schedule: Schedule, stack: ExitStack, notes: list[str]) -> dict[str, "Worker"]:
    core = quietest_core()
    crew = {
        name: stack.enter_context(Worker(tree, name, schedule.systems[name], core))
        for name, tree in schedule.trees.items()
    }
    for name, worker in crew.items():  # they have been loading side by side
        notes.extend(note for note in worker.ready() if note not in notes)
        for system in schedule.systems[name]:
            for _ in range(WARM_UP):
                worker.block(system, FRAMES)
    return crew


def _round(schedule: Schedule, crew: Mapping[str, "Worker"], rng: random.Random) -> Round:
    times = {}
    for group in rng.sample(schedule.groups, len(schedule.groups)):
        for name in rng.sample(list(group), len(group)):
            arm = group[name]
            times[name] = crew[arm.worker].block(arm.system, FRAMES)
    return times


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

    def __exit__(self, *_: object) -> None:
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


def own_tree() -> Path:
    """The folder that holds this package: a checkout, or site-packages."""
    return Path(calm_bench.__file__).resolve().parent.parent


@contextmanager
def checked_out(ref: str) -> Iterator[Path]:
    """`ref` of this repository in a temporary worktree of its commit's name, removed afterwards.

    Raises:
        InputError: If this is no checkout, or `ref` names no commit of it with this package.
    """
    root = own_tree()
    if not (root / ".git").exists():
        raise InputError(
            f"--against needs a git checkout of calm-bench, and {root} is none; "
            "--baseline compares with stored ratios instead"
        )
    commit = _commit(root, ref)
    with tempfile.TemporaryDirectory(prefix="calm-bench-check-") as folder:
        tree = Path(folder) / commit[:COMMIT]
        _git(root, "worktree", "add", "--detach", "--force", str(tree), commit)
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # tidies up, too
        try:
            if not (tree / "calm_bench" / "systems" / "loading.py").is_file():
                raise InputError(f"{ref} ({commit[:COMMIT]}) has no systems that could be timed")
            yield tree
        finally:
            signal.signal(signal.SIGTERM, before)
            _git(root, "worktree", "remove", "--force", str(tree))


def _commit(root: Path, ref: str) -> str:
    """The commit that a branch, tag, hash or HEAD~3 means.

    A leading minus would be read as an option of git, whatever follows it.
    """
    done = _run(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if done.returncode:
        hint = "give a branch, tag or commit that `git log` of this checkout knows"
        if _run(root, "rev-parse", "--is-shallow-repository").stdout.strip() == "true":
            hint = "this clone is shallow: fetch its history (actions/checkout: fetch-depth: 0)"
        raise InputError(f"--against: {ref!r} is no commit of {root}; {hint}")
    return done.stdout.strip()


def _git(root: Path, *words: str) -> None:
    done = _run(root, *words)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"git {' '.join(words[:2])} failed in {root}: {last}")


def _run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # A hook that calls us has set GIT_DIR and the like for its own repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", "-C", str(root), *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise InputError("--against needs git, which is not installed") from error
