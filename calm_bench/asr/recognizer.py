"""What a recogniser is: audio to words, by one policy, with the alarms that its text sets off.

Alarms are signs that a recogniser invented, looped, or did not listen. Levels are looked at by the
tenth of a second, in 16 kHz audio.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from calm_bench.core.audio import RESAMPLER, audio_hash, resample
from calm_bench.core.cache import ContentCache
from calm_bench.core.code import computed_by
from calm_bench.core.progress import ordered_map
from calm_bench.errors import InputError
from calm_bench.seeds import content_hash, recipe_id_of
from calm_bench.types import TimedWord, Transcript, Wave

SAMPLE_RATE = 16_000

POLICY = {
    "temperature": 0,
    "fallback": False,
    "beam_size": 1,
    "condition_on_previous_text": False,
    "silence_dbfs": -60,
    "words_in_silence": "left out and flagged; within 0.5 s after a sound, moved back to it",
    "resampler": RESAMPLER,
}


FLAGS = (
    "compression", "fast", "in_silence", "long_word", "loop", "no_speech", "silent", "sparse",
    "unsure",
)  # fmt: skip
"""The alarms a transcript may carry."""


_COMPRESSION, _NO_SPEECH, _LOG_PROB = 2.4, 0.6, -1.0  # Whisper's own
_WORDS_PER_SECOND = 5.0
_LONGEST_WORD = 2.0
_UNHEARD_SECONDS = 2.0
_SPEECH_DB = 30  # below the loudest twentieth of a clip
_SILENCE_DBFS = -60
_NEAR = 0.5  # seconds by which words are timed beside their sound
THRESHOLDS = {
    "compression_above": _COMPRESSION,
    "no_speech_above": _NO_SPEECH,
    "log_prob_below": _LOG_PROB,
    "words_per_second_above": _WORDS_PER_SECOND,
    "word_seconds_above": _LONGEST_WORD,
    "unheard_seconds_above": _UNHEARD_SECONDS,
    "speech_within_db_of_loudest": _SPEECH_DB,
    "in_silence_seconds_from_sound": _NEAR,
    "loop": "three times in a row, four words in all",
    "silent_below_dbfs": _SILENCE_DBFS,
}
"""When they ring, for recipes."""
_TENTH = 1600  # samples
_SILENCE = 10.0 ** (_SILENCE_DBFS / 10)  # mean squares
_SPEECH = 10.0 ** (-_SPEECH_DB / 10)
Flags = NDArray[np.bool_]
_TRANSCRIPT = TypeAdapter(Transcript)


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
    at_once: int = 1
    """Clips that a thread hears together, where that is quicker."""
    language: str = "en"

    @property
    @abstractmethod
    def recipe(self) -> Mapping[str, Any]:
        """Engine, weights and policy; reading it loads no model."""

    @abstractmethod
    def hear(self, wave: Wave) -> Heard:
        """The words in 16 kHz audio [S], and how sure the engine is of them."""

    def hear_together(self, waves: Sequence[Wave]) -> list[Heard]:
        """What `hear` makes of each of some waves."""
        return [self.hear(wave) for wave in waves]

    def transcribe(self, wave: Wave, sample_rate: int) -> Transcript:
        """What is heard in a whole clip; silence gives no words and the flag `silent`.

        Raises:
            InputError: If the audio is not mono or not finite.
        """
        return self._transcribe([(wave, sample_rate)])[0]

    def transcribe_all(self, clips: Iterable[tuple[Wave, int]]) -> Iterator[Transcript]:
        """One transcript per (wave, sample rate), in order and as they come, on all threads.

        The words are those that `transcribe` gives one by one, however many are heard together.
        """
        some = _batches(clips, self.at_once)
        return chain.from_iterable(ordered_map(self._transcribe, some, self.threads))

    def _transcribe(self, clips: Sequence[tuple[Wave, int]]) -> list[Transcript]:
        waves = [_prepare(*clip) for clip in clips]
        heard = iter(self.hear_together([wave for wave in waves if not is_silent(wave)]))
        silent = Transcript(text="", flags=("silent",), language=self.language)
        return [silent if is_silent(wave) else self._read(next(heard), wave) for wave in waves]

    def _read(self, heard: Heard, wave: Wave) -> Transcript:
        flags = health_flags(heard.words, wave, heard.no_speech, heard.log_prob)
        words = placed_in_sound(heard.words, wave)
        text = " ".join(word.word for word in words)
        return Transcript(text=text, words=tuple(words), flags=flags, language=self.language)


def _batches(clips: Iterable[tuple[Wave, int]], most: int) -> Iterator[list[tuple[Wave, int]]]:
    """Clips in groups of at most so many, and of no more than half a minute each on average."""
    batch: list[tuple[Wave, int]] = []
    seconds = 0.0
    for wave, rate in clips:
        batch.append((wave, rate))
        seconds += wave.size / rate
        if len(batch) == most or seconds >= 30 * most:
            yield batch
            batch, seconds = [], 0.0
    if batch:
        yield batch


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
    wave = resample(wave, sample_rate, SAMPLE_RATE)
    return np.pad(wave, (0, max(0, SAMPLE_RATE // 10 - wave.size))).astype(np.float32)


def health_flags(
    words: Sequence[TimedWord], wave: Wave, no_speech: float = 0.0, log_prob: float = 0.0
) -> tuple[str, ...]:
    """The alarms of a transcript of 16 kHz audio [S], sorted.

    compression: the text shrinks by more than 2.4 (Whisper's own threshold). fast: more than five
    words a second between the first and the last. in_silence: a word where there is no sound.
    long_word: a word of more than two seconds. loop: the same words at least three times in a
    row and four words in all. no_speech: nobody speaks, with a probability above 0.6. sparse: more
    than two seconds as loud as speech without a word. unsure: the text's tokens have a mean
    log-probability under -1 (Whisper's own threshold), as text in another language does.
    """
    raw = " ".join(word.word for word in words).encode()
    seconds = words[-1].end - words[0].start if words else 0.0
    alarms = {
        "compression": len(raw) / len(zlib.compress(raw)) > _COMPRESSION,
        "fast": len(words) > max(_WORDS_PER_SECOND * seconds, _WORDS_PER_SECOND),
        "in_silence": len(placed_in_sound(words, wave)) < len(words),
        "long_word": any(word.end - word.start > _LONGEST_WORD for word in words),
        "loop": _loops([word.word.lower().strip(".,!?;:\"'") for word in words]),
        "no_speech": no_speech > _NO_SPEECH,
        "sparse": is_sparse(words, wave),
        "unsure": log_prob < _LOG_PROB,
    }
    return tuple(name for name, rings in alarms.items() if rings)


def is_silent(wave: Wave) -> bool:
    """Whether no tenth of a second of 16 kHz audio [S] is louder than -60 dBFS."""
    return not _sounds(wave).any()


def is_sparse(words: Sequence[TimedWord], wave: Wave) -> bool:
    """Whether more than two seconds as loud as speech hold no word."""
    return unheard_seconds(words, wave) > _UNHEARD_SECONDS


def unheard_seconds(words: Sequence[TimedWord], wave: Wave) -> float:
    """The longest stretch of a clip as loud as speech without a word; a word is 2 s at the most.

    As loud as speech is what lies within 30 dB of the loudest twentieth of the clip. In 164 clips
    that a recogniser understood, such a stretch was 1.7 s at the most.
    """
    power = _powers(wave)
    speech = power > max(_SPEECH * float(np.percentile(power, 95)), _SILENCE)
    for word in words:
        start, end = _tenths(word.start, min(word.end, word.start + _LONGEST_WORD))
        speech[max(0, start - 2) : end + 2] = False
    longest = run = 0
    for unheard in speech:
        run = run + 1 if unheard else 0
        longest = max(longest, run)
    return longest / 10


def placed_in_sound(words: Sequence[TimedWord], wave: Wave) -> list[TimedWord]:
    """The words that were said where there is sound.

    Timing a word errs by some tenths of a second: one in the silence just after a sound is moved
    back to it, so that the last word of a prompt does not count for the silence that follows. One
    that is further away from any sound was invented and is left out.
    """
    sound, near = _sounds(wave), round(10 * _NEAR)
    placed: list[TimedWord] = []
    for word in words:
        start, end = _tenths(word.start, word.end)
        if not sound[start:end].any():
            first = max(0, start - near)
            before = np.flatnonzero(sound[first:start])
            if before.size:
                last = (first + int(before[-1])) / 10
                last = max(last, placed[-1].start if placed else 0.0)
                word = TimedWord(word=word.word, start=last, end=max(last, word.start))
            elif not sound[end : end + near].any():
                continue
        placed.append(word)
    return placed


def _powers(wave: Wave) -> NDArray[np.float64]:
    """The mean square of each tenth of a second; there is at least one."""
    size = max(wave.size, 1)
    frames = np.pad(wave, (0, -size % _TENTH + size - wave.size)).reshape(-1, _TENTH)
    powers: NDArray[np.float64] = np.square(frames, dtype=np.float64).mean(axis=1)
    return powers


def _sounds(wave: Wave) -> Flags:
    sounds: Flags = _powers(wave) >= _SILENCE
    return sounds


def _tenths(start: float, end: float) -> tuple[int, int]:
    """The tenths of a second that a stretch touches, one at the least."""
    first = int(start * 10)
    return first, max(first + 1, int(np.ceil(end * 10)))


def _loops(words: Sequence[str]) -> bool:
    """Whether one to eight words are said at least three times in a row, four words in all."""
    for size in range(1, 9):
        again = 0
        for i in range(size, len(words)):
            again = again + 1 if words[i] == words[i - size] else 0
            if again >= max(2 * size, 3):
                return True
    return False


class Transcripts:
    """What a recogniser has heard on this machine, by the content hash of the audio."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recipe_id = recipe_id_of(recognizer.recipe)
        self._code = computed_by(type(recognizer).__module__, __name__)
        self._cache = ContentCache("transcripts")

    def get(self, audio_id: str) -> Transcript | None:
        """What was heard in this audio, or None if it never was."""
        return self._cache.read(self._key(audio_id), _TRANSCRIPT.validate_python)

    def keep(self, audio_id: str, heard: Transcript) -> Transcript:
        """From now on this was heard in this audio."""
        self._cache.write(self._key(audio_id), asdict(heard))
        return heard

    def _key(self, audio_id: str) -> str:
        return content_hash(self.recipe_id, self._code, audio_id, length=40)


def hear(wave: Wave, sample_rate: int, recognizer: Recognizer) -> Transcript:
    """What is heard in a recording that is no clip of a run; heard once on this machine."""
    kept, audio_id = Transcripts(recognizer), audio_hash(wave, sample_rate)
    return kept.get(audio_id) or kept.keep(audio_id, recognizer.transcribe(wave, sample_rate))
