"""What was computed once, kept under the user's home by the hash of all it depends on.

Transcripts, vectors and scores are dear and depend on nothing but the audio and the recipe, so the
reference rows of a benchmark are scored once per machine. An entry never changes; a damaged one is
taken for missing. A cache that cannot be written costs time and no result: that is a warning.
"""

import io
import json
import logging
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calm_bench.core import files, paths
from calm_bench.errors import InputError

logger = logging.getLogger(__name__)


class _Folder:
    """Entries of one kind as files, named by their keys."""

    suffix: str

    def __init__(self, kind: str) -> None:
        """Keep entries of one kind; the folder is made with the first of them."""
        self.folder = paths.home() / "cache" / kind

    def path(self, key: str) -> Path:
        """Where the entry of a key lies."""
        return self.folder / key[:2] / f"{key}{self.suffix}"

    def _keep(self, key: str, data: bytes) -> None:
        cache = self.folder.parent
        if cache in _given_up:
            return
        try:
            files.replace(self.path(key), data)
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


_given_up: set[Path] = set()
"""Caches that could not be written, which is said once for all that would be kept there."""
_lock = threading.Lock()


class ContentCache(_Folder):
    """JSON values by content hash."""

    suffix = ".json"

    def read(self, key: str) -> Any | None:
        """The value under a key, or None if there is none that can be read."""
        try:
            return json.loads(self.path(key).read_bytes())
        except (OSError, ValueError):
            return None

    def write(self, key: str, value: Any) -> None:
        """Keep a value."""
        self._keep(key, json.dumps(value, ensure_ascii=False).encode())


class ArrayCache(_Folder):
    """float32 arrays by content hash."""

    suffix = ".npy"

    def read(self, key: str) -> NDArray[np.float32] | None:
        """The array under a key, or None if there is none that can be read."""
        try:
            array: NDArray[np.float32] = np.load(self.path(key), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return array

    def write(self, key: str, value: NDArray[np.float32]) -> None:
        """Keep an array."""
        data = io.BytesIO()
        np.save(data, value, allow_pickle=False)
        self._keep(key, data.getvalue())


class MemoryCache:
    """A cache that lasts as long as the process and forgets what was used longest ago."""

    def __init__(self, max_bytes: int = 512 * 2**20) -> None:
        """Hold up to `max_bytes` of arrays."""
        self.max_bytes = max_bytes
        self._held: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._bytes = 0

    def read(self, key: str) -> NDArray[np.float32] | None:
        """The array under a key, or None."""
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def write(self, key: str, value: NDArray[np.float32]) -> None:
        """Keep an array under a key."""
        if key in self._held:
            return
        self._held[key] = value
        self._bytes += value.nbytes
        while self._bytes > self.max_bytes and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
