import json
import zipfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calm_bench.core.audio import read_audio
from calm_bench.data import music as module
from calm_bench.data.corpus import read_card, read_manifest
from calm_bench.data.music import Music, make_music
from calm_bench.data.music_scores import Note, Score, corpus_dir
from calm_bench.data.music_worker import PERFORMANCE
from calm_bench.data.music_works import (
    group_works,
    load_sources,
    load_works,
    opus,
    phrases,
    playable,
    playlist,
    split_of,
)
from calm_bench.errors import InputError, MissingExtraError
from calm_bench.seeds import content_hash

RATE = 8000
# Speaks the player's protocol: a seeded noise of 13 s for each recording. It imports little,
# because many are started.
WORKER = """
import json, random, sys, wave
from pathlib import Path
job = json.load(sys.stdin)
for recording in job["recordings"]:
    line = {"id": recording["id"], "key": recording["key"]}
    rng = random.Random(recording["seed"])
    part = [[i, 1, rng.randrange(40, 80)] for i in range(40)]
    name = recording["path"].replace("/", "--").replace("#", "--") + ".json"
    (Path(job["scores"]) / name).write_text(json.dumps({"title": "", "parts": [part]}))
    if recording["id"] == "train-00001":
        line["reason"] = "too short: 3.0 s, less than 14 s"
    else:
        name = recording["id"] + ".wav"
        same = recording["id"] in ("train-00002", "train-00003")
        rng = random.Random(0 if same else recording["seed"])
        with wave.open(str(Path(job["folder"]) / name), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(rng.randbytes(2 * 13 * 8000))
        line |= {"audio": name, "sample_rate": 8000, "seconds": 13.0}
    print(json.dumps(line))
"""
SMALL = Music(train=5, validation=1, test=3, sample_rate=RATE)
RESTRICTIVE = (
    *("all derivative electronic formats", "all rights reserved", "general public license"),
    *("noncommercial", "non-commercial", "sharealike", "share-alike", "by-sa", "by-nc"),
    *("edizioni", "wikifonia", "musescore.com/"),
)


@pytest.fixture
def played(
    tmp_path: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """A worker in the player's place, and by chunk what it was asked for."""
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    soundfont = tmp_path / "soundfont.sf2"
    soundfont.touch()
    monkeypatch.setattr(module, "WORKER", replace(module.WORKER, command=[str(worker)]))
    monkeypatch.setattr(module, "PACKAGES", ())
    monkeypatch.setattr(module, "soundfont_path", lambda: soundfont)
    monkeypatch.setattr(module, "CHUNK_RECORDINGS", 2)
    return asked


def test_every_recording_is_played_and_listed_with_its_work_and_licence(
    tmp_path: Path, played: dict[str, Any]
) -> None:
    out = tmp_path / "music"
    card = make_music(out, SMALL, jobs=1)
    held_out = ["test-0000", "test-0001", "validation-0000"]
    assert list(played) == [*held_out, *(f"train-000{i}" for i in "012")]
    items = {item.id: item for item in read_manifest(out)}
    held_out = ["test-00000", "test-00001", "test-00002", "validation-00000"]
    assert list(items) == [*held_out, "train-00000", "train-00002", "train-00004"]
    works = {work.path: work for work in load_works()}
    for item in items.values():
        wave, rate = read_audio(out / item.audio)
        assert (rate, len(wave)) == (RATE, 13 * RATE)
        assert item.text is None
        assert item.work is not None
        work = works[item.work]
        assert split_of(work.group) == item.split
        assert item.licence == f"{work.composer}: {work.licence}"
    assert card == read_card(out)
    assert card.counts["skipped"] == 2
    reasons = [skipped.reason for skipped in card.skipped]
    assert reasons[0].startswith("too short")
    assert reasons[1] == "duplicate: the same audio as train-00002"
    assert card.checks == {"held_out_works_sharing_a_phrase_with_training": 0}


def test_a_corpus_grows_and_shrinks_without_moving_what_is_there(
    tmp_path: Path, played: dict[str, Any]
) -> None:
    out = tmp_path / "music"
    make_music(out, SMALL)
    before = {item.id: item for item in read_manifest(out)}
    played.clear()
    make_music(out, Music(train=7, validation=2, test=4, sample_rate=RATE), jobs=1)
    assert list(played) == ["test-0001", "validation-0000", "train-0002", "train-0003"]
    after = {item.id: item for item in read_manifest(out)}
    assert len(after) == len(before) + 4
    assert before.items() <= after.items()
    played.clear()
    make_music(out, SMALL)
    assert played == {}
    assert {item.id: item for item in read_manifest(out)} == before


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_other_music_is_refused(
    tmp_path: Path, played: dict[str, Any], finished: bool
) -> None:
    out = tmp_path / "music"
    make_music(out, SMALL)
    if not finished:  # killed before the manifest was written
        (out / "corpus.json").unlink()
    with pytest.raises(InputError, match="choose another folder with --out"):
        make_music(out, Music(train=5, validation=1, test=3, sample_rate=RATE, seed=1))


def test_more_works_than_are_held_out_are_refused(played: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"works for test, not the 9999 asked for"):
        Music(test=9999).recordings()


def test_without_the_packages_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"music21.*calm-bench\[data\]"):
        make_music(tmp_path / "music", SMALL)


