"""Language models: the trigram is a distribution, and a causal LM scores the right tokens."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from calm_bench.errors import MissingExtraError
from calm_bench.metrics import perplexity


def test_words_as_the_trigram_writes_them() -> None:
    said = ["Tom's", "café,", "o'clock!", "twenty-one", "'em", "(no)", "...", "3"]
    assert perplexity.trigram_words(said) == [
        "tom's",
        "cafe",
        "o'clock",
        "twenty",
        "one",
        "em",
        "no",
        "3",
    ]
    assert perplexity.trigram_words([]) == perplexity.trigram_words(["..."]) == []


@pytest.mark.extra("offline")
class TestTrigram:
    model = perplexity.TrigramModel()

    def test_probabilities_sum_to_one_and_unknown_words_get_the_least(self) -> None:
        path = perplexity._pocketsphinx_file("en-us/cmudict-en-us.dict")
        words = {line.split()[0] for line in path.read_text(encoding="utf-8").splitlines()} | {
            "</s>"
        }
        logs = [self.model._log(["in", "the", word]) for word in words]
        known = [value * math.log(1.0001) for value in logs if value > perplexity._IMPOSSIBLE]
        assert sum(map(math.exp, known)) == pytest.approx(1.0, abs=1e-3)
        assert len(known) > 70_000
        unknown = self.model.score(["blorfgle"], ["in", "the"])
        assert unknown.n_unknown == 1
        assert unknown.log_likelihood == pytest.approx(-21.805, abs=1e-3)

    def test_the_chain_rule(self) -> None:
        context, first, second = ["once", "there"], ["was", "a"], ["small", "dog"]
        whole = self.model.score([*first, *second], context)
        parts = (self.model.score(first, context), self.model.score(second, [*context, *first]))
        assert whole.log_likelihood == pytest.approx(sum(part.log_likelihood for part in parts))
        assert (
            whole.n_characters
            == sum(part.n_characters for part in parts)
            == len(" was a small dog")
        )
        assert whole.n_tokens == 4

    def test_the_start_is_context_and_order_matters(self) -> None:
        start = self.model.score(["the"])
        assert start.n_tokens == 1
        assert start.n_characters == len("the")
        assert start.log_likelihood != self.model.score(["the"], ["of"]).log_likelihood
        english = self.model.score(["the", "dog", "was", "in", "the", "house"])
        jumble = self.model.score(["house", "the", "in", "was", "dog", "the"])
        assert english.log_likelihood > jumble.log_likelihood + 5

    def test_an_unknown_word_in_the_context_is_no_obstacle(self) -> None:
        assert self.model.score(["dog"], ["blorfgle"]).n_unknown == 0

    def test_nothing_to_score(self) -> None:
        assert self.model.score([]) is None
        assert self.model.score(["..."], ["once"]) is None


ALPHABET = " abcdefghijklmnopqrstuvwxyz"
START = len(ALPHABET)


class Letters:
    """A tokenizer with one token per character."""

    bos_token_id: int | None = START

    def __call__(self, text: str, **_: object) -> dict[str, list]:
        ids = [ALPHABET.index(char) for char in text]
        return {"input_ids": ids, "offset_mapping": [(i, i + 1) for i in range(len(ids))]}


def causal(predict: Any) -> perplexity.CausalModel:
    """A causal LM whose logits are `predict(ids [1, T])`."""

    class Net:
        device = torch.device("cpu")

        def __call__(self, ids: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=predict(ids))

    model = perplexity.CausalModel("letters")
    model.__dict__["_loaded"] = (Letters(), Net())
    return model


def uniform(ids: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*ids.shape, START + 1)


def clairvoyant(ids: torch.Tensor) -> torch.Tensor:
    """All mass on the token that really comes next."""
    following = torch.roll(ids, -1, dims=1)
    return 1000.0 * torch.nn.functional.one_hot(following, START + 1)


class TestCausal:
    def test_a_uniform_model_has_its_vocabulary_for_perplexity(self) -> None:
        for context in ([], ["once", "there"]):
            score = causal(uniform).score(["was", "a", "dog"], context)
            assert math.exp(-score.log_likelihood / score.n_tokens) == pytest.approx(START + 1)
            assert score.n_tokens == score.n_characters == len("was a dog") + bool(context)
            assert score.n_unknown is None

    def test_each_token_is_scored_by_the_position_before_it(self) -> None:
        assert causal(clairvoyant).score(["was", "a"], ["once"]).log_likelihood == 0.0

    def test_without_a_start_of_text_the_first_token_has_no_score(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Letters, "bos_token_id", None)
        assert causal(uniform).score(["was"]).n_tokens == 2
        assert causal(uniform).score(["was"], ["it"]).n_tokens == 4
        assert causal(uniform).score(["a"]) is None

    def test_nothing_to_score(self) -> None:
        assert causal(uniform).score([], []) is None

    def test_it_needs_its_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(MissingExtraError, match="llm"):
            perplexity.CausalModel("any").score(["a"])


def test_names() -> None:
    assert isinstance(perplexity.load_language_model(), perplexity.TrigramModel)
    named = perplexity.load_language_model("org/model@v2")
    assert (named.name, named.revision) == ("org/model", "v2")
