"""What a network that was trained to tag music makes of it: musicnn's last layer before the tags.

musicnn (Pons and Serra, arXiv 1909.06654) was trained on MagnaTagATune to say of 3 s of music
whether there are guitar, drums, a flute, singing, whether it is slow or loud: 50 tags. Its filters
are as tall as timbres and as long as rhythms are. The vectors here are the 200 numbers that the
tags are made of. The layer below, which has 1,506, would ask for as many clips to fill them.

The weights are those of the package `musicnn` 0.1.0 (ISC licence), read from its files; the package
itself needs a TensorFlow and a NumPy of 2019 and is never imported. Three things differ from it.
Mel power is held in float32: in the package's float16, 10,000 times the power of a tone above some
-20 dBFS is infinite. A constant offset is taken out. And patches of 3 s begin every half second, so
that the vectors of a benchmark's clips outnumber their dimensions; the package's do not overlap.

Level is not normalised, as it was not in training. A distance between such vectors says whether
instruments, texture and sound are those of the reference; the order of what lasts longer than a
patch is beyond it (docs/ears.md).
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from calm_bench.core.waves import centred
from calm_bench.embeddings.base import Embedding
from calm_bench.embeddings.packaged import PackagedWeights
from calm_bench.embeddings.tensor_bundle import read_floats
from calm_bench.types import Wave

WEIGHTS = PackagedWeights(
    embedding="musicnn",
    package="musicnn==0.1.0",
    module="musicnn",
    files={
        "MTT_musicnn/.index": "da2d7bb670b2b31e9bc441bb1bd75eca31b5b061f963cc1f9630c1aff3238f57",
        "MTT_musicnn/.data-00000-of-00001": (
            "041f3935e981a65cea739842d30c188d3a7d2adf4410955c8668eb3de4a5acab"
        ),
    },
)
_RATE, _N_FFT, _HOP_SAMPLES, _BANDS = 16_000, 512, 256, 96
_PATCH = 187  # frames, 3 s: what the network was trained on
_HOP = 31  # frames, half a second
_AT_ONCE = 16  # patches
_EPSILON = 1e-3  # of the batch norms


class MusicnnEmbedding(Embedding):
    """musicnn's 200 numbers below its music tags, for 3 s every half second."""

    name = "musicnn"
    version = "1"
    sample_rate = _RATE
    dim = 200
    min_seconds = (_PATCH - 1) * _HOP_SAMPLES / _RATE

    @property
    def recipe(self) -> Mapping[str, Any]:
        WEIGHTS.find()
        return {
            "package": WEIGHTS.package,
            "weights_sha256": list(WEIGHTS.files.values()),
            "layer": "MTT_musicnn, penultimate",
            "mel": "96 bands as librosa's (Slaney), 512 samples every 256, log10(1 + 10^4 power)",
            "compute": "float32",
            "offset": "taken out",
            "level": "as it is",
            "patch_frames": _PATCH,
            "hop_frames": _HOP,
        }

    def embed(self, waves: Sequence[Wave]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            return [self._network.penultimate(log_mel(wave)).numpy() for wave in waves]

    @cached_property
    def _network(self) -> "MusicnnNetwork":
        return MusicnnNetwork(read_floats(*WEIGHTS.find()))


class MusicnnNetwork:
    """The network as in the package's models.py, with the tensors of its checkpoint."""

    def __init__(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        self._tensors = {name: torch.from_numpy(t.copy()) for name, t in tensors.items()}

    def penultimate(self, frames: Tensor) -> Tensor:
        """Log-mel frames of a wave [T, 96] to vectors of its patches [N, 200]."""
        starts = range(0, len(frames) - _PATCH + 1, _HOP)
        normed = self._norm(0, frames[None, None])  # [1, 1, T, M]
        # Patches share most of what the two short convolutions find: only the first and last three
        # frames of a patch look at the zeros around it, and are computed once more.
        shared = [self._pooled(index, normed)[0] for index in (0, 1)]  # [C, T - 6] each
        found = []
        for start in range(0, len(starts), _AT_ONCE):
            some = starts[start : start + _AT_ONCE]
            patches = torch.cat([normed[:, :, at : at + _PATCH] for at in some])
            inner = [torch.stack([s[:, at : at + _PATCH - 6] for at in some]) for s in shared]
            found.append(self._penultimate(patches, inner))
        return torch.cat(found)

    def _penultimate(self, patches: Tensor, inner: Sequence[Tensor]) -> Tensor:
        """Patches [N, 1, 187, M] to [N, 200]; `inner` has all but their outer timbral frames."""
        first = F.pad(patches[:, :, :6], (0, 0, 3, 0))
        last = F.pad(patches[:, :, -6:], (0, 0, 0, 3))
        sounds = [
            torch.cat([self._pooled(index, first), middle, self._pooled(index, last)], -1)
            for index, middle in enumerate(inner)
        ]
        for index in (2, 3, 4):  # an even kernel has more of its padding behind
            size = len(self._named("conv2d", index, "kernel"))
            padded = F.pad(patches, (0, 0, (size - 1) // 2, size // 2))
            sounds.append(self._pooled(index, padded))
        layers = [torch.cat(sounds, 1)]  # [N, 561, T]
        for index in (5, 6, 7):
            padded = F.pad(layers[-1].mT[:, None], (0, 0, 3, 3))
            out = self._norm(index + 1, self._conv(index, padded).relu())[..., 0]
            layers.append(out + layers[-1] if index > 5 else out)
        features = torch.cat(layers, 1)  # [N, 753, T]
        pools = torch.stack([features.amax(-1), features.mean(-1)], -1)  # max, mean, max, …
        return self._norm(10, self._dense(0, self._norm(9, pools.flatten(1))).relu())

    def _pooled(self, index: int, x: Tensor) -> Tensor:
        """A layer of the front end at its strongest band, [N, 1, T, M] to [N, C, T'].

        The strongest after ReLU and norm; as both are monotone, they come after the pooling.
        """
        found = self._conv(index, x)
        rises = self._named("batch_normalization", index + 1, "gamma")[:, None] >= 0
        strongest = torch.where(rises, found.amax(-1), found.amin(-1))
        return self._norm(index + 1, strongest.relu())

    def _conv(self, index: int, x: Tensor) -> Tensor:
        kernel = self._named("conv2d", index, "kernel").permute(3, 2, 0, 1)
        return F.conv2d(x, kernel, self._named("conv2d", index, "bias"))

    def _dense(self, index: int, x: Tensor) -> Tensor:
        return x @ self._named("dense", index, "kernel") + self._named("dense", index, "bias")

    def _norm(self, index: int, x: Tensor) -> Tensor:
        mean, variance, gamma, beta = (
            self._named("batch_normalization", index, name)
            for name in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return F.batch_norm(x, mean, variance, gamma, beta, eps=_EPSILON)

    def _named(self, layer: str, index: int, name: str) -> Tensor:
        return self._tensors[f"{layer}_{index}/{name}" if index else f"{layer}/{name}"]


def log_mel(wave: Wave) -> Tensor:
    """Log-mel frames of a wave [S], a hop of 16 ms apart, [T, 96]."""
    samples = torch.from_numpy(np.asarray(centred(wave), np.float32))
    spectrum = torch.stft(
        *(samples, _N_FFT, _HOP_SAMPLES),
        window=torch.hann_window(_N_FFT),
        pad_mode="constant",
        return_complex=True,
    )
    power = spectrum.abs().square().T @ torch.from_numpy(slaney_filters().T)  # [T, 96]
    return torch.log10(1 + 10_000 * power)


def slaney_filters() -> NDArray[np.float32]:
    """Mel filters of equal area, evenly spaced on Slaney's scale: librosa's default, [96, 257].

    The scale is linear up to 1 kHz (15 mel) and logarithmic from there, 27 mel to a factor of 6.4.
    """
    top = 15 + 27 * math.log(_RATE / 2 / 1000) / math.log(6.4)
    mels = np.linspace(0, top, _BANDS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = np.fft.rfftfreq(_N_FFT, 1 / _RATE)
    rising, falling = (bins - low) / (mid - low), (high - bins) / (high - mid)
    triangles = np.clip(np.minimum(rising, falling), 0, None)  # [96, 257]
    return np.asarray(triangles * 2 / (high - low), dtype=np.float32)
