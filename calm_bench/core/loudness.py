"""The loudness of a wave by ITU-R BS.1770-4."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from calm_bench.core.audio import resample
from calm_bench.core.spectra import centred
from calm_bench.types import Wave

Floats = NDArray[np.float64]
_BLOCK_SECONDS = 0.4
_LEAST_RATE = 8000  # of the standard's filters, whose shelf lies around 1.7 kHz
_PIECE = 2**20  # samples in double precision at a time; a whole track would take gigabytes


def integrated_loudness(wave: Wave, sample_rate: int) -> float | None:
    """The gated loudness in LUFS; None below 0.4 s or if no block is louder than -70 LUFS."""
    if sample_rate < _LEAST_RATE:
        wave, sample_rate = resample(wave, sample_rate, _LEAST_RATE), _LEAST_RATE
    block = round(_BLOCK_SECONDS * sample_rate)
    if len(wave) < block:
        return None
    power = np.concatenate(list(_block_powers(centred(wave), sample_rate, block)))
    power = power[power > _power(-70.0)]
    if power.size:
        power = power[power > power.mean() / 10.0]
    return -0.691 + 10.0 * math.log10(power.mean()) if power.size else None


def _block_powers(wave: Wave, sample_rate: int, block: int) -> Iterator[Floats]:
    """The mean squares of K-weighted blocks, each a quarter of one after the last, in pieces."""
    from scipy.signal import lfilter

    filters = k_weighting(sample_rate)
    states = [np.zeros(2) for _ in filters]
    hop, left = block // 4, np.empty(0)
    for start in range(0, len(wave), _PIECE):
        weighted = wave[start : start + _PIECE].astype(np.float64)
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
    return (
        (shelf / norm, shelf_poles / norm),
        (np.array([1.0, -2.0, 1.0]), pass_poles / pass_norm),
    )


def _power(lufs: float) -> float:
    """The mean square that a loudness stands for."""
    return float(10.0 ** ((lufs + 0.691) / 10.0))
