"""What a spoken corpus is asked before it is trusted: are splits apart and word times right?"""

import logging
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from calm_bench.asr import Recognizer, load_recognizer
from calm_bench.asr.words import align, tokens_of
from calm_bench.core.parallel import counted
from calm_bench.data.corpus import Item
from calm_bench.data.stories import Story
from calm_bench.errors import InputError, MissingExtraError
from calm_bench.types import TimedWord, Transcript

logger = logging.getLogger(__name__)

CHECKED_STORIES = 16
SUSPICIOUS_SECONDS = 0.15  # a recogniser's onsets stray by about a tenth of a second


def check_overlap(stories: Sequence[Story]) -> dict[str, float]:
    """How much of the test text the training text holds: no story, but sentences and phrases.

    Raises:
        InputError: If a whole test story, or one without its case and punctuation, is in training.
    """
    training = [_plain(story.text) for story in stories if story.split == "train"]
    known = set(training)
    tests = [story for story in stories if story.split == "test"]
    leaked = [story.story_id for story in tests if _plain(story.text) in known]
    if leaked:
        raise InputError(f"{len(leaked)} test stories are in the training text: {leaked[0]}, ...")
    sentences = {s for story in stories if story.split == "train" for s in story.sentences}
    shared = [sentence in sentences for story in tests for sentence in story.sentences]
    return {
        "test_stories_in_training": 0,
        "test_sentences_in_training": round(sum(shared) / len(shared), 4) if shared else 0.0,
        "longest_shared_words": _longest_shared(training, [_plain(s.text) for s in tests]),
    }


def _plain(text: str) -> tuple[str, ...]:
    kept = "".join(char if char.isalnum() or char in " '" else " " for char in text.lower())
    return tuple(kept.split())


def _longest_shared(training: Sequence[tuple[str, ...]], tests: Sequence[tuple[str, ...]]) -> int:
    """The most words in a row that any test text has in common with any training text."""
    low, high = 0, max(map(len, tests), default=0)
    while low < high:
        length = (low + high + 1) // 2
        if _phrases(training, length).isdisjoint(_phrases(tests, length)):
            high = length - 1
        else:
            low = length
    return low


def _phrases(texts: Iterable[tuple[str, ...]], length: int) -> set[tuple[str, ...]]:
    return {t[i : i + length] for t in texts for i in range(len(t) - length + 1)}


def check_times(
    corpus: Path, items: Sequence[Item], recognizer: Recognizer | None = None
) -> dict[str, Any]:
    """Word errors and onset differences of a recogniser on the first stories of a list.

    A difference is heard minus known onset, over the words that were recognised. A large median is
    logged as a warning: then the times, the recogniser or both are off. Without a recogniser the
    corpus is as good, only unchecked: the answer is the reason.
    """
    recognizer = recognizer or load_recognizer()
    try:
        recipe = dict(recognizer.recipe)
    except MissingExtraError as error:
        logger.warning("word times are not checked: %s", error)
        return {"reason": str(error)}
    sample = [item for item in items if item.words][:CHECKED_STORIES]
    waves = (item.read(corpus) for item in sample)
    transcripts = recognizer.transcribe_all(waves)
    heard = list(counted(transcripts, len(sample), "checking word times"))
    found = time_errors([_timed(item) for item in sample], heard)
    median = found["onset_median_seconds"]
    if median is not None and abs(median) > SUSPICIOUS_SECONDS:
        logger.warning("word times differ from the recogniser's by %.2f s in the median", median)
    return {"recogniser": recipe, "stories": len(sample), **found}


def _timed(item: Item) -> tuple[TimedWord, ...]:
    return tuple(TimedWord(word=w, start=start, end=end) for w, start, end in item.words or ())


def time_errors(
    known: Sequence[Sequence[TimedWord]], heard: Sequence[Transcript]
) -> dict[str, float | None]:
    """Word error rate and the spread of onset differences (heard minus known, in seconds)."""
    words = errors = 0
    differences: list[float] = []
    for reference, transcript in zip(known, heard, strict=True):
        meant, said = tokens_of(reference), tokens_of(transcript.words)
        words += len(meant)
        for step in align([token.text for token in meant], [token.text for token in said]):
            if step.kind == "equal":
                differences.append(said[step.heard].start - meant[step.reference].start)
            else:
                errors += 1
    absolute = sorted(map(abs, differences))
    return {
        "words": words,
        "wer": round(errors / words, 4) if words else None,
        "onset_median_seconds": _rounded(statistics.median(differences)) if differences else None,
        "onset_median_absolute_seconds": _rounded(statistics.median(absolute))
        if absolute
        else None,
        "onset_90_percent_below_seconds": (
            _rounded(absolute[int(0.9 * (len(absolute) - 1))]) if absolute else None
        ),
    }


def _rounded(seconds: float) -> float:
    return round(seconds, 4)
