"""VERT and its parts: how much a set of texts repeats itself, inside a text and between texts.

auto-BLEU is the share of a text's n-grams that occur again in it without overlap; self-BLEU is the
BLEU of a text against all others of its row. VERT is the geometric mean of both. The script that
the literature cites prints eight of these numbers and no VERT, and the four VERTs one can make of
them differ by tens of points: all are stored. The headline `vert` is the bigram, arithmetic one:
in the thirty words of a short clip no bigram recurs more often than not, which makes that clip's
geometric mean zero and the row's too noisy to compare.

Self-BLEU grows with the number of texts it is measured against: compare equal n only. For the same
reason a bootstrap is wrong here, since a text drawn twice repeats itself in full; intervals are a
delete-d jackknife that leaves out blocks of recordings. On samples of 16 from 600 stories its
standard error is right for auto-BLEU, 1.3 times the true one for VERT and 1.8 times for self-BLEU,
where a text is also a reference of all others: too careful rather than too bold.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from calm_bench.asr.words import normalise
from calm_bench.core.stats import deal_blocks, student_interval
from calm_bench.metrics.base import Metric, Need
from calm_bench.metrics.text import heard_words, missing_text, text_recipe
from calm_bench.seeds import derive_seed
from calm_bench.types import Clip, Column, Estimate, MetricResult

Ngram = tuple[str, ...]
Texts = Mapping[str, Sequence[str]]

_MEANS: dict[str, Callable[[Sequence[float]], float]] = {
    "arithmetic": lambda precisions: sum(precisions) / len(precisions),
    "geometric": lambda precisions: math.prod(precisions) ** (1 / len(precisions)),
}
_VARIANTS = tuple((order, mean) for order in (2, 3) for mean in _MEANS)
_PARTS = {"vert": "VERT", "self_bleu": "self-BLEU", "auto_bleu": "auto-BLEU"}


def _name(part: str, order: int, mean: str) -> str:
    """A value's column: `vert` for the headline, else part, order and mean."""
    return "vert" if (part, order, mean) == ("vert", 2, "arithmetic") else f"{part}_{order}_{mean}"


def _column(part: str, order: int, mean: str) -> Column:
    name = _name(part, order, mean)
    label = "VERT" if name == "vert" else f"{_PARTS[part]}, {order}-gram {mean}"
    return Column.of(name, label, "", better=False, aggregate="set")


class Vert(Metric):
    """Self-BLEU, auto-BLEU and VERT of the continuations' transcripts, times 100.

    Empty transcripts are left out and counted: scored as zero they would make a silent system the
    most diverse of all.
    """

    name = "vert"
    scope = "set"
    needs: ClassVar[frozenset[Need]] = frozenset({"transcript"})
    columns = tuple(_column(part, *variant) for part in _PARTS for variant in _VARIANTS)
    fewest_clips = 2

    @property
    def recipe(self) -> Mapping[str, Any]:
        return text_recipe() | {
            "self_bleu": "against the n - 1 other clips, counts clipped, no length penalty",
            "smoothing": "none",
            "empty": "left out",
            "interval": "jackknife over blocks of recordings",
        }

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        texts = _texts(clips)
        notes = {
            clip.clip_id: missing_text(clip) or "nothing was heard after the prompt"
            for clip in clips
            if clip.pair_key not in texts
        }
        empty = [clip for clip in clips if clip.clip_id in notes and clip.transcript is not None]
        one_word = [text for text in texts.values() if len(text) == 1]
        counts = {"n_empty": float(len(empty)), "n_one_word": float(len(one_word))}
        return MetricResult(notes=notes, counts=counts, estimates=_estimates(texts, _groups(clips)))

    def difference(
        self, clips: Sequence[Clip], baseline: Sequence[Clip], reference: Sequence[Clip]
    ) -> Mapping[str, Estimate]:
        """Differences over the clips for which both rows have text, so that n is the same."""
        mine, theirs = _texts(clips), _texts(baseline)
        shared = {key: mine[key] for key in mine.keys() & theirs.keys()}
        return _estimates(shared, _groups(clips), theirs)


