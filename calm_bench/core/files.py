"""Durable files: a kill at any moment leaves the state before a write or the state after it."""

import errno
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from calm_bench.errors import BenchError, InputError

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the disk's refusals into one line: full, not writable, not a folder.

    Raises:
        InputError: What could not be written and what to do about it.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise InputError(
                f"the disk is full: cannot write {path}; what was done so far is safe, "
                "make room and repeat the command"
            ) from error
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; choose another folder with --out"
        ) from error


def append_lines(path: Path, data: bytes) -> None:
    """Append whole lines and sync, first cutting off a line that an earlier kill tore.

    Raises:
        InputError: If the disk is full or not writable; nothing half-written stays.
    """
    with disk_errors(path):
        path.touch()
        with path.open("r+b", buffering=0) as file:
            start = _committed_size(file)
            file.truncate(start)
            file.seek(start)
            try:
                _write_all(file, data)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise


def committed_lines(path: Path) -> list[bytes]:
    """The lines of a file without a last one that lacks its newline; none if there is no file."""
    return path.read_bytes().split(b"\n")[:-1] if path.is_file() else []


def text_lines(path: Path, *, blank: bool = False) -> list[tuple[int, str]]:
    r"""The lines of a UTF-8 file, each with its number; blank ones only if asked for.

    A line ends at "\n" and nowhere else (a "\r" before it is dropped): U+2028, U+0085 and the
    others at which `str.splitlines` cuts may stand inside a text.

    Raises:
        InputError: If the file cannot be read, or not as UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at {error.start}") from error
    if "\0" in text:
        raise InputError(f"{path} is not text: it holds zero bytes")
    lines = enumerate((line.removesuffix("\r") for line in text.split("\n")), 1)
    return [(number, line) for number, line in lines if blank or line.strip()]


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A JSON object per line, with its `file:line`.

    Raises:
        InputError: If a line is something else, or holds a character that no file can hold.
    """
    for number, text in text_lines(path):
        where = f"{path}:{number}"
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise InputError(f"{where}: not an object: {text.strip()[:40]!r}")
        if re.search(r"\\u(0000|d[89a-f])", text, re.IGNORECASE):
            _check_characters(value, where)
        yield where, value


def _check_characters(value: Any, where: str) -> None:
    plain = json.dumps(value, ensure_ascii=False)
    try:
        plain.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: half of a character stands alone ({error.reason})") from error
    if r"\u0000" in plain:
        raise InputError(f"{where}: a text holds a zero character")


def replace(path: Path, data: bytes) -> None:
    """Replace a file, in a folder that is made for it: write beside it, sync, rename over it.

    Raises:
        InputError: If the disk is full or not writable; the old file stays.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                _write_all(file, data)
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def locked(
    path: Path, instead: str = "choose another folder with --out", *, wait: bool = False
) -> Iterator[None]:
    """Hold a lock file; the system drops the lock with the process, however it dies.

    Args:
        path: The lock file.
        instead: What else the user can do, in the message.
        wait: Whether to wait for the process that holds it, where its work is what is wanted.

    Raises:
        BenchError: If another process holds it and is not waited for.
        InputError: If the lock file cannot be made.
    """
    with disk_errors(path):
        path.touch()
        file = path.open("r+b", buffering=0)
    with file:
        told = False
        while not _try_lock(file):
            owner = file.read(32).decode(errors="replace").strip()
            who = f"another process{f' (pid {owner})' if owner else ''}"
            busy = f"{who} is working on {path.parent}"
            if not wait:
                raise BenchError(f"{busy}; wait for it or {instead}")
            if not told:
                logger.warning("%s: waiting for it", busy)
            told = True
            time.sleep(POLL_SECONDS)
            file.seek(0)
        file.truncate(0)
        file.write(f"{os.getpid()}\n".encode())
        yield


def _try_lock(file: BinaryIO) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 20)  # beyond the pid, which the other process wants to read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN}:
            return False
        raise
    return True


def _write_all(file: BinaryIO, data: bytes) -> None:
    """Write every byte: an unbuffered write may stop short when the disk is nearly full."""
    written = 0
    while written < len(data):
        written += file.write(data[written:])


def _committed_size(file: BinaryIO) -> int:
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - (1 << 16))
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
