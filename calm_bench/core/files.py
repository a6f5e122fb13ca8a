"""Durable files: a kill at any moment leaves the state before a write or the state after it."""

import errno
import glob
import json
import logging
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from calm_bench.errors import BenchError, InputError, UnwritableError
from calm_bench.seeds import content_hash

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
        raise UnwritableError(path, error.strerror or str(error)) from error


def is_there(path: Path) -> bool:
    """Whether a file lies at a path.

    Raises:
        InputError: If a folder or the like lies in its place.
    """
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no plain file"
        raise InputError(f"{path} is {what}, where a file belongs: move it away")
    return path.is_file()


def append_lines(path: Path, data: bytes) -> None:
    """Append whole lines of JSON and sync, first cutting off a line that an earlier kill tore.

    Raises:
        InputError: If the disk is full or not writable; nothing half-written stays. Or if the file
            ends in what is no line of ours.
    """
    with disk_errors(path):
        path.touch()
        with path.open("r+b", buffering=0) as file:
            start = _committed_size(file)
            _refuse_foreign_end(path, file, start)
            file.truncate(start)
            file.seek(start)
            try:
                _write_all(file, data)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise


def _refuse_foreign_end(path: Path, file: BinaryIO, start: int) -> None:
    """What a file ends in from `start` on is half a line of ours, or nothing.

    A disk without power may have left zeros in its place.
    """
    file.seek(start)
    found = file.read().strip(b"\0")
    if found and not found.startswith(b"{"):
        raise InputError(f"{path} ends in what is no line of ours ({found[:20]!r}): move it away")


def committed_lines(path: Path) -> list[bytes]:
    """The lines of a file without a last one that lacks its newline; none if there is no file.

    Raises:
        InputError: If a folder lies in its place, or it cannot be read.
    """
    if not is_there(path):
        return []
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        InputError: If the file cannot be read, or not as text in UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at {error.start}") from error
    if "\0" in text:
        raise InputError(f"{path} is not text: it holds zero bytes")
    return text


def text_lines(path: Path, *, blank: bool = False) -> list[tuple[int, str]]:
    r"""The lines of a UTF-8 file, each with its number; blank ones only if asked for.

    A line ends at "\n" and nowhere else (a "\r" before it is dropped): U+2028, U+0085 and the
    others at which `str.splitlines` cuts may stand inside a text.

    Raises:
        InputError: As `read_text`.
    """
    lines = enumerate((line.removesuffix("\r") for line in read_text(path).split("\n")), 1)
    return [(number, line) for number, line in lines if blank or line.strip()]


def json_value(data: bytes | str, where: object) -> Any:
    """What a text of JSON says.

    Raises:
        InputError: If it is none, nests too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}") from error


FileMark = tuple[int, ...]


def file_mark(path: Path) -> FileMark:
    """What tells a file from one that lies in its place later, or is changed: nothing is read."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


_SEAL = re.compile(rb',\s*"check":\s*"([0-9a-f]{16})"\s*\}\s*')


def sealed(body: bytes, about: str = "") -> bytes:
    """A JSON object of at least one field with one more at its end: a checksum of the others.

    It is of `about`, too, as the name that the object is kept under.
    """
    start = body.rstrip().removesuffix(b"}").rstrip()
    return b'%b,"check":"%b"}' % (start, content_hash(about, start).encode())


def unsealed(data: bytes, where: object, about: str = "", *, always: bool = False) -> bytes:
    """What was `sealed` about something, without its checksum.

    Raises:
        InputError: If the object is not what was written, at `where`; if `always`, even where it
            has no checksum, as older versions wrote them.
    """
    found = _SEAL.search(data, max(0, len(data) - 64))
    if found is None or found.end() < len(data):
        if always:
            raise InputError(f"{where} has no checksum")
        return data
    start = data[: found.start()]
    if found[1].decode() != content_hash(about, start):
        raise InputError(f"{where}: the checksum does not fit: it was changed or is damaged")
    return start + b"}"


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A JSON object per line, with its `file:line`.

    Raises:
        InputError: If a line is something else, or holds a character that no file can hold.
    """
    for number, text in text_lines(path):
        where = f"{path}:{number}"
        value = json_value(text, where)
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


_TEMPORARY = re.compile(r"\..+\.(\d+)-([0-9a-f]{8})(?:-([0-9a-f]{8}))?-\d+\.unfinished")
_PROCESS = secrets.token_hex(4)  # beside its number, which a later process may have
_COUNTER = count()
_ABANDONED = 86_400  # seconds after which another machine's file is taken for left


@cache
def _machine() -> str:
    """What the processes that this one can see have in common: their machine or container."""
    try:
        seen = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        seen = ""
    return content_hash(platform.node(), seen, length=8)


@contextmanager
def replacing(path: Path, beside: Path | None = None) -> Iterator[BinaryIO]:
    """Open what takes a file's place once it is whole and synced; its folder is made.

    It has the user's ordinary permissions, and grows in its own folder, or in `beside` on the same
    disk.

    Raises:
        InputError: If the disk is full or not writable; the old file stays.
    """
    with disk_errors(path):
        folder = path.parent if beside is None else beside
        for place in {path.parent, folder}:
            place.mkdir(parents=True, exist_ok=True)
        temporary = folder / _temporary(path)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def replace(path: Path, data: bytes, beside: Path | None = None) -> None:
    """Replace a file, or make it, as `replacing` does.

    Raises:
        InputError: If the disk is full or not writable; the old file stays.
    """
    with replacing(path, beside) as file:
        _write_all(file, data)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Make what becomes a folder at a path, where nothing lies, once it is whole.

    Raises:
        InputError: If the disk is full or not writable, or something lies there by then.
    """
    with growing_folder(path) as folder:
        yield folder
        folder.rename(path)


