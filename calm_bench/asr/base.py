"""What a recogniser is: audio to words, by one policy, with the alarms that its text sets off."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from calm_bench.errors import InputError
from calm_bench.parallel import ordered_map
from calm_bench.types import TimedWord, Transcript, Wave

__all__ = [
    "FLAGS",
    "POLICY",
    "SAMPLE_RATE",
    "Recognizer",
    "health_flags",
    "is_silent",
    "join_pieces",
]

SAMPLE_RATE = 16_000

FLAGS = ("compression", "fast", "loop", "no_speech", "silent")
"""The alarms a transcript may carry."""

POLICY = {
    "language": "en",
    "temperature": 0,
    "fallback": False,
    "beam_size": 1,
    "condition_on_previous_text": False,
    "silence_dbfs": -60,
    "resampler": "soxr-VHQ",
}

_SILENCE = 1e-3  # RMS of the loudest 0.1 s: -60 dBFS


class Recognizer(ABC):
    """Audio to `Transcript`; `recipe` names everything but the audio that the words depend on."""

    threads: int = 1

    @property
    @abstractmethod
    def recipe(self) -> Mapping[str, Any]:
        """Engine, weights and policy; reading it loads no model."""

    @abstractmethod
    def hear(self, wave: Wave) -> tuple[list[TimedWord], float]:
        """The words in 16 kHz audio [S] and the probability that nobody speaks."""

    def transcribe(self, wave: Wave, sample_rate: int) -> Transcript:
        """What is heard in a whole clip; silence gives no words and the flag `silent`.

        Raises:
            InputError: If the audio is not mono or not finite.
        """
        wave = _prepare(wave, sample_rate)
        if is_silent(wave):
            return Transcript(text="", flags=("silent",))
        words, no_speech = self.hear(wave)
        return Transcript(
            text=" ".join(word.word for word in words),
            words=tuple(words),
            flags=health_flags(words, no_speech),
        )

    def transcribe_all(self, clips: Iterable[tuple[Wave, int]]) -> Iterator[Transcript]:
        """One transcript per (wave, sample rate), in order and as they come, on all threads.

        The words are those that `transcribe` gives one by one: one thread hears a clip, whole.
        """
        return ordered_map(lambda clip: self.transcribe(*clip), clips, self.threads)


def health_flags(words: Sequence[TimedWord], no_speech: float) -> tuple[str, ...]:
    """The alarms of a transcript, sorted: signs that the recogniser invented or looped.

    compression: the text shrinks by more than 2.4 (Whisper's own threshold). fast: more than five
    words a second between the first and the last. loop: the same words at least three times in a
    row and four words in all. no_speech: nobody speaks, with a probability above 0.6.
    """
    raw = " ".join(word.word for word in words).encode()
    seconds = words[-1].end - words[0].start if words else 0.0
    alarms = {
        "compression": len(raw) / len(zlib.compress(raw)) > 2.4,
        "fast": len(words) > max(5.0 * seconds, 5.0),
        "loop": _loops([word.word.lower().strip(".,!?;:\"'") for word in words]),
        "no_speech": no_speech > 0.6,
    }
    return tuple(name for name, rings in alarms.items() if rings)


def is_silent(wave: Wave) -> bool:
    """Whether no tenth of a second of 16 kHz audio [S] is louder than -60 dBFS."""
    size = SAMPLE_RATE // 10
    frames = np.pad(wave, (0, -wave.size % size)).reshape(-1, size)
    return not frames.size or float(np.square(frames).mean(axis=1).max()) < _SILENCE**2


def join_pieces(pieces: Iterable[Mapping[str, Any]], offset: float) -> list[TimedWord]:
    """Words as the text writes them: a piece without a leading space belongs to the one before."""
    words: list[TimedWord] = []
    for piece in pieces:
        text = piece["word"]
        start, end = offset + float(piece["start"]), offset + float(piece["end"])
        if words and not text.startswith(" "):
            last = words.pop()
            # A comma or full stop takes in the pause that follows; the word has ended before it.
            end = end if any(map(str.isalnum, text)) else last.end
            text, start = last.word + text, last.start
        if text.strip():
            words.append(TimedWord(word=text.strip(), start=start, end=max(start, end)))
    return [word for word in words if any(map(str.isalnum, word.word))]


def _loops(words: Sequence[str]) -> bool:
    """Whether one to eight words are said at least three times in a row, four words in all."""
    for size in range(1, 9):
        again = 0
        for i in range(size, len(words)):
            again = again + 1 if words[i] == words[i - size] else 0
            if again >= max(2 * size, 3):
                return True
    return False


def _prepare(wave: Wave, sample_rate: int) -> Wave:
    """Finite mono audio at 16 kHz, at least a tenth of a second long."""
    if wave.ndim != 1 or not np.isfinite(wave).all():
        raise InputError("only finite mono audio can be transcribed")
    if sample_rate != SAMPLE_RATE:
        import soxr

        wave = soxr.resample(wave, sample_rate, SAMPLE_RATE, quality="VHQ")
    return np.pad(wave, (0, max(0, SAMPLE_RATE // 10 - wave.size))).astype(np.float32)
