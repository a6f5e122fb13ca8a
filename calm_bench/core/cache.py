"""What was computed once, kept under the user's home by the hash of all it depends on.

Transcripts, vectors and scores are dear and depend on nothing but the audio and the recipe, so the
reference rows of a benchmark are scored once per machine. An entry never changes; one that is not
what was kept under its key, or not of the form that is wanted, is taken for missing. A cache that
cannot be written costs time and no result: that is a warning.
"""

import io
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from calm_bench.core import files, paths
from calm_bench.errors import InputError
from calm_bench.seeds import content_hash

logger = logging.getLogger(__name__)

T = TypeVar("T")
Array = NDArray[np.float32]
_UNFIT = (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RecursionError)
"""What reading an entry raises that is not what was kept, or not what is wanted."""

_CHECK = 16
"""Letters of the checksum behind an array."""


class _Folder:
    """Entries of one kind as files, named by their keys."""

    suffix: str

    def __init__(self, kind: str) -> None:
        self.folder = paths.home() / "cache" / kind

    def path(self, key: str) -> Path:
        """Where the entry of a key lies."""
        return self.folder / key[:2] / f"{key}{self.suffix}"

    def _keep(self, key: str, data: bytes) -> None:
        cache = self.folder.parent
        if cache in _given_up:
            return
        try:
            files.replace(self.path(key), data, beside=_growing(cache))
        except InputError as error:
            with _lock:
                told = cache in _given_up
                _given_up.add(cache)
            if not told:
                logger.warning(
                    "nothing is kept for the next run: cannot write %s: %s; CALM_BENCH_HOME names "
                    "another place",
                    cache,
                    getattr(error.__cause__, "strerror", None) or error,
                )


@cache
def _growing(cache: Path) -> Path:
    """Where entries of a cache grow, rid once of those that a killed process left."""
    folder = cache / "unfinished"
    files.sweep(folder)
    return folder


_given_up: set[Path] = set()
"""Caches that could not be written, which is said once for all that would be kept there."""
_lock = threading.Lock()


class ContentCache(_Folder):
    """JSON values by content hash."""

    suffix = ".json"

    def read(self, key: str, fit: Callable[[Any], T]) -> T | None:
        """What `fit` makes of the value under a key; None if there is none, or none that fits."""
        path = self.path(key)
        try:
            body = files.unsealed(path.read_bytes(), path, key, always=True)
            return fit(files.json_value(body, path)["value"])
        except (*_UNFIT, InputError):
            return None

    def write(self, key: str, value: Any) -> None:
        """Keep a value."""
        body = json.dumps({"value": value}, ensure_ascii=False).encode()
        self._keep(key, files.sealed(body, key))


class ArrayCache(_Folder):
    """float32 arrays by content hash."""

    suffix = ".npy"

    def read(self, key: str) -> Array | None:
        """The array under a key, or None if there is none that can be read."""
        try:
            data = self.path(key).read_bytes()
            body, check = data[:-_CHECK], data[-_CHECK:]
            if check.decode() != content_hash(key, body, length=_CHECK):
                return None
            array: Array = np.load(io.BytesIO(body), allow_pickle=False)
        except _UNFIT:
            return None
        return array

    def write(self, key: str, value: Array) -> None:
        """Keep an array."""
        data = io.BytesIO()
        np.save(data, value, allow_pickle=False)
        body = data.getvalue()
        self._keep(key, body + content_hash(key, body, length=_CHECK).encode())


class MemoryCache:
    """A cache that lasts as long as the process and forgets what was used longest ago."""

    def __init__(self, max_bytes: int = 512 * 2**20) -> None:
        self.max_bytes = max_bytes
        self._held: OrderedDict[str, NDArray[Any]] = OrderedDict()
        self._bytes = 0

    def read(self, key: str) -> NDArray[Any] | None:
        """The array under a key, or None."""
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def write(self, key: str, value: NDArray[Any]) -> None:
        """Keep an array under a key."""
        if key in self._held:
            return
        self._held[key] = value
        self._bytes += value.nbytes
        while self._bytes > self.max_bytes and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
