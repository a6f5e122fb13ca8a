"""A clip as a picture: its outline for the page itself, its spectrogram as a small PNG.

Both are drawn to one scale for all clips, so that what is quiet looks quiet.
"""

import struct
import zlib
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from calm_bench.types import Wave

COLUMNS = 160
"""Bars of an outline, which is as wide as this and 100 high."""

SPECTROGRAM = (400, 96)
"""Width and height of a spectrogram in pixels."""

_FLOOR_DB = -90.0
_CEILING_DB = -10.0
# Matplotlib's magma at 16 even steps: readable in grey, and 4 bits a pixel.
_PALETTE = (
    "000004 0b0924 20114b 3b0f70 57157e 721f81 8c2981 a8327d "
    "c43c75 de4968 f1605d fa7f5e fe9f6d febf84 fddea0 fcfdbf"
)


def outline(wave: Wave) -> str:
    """The bars of a wave [S] as the `d` of an SVG path, their heights by the root of the peak."""
    edges = np.linspace(0, len(wave), COLUMNS + 1).astype(np.int64)
    peaks = [float(np.abs(wave[a : max(b, a + 1)]).max()) for a, b in pairwise(edges)]
    heights = [max(1, round(50 * min(1.0, peak) ** 0.5)) for peak in peaks]
    return "".join(f"M{x} {50 - height}V{50 + height}" for x, height in enumerate(heights))


def spectrogram_png(wave: Wave, sample_rate: int) -> bytes:
    """Decibels over time (across) and frequency (upwards, linear, to half the rate) of a wave."""
    width, height = SPECTROGRAM
    size = 2 ** round(np.log2(sample_rate * 0.032))  # some 32 ms
    padded = np.pad(wave.astype(np.float64), size // 2)
    starts = np.linspace(0, len(padded) - size, width).astype(np.int64)
    frames = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = (np.abs(np.fft.rfft(frames, axis=1)) * 4 / size) ** 2  # [width, bins], full scale is 1
    edges = np.linspace(1, power.shape[1], height + 1).astype(np.int64)
    bands = np.maximum.reduceat(power, edges[:-1], axis=1)  # [width, height]
    decibels = 10 * np.log10(np.maximum(bands, 1e-12))
    level = (decibels - _FLOOR_DB) / (_CEILING_DB - _FLOOR_DB)
    pixels = np.clip(np.rint(level * 15), 0, 15).astype(np.uint8)
    return _png(pixels.T[::-1])


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Palette numbers below 16, [height, width] with an even width, as a PNG of 4 bits a pixel."""
    height, width = pixels.shape
    packed = (pixels[:, ::2] << 4) | pixels[:, 1::2]
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    head = struct.pack(">IIBBBBB", width, height, 4, 3, 0, 0, 0)
    palette = bytes.fromhex(_PALETTE.replace(" ", ""))
    chunks = (
        (b"IHDR", head),
        (b"PLTE", palette),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
