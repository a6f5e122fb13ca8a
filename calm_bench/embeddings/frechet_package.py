"""VGGish, CLAP, EnCodec and PANN as the package frechet-audio-distance has them (extra `fad`).

For values beside other people's, by the recipe that they used. No weights come with the package:
each model's are downloaded on first use to torch's hub folder, where they can also be put by hand.
The package's own distance is not used: it takes a matrix root that newer SciPy versions lack, and
answers -1 when something fails.

Three things are done around it. Its import fetches text tokenizers that audio has no use for, and
hangs without a network: it is imported with the model hub off line. Checkpoints are unpickled as
tensors only. And VGGish is code that torch.hub would download and run: the user must allow that.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from calm_bench.embeddings.base import Embedding
from calm_bench.errors import BenchError, MissingExtraError
from calm_bench.types import Wave

_PACKAGE = "frechet-audio-distance"
_NUMPY_SCALAR = "numpy.core.multiarray.scalar"
_VGGISH_REPOSITORY = "harritaylor_torchvggish"


class _PackageEmbedding(Embedding):
    """A model of the package, loaded when the first wave or the recipe is asked for."""

    version = "1"
    model: ClassVar[str]
    submodel: ClassVar[str] = "630k-audioset"

    @property
    def recipe(self) -> Mapping[str, Any]:
        weights = self._weights_hash  # first, because it says what to do without the package
        return {
            "package": f"{_PACKAGE} {importlib.metadata.version(_PACKAGE)}",
            "model": self.model,
            "weights_sha256": weights,
        }

    def embed(self, waves: Sequence[Wave]) -> list[NDArray[np.float32]]:
        return [
            np.concatenate([self._vectors(part) for part in self._parts(wave)]) for wave in waves
        ]

    def _parts(self, wave: Wave) -> Iterator[Wave]:
        yield wave

    def _vectors(self, wave: Wave) -> NDArray[np.float32]:
        """The package prints what went wrong and goes on; here it becomes the error."""
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                vectors = self._loaded.get_embeddings([wave], self.sample_rate)
        except ValueError as error:
            raise BenchError(f"{self.name} failed: {said.getvalue().strip() or error}") from error
        return np.asarray(vectors, dtype=np.float32).reshape(-1, self.dim)

    @cached_property
    def _loaded(self) -> Any:
        package = _import_package(self.name)
        self._before_loading()
        try:
            with contextlib.redirect_stdout(io.StringIO()), _tensors_only():
                return package.FrechetAudioDistance(
                    model_name=self.model, submodel_name=self.submodel, sample_rate=self.sample_rate
                )
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BenchError(
                f"the embedding {self.name} could not be loaded: {reason}; its weights are "
                "downloaded on first use, which needs a network"
            ) from error

    def _before_loading(self) -> None:
        """What must be so before the model may be loaded."""

    @cached_property
    def _weights_hash(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self._loaded.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class VggishEmbedding(_PackageEmbedding):
    """VGGish without PCA and final activation: 128 numbers for each 0.96 s."""

    name = "vggish"
    model = "vggish"
    sample_rate = 16_000
    dim = 128
    min_seconds = 1.0

    def _before_loading(self) -> None:
        import torch

        trusted = Path(torch.hub.get_dir()) / "trusted_list"
        names = trusted.read_text().split() if trusted.is_file() else []
        if _VGGISH_REPOSITORY not in names:
            raise BenchError(
                "vggish runs code from github.com/harritaylor/torchvggish, which calm-bench does "
                'not download by itself; to allow it, once: python -c "import torch; '
                "torch.hub.load('harritaylor/torchvggish', 'vggish', trust_repo=True)\""
            )


class PannEmbedding(_PackageEmbedding):
    """PANN's Cnn14 at 16 kHz: 2,048 numbers for a whole clip."""

    name = "pann"
    model = "pann"
    sample_rate = 16_000
    dim = 2048
    min_seconds = 1.0


class EncodecEmbedding(_PackageEmbedding):
    """EnCodec's encoder at 24 kHz before quantisation: 128 numbers, 75 times a second."""

    name = "encodec"
    model = "encodec"
    sample_rate = 24_000
    dim = 128
    min_seconds = 0.1


class ClapEmbedding(_PackageEmbedding):
    """LAION-CLAP (630k, AudioSet) at 48 kHz: 512 numbers for windows of 10 s, one every second.

    CLAP crops longer audio to 10 s at random, so it is never given more; it repeats shorter audio.
    """

    name = "clap"
    model = "clap"
    sample_rate = 48_000
    dim = 512
    min_seconds = 1.0

    @property
    def recipe(self) -> Mapping[str, Any]:
        return {**super().recipe, "checkpoint": self.submodel, "window": 10.0, "hop": 1.0}

    def _parts(self, wave: Wave) -> Iterator[Wave]:
        window = 10 * self.sample_rate
        for start in range(0, max(1, len(wave) - window + 1), self.sample_rate):
            yield wave[start : start + window]


class ClapMusicEmbedding(ClapEmbedding):
    """LAION-CLAP trained on music and AudioSet."""

    name = "clap-music"
    submodel = "music_audioset"


def _import_package(name: str) -> Any:
    try:
        importlib.metadata.version(_PACKAGE)
        from huggingface_hub import constants
    except (importlib.metadata.PackageNotFoundError, ModuleNotFoundError) as error:
        raise MissingExtraError(f"the embedding {name}", "fad", _PACKAGE) from error
    with mock.patch.object(constants, "HF_HUB_OFFLINE", True):
        import frechet_audio_distance
    return frechet_audio_distance


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Let torch.load read nothing but tensors and numpy scalars, whatever the caller asks of it."""
    import torch

    scalar = np.float64(0).__reduce__()[0]  # numpy 1 and 2 pickle it under different names
    allowed: list[Any] = [np.dtype, type(np.dtype("float64")), scalar, (scalar, _NUMPY_SCALAR)]
    forced = mock.patch.dict(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1")
    with forced, torch.serialization.safe_globals(allowed):
        yield
