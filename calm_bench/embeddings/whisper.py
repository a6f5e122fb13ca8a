"""What Whisper's encoder makes of speech, averaged over 0.2 s: the vectors of the default FAD.

They come from the recogniser's own weights, so they need no download. They know phonemes, pace and
noise, and were trained to look past voice and channel: a distance between them says whether speech
sounds like speech, not how good a recording is. Values compare within this recipe only.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from calm_bench.asr import load_recognizer
from calm_bench.asr.faster_whisper import FasterWhisperRecognizer
from calm_bench.core.progress import ordered_map
from calm_bench.core.waves import centred
from calm_bench.embeddings.base import Embedding
from calm_bench.errors import InputError
from calm_bench.types import Wave

_FRAMES = 10  # encoder frames of 20 ms in one vector


class WhisperEmbedding(Embedding):
    """Whisper tiny.en's encoder output in windows of 0.2 s, five vectors a second.

    Give it the continuation alone. The audio is encoded without Whisper's padding to 30 s, which
    would cost eight times the time for distances that agree within 5 % (speech in noise, filtered,
    reversed). A last window that is at least half full is kept. A constant offset is taken out: one
    of 0.01, which nobody hears, lies further from clean speech than noise at -50 dBFS does.
    """

    name = "whisper"
    version = "2"
    sample_rate = 16_000
    dim = 384
    min_seconds = 1.0
    max_seconds = 30.0

    @property
    def recipe(self) -> Mapping[str, Any]:
        asr = self._recognizer.recipe
        shared = {key: asr[key] for key in ("engine", "runtime", "weights_sha256", "compute")}
        return shared | {
            "embedding": f"{self.name} v{self.version}",
            "layer": "encoder output",
            "window_seconds": 0.2,
            "padding": "none",
            "offset": "taken out",
        }

    def embed(self, waves: Sequence[Wave]) -> list[NDArray[np.float32]]:
        """The vectors of each wave [S], [N, 384], on all threads.

        Raises:
            InputError: If a wave is longer than the 30 s that the encoder takes.
        """
        return list(ordered_map(self._embed, waves, self._recognizer.threads))

    def _embed(self, wave: Wave) -> NDArray[np.float32]:
        if wave.size > self.max_seconds * self.sample_rate:
            seconds = wave.size / self.sample_rate
            raise InputError(
                f"whisper embeds at most {self.max_seconds:g} s of audio, not {seconds:.1f} s"
            )
        frames = self._recognizer.encode(centred(wave))  # [T, E]
        n_vectors = max(1, (len(frames) + _FRAMES // 2) // _FRAMES)
        frames = frames[: n_vectors * _FRAMES]
        starts = np.arange(n_vectors) * _FRAMES
        lengths = np.diff(starts, append=len(frames))
        return (np.add.reduceat(frames, starts, axis=0) / lengths[:, None]).astype(np.float32)

    @cached_property
    def _recognizer(self) -> FasterWhisperRecognizer:
        return cast(FasterWhisperRecognizer, load_recognizer())
