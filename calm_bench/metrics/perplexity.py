"""How surprised a language model is by what was heard after the prompt.

"Perplexity" has several aggregations that differ by tens of percent; each has its name here.
`ppx_geo` stands first: one gibberish clip cannot dominate it. Bits per character survive a change
of language model. Perplexity falls with length: a variant stops after the first thirty words.

A low temperature buys perplexity with repetition: never read it without VERT, and never without the
reference row, which holds the recogniser's errors too. An empty transcript has no perplexity: it is
counted in `n_empty`.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

from calm_bench.asr.spoken import spoken
from calm_bench.metrics.base import Metric, Need
from calm_bench.metrics.lm import LanguageModel, load_language_model
from calm_bench.metrics.text import heard_words, missing_text, prompt_words, text_recipe
from calm_bench.types import Aggregate, Clip, Column, MetricResult

Scope = Literal["continuation", "full", "unconditional"]
"""What is scored: the continuation given the prompt's text, both, or the continuation alone."""

SHORT_WORDS = 30
"""The length to which the short variant cuts a continuation."""

Fields = Mapping[str, float | None]

_COLUMNS: tuple[tuple[str, str, str, Aggregate, tuple[str, ...], float], ...] = (
    ("ppx_geo", "PPX", "", "exp_mean", ("nll_per_token",), 1.0),
    ("ppx_corpus", "PPX, pooled tokens", "", "exp_ratio", ("nll", "n_tokens"), 1.0),
    ("ppx_median", "PPX, median clip", "", "median", ("ppx",), 1.0),
    ("ppx_arith", "PPX, mean of clips", "", "mean", ("ppx",), 1.0),
    (
        "bits_per_character",
        "bits per character",
        "bit",
        "ratio",
        ("nll", "n_characters"),
        1 / math.log(2),
    ),
    ("ppx_geo_30", f"PPX, {SHORT_WORDS} words", "", "exp_mean", ("nll_per_token_30",), 1.0),
    ("oov_rate", "unknown words", "%", "ratio", ("n_unknown", "n_tokens"), 100.0),
)


def _columns(prefix: str = "", label: str = "", *, closed: bool = True) -> tuple[Column, ...]:
    """The columns of a language model; an open vocabulary has no unknown words."""
    return tuple(
        Column(
            name=prefix + name,
            label=label + text,
            unit=unit,
            higher_is_better=False,
            aggregate=aggregate,
            fields=fields,
            scale=scale,
        )
        for name, text, unit, aggregate, fields, scale in _COLUMNS
        if closed or name != "oov_rate"
    )


class Perplexity(Metric):
    """Perplexity of the continuation's transcript, given the prompt's real text."""

    name = "perplexity"
    scope = "clip"
    needs: ClassVar[frozenset[Need]] = frozenset({"transcript"})
    columns = _columns()
    model: ClassVar[str] = "trigram"

    def __init__(
        self, lm: LanguageModel | None = None, *, ppx_scope: Scope = "continuation"
    ) -> None:
        """Take another language model than the metric's own, or another scope."""
        self._given = lm
        self.ppx_scope = ppx_scope
        self._scored: dict[tuple[tuple[str, ...], tuple[str, ...]], Fields] = {}

    @cached_property
    def lm(self) -> LanguageModel:
        """The language model that scores."""
        return self._given or load_language_model(self.model)

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Language model, scope and which words count."""
        words = {name: text_recipe()[name] for name in ("spoken_form", "words")}
        return {"lm": dict(self.lm.recipe), "ppx_scope": self.ppx_scope, **words}

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        """Score each clip's heard words; empty transcripts are noted and counted."""
        values: dict[str, Fields] = {}
        notes: dict[str, str] = {}
        counts = dict.fromkeys(("n_empty", "n_short"), 0.0)
        for clip in clips:
            values[clip.clip_id] = fields = self._score_clip(clip)
            if fields:
                counts["n_short"] += len(heard_words(clip)) < SHORT_WORDS
            else:
                reason = self._unfit(clip)
                notes[clip.clip_id] = reason or "nothing was heard after the prompt"
                counts["n_empty"] += reason is None
        return MetricResult(clips=values, notes=notes, counts=counts)

    def _unfit(self, clip: Clip) -> str | None:
        """Why the language model cannot read a clip's text; None if it can."""
        reason = missing_text(clip)
        if reason is not None or clip.transcript is None:
            return reason
        if self.lm.language in (None, clip.transcript.language):
            return None
        return f"the language model reads {self.lm.language}, not {clip.transcript.language}"

    def _score_clip(self, clip: Clip) -> Fields:
        """The fields of a clip, from memory where a text comes twice."""
        if clip.transcript is None or self._unfit(clip):
            return {}
        language = clip.transcript.language
        text = (_said(heard_words(clip), language), _said(prompt_words(clip), language))
        if text not in self._scored:
            self._scored[text] = self._score_words(*text)
        return self._scored[text]

    def _score_words(self, words: Sequence[str], prompt: Sequence[str]) -> Fields:
        """The per-clip fields; none of them where nothing was heard."""
        if not words:
            return {}
        context = prompt if self.ppx_scope == "continuation" else ()
        text = [*prompt, *words] if self.ppx_scope == "full" else words
        found = self.lm.score(text, context)
        short = self.lm.score(text[:SHORT_WORDS], context)
        if found is None or short is None:
            return {}
        loss = -found.log_likelihood
        return {
            "nll": loss,
            "n_tokens": found.n_tokens,
            "nll_per_token": loss / found.n_tokens,
            "ppx": math.exp(loss / found.n_tokens),
            "n_characters": found.n_characters,
            "n_unknown": found.n_unknown,
            "nll_per_token_30": -short.log_likelihood / short.n_tokens,
        }


def _said(words: Sequence[str], language: str) -> tuple[str, ...]:
    return tuple(spoken(" ".join(words), language).split())


class MistralPerplexity(Perplexity):
    """The same under the language model of the paper, Mistral-7B (extra `llm`)."""

    name = "perplexity_mistral"
    columns = _columns("mistral_", "Mistral-7B ", closed=False)
    model = "mistralai/Mistral-7B-v0.1"