@contextmanager
def growing_folder(path: Path) -> Iterator[Path]:
    """A folder beside a path, for what will lie there; in the end what is left of it is removed.

    Raises:
        InputError: If the disk is full or not writable.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name[:50])}.*.unfinished"):
            if left.is_dir() and _is_left(left):
                shutil.rmtree(left)
        folder = path.with_name(_temporary(path))
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


NUMBERED = tuple("[0-9]" * digits for digits in range(3, 10))
"""Patterns of numbers from 000 on, which have more digits where there are a thousand."""


def remove(root: Path, *patterns: str) -> None:
    """Remove files, and of the folders that they lay in those that are empty then."""
    for pattern in patterns:
        for path in root.glob(pattern):
            if not path.is_dir():
                path.unlink()
    folders = {str(p) for pattern in patterns for p in PurePosixPath(pattern).parents}
    for folder in sorted(folders - {"."}, reverse=True):
        for path in root.glob(folder):
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()


def _temporary(path: Path) -> str:
    mark = f"{os.getpid()}-{_PROCESS}-{_machine()}-{next(_COUNTER)}"
    return f".{path.name[:50]}.{mark}.unfinished"


def is_unfinished(path: Path) -> bool:
    """Whether a file is one that was to take another's place, by its name."""
    return _TEMPORARY.fullmatch(path.name) is not None


def sweep(folder: Path) -> None:
    """Remove the files below a folder that a killed process had begun and not finished.

    Raises:
        InputError: If one cannot be removed.
    """
    for path in folder.rglob(".*.unfinished"):
        if _is_left(path):
            with disk_errors(path):
                path.unlink(missing_ok=True)


def _is_left(path: Path) -> bool:
    """Whether a killed process had begun what lies there.

    Of a process of another machine, with which this one shares a disk, only its age tells.
    """
    made = _TEMPORARY.fullmatch(path.name)
    if made is None:
        return False
    if made[3] in (None, _machine()):
        return not _is_at_work(int(made[1]), made[2])
    with suppress(OSError):  # which its own process has given its place meanwhile
        return time.time() - path.stat().st_mtime > _ABANDONED
    return False


def _is_at_work(pid: int, process: str) -> bool:
    if pid == os.getpid():
        return process == _PROCESS
    if sys.platform == "win32":  # where signal 0 ends a process
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def locked(
    path: Path,
    instead: str = "choose another folder with --out",
    what: str | None = None,
    *,
    wait: bool = False,
) -> Iterator[None]:
    """Hold a lock file, made with its folder; the system drops it with a process, however it dies.

    Raises:
        BenchError: If another process holds it and is not waited for: it is at work on `what`, or
            on the folder that the file lies in; the user can do something `instead`.
        InputError: If the lock file cannot be made, or is someone else's.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        file = path.open("r+b", buffering=0)
    with file:
        if not re.fullmatch(rb"\d{0,20}\n?", file.read(32)):
            raise InputError(f"{path} is no lock of ours: {'remove it' if wait else instead}")
        file.seek(0)
        told = False
        while not _try_lock(file):
            owner = file.read(32).decode(errors="replace").strip()
            who = f"another process{f' (pid {owner})' if owner else ''}"
            busy = f"{who} is working on {what or path.parent}"
            if not wait:
                raise BenchError(f"{busy}; wait for it or {instead}")
            if not told:
                logger.warning("%s: waiting for it", busy)
            told = True
            time.sleep(POLL_SECONDS)
            file.seek(0)
        with disk_errors(path):
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
