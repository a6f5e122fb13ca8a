"""What sound files hold: each is decoded once on this machine, and known by what it holds.

Whoever decodes a file again asks afterwards whether it still is the one that was looked at
(`require_same`). A file is read again unless its size, its times of change and its place on the
disk are what they were.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter

from calm_bench.core.audio import AudioFacts, examine, readable
from calm_bench.core.cache import ContentCache
from calm_bench.core.code import computed_by
from calm_bench.core.files import FileMark, file_mark
from calm_bench.core.progress import counted, ordered_map
from calm_bench.errors import InputError
from calm_bench.seeds import content_hash, file_hash

_FACTS = TypeAdapter(AudioFacts)


def sound_of(path: Path, start: float = 0.0, seconds: float | None = None) -> AudioFacts:
    """What a file, or a stretch of it, holds: decoded once on this machine, whatever its name.

    Raises:
        InputError: If it cannot be read, or changes meanwhile; the message names it.
    """
    with readable(path):
        mark = file_mark(path)
        found = _look(path, mark, start, seconds)
        if file_mark(path) != mark:
            raise InputError(f"{path} changed while it was read: repeat the command")
        return found


def require_same(path: Path, audio_id: str) -> None:
    """Refuse a file that no longer holds the sound of this id.

    Raises:
        InputError: If it does not, or cannot be read.
    """
    if sound_of(path).audio_id != audio_id:
        raise InputError(f"{path} was changed in the meantime: repeat the command")


def sounds_of(paths: Sequence[Path], title: str) -> Iterator[AudioFacts | InputError]:
    """What each file holds or why it cannot be read, several at a time and counted under a bar."""

    def look(path: Path) -> AudioFacts | InputError:
        try:
            return sound_of(path)
        except InputError as error:
            return error

    return counted(ordered_map(look, paths), len(paths), title)


@lru_cache(maxsize=1 << 16)
def _look(path: Path, mark: FileMark, start: float, seconds: float | None) -> AudioFacts:
    cache, stretch = ContentCache("sounds"), [start, seconds]
    key = content_hash(_hashed(path, mark), computed_by(AudioFacts.__module__), stretch, length=40)
    kept = cache.read(key, _FACTS.validate_python)
    if kept is not None:
        return kept
    found = examine(path, start, seconds)
    if file_mark(path) == mark:
        cache.write(key, asdict(found))
    return found


def hash_of(path: Path) -> str:
    """The sha256 of a file, read once by this process: stretches of a long one share it."""
    return _hashed(path, file_mark(path))


@lru_cache(maxsize=1 << 10)
def _hashed(path: Path, _: FileMark) -> str:
    return file_hash(path)
