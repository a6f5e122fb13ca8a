"""Words in time: which of them count as the continuation, and how two texts are laid side by side.

The whole clip is transcribed, because a recogniser hears words at a cut edge badly. Text is then
compared over the window from the end of the prompt to 0.5 s before the end of the clip: a word that
either edge may have cut is nobody's error. A word counts where it *starts*.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

from calm_bench.metrics.spoken import letters_are_latin, spoken
from calm_bench.types import Clip, TimedWord

EDGE_SECONDS = 0.5
"""Words that start in the last half second may be cut by the end of the clip: not scored."""

_WITHOUT_SPACES = {"zh", "ja", "th", "lo", "my", "yue"}
"""Languages whose error rate is of characters, as Whisper's authors count it."""

_SAME_WORD_SECONDS = 1.0  # how far recognised onsets stray where a pause precedes the word


@dataclass(frozen=True, slots=True)
class Window:
    """The stretch of a clip, in seconds, in which words are scored."""

    start: float
    end: float

    def __contains__(self, seconds: float) -> bool:
        """Whether a word that starts at `seconds` is scored."""
        return self.start <= seconds < self.end


@dataclass(frozen=True, slots=True)
class Token:
    """A normalised word with the onset and the index of the word it came from."""

    text: str
    start: float
    word: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an alignment: `equal`, `substitute`, `delete` or `insert`, with both indices."""

    kind: str
    reference: int
    heard: int


def window_of(clip: Clip) -> Window:
    """Where the clip's words are scored."""
    return Window(clip.prompt_seconds, clip.seconds - EDGE_SECONDS)


def text_recipe() -> dict[str, Any]:
    """What the scored words depend on, for the recipes of metrics that use them."""
    return {
        "spoken_form": f"typography plain, numbers and short forms by num2words "
        f"{version('num2words')}",
        "normaliser": f"whisper-normalizer {version('whisper-normalizer')}, English or basic",
        "words": "heard in the whole clip; scored if they start after the prompt "
        f"and more than {EDGE_SECONDS} s before the end",
    }


@lru_cache(maxsize=1 << 16)
def normalise(text: str, language: str = "en") -> tuple[str, ...]:
    """The words of a text as it is said, without case, punctuation or spelling variants.

    English numbers come out in digits, those said in a row as one: 105, 9th, $3.50, 123.
    """
    # The normaliser would read the O of o'clock and O'Brien as a zero.
    said = re.sub(r"(?i)\bo'(?=\w)", "o", spoken(text, language))
    # What is left of "..." is a lone full stop: no word, and it would count as an insertion.
    words = _normaliser(language)(said).split()
    return tuple(word for word in words if any(map(str.isalnum, word)))


def tokens_of(words: Sequence[TimedWord], language: str = "en") -> list[Token]:
    """The normalised words of a timed text.

    Normalising may split a word ("don't") or join several ("twenty one"), so the text is normalised
    whole and matched to its words normalised one by one.
    """
    single = [
        Token(text, word.start, index)
        for index, word in enumerate(words)
        for text in normalise(word.word, language)
    ]
    whole = normalise(" ".join(word.word for word in words), language)
    before = [token.text for token in single]
    if list(whole) == before:
        return single
    found: list[Token] = []
    matcher = difflib.SequenceMatcher(None, before, whole, autojunk=False)
    for _, i, i_end, j, j_end in matcher.get_opcodes():
        for k in range(j_end - j):
            source = single[max(0, min(i + k, i_end - 1))] if single else Token("", 0.0, 0)
            found.append(Token(whole[j + k], source.start, source.word))
    return found


def align(reference: Sequence[str], heard: Sequence[str]) -> list[Step]:
    """The steps of a shortest edit from what was meant to what was heard."""
    from jiwer import process_words

    output = process_words([" ".join(reference)], [" ".join(heard)])
    steps = []
    for chunk in output.alignments[0]:
        length = max(
            chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
        )
        steps += [
            Step(chunk.type, chunk.ref_start_idx + k, chunk.hyp_start_idx + k)
            for k in range(length)
        ]
    return steps


def heard_words(clip: Clip) -> list[str]:
    """The words of the transcript that belong to the continuation, as the recogniser wrote them.

    A recognised onset is off by 0.05 s, more after a pause. A word that was meant takes
    the time at which it was meant, so that no word of the prompt slips over the edge.
    """
    if clip.transcript is None:
        return []
    words = clip.transcript.words
    starts = [word.start for word in words]
    if clip.words:
        language = clip.transcript.language
        meant, heard = tokens_of(clip.words, language), tokens_of(words, language)
        for step in align([t.text for t in meant], [t.text for t in heard]):
            if step.kind == "equal":
                start, index = meant[step.reference].start, heard[step.heard].word
                if abs(start - words[index].start) <= _SAME_WORD_SECONDS:
                    starts[index] = start
    window = window_of(clip)
    return [word.word for word, start in zip(words, starts, strict=True) if start in window]


def prompt_words(clip: Clip) -> list[str]:
    """The words that start in the prompt: its real text, or what was heard if that is unknown."""
    words = clip.words
    if words is None:
        words = clip.transcript.words if clip.transcript else ()
    return [word.word for word in words if word.start < clip.prompt_seconds]


def missing_text(clip: Clip, *, needs_words: bool = False) -> str | None:
    """Why a clip's words cannot be scored at all; None if they can."""
    if clip.transcript is None:
        return "no transcript"
    if needs_words and clip.words is None:
        return "nothing is known of what was meant to be said"
    texts = " ".join(word.word for word in clip.words or ()), clip.transcript.text
    if clip.transcript.language == "en" and not all(map(letters_are_latin, texts)):
        return "the text is not in Latin letters, but was heard as English: say --language"
    return None


@cache
def _normaliser(language: str) -> Any:
    if language == "en":
        from whisper_normalizer.english import EnglishTextNormalizer

        return EnglishTextNormalizer()
    from whisper_normalizer.basic import BasicTextNormalizer

    return BasicTextNormalizer(preserve_marks=True, split_letters=language in _WITHOUT_SPACES)
