"""What a recogniser is: audio to words, by one policy, with the alarms that its text sets off."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calm_bench.asr.health import health_flags, is_silent, placed_in_sound
from calm_bench.core.parallel import ordered_map
from calm_bench.errors import InputError
from calm_bench.types import TimedWord, Transcript, Wave

SAMPLE_RATE = 16_000

POLICY = {
    "temperature": 0,
    "fallback": False,
    "beam_size": 1,
    "condition_on_previous_text": False,
    "silence_dbfs": -60,
    "words_in_silence": "left out and flagged; within 0.5 s after a sound, moved back to it",
    "resampler": "soxr-VHQ",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What an engine makes of a clip.

    Attributes:
        no_speech: The probability that nobody speaks.
        log_prob: Of the text, a token on average.
    """

    words: Sequence[TimedWord] = ()
    no_speech: float = 0.0
    log_prob: float = 0.0


class Recognizer(ABC):
    """Audio to `Transcript`; `recipe` names everything but the audio that the words depend on."""

    threads: int = 1
    language: str = "en"

    @property
    @abstractmethod
    def recipe(self) -> Mapping[str, Any]:
        """Engine, weights and policy; reading it loads no model."""

    @abstractmethod
    def hear(self, wave: Wave) -> Heard:
        """The words in 16 kHz audio [S], and how sure the engine is of them."""

    def transcribe(self, wave: Wave, sample_rate: int) -> Transcript:
        """What is heard in a whole clip; silence gives no words and the flag `silent`.

        Raises:
            InputError: If the audio is not mono or not finite.
        """
        wave = _prepare(wave, sample_rate)
        if is_silent(wave):
            return Transcript(text="", flags=("silent",), language=self.language)
        heard = self.hear(wave)
        flags = health_flags(heard.words, wave, heard.no_speech, heard.log_prob)
        words = placed_in_sound(heard.words, wave)
        text = " ".join(word.word for word in words)
        return Transcript(text=text, words=tuple(words), flags=flags, language=self.language)

    def transcribe_all(self, clips: Iterable[tuple[Wave, int]]) -> Iterator[Transcript]:
        """One transcript per (wave, sample rate), in order and as they come, on all threads.

        The words are those that `transcribe` gives one by one: one thread hears a clip, whole.
        """
        return ordered_map(lambda clip: self.transcribe(*clip), clips, self.threads)


def english_alone(weights: str, language: str) -> InputError:
    """What to say where English weights are to listen to another language."""
    return InputError(
        f"{weights} knows English alone and cannot listen to {language!r}: name multilingual "
        "weights, as in --asr faster-whisper:base"
    )


def join_pieces(pieces: Iterable[Mapping[str, Any]]) -> list[TimedWord]:
    """Words as the text writes them: a piece without a leading space belongs to the one before."""
    words: list[TimedWord] = []
    for piece in pieces:
        text = piece["word"]
        start, end = float(piece["start"]), float(piece["end"])
        if words and not text.startswith(" "):
            last = words.pop()
            # A comma or full stop takes in the pause that follows; the word has ended before it.
            end = end if any(map(str.isalnum, text)) else last.end
            text, start = last.word + text, last.start
        if text.strip():
            words.append(TimedWord(word=text.strip(), start=start, end=max(start, end)))
    return [word for word in words if any(map(str.isalnum, word.word))]


def _prepare(wave: Wave, sample_rate: int) -> Wave:
    """Finite mono audio at 16 kHz, at least a tenth of a second long."""
    if wave.ndim != 1 or not np.isfinite(wave).all():
        raise InputError("only finite mono audio can be transcribed")
    if sample_rate != SAMPLE_RATE:
        import soxr

        wave = soxr.resample(wave, sample_rate, SAMPLE_RATE, quality="VHQ")
    return np.pad(wave, (0, max(0, SAMPLE_RATE // 10 - wave.size))).astype(np.float32)
