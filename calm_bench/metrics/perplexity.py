"""How surprised a language model is by what was heard after the prompt.

"Perplexity" has several aggregations that differ by tens of percent; each has its name here.
`ppx_geo` stands first: one gibberish clip cannot dominate it. Bits per character survive a change
of language model. Perplexity falls with length: a variant stops after the first thirty words.

A low temperature buys perplexity with repetition: never read it without VERT, and never without the
reference row, which holds the recogniser's errors too. An empty transcript has no perplexity: it is
counted in `n_empty`.

The language model is a trigram that needs no network, or a causal LM. Both are given the text of
the prompt and score what follows. The start of text is context and never scored; its end is not
scored either, because a clip is cut, not finished.
"""

import math
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from calm_bench.asr.words import spoken
from calm_bench.core.paths import installed
from calm_bench.errors import WeightsError
from calm_bench.metrics.base import Fields, Metric, Need, each_clip
from calm_bench.metrics.text import heard_words, missing_text, prompt_words, text_recipe
from calm_bench.seeds import content_hash, file_hash
from calm_bench.types import Clip, Column, MetricResult

_NATS = math.log(1.0001)  # pocketsphinx counts logarithms in this base
_IMPOSSIBLE = -(1 << 28)  # above pocketsphinx's logarithm of zero, below that of any word


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScore:
    """What a language model thinks of a text.

    Attributes:
        log_likelihood: Natural logarithm, summed over the scored tokens.
        n_characters: Code points of the scored text and of the space that joins it to its context.
        n_unknown: Words outside the vocabulary; None for models that have no such words.
    """

    log_likelihood: float
    n_tokens: int
    n_characters: int
    n_unknown: int | None


class LanguageModel(ABC):
    """Scores a list of words that follows a list of words; numbers come to it in words."""

    language: str | None = None
    """The only language that it knows; None for one that reads whatever it is given."""

    @property
    @abstractmethod
    def recipe(self) -> Mapping[str, Any]:
        """Model, version and the form in which it is given text."""

    @abstractmethod
    def score(self, words: Sequence[str], context: Sequence[str] = ()) -> TextScore | None:
        """The likelihood of `words` after `context`; None where there is nothing to score."""


class TrigramModel(LanguageModel):
    """The English trigram that pocketsphinx carries: 72,544 words, lower case, no punctuation.

    An unknown word scores as the rarest word of the vocabulary (-21.8 nats) and is counted. What
    follows it is scored from the words that the model knows.
    """

    language = "en"

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        return {
            "model": "pocketsphinx en-us trigram",
            "sha256": file_hash(_pocketsphinx_file("en-us/en-us.lm.bin")),
            "text": "lower case, no sentence marks",
            "unknown_words": "rarest unigram",
        }

    def score(self, words: Sequence[str], context: Sequence[str] = ()) -> TextScore | None:
        tokens = trigram_words(words)
        if not tokens:
            return None
        before = ["<s>", *trigram_words(context)]
        text = before + tokens
        logs = [self._log(text[max(0, i - 2) : i + 1]) for i in range(len(before), len(text))]
        known = [value for value in logs if value > _IMPOSSIBLE]
        n_unknown = len(logs) - len(known)
        return TextScore(
            log_likelihood=(sum(known) + n_unknown * self._rarest) * _NATS,
            n_tokens=len(tokens),
            n_characters=len(" ".join(tokens)) + (len(before) > 1),
            n_unknown=n_unknown,
        )

    def _log(self, ngram: Sequence[str]) -> int:
        """The last word's logarithm given those before it; pocketsphinx wants them newest first."""
        return int(self._model.prob(list(reversed(ngram))))

    @cached_property
    def _model(self) -> Any:
        path = _pocketsphinx_file("en-us/en-us.lm.bin")
        from pocketsphinx import NGramModel

        return NGramModel.readfile(str(path))

    @cached_property
    def _rarest(self) -> int:
        """The smallest unigram; the dictionary beside the model lists its vocabulary."""
        text = _pocketsphinx_file("en-us/cmudict-en-us.dict").read_text(encoding="utf-8")
        words = {line.split()[0] for line in text.splitlines()}
        return min(value for word in words if (value := self._log([word])) > _IMPOSSIBLE)


class CausalModel(LanguageModel):
    """Any causal LM of the Hugging Face hub, given the text with its case and punctuation."""

    def __init__(self, name: str) -> None:
        """Name the model, `@revision` included where one is meant; it is loaded at first use."""
        self.name, _, self.revision = name.partition("@")

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        _, model = self._loaded
        files = sorted(Path(self.name).glob("*.safetensors"))
        commit = getattr(model.config, "_commit_hash", None) or self.revision or "unknown"
        return {
            "model": self.name,
            "weights": content_hash(*map(file_hash, files)) if files else commit,
            "transformers": version("transformers"),
            "dtype": str(model.dtype).removeprefix("torch."),
            "text": "as given",
        }

    def score(self, words: Sequence[str], context: Sequence[str] = ()) -> TextScore | None:
        """The likelihood of the tokens that reach beyond the context."""
        import torch

        before, text = " ".join(context), " ".join(words)
        whole = f"{before} {text}" if before else text
        tokenizer, model = self._loaded
        coded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        ids = list(coded["input_ids"])
        scored = [end > len(before) for _, end in coded["offset_mapping"]]
        if tokenizer.bos_token_id is None:
            scored = scored[1:]  # without a start of text nothing comes before the first token
        else:
            ids = [tokenizer.bos_token_id, *ids]
        if not any(scored):
            return None
        with torch.inference_mode():
            sequence = torch.tensor([ids])
            logs = model(sequence).logits[0, :-1].float().log_softmax(-1)  # [T, V]
            found = logs.gather(1, sequence[0, 1:, None])[:, 0].double().cpu()
        return TextScore(
            log_likelihood=float(found[torch.tensor(scored)].sum()),
            n_tokens=sum(scored),
            n_characters=len(whole) - len(before),
            n_unknown=None,
        )

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        installed("transformers", f"perplexity under {self.name}", "llm", "transformers")
        from transformers import AutoModelForCausalLM, AutoTokenizer

        revision = self.revision or "main"
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.name, revision=revision)
            model = AutoModelForCausalLM.from_pretrained(self.name, revision=revision, dtype="auto")
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise WeightsError(f"cannot load the language model {self.name}: {reason}") from error
        return tokenizer, model.eval()


