"""Words in time: which of them count as the continuation, and how two texts are laid side by side.

The whole clip is transcribed, because a recogniser hears words at a cut edge badly. Text is then
compared over the window from the end of the prompt to 0.5 s before the end of the clip: a word that
either edge may have cut is nobody's error. A word counts where it *starts*.
"""

from importlib.metadata import version
from typing import Any

from calm_bench.asr.words import align, letters_are_latin, tokens_of
from calm_bench.types import Clip

EDGE_SECONDS = 0.5
"""Words that start in the last half second may be cut by the end of the clip: not scored."""
_SAME_WORD_SECONDS = 1.0  # how far recognised onsets stray where a pause precedes the word


def is_scored(clip: Clip, seconds: float) -> bool:
    """Whether a word that starts at `seconds` counts: after the prompt and not cut by the end."""
    return clip.prompt_seconds <= seconds < clip.seconds - EDGE_SECONDS


def text_recipe() -> dict[str, Any]:
    """What the scored words depend on, for the recipes of metrics that use them."""
    return {
        "spoken_form": f"typography plain, numbers and short forms by num2words "
        f"{version('num2words')}",
        "normaliser": f"whisper-normalizer {version('whisper-normalizer')}, English or basic",
        "words": "heard in the whole clip; scored if they start after the prompt "
        f"and more than {EDGE_SECONDS} s before the end",
    }


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
    timed = zip(words, starts, strict=True)
    return [word.word for word, start in timed if is_scored(clip, start)]


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
