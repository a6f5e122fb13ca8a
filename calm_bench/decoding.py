"""Sound files decoded block by block, so that a long one is never in memory at its own rate."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calm_bench.errors import InputError, describe
from calm_bench.types import Wave

# A data chunk of this size or more is a stream's, whose header was written before its end.
_STREAMED = 0x7F000000
# The mean of unrelated channels has 1 / channels of their power; a tenth of that is cancellation.
_CANCELLED = 0.1


class Reader:
    """The mean of a sound file's channels, block by block, and what was noticed on the way.

    Attributes:
        declared: How many samples its header promises; None if it does not know.
    """

    def __init__(self, path: Path) -> None:
        """Open a sound file.

        Raises:
            InputError: If it is missing or no sound file.
        """
        import soundfile

        require_file(path)
        self.path = path
        self.remarks: list[str] = []
        with _decoding(path):
            self._file = soundfile.SoundFile(path)
            # soundfile seeks after every block, which a FLAC of unknown length does not stand.
            self._file.seekable = lambda: False
            self.sample_rate: int = self._file.samplerate
            self.channels: int = self._file.channels
            self.declared = _declared(self._file)

    def blocks(self, first: int = 0, n: int | None = None, size: int = 65536) -> Iterator[Wave]:
        """The samples from `first` on, `n` of them or all, in blocks of `size` but for the last.

        Raises:
            InputError: If the file is damaged, cut short or empty, or holds NaN or infinity.
        """
        left = math.inf if n is None else n
        count, ours, theirs = first, 0.0, 0.0
        with _decoding(self.path), self._file as file:
            self._skip(first)
            while left > 0 and len(samples := self._read(int(min(size, left)))):
                wave = samples.mean(axis=1, dtype=np.float32)
                ours += float(np.vdot(wave, wave))
                theirs += float(np.vdot(samples, samples)) / file.channels
                count, left = count + len(wave), left - len(wave)
                yield wave
        if n is None:
            self._check_length(count)
        if ours < _CANCELLED / self.channels * theirs:
            left_over = f"{10 * math.log10(theirs / ours):.0f} dB weaker" if ours else "silence"
            self.remarks.append(f"its channels cancel, their mean is {left_over}")

    def _read(self, n: int) -> NDArray[np.float32]:
        samples: NDArray[np.float32] = self._file.read(n, dtype="float32", always_2d=True)
        if not np.isfinite(samples).all():
            raise InputError(f"{self.path} holds NaN or infinite samples")
        return samples

    def _skip(self, n: int) -> None:
        """Go to a sample: by reading where the length is unknown, because nothing else works."""
        if self.declared is not None:
            self._file.seek(min(n, self.declared))
            return
        while n > 0 and (done := len(self._read(min(n, 65536)))):
            n -= done

    def _check_length(self, n: int) -> None:
        """Refuse a file that ends before its header says, by more than its last moment."""
        whole = max(self.declared or n, n)
        missing = whole - n
        if n == 0:
            raise InputError(f"{self.path} holds no audio")
        if missing == 0:
            return
        if missing > min(0.05 * self.sample_rate, 0.01 * whole):
            raise InputError(f"{self.path} is cut short: {n} of {whole} samples decode")
        self.remarks.append(f"it lacks its last {missing} of {whole} samples")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file is told in one line that names it.

    Raises:
        InputError: If anything does, or there is no such file.
    """
    require_file(path)
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else describe(error)
        raise InputError(f"{path} cannot be read: {reason}") from error


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Whatever a decoder stumbles over is this file's fault and is told in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} is not a readable sound file: {_one_line(error)}") from error


def _declared(file: Any) -> int | None:
    """How many samples a header promises, None where it cannot know.

    An mp3 without a length tag declares an estimate. What was streamed to a pipe declares nothing,
    or as much as fits. libsndfile takes a WAV that was cut for whole, and says so in its log alone.
    """
    if file.format == "MP3" or file.frames >= _STREAMED:
        return None
    data = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    promised, there = map(int, data.groups()) if data else (1, 1)
    return int(file.frames * promised / there) if there and promised < _STREAMED else file.frames


def require_file(path: Path) -> None:
    """Say plainly that a path is missing, a folder or empty, before a decoder says it its way.

    Raises:
        InputError: If it is.
    """
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path} is a link to a file that does not exist")
    if not path.is_file():
        raise InputError(f"{path} is not a file" if path.exists() else f"{path} does not exist")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)")


def _one_line(error: Exception) -> str:
    """An error's text without the path that the decoder repeats."""
    return str(error).rsplit(": ", 1)[-1].strip() or type(error).__name__
