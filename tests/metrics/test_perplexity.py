"""Perplexity: golden values of every aggregation, scopes, and what is not scored."""

import dataclasses
from collections.abc import Sequence
from types import MappingProxyType

import pytest
from clips import spoken

from calm_bench.core import stats
from calm_bench.metrics.perplexity import (
    SHORT_WORDS,
    LanguageModel,
    MistralPerplexity,
    Perplexity,
    TextScore,
)


class Listed(LanguageModel):
    """Gives the texts it knows by their first word a score, and writes down what it was asked."""

    recipe = MappingProxyType({"model": "listed"})

    def __init__(self, scores: dict[str, tuple[float, int, int]] | None = None) -> None:
        self.scores = scores or {}
        self.asked: list[tuple[list[str], list[str]]] = []

    def score(self, words: Sequence[str], context: Sequence[str] = ()) -> TextScore | None:
        self.asked.append((list(words), list(context)))
        if not words:
            return None
        total, n_tokens, n_characters = self.scores.get(
            words[0], (-2.0 * len(words), len(words), 9)
        )
        return TextScore(
            log_likelihood=total, n_tokens=n_tokens, n_characters=n_characters, n_unknown=1
        )


GOLDEN = {"a": (-10.0, 5, 20), "b": (-40.0, 10, 45), "c": (-3.0, 3, 12)}


def golden_cell(shift: float = 1.0) -> tuple[Perplexity, list]:
    lm = Listed({word: (shift * total, n, chars) for word, (total, n, chars) in GOLDEN.items()})
    return Perplexity(lm), [spoken("p q", f"p q {word}", name=word) for word in GOLDEN]


def test_golden_values_of_every_aggregation() -> None:
    metric, clips = golden_cell()
    result = metric.score(clips, [])
    pairs = {clip.pair_key: result.clips[clip.clip_id] for clip in clips}
    values = {column.name: stats.summarise(column, pairs, 0).value for column in metric.columns}
    assert values["ppx_corpus"] == pytest.approx(19.000104, abs=1e-6)
    assert values["ppx_geo"] == pytest.approx(10.312259, abs=1e-6)
    assert values["ppx_arith"] == pytest.approx(21.568496, abs=1e-6)
    assert values["bits_per_character"] == pytest.approx(0.993024, abs=1e-6)
    assert values["oov_rate"] == pytest.approx(100 * 3 / 18)
    assert values["ppx_median"] == pytest.approx(7.389056, abs=1e-6)
    assert result.counts == {"n_empty": 0, "n_short": 3}


def test_the_continuation_is_scored_after_the_prompts_real_text() -> None:
    lm = Listed()
    metric = Perplexity(lm)
    # The prompt's text is the real one, whatever was heard in it.
    metric.score([spoken("once there was a", "ones their was a")], [])
    assert lm.asked[0] == (["was", "a"], ["once", "there"])


def test_the_short_variant_stops_after_thirty_words() -> None:
    lm = Listed()
    heard = " ".join(["word"] * 40)
    result = Perplexity(lm).score([spoken(None, heard, prompt_words=0)], [])
    assert [len(words) for words, _ in lm.asked] == [40, SHORT_WORDS]
    assert result.counts["n_short"] == 0


def test_an_empty_transcript_is_counted_and_not_scored() -> None:
    clips = [
        spoken("once there was", "once there", name="a"),
        spoken("once there was", "", name="b"),
        spoken("once there was", None, name="c"),
    ]
    result = Perplexity(Listed()).score(clips, [])
    assert result.counts["n_empty"] == 2
    assert result.notes["id-a"] == result.notes["id-b"] == "nothing was heard after the prompt"
    assert result.notes["id-c"] == "no transcript"
    assert not any(result.clips.values())


def test_the_paper_s_model_has_columns_of_its_own() -> None:
    ours = {column.name for column in Perplexity.columns}
    paper = {column.name for column in MistralPerplexity.columns}
    assert paper == {f"mistral_{name}" for name in ours - {"oov_rate"}}
    assert MistralPerplexity().lm.name == "mistralai/Mistral-7B-v0.1"


def test_a_language_model_of_one_language_reads_no_other() -> None:
    clip = spoken("p q ein Hund", "p q ein Hund")
    german = dataclasses.replace(clip.transcript, language="de")
    clip = dataclasses.replace(clip, transcript=german)
    english = Listed()
    english.language = "en"
    result = Perplexity(english).score([clip], [])
    assert result.clips[clip.clip_id] == {}
    assert result.notes[clip.clip_id] == "the language model reads en, not de"
    assert result.counts["n_empty"] == 0
    assert Perplexity(Listed()).score([clip], []).clips[clip.clip_id]
