"""Times for the words of a known text, taken from what a recogniser heard at which moment."""

import math
from collections.abc import Iterable, Sequence

from calm_bench.asr.recognizer import is_sparse
from calm_bench.asr.words import align, tokens_of
from calm_bench.core.audio import resample
from calm_bench.core.recordings import few
from calm_bench.errors import InputError
from calm_bench.types import TimedWord, Wave, WordTimes

MATCHED_SHARE = 0.5
"""Fewer recognised words than this, and the text is not what is said: no times are given."""

SECONDS_PER_LETTER = 0.1
"""The slowest that words before the first or after the last recognised one are taken to be."""


def align_text(
    text: str, heard: Sequence[TimedWord], seconds: float, language: str = "en"
) -> tuple[TimedWord, ...] | None:
    """The words of `text`, timed; None if too few of them were heard.

    A word that was recognised takes the recognised times. Words between two of those share the gap
    in proportion to their letters, which keeps onsets in order and errs by a word at the most.
    """
    words = text.split()
    untimed = [TimedWord(word=word, start=0.0, end=0.0) for word in words]
    meant, said = tokens_of(untimed, language), tokens_of(heard, language)
    anchors: dict[int, TimedWord] = {}
    equal = 0
    for step in align([token.text for token in meant], [token.text for token in said]):
        if step.kind == "equal":
            equal += 1
            anchors.setdefault(meant[step.reference].word, heard[said[step.heard].word])
    if not meant or equal < MATCHED_SHARE * len(meant):
        return None
    return _fill(words, anchors, seconds)


def check_times(words: Iterable[WordTimes], where: str) -> None:
    """Refuse words that a file times otherwise than from a moment to the same or a later one.

    Raises:
        InputError: If there is one; the message says `where`.
    """
    for word, start, end in words:
        if not (math.isfinite(start) and math.isfinite(end) and 0 <= start <= end):
            raise InputError(f"{where}: {word!r} is timed from {start} to {end} s")


def _fill(
    words: Sequence[str], anchors: dict[int, TimedWord], seconds: float
) -> tuple[TimedWord, ...]:
    timed: list[TimedWord] = []
    index, clock = 0, 0.0
    for stop in [*sorted(anchors), len(words)]:
        anchor, gap = anchors.get(stop), words[index:stop]
        if gap:
            longest = SECONDS_PER_LETTER * sum(map(len, gap))
            end = min(seconds, clock + longest) if anchor is None else anchor.start
            end = max(clock, end)
            timed += spread(gap, clock if index else max(clock, end - longest), end)
            clock = end
        if anchor is not None:
            start = max(clock, anchor.start)
            clock = max(start, anchor.end)
            timed.append(TimedWord(word=words[stop], start=start, end=clock))
        index = stop + 1
    return tuple(timed)


def spread(words: Sequence[str], start: float, end: float) -> list[TimedWord]:
    """Words laid end to end over a gap, each as long as its share of the letters."""
    letters = sum(map(len, words))
    timed, clock = [], start
    for word in words:
        stop = clock + (end - start) * len(word) / letters
        timed.append(TimedWord(word=word, start=clock, end=stop))
        clock = stop
    return timed


def leaves_speech_out(words: Sequence[TimedWord], wave: Wave, sample_rate: int) -> bool:
    """Whether timed words leave more than two seconds as loud as speech without any."""
    return is_sparse(words, resample(wave, sample_rate, 16_000))


def left_out_note(names: Sequence[str]) -> list[str]:
    """What has to be said of recordings whose words leave speech out; nothing of none."""
    if not names:
        return []
    return [
        f"more than 2 s of sound have no word in the timed words of {few(names)}: what is said "
        "there counts as not meant to be said (leave the words out to have the text timed)"
    ]
