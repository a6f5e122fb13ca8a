"""Short-time spectra, linear and on the mel scale, in numpy, and waves without their offset."""

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from calm_bench.types import Wave

Floats = NDArray[np.float64]

_PIECE = 2**22  # samples in frames at a time; those of a whole track would take gigabytes


def centred(wave: Wave) -> Wave:
    """A wave without its mean, [S]; a constant becomes zeros.

    No ear hears a constant offset, and a level, a spectrum or a network must not hear it either.
    """
    return wave - np.float32(wave.mean(dtype=np.float64)) if len(wave) else wave


@cache
def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Floats:
    """Triangles of unit height, evenly spaced in mel between 0 and half the rate, [M, n_fft/2 + 1].

    A filter narrower than a bin of the transform would be empty; it takes its nearest bin instead.
    """
    bins = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    top = 2595.0 * np.log10(1.0 + sample_rate / 2 / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(0.0, top, n_mels + 2) / 2595.0) - 1.0)
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters = np.clip(
        np.minimum((bins - low) / (mid - low), (high - bins) / (high - mid)), 0.0, 1.0
    )
    for row in np.flatnonzero(filters.sum(axis=1) == 0.0):
        filters[row, np.abs(bins - mid[row]).argmin()] = 1.0
    return filters


def mel_power(wave: Wave, sample_rate: int, n_fft: int, n_mels: int) -> Floats:
    """Power in mel bands of Hann frames every quarter of a window, [frames, M].

    The bands of a frame add up to its mean square, but for what lies outside of the first and last
    peak. A wave shorter than a window is padded with zeros to one; the end is cut to whole hops.
    """
    filters = mel_filters(sample_rate, n_fft, n_mels).T
    return np.concatenate([spectra @ filters for spectra in _spectra(wave, n_fft)])


def mean_power(wave: Wave, n_fft: int) -> Floats:
    """The mean power spectrum of Hann frames every quarter of a window, [n_fft/2 + 1].

    It adds up to the wave's mean square, as far as frames cover it.
    """
    sums, counts = zip(*((s.sum(axis=0), len(s)) for s in _spectra(wave, n_fft)), strict=True)
    power: Floats = np.sum(sums, axis=0) / sum(counts)
    return power


def _spectra(wave: Wave, n_fft: int) -> Iterator[Floats]:
    """Power spectra of frames, a bounded number at a time."""
    hop = n_fft // 4
    padded = np.pad(wave, (0, max(0, n_fft - len(wave))))
    window = np.hanning(n_fft + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    step = max(1, _PIECE // n_fft)
    for start in range(0, len(frames), step):
        piece = frames[start : start + step].astype(np.float64)
        spectrum: Floats = np.abs(np.fft.rfft(piece * window)) ** 2
        spectrum *= 2.0 / (n_fft * np.sum(window**2))  # one-sided; sums to a frame's mean square
        yield spectrum
