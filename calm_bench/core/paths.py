"""Where things lie: shipped models and benchmarks, the user's home for data, and run folders."""

import importlib.util
import os
from pathlib import Path

from calm_bench.errors import InputError, MissingExtraError

_PACKAGE = Path(__file__).resolve().parent.parent
_CHECKOUT = _PACKAGE.parent


def _shipped(name: str) -> Path:
    """A folder of the checkout if this is one, else the copy that the wheel carries."""
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
    return Path(value).expanduser() if value else Path.home() / ".cache" / "calm-bench"


def models_dirs() -> list[Path]:
    """Folders searched for models/<name>/, the first hit wins: ./models, then the shipped ones."""
    local = Path.cwd() / "models"
    shipped = _shipped("models")
    return [local, shipped] if local.is_dir() and local.resolve() != shipped else [shipped]


def benchmarks_dir() -> Path:
    """The folder that holds the benchmark specs and their prompts."""
    return _shipped("benchmarks")


def is_packaged(folder: Path) -> bool:
    """Whether a folder is what a wheel carries of the shipped ones, which is not all of it."""
    return folder.resolve().is_relative_to(_PACKAGE / "_shipped")


def runs_dir() -> Path:
    """Where runs are written unless --out says otherwise."""
    return Path.cwd() / "results" / "runs"


def inside(root: Path, name: str) -> Path:
    """The path of `name` below `root`, refusing names that would leave it.

    Raises:
        InputError: If the path lies outside `root`.
    """
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise InputError(f"{name!r} points outside of {root}")
    return path


def installed(module: str, feature: str, extra: str, package: str) -> Path:
    """The folder of an optional package, found without importing it.

    Raises:
        MissingExtraError: If it is not installed; the message says which extra brings it.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(feature, extra, package)
    return Path(next(iter(spec.submodule_search_locations)))
