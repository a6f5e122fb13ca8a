"""Log-mel statistics: the second embedding that needs no download, for music and for any timbre.

Whisper's encoder was trained to look past instruments, room and bandwidth: a poor judge of music.
Networks that were trained on music are downloads (VGGish, PANN, CLAP, EnCodec) or lie in packages
of their own (musicnn), so this one is not learned at all: the level and the restlessness of 64 mel
bands, second by second. Sixty-four log-mel bands are what VGGish is given to look at, too.

What a distance between such vectors says: whether the continuations have the reference's spectrum,
level and dynamics, and their spread over clips. It notices lost bandwidth, buzz, noise, fading and
a narrowed range of instruments. What it cannot say: whether notes, harmony or rhythm beyond a
second make sense; noise of the right colour fools its means and is told by its deviations alone.
Nothing is normalised, so level counts; a constant offset alone is taken out. Values compare within
this recipe only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calm_bench.core.waves import centred, mel_power
from calm_bench.embeddings.base import Embedding
from calm_bench.types import Wave

_BANDS = 64
_N_FFT = 1024  # 64 ms every 16 ms: the lowest bands are as wide as two bins
_WINDOW, _HOP = 1.0, 0.25  # seconds
_FLOOR = 1e-8  # power of a band that counts as nothing, -80 dBFS


class MelEmbedding(Embedding):
    """Means and deviations of 64 log-mel bands over 1 s, four vectors a second."""

    name = "mel"
    version = "2"
    sample_rate = 16_000
    dim = 2 * _BANDS
    min_seconds = 1.0

    @property
    def recipe(self) -> Mapping[str, Any]:
        return {
            "bands": f"{_BANDS} mel bands to {self.sample_rate // 2} Hz, log10 of power",
            "offset": "taken out",
            "n_fft": _N_FFT,
            "floor": _FLOOR,
            "window_seconds": _WINDOW,
            "hop_seconds": _HOP,
            "vector": "means, then deviations of the bands in a window",
        }

    def embed(self, waves: Sequence[Wave]) -> list[NDArray[np.float32]]:
        return [self._embed(wave) for wave in waves]

    def _embed(self, wave: Wave) -> NDArray[np.float32]:
        power = mel_power(centred(wave), self.sample_rate, _N_FFT, _BANDS)
        levels = np.log10(np.maximum(power, _FLOOR))  # [frames, 64]
        per_second = self.sample_rate / (_N_FFT // 4)
        # A window of 1 s holds as many frames as lie in it whole: one less at either end.
        size = min(len(levels), int(_WINDOW * per_second) - 3)
        starts = np.arange(0, len(levels) - size + 1, int(_HOP * per_second))
        windows = np.stack([levels[start : start + size] for start in starts])  # [N, size, 64]
        vectors = np.concatenate([windows.mean(axis=1), windows.std(axis=1)], axis=1)
        return vectors.astype(np.float32)
