"""OpenAI's own implementation of Whisper, under the same policy."""

import importlib.util
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from calm_bench.asr.recognizer import POLICY, Heard, Recognizer, english_alone, join_pieces
from calm_bench.errors import InputError, MissingExtraError
from calm_bench.seeds import file_hash
from calm_bench.types import Wave


class OpenAiRecognizer(Recognizer):
    """Whisper by the openai-whisper package, in float32 and with its own windows."""

    def __init__(self, weights: str = "tiny.en", *, language: str = "en") -> None:
        """Name one of OpenAI's models, whose hash its package checks, or a checkpoint's path."""
        if language != "en" and weights.endswith(".en"):
            raise english_alone(f"openai-whisper:{weights}", language)
        if importlib.util.find_spec("whisper") is None:
            raise MissingExtraError("openai-whisper", "whisper", "openai-whisper")
        self.weights = weights
        self.language = language

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        path = Path(self.weights)
        return {
            "engine": f"openai-whisper {version('openai-whisper')}",
            "weights": file_hash(path) if path.is_file() else self.weights,
            "compute": "float32 on cpu",
            "word_times": "cross-attention",
            "language": self.language,
            **POLICY,
        }

    def hear(self, wave: Wave) -> Heard:
        result = self._model.transcribe(
            wave,
            language=self.language,
            temperature=0.0,  # a single temperature: no fallback
            no_speech_threshold=None,  # flagged instead of dropped
            condition_on_previous_text=False,
            word_timestamps=True,
            fp16=False,
        )
        segments = result["segments"]
        pieces = [piece for segment in segments for piece in segment["words"]]
        return Heard(
            words=join_pieces(pieces),
            no_speech=max((segment["no_speech_prob"] for segment in segments), default=1.0),
            log_prob=min((segment["avg_logprob"] for segment in segments), default=0.0),
        )

    @cached_property
    def _model(self) -> Any:
        import whisper

        try:
            model = whisper.load_model(self.weights, device="cpu")
        except (OSError, RuntimeError) as error:
            raise InputError(f"cannot load openai-whisper:{self.weights}: {error}") from error
        if self.language != "en" and not model.is_multilingual:
            raise english_alone(f"openai-whisper:{self.weights}", self.language)
        return model