@cache
def load_language_model(spec: str = "trigram") -> LanguageModel:
    """The language model of that name: `trigram`, or a causal LM of the hub, `NAME[@REVISION]`."""
    return TrigramModel() if spec == "trigram" else CausalModel(spec)


def trigram_words(words: Sequence[str]) -> list[str]:
    """Words as the trigram writes them: lower case, without accents, apostrophes inside words."""
    text = unicodedata.normalize("NFKD", " ".join(words).lower())
    text = "".join(c for c in text if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text)


def _pocketsphinx_file(name: str) -> Path:
    feature = "the trigram language model"
    return installed("pocketsphinx", feature, "offline", "pocketsphinx") / "model" / name


_NOTHING = "nothing was heard after the prompt"

SHORT_WORDS = 30
"""The length to which the short variant cuts a continuation."""

_COLUMNS = (
    Column.of("ppx_geo", "PPX", "", "nll_per_token", better=False, aggregate="exp_mean"),
    Column.of(
        *("ppx_corpus", "PPX, pooled tokens", "", "nll", "n_tokens"),
        better=False,
        aggregate="exp_ratio",
    ),
    Column.of("ppx_median", "PPX, median clip", "", "ppx", better=False, aggregate="median"),
    Column.of("ppx_arith", "PPX, mean of clips", "", "ppx", better=False),
    Column(
        name="bits_per_character",
        label="bits per character",
        unit="bit",
        higher_is_better=False,
        aggregate="ratio",
        fields=("nll", "n_characters"),
        scale=1 / math.log(2),
    ),
    Column.of(
        *("ppx_geo_30", f"PPX, {SHORT_WORDS} words", "", "nll_per_token_30"),
        better=False,
        aggregate="exp_mean",
    ),
)
_UNKNOWN = Column.of(
    *("oov_rate", "unknown words", "%", "n_unknown", "n_tokens"), better=False, aggregate="ratio"
)


class Perplexity(Metric):
    """Perplexity of the continuation's transcript, given the prompt's real text."""

    name = "perplexity"
    scope = "clip"
    needs: ClassVar[frozenset[Need]] = frozenset({"transcript"})
    columns: ClassVar[tuple[Column, ...]] = (*_COLUMNS, _UNKNOWN)
    model = "trigram"

    def __init__(self, lm: LanguageModel | None = None) -> None:
        self._given = lm
        self._scored: dict[tuple[tuple[str, ...], tuple[str, ...]], Fields] = {}

    @cached_property
    def lm(self) -> LanguageModel:
        """The language model that scores."""
        return self._given or load_language_model(self.model)

    @property
    def recipe(self) -> Mapping[str, Any]:
        words = {name: text_recipe()[name] for name in ("spoken_form", "words")}
        return {"lm": dict(self.lm.recipe), "ppx_scope": "continuation", **words}

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        found = each_clip(clips, self._score_clip)
        scored = [clip for clip in clips if found.clips[clip.clip_id]]
        counts = {
            "n_empty": float(sum(note == _NOTHING for note in found.notes.values())),
            "n_short": float(sum(len(heard_words(clip)) < SHORT_WORDS for clip in scored)),
        }
        return replace(found, counts=counts)

    def _score_clip(self, clip: Clip) -> tuple[Fields, str | None]:
        """The fields of a clip, from memory where a text comes twice, or why there are none."""
        reason = missing_text(clip)
        if clip.transcript is None or reason:
            return {}, reason
        language = clip.transcript.language
        if self.lm.language not in (None, language):
            return {}, f"the language model reads {self.lm.language}, not {language}"
        text = (_said(heard_words(clip), language), _said(prompt_words(clip), language))
        if text not in self._scored:
            self._scored[text] = self._score_words(*text)
        return self._scored[text], None if self._scored[text] else _NOTHING

    def _score_words(self, words: Sequence[str], prompt: Sequence[str]) -> Fields:
        if not words:
            return {}
        found, short = (self.lm.score(text, prompt) for text in (words, words[:SHORT_WORDS]))
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
    columns = tuple(
        column.model_copy(
            update={"name": f"mistral_{column.name}", "label": f"Mistral-7B {column.label}"}
        )
        for column in _COLUMNS  # an open vocabulary has no unknown words
    )
    model = "mistralai/Mistral-7B-v0.1"
