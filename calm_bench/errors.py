"""The errors a user can cause; the command line prints each as one line and exits with its code."""

import difflib
import logging
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(f"{__name__}.traced")
"""Takes the traceback of every error that is told in one line; a run's folder listens."""
log.propagate = False
log.setLevel(logging.DEBUG)
log.addHandler(logging.NullHandler())

PLUG_INS: dict[tuple[str, str], tuple[str, int]] = {}
"""By file and name, what classes of other packages are called and where: those that were loaded."""


class BenchError(Exception):
    """Something the user can mend: what is wrong, where, and what to do about it."""

    exit_code = 2


class InputError(BenchError):
    """A file, option or configuration that cannot be used as it is."""


class UnwritableError(InputError):
    """A place that cannot be written; the command line adds what its command can do about it."""

    def __init__(self, path: Path, reason: str) -> None:
        """Say where, and what the system said."""
        super().__init__(f"cannot write {path}: {reason}")
        self.path = path


class WeightsError(BenchError):
    """Weights that are missing, damaged or not the ones the model's config names."""


class MachineError(BenchError):
    """A machine that cannot give a trustworthy answer (too noisy, no such device)."""

    exit_code = 3


class MissingExtraError(BenchError):
    """A feature whose optional packages are not installed."""

    def __init__(self, feature: str, extra: str, package: str) -> None:
        """Name the feature, the extra that brings it and the package that was not found."""
        super().__init__(
            f"{feature} needs the package {package}, which is not installed: "
            f'pip install -c constraints.txt "calm-bench[{extra}]"'
        )
        self.extra = extra


class UnknownNameError(BenchError):
    """A name that nothing is registered under, with the nearest ones that are."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Say which kind of thing was asked for and which names come near."""
        known = sorted(known)
        near = near_names(name, known)
        hint = f"known: {', '.join(known)}" if known else "there is none yet"
        hint = f"did you mean {' or '.join(near)}?" if near else hint
        super().__init__(f"unknown {kind} {name!r}; {hint}")


def describe(error: BaseException) -> str:
    """An error as one line, with the plug-in it came from, its file and line.

    Its traceback goes to the run's log and, where BENCH_DEBUG is set, to standard error.
    """
    if os.environ.get("BENCH_DEBUG", "0") != "0":
        traceback.print_exception(error)
    if isinstance(error, BenchError):
        return str(error)
    log.debug("", exc_info=error)
    text = " ".join(str(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{blamed}: {text}" if (blamed := blame(error)) else text


def blame(error: BaseException) -> str | None:
    """The plug-in whose code an error came from, with file and line; None if it is none's."""
    frames = [(f.f_code, line) for f, line in traceback.walk_tb(error.__traceback__)]
    for code, line in reversed(frames):
        key = code.co_filename, code.co_qualname.partition(".")[0]
        if key in PLUG_INS:
            return f"the plug-in {PLUG_INS[key][0]} ({code.co_filename}:{line})"
    return None


def called(part: object) -> str:
    """A part in messages: as a plug-in with its file and line, or by its class."""
    cls = type(part)
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    who, line = PLUG_INS.get((str(file), cls.__qualname__.partition(".")[0]), ("", 0))
    return f"the plug-in {who} ({file}:{line})" if who else cls.__name__


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names that look like the one given, the nearest first."""
    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
