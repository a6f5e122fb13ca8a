"""What is measured of a wave: its spectra, linear and on the mel scale, and its loudness."""

import math
from collections.abc import Iterator
from functools import cache

import numpy as np

from calm_bench.core.audio import resample
from calm_bench.types import Floats, Wave

_PIECE = 2**22  # samples in frames at a time; those of a whole track would take gigabytes
_BLOCK_SECONDS = 0.4
_LEAST_RATE = 8000  # of the standard's filters, whose shelf lies around 1.7 kHz
SAMPLES_AT_ONCE = 2**20  # samples in double precision at a time; a whole track would take gigabytes


def centred(wave: Wave) -> Wave:
    """A wave without its mean, [S]; a constant becomes zeros.

    No ear hears a constant offset, and a level, a spectrum or a network must not hear it either.
    """
    return wave - np.float32(wave.mean(dtype=np.float64)) if len(wave) else wave


@cache
def mel_filters(sample_rate: int, n_fft: int, n_mels: int, *, filled: bool = True) -> Floats:
    """Triangles of unit height, evenly spaced in mel between 0 and half the rate, [M, n_fft/2 + 1].

    A filter narrower than a bin of the transform may be empty; if they are to be `filled`, it takes
    its nearest bin instead.
    """
    bins = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    top = 2595.0 * np.log10(1.0 + sample_rate / 2 / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(0.0, top, n_mels + 2) / 2595.0) - 1.0)
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters = np.clip(
        np.minimum((bins - low) / (mid - low), (high - bins) / (high - mid)), 0.0, 1.0
    )
    for row in np.flatnonzero(filters.sum(axis=1) == 0.0) if filled else ():
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


def integrated_loudness(wave: Wave, sample_rate: int) -> float | None:
    """The gated loudness in LUFS; None below 0.4 s or if no block is louder than -70 LUFS."""
    if sample_rate < _LEAST_RATE:
        wave, sample_rate = resample(wave, sample_rate, _LEAST_RATE), _LEAST_RATE
    block = round(_BLOCK_SECONDS * sample_rate)
    if len(wave) < block:
        return None
    power = np.concatenate(list(_block_powers(centred(wave), sample_rate, block)))
    power = power[power > 10.0 ** ((-70.0 + 0.691) / 10.0)]
    if power.size:
        power = power[power > power.mean() / 10.0]
    return -0.691 + 10.0 * math.log10(power.mean()) if power.size else None


def _block_powers(wave: Wave, sample_rate: int, block: int) -> Iterator[Floats]:
    """The mean squares of K-weighted blocks, each a quarter of one after the last, in pieces."""
    from scipy.signal import lfilter

    filters = k_weighting(sample_rate)
    states = [np.zeros(2) for _ in filters]
    hop, left = block // 4, np.empty(0)
    for start in range(0, len(wave), SAMPLES_AT_ONCE):
        weighted = wave[start : start + SAMPLES_AT_ONCE].astype(np.float64)
        for index, (numerator, denominator) in enumerate(filters):
            weighted, states[index] = lfilter(numerator, denominator, weighted, zi=states[index])
        left = np.concatenate([left, weighted**2])
        n = max(0, (len(left) - block) // hop + 1)
        if n:
            yield np.lib.stride_tricks.sliding_window_view(left, block)[: n * hop : hop].mean(
                axis=1
            )
            left = left[n * hop :]


def k_weighting(sample_rate: int) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """The standard's two filters at any rate: (numerator, denominator) of the shelf and high-pass.

    BS.1770 tabulates them at 48 kHz only; these are the analogue filters behind the table.
    """
    k, q = math.tan(math.pi * 1681.974450955533 / sample_rate), 0.7071752369554196
    gain = 10.0 ** (3.999843853973347 / 20.0)
    bend = gain**0.4996667741545416
    norm = 1.0 + k / q + k * k
    shelf = np.array([gain + bend * k / q + k * k, 2 * (k * k - gain), gain - bend * k / q + k * k])
    shelf_poles = np.array([norm, 2 * (k * k - 1.0), 1.0 - k / q + k * k])
    k, q = math.tan(math.pi * 38.13547087602444 / sample_rate), 0.5003270373238773
    pass_norm = 1.0 + k / q + k * k
    pass_poles = np.array([pass_norm, 2 * (k * k - 1.0), 1.0 - k / q + k * k])
    high_pass = np.array([1.0, -2.0, 1.0])
    return (shelf / norm, shelf_poles / norm), (high_pass, pass_poles / pass_norm)
