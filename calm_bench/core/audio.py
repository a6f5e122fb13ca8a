"""Sound files in and out, resampling and the identity of audio: the one place that touches them.

Inside the program audio is mono float32, in [-1, 1] unless a file says otherwise. What the program
writes is 16-bit FLAC; `audio_hash` looks at float32 samples, so what was written has the identity
of what `write_flac` returns, which is what reading the file gives back. A wave that `read_audio`
returns is finite and not empty; the rest of the program relies on it.
"""

import io
import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calm_bench.core.files import file_mark, replace
from calm_bench.errors import InputError, describe
from calm_bench.seeds import file_hash
from calm_bench.types import SamplesHash, Wave, samples_hash

RESAMPLER = "soxr-VHQ"
"""What `resample` uses; metrics whose values depend on it name it in their recipe."""

# libsndfile reads int16 as x / 32768; the same factor out makes a round trip exact.
_FULL_SCALE = 32768

_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
# libsndfile's scale from 256 (0.0) down to 6 kbit/s a channel (1.0): this is 56.
_OPUS_LEVEL = 0.8

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # the bits of each byte

# A data chunk of this size or more is a stream's, whose header was written before its end.
_STREAMED = 0x7F000000
_NOT_READ = frozenset(
    f".{name}" for name in ["aac", "ac3", "amr", "m4a", "m4b", "mka", "mp4", "weba", "webm", "wma"]
)
# The mean of unrelated channels has 1 / channels of their power; a tenth of that is cancellation.
_CANCELLED = 0.1
# No sound is sampled outside of this: such a header is damaged, and its lengths mean nothing.
_RATES = (1_000, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioInfo:
    """What a sound file's header says; the length is counted where the header does not say it."""

    sample_rate: int
    seconds: float

    def lasts(self, seconds: float) -> bool:
        """Whether it is so long, to the sample."""
        return round(self.seconds * self.sample_rate) >= round(seconds * self.sample_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFacts:
    """What a whole sound file was found to hold.

    Attributes:
        audio_id: The `audio_hash` of all its samples.
        level_dbfs: The loudest 0.1 s, None for digital silence.
        remarks: What a reader of its numbers has to know, in sentences about it.
    """

    sample_rate: int
    channels: int
    n_samples: int
    audio_id: str
    level_dbfs: float | None
    remarks: tuple[str, ...]


class Reader:
    """The mean of a sound file's channels, block by block, and what was noticed on the way.

    Attributes:
        declared: How many samples its header promises; None if it does not know.
    """

    def __init__(self, path: Path) -> None:
        """Open a sound file.

        Raises:
            InputError: If it is missing, no sound file, or of no rate that sound has.
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
            if not _RATES[0] <= self.sample_rate <= _RATES[1]:
                raise InputError(
                    f"{path} has a damaged header: {self.sample_rate:,} samples a second"
                )
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
        if missing > min(0.05 * self.sample_rate, 0.01 * whole):
            raise InputError(f"{self.path} is cut short: {n} of {whole} samples decode")
        if missing:
            self.remarks.append(f"it lacks its last {missing} of {whole} samples")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file is told in one line that names it.

    Raises:
        InputError: If anything does, or there is no such file.
    """
    try:
        require_file(path)
        yield
    except InputError:
        raise
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else describe(error)
        raise InputError(f"{path} cannot be read: {reason}") from error


@contextmanager
def same_file(path: Path, sha256: str, otherwise: str) -> Iterator[None]:
    """Whatever is read of a file inside is of the file that has this hash.

    Raises:
        InputError: If it has another one, which `otherwise` explains, or changes meanwhile; or if
            it cannot be read.
    """
    with readable(path):
        before = file_mark(path)
        found = file_hash(path)
        if found != sha256:
            raise InputError(f"{path} has sha256 {found[:12]}…, not {sha256[:12]}…: {otherwise}")
        yield
        if file_mark(path) != before:
            raise InputError(f"{path} changed while it was read: repeat the command")


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Whatever a decoder stumbles over is this file's fault and is told in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        is_other = path.suffix.lower() in _NOT_READ
        hint = "; convert it to FLAC or WAV, as ffmpeg does" if is_other else ""
        # Without the path, which the decoder repeats.
        said = str(error).rsplit(": ", 1)[-1].strip().removesuffix(".") or type(error).__name__
        raise InputError(f"{path} is not a readable sound file: {said}{hint}") from error


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


def probe_audio(path: Path) -> AudioInfo:
    """The rate and length of a sound file.

    Raises:
        InputError: If the file is missing or no sound file.
    """
    reader = Reader(path)
    n = sum(map(len, reader.blocks())) if reader.declared is None else reader.declared
    return AudioInfo(sample_rate=reader.sample_rate, seconds=n / reader.sample_rate)


def examine(path: Path, start: float = 0.0, seconds: float | None = None) -> AudioFacts:
    """What a sound file holds, or so many seconds of it; it is never in memory at once.

    Raises:
        InputError: As `read_audio`.
    """
    reader = Reader(path)
    own = reader.sample_rate
    tenth = max(1, own // 10)
    digest, n, power = SamplesHash(own), 0, 0.0
    limit = None if seconds is None else round(seconds * own)
    for block in reader.blocks(round(start * own), limit, size=10 * tenth):
        digest.add(block)
        n += len(block)
        stretches = np.pad(block.astype(np.float64), (0, -len(block) % tenth)).reshape(-1, tenth)
        power = max(power, float(np.square(stretches).mean(axis=1).max()))
    return AudioFacts(
        sample_rate=own,
        channels=reader.channels,
        n_samples=n,
        audio_id=digest.value,
        level_dbfs=round(10 * math.log10(power), 2) if power > 0 else None,
        remarks=tuple(reader.remarks),
    )


def read_audio(
    path: Path, sample_rate: int | None = None, *, start: float = 0.0, seconds: float | None = None
) -> tuple[Wave, int]:
    """The mean of a file's channels [S] and its rate, resampled if a rate is asked for.

    A file may lack its last samples, up to 50 ms and 1 % of it: `examine` says so.

    What lies before `start` is not decoded; it has as many `seconds` as are asked for, or fewer if
    the file ends before.

    Raises:
        InputError: If the file is missing, damaged, cut short or empty, or holds NaN or infinity.
    """
    reader = Reader(path)
    own = reader.sample_rate
    rate = sample_rate or own
    # Whole seconds lie on the grids of both rates; one to either side is more than soxr looks at.
    margin = 0 if rate == own else 1
    first = max(0, math.floor(start) - margin) if margin else start
    n = None if seconds is None else round((start + seconds + margin - first) * own)
    blocks = _resampled(reader.blocks(round(first * own), n), own, rate)
    expected = reader.declared or own if n is None else n
    wave = _joined(blocks, math.ceil(expected * rate / own) + 1)
    skip = round(start * rate) - round(first * rate)
    wave = wave[skip : None if seconds is None else skip + round(seconds * rate)]
    if not len(wave):
        raise InputError(f"{path} holds no audio" + (f" after {start:g} s" if start else ""))
    return wave, rate


def _resampled(blocks: Iterator[Wave], from_rate: int, to_rate: int) -> Iterator[Wave]:
    """What `resample` gives of all blocks together, sample by sample, piece by piece."""
    if from_rate == to_rate:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="VHQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _joined(blocks: Iterator[Wave], expected: int) -> Wave:
    """All blocks in one array, which is made only once if they are as many as expected."""
    out, n = np.empty(min(expected, 2**27), np.float32), 0
    for block in blocks:
        if n + len(block) > len(out):
            out = np.concatenate([out[:n], np.empty(n + len(block), np.float32)])
        out[n : n + len(block)] = block
        n += len(block)
    return out[:n]


def write_flac(path: Path, wave: Wave, sample_rate: int) -> Wave:
    """Write [S] as 16-bit FLAC, all or nothing, and return what reading the file gives back.

    Nothing is scaled, because loudness is part of what is measured: what is too loud is clipped.

    Raises:
        InputError: If a sample is not finite, or the file cannot be written (no permission, disk
            full).
    """
    import soundfile

    encoded, samples = io.BytesIO(), to_int16(wave)
    soundfile.write(encoded, samples, sample_rate, format="FLAC", subtype="PCM_16")
    replace(path, encoded.getvalue())
    return from_int16(samples)


def write_opus(path: Path, wave: Wave, sample_rate: int) -> None:
    """Write [S] as Opus in Ogg, some 56 kbit/s, all or nothing; the same wave gives the same bytes.

    Lossy: for ears, never for scores. A rate that Opus does not have becomes its next higher one,
    and what is above 48 kHz becomes 48 kHz. Nothing is scaled.

    Raises:
        InputError: If a sample is not finite, or the file cannot be written (no permission, disk
            full).
    """
    import soundfile

    rate = next((rate for rate in _OPUS_RATES if rate >= sample_rate), _OPUS_RATES[-1])
    samples = to_int16(resample(wave, sample_rate, rate))
    encoded = io.BytesIO()
    soundfile.write(
        encoded, samples, rate, format="OGG", subtype="OPUS", compression_level=_OPUS_LEVEL
    )
    replace(path, _steady_ogg(encoded.getvalue()))


def resample(wave: Wave, from_rate: int, to_rate: int) -> Wave:
    """The same sound at another rate, by soxr at its best; the wave itself if the rates agree."""
    if from_rate == to_rate:
        return wave
    import soxr

    out: Wave = soxr.resample(wave, from_rate, to_rate, quality="VHQ")
    return out.astype(np.float32, copy=False)


def audio_hash(wave: Wave, sample_rate: int) -> str:
    """The content hash of a wave, sample by sample as `read_audio` gives them, and of its rate.

    Raises:
        InputError: If a sample is not finite.
    """
    if not np.isfinite(wave).all():
        raise InputError("audio with NaN or infinite samples has no identity")
    return samples_hash(wave, sample_rate)


def to_int16(wave: Wave) -> NDArray[np.int16]:
    """Samples rounded to 16 bits; what lies outside of [-1, 1] is clipped.

    Raises:
        InputError: If a sample is not finite.
    """
    if not np.isfinite(wave).all():
        raise InputError("audio with NaN or infinite samples cannot be stored")
    scaled = np.rint(wave.astype(np.float64) * _FULL_SCALE)
    return np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def from_int16(samples: NDArray[np.int16]) -> Wave:
    """Samples of 16 bits as floats in [-1, 1)."""
    return samples.astype(np.float32) / np.float32(_FULL_SCALE)


def _steady_ogg(data: bytes) -> bytes:
    """The pages of an Ogg file as stream 0: libsndfile draws the stream's number anew each time."""
    out, start = bytearray(data), 0
    # A page: 27 bytes of header, n lengths, as many bytes as they add up to.
    while start < len(out):
        n = out[start + 26]
        end = start + 27 + n + sum(out[start + 27 : start + 27 + n])
        out[start + 14 : start + 18] = out[start + 22 : start + 26] = bytes(4)
        # Ogg's CRC-32 is zlib's with the bits the other way round, starting and ending at 0.
        mirrored = zlib.crc32(out[start:end].translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        out[start + 22 : start + 26] = int(f"{mirrored:032b}"[::-1], 2).to_bytes(4, "little")
        start = end
    return bytes(out)
