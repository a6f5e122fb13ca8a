"""Speech to text by one fixed policy, so that the same audio always gives the same words.

Whisper hears each window of at most 30 s once: greedily, at temperature 0, without the ladder of
fallback temperatures and without the text of the window before. That is what makes runs repeatable;
the price is an occasional loop or a sentence invented over noise, which *lowers* perplexity. Every
transcript therefore carries health flags, and the share of flagged clips stands beside the scores.

Windows are decoded without timestamp tokens and words are timed afterwards by cross-attention.
faster-whisper's own loop goes back and decodes the last words of most clips a second time; on forty
stories of 12 s that cost a fifth more time and made 73 word errors where one pass makes 63. Without
timestamps Whisper may stop after the first phrase of a window. Where more than two seconds as loud
as speech are left without a word, the window is decoded once more, with timestamps.
"""

import re
from functools import cache

from calm_bench.asr.faster_whisper import FasterWhisperRecognizer
from calm_bench.asr.openai_whisper import OpenAiRecognizer
from calm_bench.asr.recognizer import Recognizer
from calm_bench.errors import InputError, UnknownNameError

_LANGUAGE = re.compile("@[a-z]{2,3}$")


def load_recognizer(spec: str | None = None) -> Recognizer:
    """The recogniser a benchmark names: the same one for the same name, loaded at first use.

    Args:
        spec: `faster-whisper` or None (the pinned weights), `faster-whisper:FOLDER_OR_HUB_NAME` or
            `openai-whisper:NAME_OR_PATH`; `@LANGUAGE` behind it for another one than English.
    """
    spec = spec or "faster-whisper"
    name, _, language = spec.rpartition("@") if _LANGUAGE.search(spec) else (spec, "", "en")
    engine, _, weights = name.partition(":")
    return _load_recognizer(engine, weights, language)


def listener(spec: str | None, language: str | None) -> str | None:
    """The recogniser that was asked for, listening to that language; None if none was asked for.

    Raises:
        BenchError: If there is no such recogniser or language, or the one does not know the other.
    """
    if spec is None and language is None:
        return None
    name = spec if language is None else in_language(spec, language)
    dict(load_recognizer(name).recipe)
    return name


def in_language(spec: str | None, language: str) -> str:
    """The same recogniser, listening to another language.

    Raises:
        InputError: If it is no code of a language.
        UnknownNameError: If Whisper knows no such language.
    """
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    if language not in _LANGUAGE_CODES and len(language) > 3:
        raise InputError(f"{language!r} is no language's code: name German, for one, as de")
    if language not in _LANGUAGE_CODES:
        raise UnknownNameError("language", language, _LANGUAGE_CODES)
    name = _LANGUAGE.sub("", spec or "faster-whisper")
    return name if language == "en" else f"{name}@{language}"


@cache
def _load_recognizer(engine: str, weights: str, language: str) -> Recognizer:
    if engine == "faster-whisper":
        return FasterWhisperRecognizer(weights, language=language)
    if engine == "openai-whisper":
        return OpenAiRecognizer(weights or "tiny.en", language=language)
    raise UnknownNameError("speech recogniser", engine, ["faster-whisper", "openai-whisper"])
