"""VERT: golden values, the slow definition, and the cells that must not look diverse."""

import math
import random
from collections import Counter
from typing import Any

import pytest
from clips import spoken

from calm_bench.metrics.vert import Vert, auto_precisions, self_precisions, vert_values

CORPUS = [
    ["the", "cat", "sat", "on", "the", "mat", "the", "cat"],
    ["the", "dog", "sat", "on", "the", "log"],
    ["a", "bird", "sang", "a", "song", "a", "bird", "sang"],
]


def ngrams(text: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(text[i : i + size]) for i in range(len(text) - size + 1)]


def slow_self(texts: list[list[str]], size: int) -> Any:
    """Clipped n-gram precision of each text against all others, pair by pair."""
    found = []
    for i, text in enumerate(texts):
        counts = Counter(ngrams(text, size))
        others = [Counter(ngrams(other, size)) for j, other in enumerate(texts) if j != i]
        hits = sum(min(n, max(o[gram] for o in others)) for gram, n in counts.items())
        found.append(hits / max(1, counts.total()))
    return found


def slow_auto(text: list[str], size: int) -> float:
    """Share of n-grams that occur left or right of themselves."""
    grams = ngrams(text, size)
    hits = sum(
        gram in ngrams(text[:p], size) + ngrams(text[p + size :], size)
        for p, gram in enumerate(grams)
    )
    return hits / max(1, len(grams))


def test_golden_values() -> None:
    values = vert_values(CORPUS)
    expected = {
        "self_bleu_2_arithmetic": 30.8730,
        "auto_bleu_2_arithmetic": 44.8413,
        "vert": 37.2073,
        "self_bleu_2_geometric": 29.8121,
        "auto_bleu_2_geometric": 37.6561,
        "vert_2_geometric": 33.5053,
        "self_bleu_3_arithmetic": 25.2116,
        "auto_bleu_3_arithmetic": 33.5979,
        "vert_3_arithmetic": 29.1043,
        "self_bleu_3_geometric": 23.1055,
        "auto_bleu_3_geometric": 18.3440,
        "vert_3_geometric": 20.5876,
    }
    assert values == pytest.approx(expected, abs=1e-4)
    assert set(values) == {column.name for column in Vert.columns}


@pytest.mark.parametrize("seed", range(5))
def test_one_pass_equals_all_pairs(seed: int) -> None:
    rng = random.Random(seed)
    texts = [[rng.choice("abcd") for _ in range(rng.randrange(1, 14))] for _ in range(12)]
    for size in (1, 2, 3):
        fast = [row[size - 1] for row in self_precisions(texts, 3)]
        assert fast == pytest.approx(slow_self(texts, size), abs=1e-12)
        fast = [auto_precisions(text, 3)[size - 1] for text in texts]
        assert fast == pytest.approx([slow_auto(text, size) for text in texts], abs=1e-12)


def test_the_edges_are_defined() -> None:
    assert auto_precisions(["a"], 3) == [0.0, 0.0, 0.0]
    assert auto_precisions(["a", "a"], 3) == [1.0, 0.0, 0.0]
    assert auto_precisions(["a", "a", "a"], 2)[1] == 0.0  # both bigrams overlap
    same = vert_values([["a", "b", "a", "b", "a", "b"]] * 2)
    assert same["self_bleu_3_geometric"] == pytest.approx(100.0)
    assert all(value == 0.0 for value in vert_values([["a"], ["b"]]).values())


def test_case_and_punctuation_do_not_hide_repetition() -> None:
    said = "The dog ran. The dog, the dog sat."
    clips = [spoken(None, said, prompt_words=0, name=f"p{i}") for i in range(2)]
    estimates = Vert().score(clips, []).estimates
    assert estimates["auto_bleu_2_geometric"].value == pytest.approx(56.7, abs=0.05)


def test_silence_is_left_out_and_counted() -> None:
    texts = [" ".join(text) for text in CORPUS]
    clips = [spoken(None, text, prompt_words=0, name=f"p{i}") for i, text in enumerate(texts)]
    silent = [spoken(None, "", prompt_words=0, name="p7"), spoken(None, None, name="p8", seconds=9)]
    with_silence, without = Vert().score([*clips, *silent], []), Vert().score(clips, [])
    assert with_silence.estimates == without.estimates
    assert with_silence.estimates["vert"].n == 3
    assert with_silence.counts["n_empty"] == 1
    assert with_silence.notes.keys() == {"id-p7", "id-p8"}
    alone = Vert().score(silent, []).estimates["vert"]
    assert (alone.value, alone.reason) == (None, "self-BLEU needs two clips with text")


def test_differences_are_taken_at_equal_n() -> None:
    rng = random.Random(1)

    def cell(words: int, names: range) -> list:
        lexicon = [f"{chr(97 + i // 9)}{chr(98 + i % 9)}" for i in range(words)]
        return [
            spoken(None, " ".join(rng.choices(lexicon, k=30)), prompt_words=0, name=f"p{i}")
            for i in names
        ]

    dull, rich = cell(12, range(20)), cell(80, range(4, 24))
    found = Vert().difference(dull, rich, [])["vert"]
    assert found.n == 16
    assert found.value > 0
    assert found.low is not None
    assert found.low <= found.value <= found.high
    assert found.low > 0  # sixteen clips suffice for a gap this wide
    zero = Vert().difference(dull, dull, [])
    assert all(math.isclose(e.value, 0.0) and e.low == e.high == 0.0 for e in zero.values())