def test_neither_the_seed_nor_the_size_moves_a_work() -> None:
    small = Music(train=40, test=60, validation=20)
    large = Music(train=80, test=72, validation=24, seed=5)
    places = [{r.id: r.work.path for r in music.recordings()} for music in (small, large)]
    assert places[0].items() <= places[1].items()


def test_recordings_of_a_work_differ_in_their_seeds() -> None:
    recordings = Music(train=1500).recordings()
    assert len({r.seed for r in recordings}) == len(recordings)
    assert len({r.work.path for r in recordings}) < len(recordings)


def test_the_head_of_a_playlist_is_mixed_as_the_weights_say() -> None:
    weights = {name: family.weight for name, family in load_sources().families.items()}
    head = [work.family for work, _ in islice(playlist("train"), 100)]
    total = sum(weights.values())
    for name, weight in weights.items():
        assert abs(head.count(name) - 100 * weight / total) <= 1


def test_held_out_works_are_different_works() -> None:
    groups = [work.group for work, _ in playlist("test")]
    assert len(groups) == len(set(groups)) == 73
    groups = [work.group for work, _ in islice(playlist("validation"), 24)]
    assert len(set(groups)) == 24


def test_validation_plays_its_few_works_in_turn_each_draw_with_a_seed_of_its_own() -> None:
    recordings = [r for r in Music().recordings() if r.split == "validation"]
    works = [recording.work.path for recording in recordings]
    assert len(works) == 72
    assert works[:24] == works[24:48] == works[48:]
    assert len({recording.seed for recording in recordings}) == 72


def test_no_work_is_in_two_splits() -> None:
    works = load_works()
    assert len({work.path for work in works}) == len(works)
    by_opus: dict[str, set[str]] = {}
    for work in works:
        by_opus.setdefault(opus(work.path), set()).add(split_of(work.group))
    assert [name for name, splits in by_opus.items() if len(splits) > 1] == []
    assert {split_of(work.group) for work in works} == {"train", "validation", "test"}
    assert opus("bach/bwv248.23-2.mxl") == opus("bach/bwv248.9-s.mxl")
    groups = {work.path: work.group for work in works}
    same = "schumann_robert/dichterliebe_no2.xml", "schumann_robert/opus48no2.mxl"
    assert groups[same[0]] == groups[same[1]]


FORBIDDEN = [
    "palestrina/Agnus_00.krn",
    "essenFolksong/altdeu10.abc",
    "bach/bwv277.krn",
    "josquin/milleRegrets.abc",
    "monteverdi/madrigal.5.4.mxl",
    "monteverdi/madrigal.5.1.mxl",
    "leadSheet/berlinAlexandersRagtime.mxl",
    "schumann_clara/opus17/movement1.mxl",
    "trecento/PMFC_01.xml",
    "schubert/Lindenbaum.xml",
]


@pytest.mark.parametrize("file", FORBIDDEN)
def test_a_forbidden_work_is_not_played(file: str) -> None:
    assert load_sources().find(file) is None
    assert load_sources().refused(file)
    assert not any(work.path.startswith(file) for work in load_works())


