"""Clips made of words alone, for the metrics that look at text."""

from collections.abc import Callable

import numpy as np
import pytest

from calm_bench.types import Clip, TimedWord, Transcript

RATE = 16_000


def timed(text: str | None, onsets: list[float] | None = None) -> tuple[TimedWord, ...] | None:
    """Words at the given onsets, or one every half second."""
    if text is None:
        return None
    words = text.split()
    onsets = onsets or [0.5 * i for i in range(len(words))]
    return tuple(
        TimedWord(word=word, start=start, end=start + 0.4)
        for word, start in zip(words, onsets, strict=True)
    )


@pytest.fixture
def spoken() -> Callable[..., Clip]:
    """A clip by what was meant and what was heard, each word half a second after the last.

    Its length leaves room for every word; words from `prompt_words` on are the continuation.
    """

    def make(
        meant: str | None,
        heard: str | None,
        *,
        prompt_words: int = 2,
        name: str = "p0",
        seconds: float | None = None,
        meant_at: list[float] | None = None,
        heard_at: list[float] | None = None,
    ) -> Clip:
        longest = max(len((text or "").split()) for text in (meant, heard))
        seconds = 0.5 * longest + 0.5 if seconds is None else seconds
        words = timed(heard, heard_at)
        return Clip(
            clip_id=f"id-{name}",
            prompt_id=name,
            seed_index=0,
            wave=np.zeros(round(seconds * RATE), np.float32),
            sample_rate=RATE,
            prompt_seconds=0.5 * prompt_words,
            words=timed(meant, meant_at),
            transcript=None if words is None else Transcript(text=heard or "", words=words),
        )

    return make
