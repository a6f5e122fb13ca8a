"""Word error rate of what was heard against what was meant.

For a system the reference is its own inner monologue: does it say what it thinks? For reference
audio and codec round trips it is the real text, which shows what the recogniser and the codec add.
The number cannot tell a mumbling system from a recogniser that errs; read it beside those rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from calm_bench.asr.words import Token, align, tokens_of
from calm_bench.core import stats
from calm_bench.metrics.base import Fields, Metric, Need, each_clip
from calm_bench.metrics.text import is_scored, missing_text, text_recipe
from calm_bench.types import Clip, Column, Estimate, MetricResult, TimedWord

RUNAWAY = 0.5
"""A clip with a higher rate is counted apart: recogniser or system ran away in it."""

_KINDS = {"substitute": "substitutions", "delete": "deletions", "insert": "insertions"}


def _rate(name: str, label: str, numerator: str, denominator: str = "wer_words") -> Column:
    return Column.of(name, label, "%", numerator, denominator, better=False, aggregate="ratio")


class WordErrorRate(Metric):
    """Errors per word that was meant, over all words (micro) and as the mean of clips (macro).

    An insertion counts between scored words, and at the edges if it is heard inside the window. An
    empty transcript leaves every word deleted: it is scored, and counted in `n_empty`.

    One clip in which the recogniser or the system ran away can be most of a row's errors. So the
    share of such clips stands beside the rate, with the rate of the others, the median clip, and by
    how much the rate changes at most when one clip is left out.
    """

    name = "wer"
    scope = "clip"
    needs: ClassVar[frozenset[Need]] = frozenset({"text", "transcript"})
    columns = (
        _rate("wer", "WER", "wer_errors"),
        Column.of("wer_macro", "WER, mean of clips", "%", "wer_clip", better=False),
        Column.of(*("wer_over_50", "clips with WER > 50 %", "%"), better=False, aggregate="share"),
        _rate("wer_within_50", "WER of the other clips", "wer_errors_50", "wer_words_50"),
        Column.of(
            *("wer_median", "WER, median clip", "%", "wer_clip"), better=False, aggregate="median"
        ),
        Column.of(
            *("wer_influence", "WER, largest influence of a clip", "%"),
            better=False,
            aggregate="set",
        ),
        _rate("wer_substitutions", "substitutions", "wer_substitutions"),
        _rate("wer_deletions", "deletions", "wer_deletions"),
        _rate("wer_insertions", "insertions", "wer_insertions"),
        _rate("wer_raw", "WER, as written", "wer_raw_errors", "wer_raw_words"),
    )

    @property
    def recipe(self) -> Mapping[str, Any]:
        return text_recipe() | {"alignment": "jiwer, whole clip"}

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        found = each_clip(clips, _fields)
        heard = [clip.transcript for clip in clips if clip.transcript is not None]
        return replace(
            found,
            counts={"n_empty": sum(not transcript.words for transcript in heard)},
            estimates={"wer_influence": _influence(found.clips, found.notes)},
        )


def _count_errors(clip: Clip, meant: Sequence[Token], heard: Sequence[Token]) -> dict[str, int]:
    steps = align([token.text for token in meant], [token.text for token in heard])
    scored = [
        index
        for index, step in enumerate(steps)
        if step.kind != "insert" and is_scored(clip, meant[step.reference].start)
    ]
    counts = {"words": len(scored), "substitutions": 0, "deletions": 0, "insertions": 0}
    for index in scored:
        if steps[index].kind != "equal":
            counts[_KINDS[steps[index].kind]] += 1
    first, last = (scored[0], scored[-1]) if scored else (len(steps), -1)
    counts["insertions"] = sum(
        first < index < last or is_scored(clip, heard[step.heard].start)
        for index, step in enumerate(steps)
        if step.kind == "insert"
    )
    return counts


def _influence(values: stats.ClipValues, notes: Mapping[str, str]) -> Estimate:
    """By how many points the rate over all words changes at most when a clip is left out."""
    counts = np.array(
        [
            (v["wer_errors"], v["wer_words"])
            for v in values.values()
            if v.get("wer_words") is not None
        ],
        dtype=np.float64,
    ).reshape(-1, 2)
    errors, words = counts.sum(axis=0)
    others = counts[counts[:, 1] < words]
    if not len(counts):
        return Estimate(value=None, reason=next(iter(notes.values()), "there are no clips"))
    if not len(others):
        return Estimate(value=None, n=len(counts), reason="without its only clip there is no rate")
    without = (errors - others[:, 0]) / (words - others[:, 1])
    largest = float(100.0 * np.abs(errors / words - without).max())
    return Estimate(value=largest, n=len(counts), reason="one clip's influence has no interval")


def _fields(clip: Clip) -> tuple[Fields, str | None]:
    """The per-clip fields, with and without normalisation; none where nothing can be compared."""
    words, transcript, reason = clip.words, clip.transcript, missing_text(clip, needs_words=True)
    if words is None or transcript is None or reason:
        return {}, reason
    meant, heard = (tokens_of(side, transcript.language) for side in (words, transcript.words))
    counts = _count_errors(clip, meant, heard)
    raw = _count_errors(clip, _as_written(words), _as_written(transcript.words))
    errors = sum(counts.values()) - counts["words"]
    rate = errors / counts["words"] if counts["words"] else None
    within = rate is not None and rate <= RUNAWAY
    if rate is None:
        reason = "no word was meant to be said after the prompt"
    elif not within:
        reason = "more than half of its words are wrong: counted apart"
    fields = {
        "wer_errors": errors,
        "wer_words": counts["words"],
        "wer_substitutions": counts["substitutions"],
        "wer_deletions": counts["deletions"],
        "wer_insertions": counts["insertions"],
        "wer_clip": rate,
        "wer_over_50": None if rate is None else float(not within),
        "wer_errors_50": errors if within else None,
        "wer_words_50": counts["words"] if within else None,
        "wer_raw_errors": sum(raw.values()) - raw["words"],
        "wer_raw_words": raw["words"],
    }
    return fields, reason


def _as_written(words: Sequence[TimedWord]) -> list[Token]:
    return [
        Token(text, word.start, index)
        for index, word in enumerate(words)
        for text in word.word.split()
    ]
