"""Words in time: normal forms keep their place, and edges cut no word in two."""

import pytest
from clips import spoken

from calm_bench.asr.words import Token, align, normalise, tokens_of
from calm_bench.metrics import text
from calm_bench.types import TimedWord


def words(*pairs: tuple[str, float]) -> list[TimedWord]:
    return [TimedWord(word=word, start=start, end=start + 0.2) for word, start in pairs]


def test_normal_form() -> None:
    assert normalise("The dog ran. The DOG, the dog sat!") == (
        "the", "dog", "ran", "the", "dog", "the", "dog", "sat",
    )  # fmt: skip
    assert normalise("Outside there was...") == ("outside", "there", "was")
    assert normalise("colour of twenty one Mr. Fox") == ("color", "of", "21", "mister", "fox")
    assert normalise("1\u202f000\u00a0000 people") == normalise("one million people")
    assert normalise("-- ... !") == normalise("♪♪ — …") == ()


def test_tokens_know_when_they_were_said() -> None:
    said = words(
        ("She", 0.0), ("didn't", 0.3), ("want", 0.6), ("twenty", 0.9), ("one.", 1.2), ("Why?", 1.5)
    )
    tokens = tokens_of(said)
    assert [token.text for token in tokens] == list(normalise("She didn't want twenty one. Why?"))
    times = {token.text: (token.start, token.word) for token in tokens}
    assert times["did"] == times["not"] == (0.3, 1)
    assert times["21"][0] in (0.9, 1.2)
    assert times["why"] == (1.5, 5)
    assert tokens_of([]) == []


def test_tokens_survive_words_that_vanish() -> None:
    said = words(("[noise]", 0.0), ("um", 0.2), ("(a", 0.4), ("cough)", 0.6), ("yes", 0.8))
    assert tokens_of(said)[-1] == Token("yes", 0.8, 4)


def test_alignment_is_a_shortest_edit() -> None:
    steps = align(["a", "b", "c", "d"], ["a", "x", "c", "d", "e"])
    assert [step.kind for step in steps] == ["equal", "substitute", "equal", "equal", "insert"]
    assert [step.kind for step in align([], ["a"])] == ["insert"]
    assert [step.kind for step in align(["a"], [])] == ["delete"]
    assert align([], []) == []


def test_the_continuation_starts_with_its_first_word() -> None:
    clip = spoken("once there was a dog", "once there was a dog", prompt_words=2)
    assert text.prompt_words(clip) == ["once", "there"]
    assert text.heard_words(clip) == ["was", "a", "dog"]


@pytest.mark.parametrize("late", [[0.0, 1.1, 1.2, 1.5, 2.0], [0.0, 0.5, 0.9, 1.5, 2.0]])
def test_a_stray_onset_moves_no_word_over_the_edge(late: list[float]) -> None:
    clip = spoken("once there was a dog", "once there was a dog", heard_at=late)
    assert text.heard_words(clip) == ["was", "a", "dog"]


def test_without_known_text_the_recogniser_decides() -> None:
    clip = spoken(None, "once there was a dog")
    assert text.prompt_words(clip) == ["once", "there"]
    assert text.heard_words(clip) == ["was", "a", "dog"]
    assert text.heard_words(spoken("once there", None)) == []


def test_the_last_half_second_is_not_scored() -> None:
    clip = spoken("once there was a dog", "once there was a dog", seconds=2.4)
    assert text.heard_words(clip) == ["was", "a"]
