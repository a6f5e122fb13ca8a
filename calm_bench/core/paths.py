"""Where things lie, and which names are a place: shipped models, the user's home, run folders."""

import importlib.util
import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

from calm_bench.errors import InputError, MissingExtraError

_PACKAGE = Path(__file__).resolve().parent.parent
_CHECKOUT = _PACKAGE.parent


def _shipped(name: str) -> Path:
    checkout = _CHECKOUT / name
    if (_CHECKOUT / "pyproject.toml").is_file() and checkout.is_dir():
        return checkout
    return _PACKAGE / "_shipped" / name


def package_dir() -> Path:
    """The folder of this package's code."""
    return _PACKAGE


def home() -> Path:
    """The folder for corpora, training state and caches: CALM_BENCH_HOME or ~/.cache/calm-bench."""
    value = os.environ.get("CALM_BENCH_HOME")
    if value:
        return expanded(value, "CALM_BENCH_HOME")
    return expanded("~", "the home folder") / ".cache" / "calm-bench"


def expanded(name: str | Path, what: str) -> Path:
    """A path whose `~` is written out.

    Raises:
        InputError: If that is the home of a user who has none.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise InputError(f"{what} {str(name)!r}: there is no such user's home") from error


def working_dir() -> Path:
    """The folder that the command was called in.

    Raises:
        InputError: If it is gone.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise InputError(
            f"the working folder cannot be used ({error.strerror}): change into another one"
        ) from error


def models_dirs() -> list[Path]:
    """Folders searched for models/<name>/, the first hit wins: ./models, then the shipped ones."""
    local = working_dir() / "models"
    shipped = _shipped("models")
    return [local, shipped] if local.is_dir() and local.resolve() != shipped else [shipped]


def benchmarks_dir() -> Path:
    """The folder that holds the benchmark specs and their prompts."""
    return _shipped("benchmarks")


def is_packaged(folder: Path) -> bool:
    """Whether a folder is what a wheel carries of the shipped ones, which is not all of it."""
    return folder.resolve().is_relative_to(_PACKAGE / "_shipped")


def is_shipped_model(folder: Path) -> bool:
    """Whether a model's folder is one of those that came with calm-bench."""
    return folder.resolve().is_relative_to(_shipped("models").resolve())


def runs_dir() -> Path:
    """Where runs are written unless --out says otherwise."""
    return working_dir() / "results" / "runs"


_LONGEST_PART = 255
_LONGEST_NAME = 200
"""Bytes: what file systems take, and what leaves room for a number, a suffix and a copy's mark."""
_NO_PART = re.compile(r"[/\\:\x00-\x1f\x7f\ud800-\udfff]")


def is_part(name: str, longest: int = _LONGEST_PART) -> bool:
    """Whether a name is one part of a path, on every system: a file or folder right below another.

    So it is neither empty nor `.` or `..`, without separator, drive and control character, and at
    most `longest` bytes.
    """
    outside = name in ("", ".", "..") or _NO_PART.search(name)
    return not outside and len(name.encode()) <= longest


def check_name(name: str) -> str:
    """Refuse, by a ValueError, what cannot be the name of a file that we write."""
    if not is_part(name, _LONGEST_NAME):
        raise ValueError(
            f"{_short(name)} cannot name a file: no / \\ : or control character, "
            f"at most {_LONGEST_NAME} bytes"
        )
    return name


def check_relative(name: str) -> str:
    """Refuse, by a ValueError, a path that would leave the folder that it is relative to."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or not all(map(is_part, path.parts)):
        raise ValueError(f"{_short(name)} is not a path inside of its folder")
    return name


def check_path(name: str) -> str:
    """Refuse, by a ValueError, what cannot be the path of a file, wherever that is."""
    path = Path(name)
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    if not parts or not all(map(is_part, parts)):
        raise ValueError(f"{_short(name)} is no path of a file")
    return name


FileName = Annotated[str, AfterValidator(check_name)]
"""In a record: what a file or folder that we write is named by."""
RelativePath = Annotated[str, AfterValidator(check_relative)]
"""In a record: a path below a folder that whoever reads the record knows."""
AnyPath = Annotated[str, AfterValidator(check_path)]
"""In a user's file: a path anywhere, or relative to a folder that whoever reads the file knows."""


def inside(root: Path, name: str) -> Path:
    """The path of `name` below `root`, refusing names that would leave it.

    Raises:
        InputError: If the path lies outside `root`, or is none.
    """
    try:
        path, base = (root / name).resolve(), root.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a zero character, links in a circle
        raise InputError(f"{_short(name)} is no path: {error}") from error
    if not path.is_relative_to(base):
        raise InputError(f"{_short(name)} points outside of {root}")
    if any(len(os.fsencode(part)) > _LONGEST_PART for part in path.parts):
        raise InputError(f"{_short(name)} is longer than a file's name can be")
    return path


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:60]}…")


def installed(module: str, feature: str, extra: str, package: str) -> Path:
    """The folder of an optional package, found without importing it.

    Raises:
        MissingExtraError: If it is not installed; the message says which extra brings it.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(feature, extra, package)
    return Path(next(iter(spec.submodule_search_locations)))
