"""Sound files in and out, resampling and the identity of audio: the one place that touches them.

Inside the program audio is mono float32, in [-1, 1] unless a file says otherwise. What the program
writes is 16-bit FLAC; `audio_hash` looks at float32 samples, so what was written has the identity
of what `write_flac` returns, which is what reading the file gives back. A wave that `read_audio`
returns is finite and not empty; the rest of the program relies on it.
"""

import io
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calm_bench.errors import InputError
from calm_bench.files import disk_errors, replace
from calm_bench.seeds import samples_hash
from calm_bench.types import Wave

__all__ = [
    "RESAMPLER",
    "AudioInfo",
    "audio_hash",
    "probe_audio",
    "read_audio",
    "resample",
    "write_flac",
    "write_opus",
]

RESAMPLER = "soxr-VHQ"
"""What `resample` uses; metrics whose values depend on it name it in their recipe."""

# libsndfile reads int16 as x / 32768; the same factor out makes a round trip exact.
_FULL_SCALE = 32768

_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
# libsndfile's scale from 256 (0.0) down to 6 kbit/s a channel (1.0): this is 56.
_OPUS_LEVEL = 0.8

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioInfo:
    """What a sound file's header says, before anything is decoded."""

    sample_rate: int
    channels: int
    seconds: float


def probe_audio(path: Path) -> AudioInfo:
    """The rate, channels and length that a sound file declares.

    Raises:
        InputError: If the file is missing or no sound file.
    """
    import soundfile

    _require_file(path)
    try:
        info = soundfile.info(path)
    except Exception as error:  # whatever a decoder stumbles over is this file's fault
        raise InputError(f"{path} is not a readable sound file: {_one_line(error)}") from error
    return AudioInfo(
        sample_rate=info.samplerate, channels=info.channels, seconds=info.frames / info.samplerate
    )


def read_audio(path: Path, sample_rate: int | None = None) -> tuple[Wave, int]:
    """The mean of a file's channels [S] and its rate, resampled if a rate is asked for.

    Raises:
        InputError: If the file is missing, damaged, cut short or empty, or holds NaN or infinity.
    """
    import soundfile

    _require_file(path)
    try:
        with soundfile.SoundFile(path) as file:
            declared, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)  # [S, channels]
    except Exception as error:  # whatever a decoder stumbles over is this file's fault
        raise InputError(f"{path} is not a readable sound file: {_one_line(error)}") from error
    if len(samples) == 0:
        raise InputError(f"{path} holds no audio")
    # An mp3 without a length tag declares an estimate; every other format counts its samples.
    if len(samples) < declared and file.format != "MP3":
        raise InputError(f"{path} is cut short: {len(samples)} of {declared} samples decode")
    if not np.isfinite(samples).all():
        raise InputError(f"{path} holds NaN or infinite samples")
    wave = samples.mean(axis=1, dtype=np.float32)
    if sample_rate is None:
        return wave, rate
    return resample(wave, rate, sample_rate), sample_rate


def write_flac(path: Path, wave: Wave, sample_rate: int) -> Wave:
    """Write [S] as 16-bit FLAC, all or nothing, and return what reading the file gives back.

    Nothing is scaled, because loudness is part of what is measured: what is too loud is clipped.

    Raises:
        InputError: If a sample is not finite, or the file cannot be written (no permission, disk
            full).
    """
    import soundfile

    encoded, samples = io.BytesIO(), _to_int16(wave)
    soundfile.write(encoded, samples, sample_rate, format="FLAC", subtype="PCM_16")
    _write_whole(path, encoded.getvalue())
    return samples.astype(np.float32) / np.float32(_FULL_SCALE)


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
    samples = _to_int16(resample(wave, sample_rate, rate))
    encoded = io.BytesIO()
    soundfile.write(
        encoded, samples, rate, format="OGG", subtype="OPUS", compression_level=_OPUS_LEVEL
    )
    _write_whole(path, _steady_ogg(encoded.getvalue()))


def resample(wave: Wave, from_rate: int, to_rate: int) -> Wave:
    """The same sound at another rate, by soxr at its best; the wave itself if the rates agree."""
    if from_rate == to_rate:
        return wave
    import soxr

    out: Wave = soxr.resample(wave, from_rate, to_rate, quality="VHQ").astype(
        np.float32, copy=False
    )
    return out


def audio_hash(wave: Wave, sample_rate: int) -> str:
    """The content hash of a wave, sample by sample as `read_audio` gives them, and of its rate.

    Raises:
        InputError: If a sample is not finite.
    """
    if not np.isfinite(wave).all():
        raise InputError("audio with NaN or infinite samples has no identity")
    return samples_hash(wave, sample_rate)


def _to_int16(wave: Wave) -> NDArray[np.int16]:
    """Samples rounded to 16 bits; what lies outside of [-1, 1] is clipped."""
    if not np.isfinite(wave).all():
        raise InputError("audio with NaN or infinite samples cannot be stored")
    scaled = np.rint(wave.astype(np.float64) * _FULL_SCALE)
    return np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file all or nothing, and the folder it goes to."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, data)


def _steady_ogg(data: bytes) -> bytes:
    """The pages of an Ogg file as stream 0: libsndfile draws the stream's number anew each time."""
    out, start = bytearray(data), 0
    # A page: 27 bytes of header, n lengths, as many bytes as they add up to.
    while start < len(out):
        n = out[start + 26]
        end = start + 27 + n + sum(out[start + 27 : start + 27 + n])
        out[start + 14 : start + 18] = out[start + 22 : start + 26] = bytes(4)
        out[start + 22 : start + 26] = _ogg_checksum(out[start:end]).to_bytes(4, "little")
        start = end
    return bytes(out)


def _ogg_checksum(page: bytearray) -> int:
    """Ogg's CRC-32, which is zlib's with the bits the other way round, starting and ending at 0."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _require_file(path: Path) -> None:
    """Say plainly that a path is missing, a folder or empty, before a decoder says it its way."""
    if not path.is_file():
        raise InputError(f"{path} is not a file" if path.exists() else f"{path} does not exist")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)")


def _one_line(error: Exception) -> str:
    """An error's text without the path that the decoder repeats."""
    return str(error).rsplit(": ", 1)[-1].strip()
