"""This tree, and another version of it laid out beside it for as long as it is timed."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import calm_bench
from calm_bench.errors import InputError

NAME = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """A version of the repository in a folder."""

    tree: Path
    commit: str


def own_tree() -> Path:
    """The folder that holds this package: a checkout, or site-packages."""
    return Path(calm_bench.__file__).resolve().parent.parent


@contextmanager
def checked_out(ref: str) -> Iterator[Checkout]:
    """`ref` of this repository in a temporary worktree, which is removed afterwards.

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
        tree = Path(folder) / commit[:NAME]
        _git(root, "worktree", "add", "--detach", "--force", str(tree), commit)
        before = signal.signal(signal.SIGTERM, _leave)  # a cancelled job tidies up, too
        try:
            if not (tree / "calm_bench" / "systems" / "loading.py").is_file():
                raise InputError(f"{ref} ({commit[:NAME]}) has no systems that could be timed")
            yield Checkout(tree=tree, commit=commit[:NAME])
        finally:
            signal.signal(signal.SIGTERM, before)
            _git(root, "worktree", "remove", "--force", str(tree))


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _commit(root: Path, ref: str) -> str:
    """The commit that a branch, tag, hash or HEAD~3 means.

    A leading minus would be read as an option of git, whatever follows it.
    """
    done = _run(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if done.returncode:
        shallow = _run(root, "rev-parse", "--is-shallow-repository").stdout.strip() == "true"
        hint = (
            "this clone is shallow: fetch its history (actions/checkout: fetch-depth: 0)"
            if shallow
            else "give a branch, tag or commit that `git log` of this checkout knows"
        )
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
