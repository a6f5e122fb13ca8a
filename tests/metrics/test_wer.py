"""Word error rate: what counts, what an edge forgives, and agreement with jiwer on whole texts."""

import random
from collections.abc import Mapping

import jiwer
import pytest
from clips import spoken

from calm_bench.asr.words import normalise
from calm_bench.core import stats
from calm_bench.metrics.wer import WordErrorRate
from calm_bench.types import Clip

METRIC = WordErrorRate()


def fields(clip: Clip) -> Mapping[str, float | None]:
    return METRIC.score([clip], []).clips[clip.clip_id]


def counts(clip: Clip) -> tuple[float | None, ...]:
    found = fields(clip)
    kinds = ("words", "substitutions", "deletions", "insertions")
    return tuple(found[f"wer_{kind}"] for kind in kinds)


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        ("once there was a small dog", (4, 0, 0, 0)),
        ("Once, there was a SMALL dog.", (4, 0, 0, 0)),
        ("ones their was a small dog", (4, 0, 0, 0)),  # errors in the prompt are not scored
        ("once there was a tall dog", (4, 1, 0, 0)),
        ("once there was small dog", (4, 0, 1, 0)),
        ("once there was a very small dog", (4, 0, 0, 1)),
        ("", (4, 0, 4, 0)),
    ],
)
def test_errors_after_the_prompt(heard: str, expected: tuple[int, ...]) -> None:
    assert counts(spoken("once there was a small dog", heard)) == expected


def test_a_word_cut_by_the_end_is_nobodys_error() -> None:
    meant = "once there was a small dog"
    # The clip ends 0.2 s into "dog"; the recogniser makes two words of what is left of it.
    cut = spoken(
        meant, "once there was a small do g", seconds=2.7, heard_at=[0, 0.5, 1, 1.5, 2, 2.4, 2.6]
    )
    assert counts(cut) == (3, 0, 0, 0)


def test_insertions_at_the_edges_count_where_they_are_heard() -> None:
    meant = "once there was a dog"
    onsets = [0.0, 0.5, 1.0, 1.5, 2.0]
    early = spoken(
        meant, "once there oh was a dog", heard_at=[0.0, 0.5, 0.8, *onsets[2:]], seconds=6
    )
    inside = spoken(
        meant, "once there oh was a dog", heard_at=[0.0, 0.5, 1.0, *onsets[2:]], seconds=6
    )
    after = spoken(meant, "once there was a dog bye", heard_at=[*onsets, 5.4], seconds=6)
    too_late = spoken(meant, "once there was a dog bye", heard_at=[*onsets, 5.6], seconds=6)
    assert [counts(c)[3] for c in (early, inside, after, too_late)] == [0, 1, 1, 0]


def test_speech_without_a_monologue_is_all_insertions() -> None:
    clip = spoken("once there", "once there was a dog")
    assert counts(clip) == (0, 0, 0, 3)
    result = METRIC.score([clip], [])
    assert result.clips[clip.clip_id]["wer_clip"] is None
    assert "no word was meant" in result.notes[clip.clip_id]


def test_what_cannot_be_scored_is_noted() -> None:
    clips = [
        spoken(None, "once there was", name="a"),
        spoken("once there was", None, name="b"),
        spoken("once there was", "", name="c"),
    ]
    result = METRIC.score(clips, [])
    assert result.notes.keys() == {"id-a", "id-b", "id-c"}
    assert result.notes["id-c"] == "more than half of its words are wrong: counted apart"
    assert result.clips["id-a"] == {}
    assert result.clips["id-c"]["wer_clip"] == 1.0
    assert result.counts["n_empty"] == 1


def test_micro_and_macro_differ() -> None:
    # One long clip without an error and one short clip that is all wrong: 0.2 and 0.5.
    long, short = "p q a b c d e f g h", "p q x y"
    clips = [spoken(long, long, name="a"), spoken(short, "p q u v", name="b")]
    result = METRIC.score(clips, [])
    pairs = {clip.pair_key: result.clips[clip.clip_id] for clip in clips}
    values = {
        c.name: stats.summarise(c, pairs, 0).value for c in METRIC.columns if c.aggregate != "set"
    }
    assert values["wer"] == pytest.approx(20.0)
    assert values["wer_macro"] == pytest.approx(50.0)
    assert values["wer_over_50"] == pytest.approx(50.0)
    assert values["wer_substitutions"] == pytest.approx(20.0)
    assert values["wer_raw"] == pytest.approx(20.0)


def test_a_runaway_clip_is_counted_apart() -> None:
    # Ten words with 1, 0, 0 and 10 errors: 11 of 40, without the last one 1 of 30.
    meant = "p q a b c d e f g h i j"
    texts = {"a": "p q x b c d e f g h i j", "b": meant, "c": meant, "d": "p q" + " z" * 10}
    clips = [spoken(meant, heard, name=name) for name, heard in texts.items()]
    result = METRIC.score(clips, [])
    pairs = {clip.pair_key: result.clips[clip.clip_id] for clip in clips}
    columns = {column.name: column for column in METRIC.columns}
    assert stats.summarise(columns["wer"], pairs, 0).value == pytest.approx(100 * 11 / 40)
    within = stats.summarise(columns["wer_within_50"], pairs, 0)
    assert (within.value, within.n) == (pytest.approx(100 / 30), 3)
    median = stats.summarise(columns["wer_median"], pairs, 0)
    assert median.value == pytest.approx(5.0)
    assert median.low <= median.value <= median.high
    influence = result.estimates["wer_influence"]
    assert influence.value == pytest.approx(100 * (11 / 40 - 1 / 30))
    assert METRIC.score(clips[:1], []).estimates["wer_influence"].value is None
    unheard = METRIC.score([spoken(meant, None)], [])
    assert unheard.estimates["wer_influence"].reason in unheard.notes.values()


def test_another_script_is_not_scored_as_english() -> None:
    clip = spoken("p q \u043c\u0438\u0440 \u0434\u043e\u043c", "p q meer dome")
    result = METRIC.score([clip], [])
    assert result.clips[clip.clip_id] == {}
    assert "--language" in result.notes[clip.clip_id]


def test_normalising_forgives_what_the_raw_rate_counts() -> None:
    found = fields(spoken("p q she had three grey cats", "p q She had 3 gray cats."))
    assert found["wer_errors"] == 0
    assert found["wer_raw_errors"] == 4


def test_whole_texts_agree_with_jiwer() -> None:
    rng = random.Random(0)
    for index in range(20):
        meant = [rng.choice("abcdefgh") * 2 for _ in range(20)]
        heard = [w for w in meant if rng.random() > 0.15]
        heard = [rng.choice("xyz") * 2 if rng.random() < 0.15 else w for w in heard]
        clip = spoken(" ".join(meant), " ".join(heard), prompt_words=0, seconds=60)
        expected = jiwer.wer(
            " ".join(normalise(" ".join(meant))), " ".join(normalise(" ".join(heard)))
        )
        assert fields(clip)["wer_clip"] == pytest.approx(expected), index
