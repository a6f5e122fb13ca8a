"""What goes into which split, as `calm-bench data folder` writes it."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
from clips import lay
from commands import Said, call

from calm_bench.data.corpus import Item, read_card, read_manifest
from calm_bench.data.splits import named_split


def listed(source: Path, *options: str, code: int = 0) -> Said:
    out = source.parent / "corpus"
    return call("data", "folder", source, "--out", out, *options, code=code)


def read(source: Path, *options: str) -> list[Item]:
    listed(source, *options)
    return read_manifest(source.parent / "corpus")


def notes(source: Path) -> str:
    return "\n".join(read_card(source.parent / "corpus").notes)


def splits_by(
    items: Iterable[Item], part: int | Callable[[Item], str | None]
) -> Mapping[str | None, set[str]]:
    """The splits of the recordings that share some part of their id, or what they are told."""
    found = defaultdict(set)
    for item in items:
        found[item.id.split("-")[part] if isinstance(part, int) else part(item)].add(item.split)
    return found


def test_a_split_is_believed_anywhere_in_the_path(source: Path) -> None:
    lay(source, [f"data/{name}/{name}.wav" for name in ("test", "dev", "train", "testimony")])
    lay(source, ["audio/speaker1/eval/late.wav"])
    assert {item.id.split("-")[-1]: item.split for item in read(source)} == {
        "test": "test",
        "dev": "validation",
        "train": "train",
        "late": "test",
        "testimony": "train",  # the splits that the source fills get nothing more
    }
    assert "splits as the source names them: " in notes(source)
    assert "eval → test (1)" in notes(source)


def test_the_name_of_a_split_is_believed_before_a_name_with_a_split_in_it(source: Path) -> None:
    lay(source, ["test/Someone/test-train/a.wav", "some-test/train/b.wav", "x/train-clean-5/c.wav"])
    found = [(item.id[-1], item.split) for item in read(source)]
    assert found == [("b", "train"), ("a", "test"), ("c", "train")]


@pytest.mark.parametrize("name", ["test", "test-clean", "TEST", "testset", "test_eval92"])
def test_a_source_that_is_a_split_by_its_own_name(tmp_path: Path, name: str) -> None:
    source = lay(tmp_path / name, ["a.wav", "b.wav"])
    assert {item.split for item in read(source)} == {"test"}
    assert "train is empty: the source gives its recordings to other splits" in notes(source)


def test_a_folder_of_tests_is_no_split(tmp_path: Path) -> None:
    items = read(lay(tmp_path / "test_something_else", [f"{k}.wav" for k in range(3)]))
    assert {item.split for item in items} == {"train", "validation", "test"}


@pytest.mark.parametrize("n", [3, 4, 9])
def test_splits_of_small_corpora_are_filled(source: Path, n: int) -> None:
    items = read(lay(source, [f"{k}.wav" for k in range(n)]))
    assert {item.split for item in items} == {"train", "validation", "test"}


@pytest.mark.parametrize(("n", "empty"), [(1, ["validation", "test"]), (2, ["validation"])])
def test_a_split_that_cannot_be_filled_is_said(source: Path, n: int, empty: list[str]) -> None:
    lay(source, [f"{k}.wav" for k in range(n)])
    result = listed(source)
    lines = [line for line in result.out.splitlines() if " is empty: " in line]
    groups = "1 group" if n == 1 else "2 groups"
    assert lines == [
        f"{split} is empty: {groups} cannot fill every split (see --group-by)" for split in empty
    ]


def test_speakers_microphones_and_folders_stay_together(source: Path) -> None:
    lay(source, [f"s{s}/{k}.wav" for s in range(12) for k in range(3)])
    found = splits_by(read(source), 0)
    assert all(len(splits) == 1 for splits in found.values())
    assert set.union(*found.values()) == {"train", "validation", "test"}
    assert "(s0, s1, s10 and 9 more; --group-by none" in notes(source)
    alone = splits_by(read(source, "--group-by", "none"), 0)
    assert any(len(splits) > 1 for splits in alone.values())


def test_the_sessions_of_a_speaker_and_the_albums_of_a_band_stay_together(source: Path) -> None:
    lay(source, [f"wavs/s{s}/session{t}/{k}.wav" for s in range(5) for t in (1, 2) for k in (1, 2)])
    found = splits_by(read(source), 1)
    assert len(found) == 5
    assert all(len(splits) == 1 for splits in found.values())
    assert set.union(*found.values()) == {"train", "validation", "test"}


def test_a_speakers_folder_in_two_splits_is_said(source: Path) -> None:
    lay(source, ["train/ann/a.wav", "test/ann/b.wav", "test/bob/c.wav", "train/cec/d.wav"])
    read(source)
    assert "the source itself puts into several splits: ann (test 1, train 1)" in notes(source)


def test_microphones_of_one_utterance_stay_together(source: Path) -> None:
    names = [f"u{k}{mic}.wav" for k in range(20) for mic in ("_mic1", "_mic2", ".CH3")]
    items = read(lay(source, names))
    found = splits_by(items, lambda item: item.id.split("_")[0].split(".")[0])
    assert len(found) == 20
    assert all(len(splits) == 1 for splits in found.values())


def test_microphones_may_have_folders_of_their_own(source: Path) -> None:
    found = splits_by(read(lay(source, [f"mic{m}/u{k}.wav" for m in (1, 2) for k in range(12)])), 1)
    assert all(len(splits) == 1 for splits in found.values())
    assert len(set.union(*found.values())) == 3


def test_a_pattern_says_what_stays_together(source: Path) -> None:
    lay(source, [f"take{k}/day{d}-{k}.wav" for k in range(4) for d in range(10)])
    found = splits_by(read(source, "--group-by", r"(day\d+)"), 1)
    assert len(found) == 10
    assert all(len(splits) == 1 for splits in found.values())
    assert set.union(*found.values()) == {"train", "validation", "test"}
    for wrong, message in (("(", "nor a pattern"), ("night", "nothing like it in take0/day0-0")):
        assert message in listed(source, "--group-by", wrong, code=2).err


def test_speakers_and_works_of_a_list_stay_together(source: Path) -> None:
    lines = [
        {"audio": f"{k}.wav", "speaker": f"s{k % 8}", "work": f"w{k % 8 // 2}"} for k in range(24)
    ]
    lay(source, [str(line["audio"]) for line in lines])
    (source / "list.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = splits_by(read(source), lambda item: item.work)
    assert len(found) == 4
    assert all(len(splits) == 1 for splits in found.values())


def test_a_group_that_the_source_tears_is_said_and_the_rest_of_one_follows(source: Path) -> None:
    given = {"a": "train", "b": "test", "c": None, "d": "test", "e": None, "f": None, "g": None}
    speakers = {"a": "ann", "b": "ann", "c": "ann", "d": "bob", "e": "bob", "f": "cec", "g": "dan"}
    lines = [{"audio": f"{n}.wav", "speaker": speakers[n], "split": given[n]} for n in given]
    lay(source, [str(line["audio"]) for line in lines])
    (source / "list.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    splits = {item.id: item.split for item in read(source)}
    assert "the source itself puts into several splits: ann (train 1, test 1)" in notes(source)
    assert splits["e"] == "test"  # with bob
    assert splits["c"] == "train"
    # Training and test are the source's own: of the two other speakers one fills validation.
    assert {splits["f"], splits["g"]} == {"train", "validation"}


def test_the_same_recording_in_two_splits_is_said(source: Path) -> None:
    lay(source, ["train/a.wav"])
    (source / "test").mkdir()
    (source / "test" / "b.wav").write_bytes((source / "train" / "a.wav").read_bytes())
    lay(source, ["test/c.wav"])
    assert "which is in test, this one in train" in listed(source).text


NAMED = {
    "train": ("train", "train-clean-100", "cv-valid-train", "training"),
    "validation": ("dev_other", "val", "validation", "nsynth-valid"),
    "test": ("TEST", "eval92", "testset", "test_b", "Testing"),
    None: (
        *("testimony", "training-day", "contest", "trainers", "invalid", "devotion", "validated"),
        *("evaluated", "latest", "Artist - Test Song", ""),
    ),
}


@pytest.mark.parametrize(("name", "split"), [(n, s) for s, names in NAMED.items() for n in names])
def test_names_that_say_a_split(name: str, split: str | None) -> None:
    assert named_split(name) == split
