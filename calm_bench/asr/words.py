"""Words as recognisers and texts have them: normalised, timed and laid side by side."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from calm_bench.asr.spoken import spoken
from calm_bench.types import TimedWord

_WITHOUT_SPACES = {"zh", "ja", "th", "lo", "my", "yue"}
"""Languages whose error rate is of characters, as Whisper's authors count it."""


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


@cache
def _normaliser(language: str) -> Any:
    if language == "en":
        from whisper_normalizer.english import EnglishTextNormalizer

        return EnglishTextNormalizer()
    from whisper_normalizer.basic import BasicTextNormalizer

    return BasicTextNormalizer(preserve_marks=True, split_letters=language in _WITHOUT_SPACES)
