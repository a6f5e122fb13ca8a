import itertools

import pytest

from calm_bench.data.alignment import align_text
from calm_bench.types import TimedWord


def heard(**times: tuple[float, float]) -> list[TimedWord]:
    return [TimedWord(word=word, start=start, end=end) for word, (start, end) in times.items()]


def test_recognised_words_take_their_times_and_keep_their_spelling() -> None:
    timed = align_text("Cats, play!", heard(cats=(0.2, 0.5), play=(0.7, 1.0)), 2.0)
    assert timed == (
        TimedWord(word="Cats,", start=0.2, end=0.5),
        TimedWord(word="play!", start=0.7, end=1.0),
    )


def test_words_between_two_that_were_heard_share_the_gap_by_their_letters() -> None:
    timed = align_text("cats or lion play", heard(cats=(0.0, 0.4), play=(1.0, 1.2)), 2.0)
    assert timed is not None
    assert [(w.start, w.end) for w in timed[1:3]] == [
        (0.4, pytest.approx(0.6)),
        (pytest.approx(0.6), pytest.approx(1.0)),
    ]


def test_words_at_the_edges_are_not_stretched_over_silence() -> None:
    text = "big cats play outside"
    timed = align_text(text, heard(cats=(5.0, 5.3), play=(5.5, 5.7)), 60.0)
    assert timed is not None
    assert timed[0].start == pytest.approx(4.7)
    assert timed[-1].end == pytest.approx(6.4)


def test_times_never_run_backwards_nor_out_of_the_recording() -> None:
    words = heard(a=(0.0, 0.2), b=(0.1, 0.15), d=(0.05, 0.9), e=(0.95, 1.0))
    timed = align_text("a b c d e f", words, 1.0)
    assert timed is not None
    edges = list(itertools.chain.from_iterable((w.start, w.end) for w in timed))
    assert edges == sorted(edges)
    assert edges[-1] <= 1.0


@pytest.mark.parametrize("text", ["something else is said here", "", "..."])
def test_a_text_that_was_not_heard_gets_no_times(text: str) -> None:
    assert align_text(text, heard(cats=(0.0, 0.4), play=(1.0, 1.2)), 2.0) is None
