"""Noise that has a recording's spectrum and loudness and nothing else of it.

A floor for set metrics: whatever does not beat it has learned the recording's long-term spectrum at
best. It is harder than noise with the spectrum of all recordings would be, because each clip keeps
the colour of its own piece.
"""

import numpy as np

from calm_bench.core.waves import integrated_loudness, mean_power
from calm_bench.types import Wave


def noise_like(wave: Wave, n_samples: int, sample_rate: int, seed: int) -> Wave:
    """Gaussian noise [n_samples] with the mean power spectrum and loudness of a recording [S].

    Loudness is BS.1770's; a recording too quiet for it lends its mean square instead.
    """
    power = mean_power(wave, 1024)  # [513]
    white = np.fft.rfft(np.random.default_rng(seed).standard_normal(n_samples))
    at = np.linspace(0.0, 1.0, len(white))
    gain = np.sqrt(np.interp(at, np.linspace(0.0, 1.0, len(power)), power))
    noise: Wave = np.fft.irfft(white * gain, n_samples).astype(np.float32)
    rms = float(np.sqrt(np.mean(noise.astype(np.float64) ** 2)))
    if rms == 0.0:
        return noise
    noise *= float(np.sqrt(np.mean(wave.astype(np.float64) ** 2))) / rms
    wanted, found = (integrated_loudness(part, sample_rate) for part in (wave, noise))
    if wanted is not None and found is not None:
        noise *= 10.0 ** ((wanted - found) / 20.0)
    return noise