def vert_values(texts: Sequence[Sequence[str]]) -> dict[str, float]:
    """All twelve values of a set of tokenised texts by column name, times 100."""
    parts = {
        "self_bleu": self_precisions(texts, 3),
        "auto_bleu": [auto_precisions(text, 3) for text in texts],
    }
    values: dict[str, float] = {}
    for order, mean in _VARIANTS:
        means = {
            part: 100.0 * float(np.mean([_MEANS[mean](row[:order]) for row in rows]))
            for part, rows in parts.items()
        }
        values |= {_name(part, order, mean): value for part, value in means.items()}
        values[_name("vert", order, mean)] = math.sqrt(math.prod(means.values()))
    return values


def self_precisions(texts: Sequence[Sequence[str]], order: int) -> list[list[float]]:
    """For each text its n-gram precision against all others, n = 1 to `order`.

    Of each n-gram the two largest counts and the owner of the largest suffice to leave every text
    out of its own references: one pass, where comparing all pairs takes minutes for a thousand.
    """
    precisions: list[list[float]] = [[] for _ in texts]
    for size in range(1, order + 1):
        counted = [Counter(_ngrams(text, size)) for text in texts]
        best: dict[Ngram, tuple[int, int, int]] = {}  # largest count, its owner, next largest
        for owner, ngrams in enumerate(counted):
            for ngram, count in ngrams.items():
                top, top_owner, second = best.get(ngram, (0, -1, 0))
                if count > top:
                    best[ngram] = count, owner, top
                else:
                    best[ngram] = top, top_owner, max(second, count)
        for owner, ngrams in enumerate(counted):
            matched = 0
            for ngram, count in ngrams.items():
                top, top_owner, second = best[ngram]
                matched += min(count, second if owner == top_owner else top)
            precisions[owner].append(matched / max(1, ngrams.total()))
    return precisions


def auto_precisions(text: Sequence[str], order: int) -> list[float]:
    """The share of a text's n-grams that occur again without overlap, n = 1 to `order`."""
    shares = []
    for size in range(1, order + 1):
        ngrams = _ngrams(text, size)
        first: dict[Ngram, int] = {}
        last: dict[Ngram, int] = {}
        for place, ngram in enumerate(ngrams):
            first.setdefault(ngram, place)
            last[ngram] = place
        again = sum(
            first[ngram] <= place - size or last[ngram] >= place + size
            for place, ngram in enumerate(ngrams)
        )
        shares.append(again / max(1, len(ngrams)))
    return shares


def _ngrams(text: Sequence[str], size: int) -> list[Ngram]:
    return list(zip(*(text[i:] for i in range(size)), strict=False))


def _groups(clips: Sequence[Clip]) -> Mapping[str, str]:
    return {clip.pair_key: clip.group for clip in clips}


def _texts(clips: Sequence[Clip]) -> dict[str, tuple[str, ...]]:
    """The normalised words of each clip's continuation by pair key, without the empty ones."""
    texts = {
        clip.pair_key: normalise(" ".join(heard_words(clip)), clip.transcript.language)
        for clip in clips
        if clip.transcript is not None and missing_text(clip) is None
    }
    return {key: text for key, text in texts.items() if text}


def _estimates(
    mine: Texts, groups: Mapping[str, str], theirs: Texts | None = None
) -> dict[str, Estimate]:
    """Each value, or its difference to `theirs`, with the jackknife over blocks of groups."""
    names = [column.name for column in Vert.columns]
    keys = sorted(mine)
    if len(keys) < 2:
        reason = "self-BLEU needs two clips with text"
        return {name: Estimate(value=None, n=len(keys), reason=reason) for name in names}

    def values(chosen: Sequence[str]) -> list[float]:
        if len(chosen) < 2:
            return [math.nan] * len(names)
        found = vert_values([mine[key] for key in chosen])
        base = vert_values([theirs[key] for key in chosen]) if theirs is not None else {}
        return [found[name] - base.get(name, 0.0) for name in names]

    known = {groups[key] for key in keys}
    blocks = deal_blocks([known], derive_seed("vert", sorted(known)))
    deleted = np.array(
        [values([key for key in keys if groups[key] not in block]) for block in blocks]
    )  # [B, columns]
    return {
        name: student_interval(value, deleted[:, i], len(keys))
        for i, (name, value) in enumerate(zip(names, values(keys), strict=True))
    }
