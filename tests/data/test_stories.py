import re

from calm_bench.data.speech import Speech
from calm_bench.data.stories import grammar, write_stories


def test_the_default_stories_are_those_that_the_shipped_models_were_trained_on() -> None:
    first = Speech(test=64)
    assert first.settings()["text_hash"] == "5f0baed85c10b84e"
    assert Speech().stories()[:-96] == first.stories()


def test_the_seed_decides_every_word() -> None:
    assert write_stories((5, 1, 1)) == write_stories((5, 1, 1))
    assert write_stories((5, 1, 1)) != write_stories((5, 1, 1), seed=1)


def test_splits_have_their_sizes_and_no_text_twice() -> None:
    stories = write_stories((60, 10, 20))
    counts = [sum(s.split == split for s in stories) for split in ("train", "validation", "test")]
    assert counts == [60, 10, 20]
    assert len({story.text for story in stories}) == len({s.story_id for s in stories}) == 90


def test_more_training_stories_leave_the_others_as_they_are() -> None:
    small, large = write_stories((512, 3, 4)), write_stories((520, 3, 4))
    assert large[: len(small)] == small
    assert [story.story_id for story in large[len(small) :]] == [
        f"train-{index:05d}" for index in range(512, 520)
    ]


def test_more_test_stories_leave_the_others_as_they_are() -> None:
    small, large, larger = (
        write_stories((n, 3, test)) for n, test in ((9, 64), (9, 70), (600, 70))
    )
    assert large[: len(small)] == small
    assert large[len(small) :] == larger[-6:]
    assert [story.story_id for story in larger[-6:]] == [f"test-{i:05d}" for i in range(64, 70)]


def test_the_vocabulary_is_large_enough_to_lose_track_in() -> None:
    told = " ".join(story.text.lower() for story in write_stories((200, 0, 0)))
    assert len(set(re.findall(r"[a-z']+", told))) >= 300


def test_the_cast_recurs_and_no_slot_is_left_open() -> None:
    names = {name.split("/")[0] for name in grammar().words["names"]}
    for story in write_stories((200, 0, 0)):
        assert "{" not in story.text
        assert all(sentence[0].isupper() for sentence in story.sentences)
        mentions = [word for word in re.findall(r"\w+", story.text) if word in names]
        assert 1 <= len(set(mentions)) <= 2
        assert len(mentions) >= 2