def test_a_list_with_a_forbidden_work_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smuggled = tmp_path / "music_works.tsv"
    smuggled.write_text("palestrina/Agnus_00.krn\tpalestrina/Agnus_00.krn\n")
    monkeypatch.setattr("calm_bench.data.music_works.WORKS", smuggled)
    with pytest.raises(InputError, match=r"lists palestrina/Agnus_00\.krn, which .* not allow"):
        load_works.__wrapped__()


def corpus_files() -> list[str]:
    """Every score that music21 ships."""
    root = corpus_dir()
    kinds = {".abc", ".krn", ".mxl", ".xml", ".musicxml", ".mid", ".rntxt", ".mus", ".musx"}
    return [p.relative_to(root).as_posix() for p in root.rglob("*.*") if p.suffix in kinds]


@pytest.mark.extra("data")
def test_every_score_of_the_corpus_is_allowed_or_left_out_with_a_reason() -> None:
    sources = load_sources()
    unknown = [f for f in corpus_files() if not sources.find(f) and not sources.refused(f)]
    assert unknown == []


@pytest.mark.extra("data")
def test_no_allowed_score_restricts_its_use() -> None:
    root, sources = corpus_dir(), load_sources()
    found = {}
    for file in corpus_files():
        if sources.find(file) is not None:
            text = _text(root / file).lower()
            if notices := [phrase for phrase in RESTRICTIVE if phrase in text]:
                found[file] = notices
    assert found == {}


def _text(path: Path) -> str:
    if path.suffix != ".mxl":
        return path.read_text(encoding="utf-8", errors="replace")
    with zipfile.ZipFile(path) as packed:
        return "".join(packed.read(n).decode("utf-8", "replace") for n in packed.namelist())


@pytest.mark.extra("data")
def test_the_list_is_of_works_that_are_there() -> None:
    assert {work.path for work in load_works()} <= set(playable())


def tune(seed: int, n: int = 60, transpose: int = 0, slow: float = 1.0) -> Score:
    rng = np.random.default_rng(seed)
    lengths = slow * rng.choice([0.5, 1.0, 2.0], n)
    onsets = np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    pitches = rng.integers(55, 80, n) + transpose
    part: tuple[Note, ...] = tuple(
        (float(o), float(d), int(p)) for o, d, p in zip(onsets, lengths, pitches, strict=True)
    )
    return Score(title="", parts=(part,))


def test_a_tune_is_known_in_any_key_and_notation() -> None:
    assert phrases(tune(1)) == phrases(tune(1, transpose=3, slow=0.5))
    assert phrases(tune(1)).isdisjoint(phrases(tune(2)))
    scale = Score(title="", parts=(tuple((float(i), 1.0, 40 + i) for i in range(40)),))
    assert phrases(scale) == set()


def test_works_that_share_a_phrase_or_an_opus_are_one_group() -> None:
    halves = Score(title="", parts=(*tune(1).parts, *tune(3).parts))
    works = {
        "a.abc#1": tune(1),
        "b.abc": tune(2),
        "c.abc#9": halves,
        "d.abc": tune(3, transpose=-2),
        "haydn/opus1no1/movement1.mxl": tune(4),
        "haydn/opus1no1/movement2.mxl": tune(5),
    }
    groups = group_works([(path, phrases(score)) for path, score in works.items()])
    assert groups["a.abc#1"] == groups["c.abc#9"] == groups["d.abc"] == "a.abc#1"
    assert groups["b.abc"] == "b.abc"
    assert groups["haydn/opus1no1/movement1.mxl"] == groups["haydn/opus1no1/movement2.mxl"]
    assert len(set(groups.values())) == 3


def test_the_key_of_a_recording_says_what_decides_its_samples() -> None:
    first, other = (Music(seed=seed, train=1, test=1).recordings()[0] for seed in (0, 1))
    assert first.work == other.work
    assert first.key != other.key
    assert first.key == content_hash(first.work.path, first.seed, 16000, PERFORMANCE)
    assert json.dumps(Music(train=1).recordings()[0].seed)
