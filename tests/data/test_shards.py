import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import numpy as np
import pytest
from clips import lay_corpus

from calm_bench.core import files
from calm_bench.core.audio import read_audio
from calm_bench.core.files import locked
from calm_bench.data import shards as module
from calm_bench.data.corpus import read_card, read_manifest, write_corpus
from calm_bench.data.shards import (
    PackedArrays,
    Packer,
    frames_path,
    is_packed,
    open_packed,
    prepare,
    write_frames,
)
from calm_bench.errors import InputError
from calm_bench.types import Wave

RATE = 8000


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    recordings = []
    for name, split, seconds in (
        ("one", "train", 1),
        ("three", "train", 0.51),
        ("ten", "test", 0.7),
    ):
        t = np.arange(round(seconds * RATE)) / RATE
        wave = (0.3 * np.sin(2 * np.pi * 200 * t + len(name))).astype(np.float32)
        known = {"text": "a word", "words": (("a", 0.1, 0.2), ("word", 0.2, 0.4))}
        recordings.append((name, split, wave, known))
    return lay_corpus(tmp_path, RATE, recordings)


def test_the_prepared_samples_are_those_of_the_files(corpus: Path) -> None:
    shards = prepare(corpus, RATE)
    assert [record.id for record in shards.items] == ["one", "three"]
    assert shards.items[0].words == (("a", 0.1, 0.2), ("word", 0.2, 0.4))
    for index, record in enumerate(shards.items):
        wave, _ = read_audio(corpus / f"{record.id}.flac")
        np.testing.assert_array_equal(shards.read(index), wave)
        assert shards.audio[index].dtype == np.int16
        assert shards.audio.lengths[index] == wave.size
    np.testing.assert_array_equal(shards.read(1, 5, 9), shards.read(1)[5:9])
    assert shards.audio.edges[-1] / shards.sample_rate == pytest.approx(1.51)


def test_another_rate_is_resampled_as_everywhere(corpus: Path) -> None:
    shards = prepare(corpus, 16000, "test")
    expected, _ = read_audio(corpus / "ten.flac", 16000)
    np.testing.assert_allclose(shards.read(0), expected, atol=0.51 / 32768)


def test_what_is_prepared_is_not_read_again_and_what_changed_is(corpus: Path) -> None:
    first = prepare(corpus, RATE)
    stamp = (first.folder / "audio.i16").stat().st_mtime_ns
    assert prepare(corpus, RATE).content_hash == first.content_hash
    assert (first.folder / "audio.i16").stat().st_mtime_ns == stamp

    items = [i.model_copy(update={"text": "another"}) for i in read_manifest(corpus)]
    write_corpus(corpus, items, kind="folder", settings={})
    assert prepare(corpus, RATE).content_hash != first.content_hash


def test_missing_corpora_splits_and_files_are_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="calm-bench data"):
        prepare(tmp_path / "nowhere", RATE)
    with pytest.raises(InputError, match="no validation recordings"):
        prepare(corpus, RATE, "validation")
    (corpus / "one.flac").unlink()
    with pytest.raises(InputError, match=r"one\.flac does not exist"):
        prepare(corpus, 4000)


def test_a_damaged_manifest_is_refused_with_its_line(corpus: Path) -> None:
    path = corpus / "manifest.jsonl"
    path.write_text(path.read_text().replace('"ten"', "10", 1))
    with pytest.raises(InputError, match=r"manifest\.jsonl:3: .*id"):
        read_manifest(corpus)


def test_a_process_that_prepares_the_same_corpus_is_waited_for(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (corpus / "shards").mkdir()
    said: Queue[str] = Queue()
    monkeypatch.setattr(files.logger, "warning", lambda *words: said.put(words[0] % words[1:]))
    with ThreadPoolExecutor(1) as pool:
        with locked(corpus / "shards" / ".lock"):
            prepared = pool.submit(prepare, corpus, RATE)
            prepared.add_done_callback(lambda future: said.put("it did not wait"))
            assert said.get().endswith("waiting for it")
            assert not prepared.done()
        assert len(prepared.result()) == 2


def test_the_card_counts_hours_and_skipped(corpus: Path) -> None:
    counts = read_card(corpus).counts
    assert counts["train"] == 2
    assert counts["train_hours"] == pytest.approx(1.51 / 3600, abs=1e-4)
    assert counts["skipped"] == 0


def encode(wave: Wave) -> np.ndarray:
    frames = -(-wave.size // 100)
    return np.pad(wave, (0, frames * 100 - wave.size)).reshape(frames, 100)[:, :4]


def test_a_disk_that_is_full_at_the_very_end_costs_nothing_that_was_computed(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, calls = prepare(corpus, RATE), []

    def counting(wave: Wave) -> np.ndarray:
        calls.append(wave.size)
        return encode(wave)

    def full(path: Path, header: object) -> None:
        raise InputError(f"the disk is full: cannot write {path}")

    expected = [encode(prepared.read(index)) for index in range(len(prepared))]
    with monkeypatch.context() as there:
        there.setattr(module, "_write_header", full)
        with pytest.raises(InputError, match="the disk is full"):
            write_frames(prepared, "codec", counting, continuous=True)
    assert len(calls) == len(prepared)
    frames = write_frames(prepared, "codec", counting, continuous=True)
    assert len(calls) == len(prepared)
    write_frames(prepared, "codec", counting, continuous=True)
    assert len(calls) == len(prepared)
    again = open_packed(frames_path(prepared, "codec"))
    for index, wanted in enumerate(expected):
        np.testing.assert_array_equal(frames[index], wanted.astype(np.float16))
        np.testing.assert_array_equal(again[index], frames[index])
    assert not [*prepared.folder.glob("*.part*")]


def test_codes_are_kept_as_integers(corpus: Path) -> None:
    shards = prepare(corpus, RATE)
    frames = write_frames(shards, "codes", lambda wave: np.full((3, 8), 255), continuous=False)
    assert frames[1].dtype == np.int16
    assert frames[1].tolist() == [[255] * 8] * 3


@pytest.mark.parametrize("bad", [np.full((2, 2), np.nan), np.full((2, 2), 1e6), np.full(3, 70000)])
def test_frames_that_16_bits_cannot_hold_are_refused(corpus: Path, bad: np.ndarray) -> None:
    shards = prepare(corpus, RATE)
    with pytest.raises(InputError, match="one that"):
        write_frames(shards, "bad", lambda wave: bad, continuous=bad.ndim == 2)


def test_encoding_goes_on_where_it_stopped(corpus: Path) -> None:
    shards = prepare(corpus, RATE)
    calls: list[int] = []

    def dies(wave: Wave) -> np.ndarray:
        if calls:
            raise KeyboardInterrupt
        calls.append(wave.size)
        return encode(wave)

    with pytest.raises(KeyboardInterrupt):
        write_frames(shards, "codec", dies, continuous=True)
    calls.clear()
    frames: PackedArrays = write_frames(
        shards,
        "codec",
        lambda wave: calls.append(wave.size) or encode(wave),
        continuous=True,
    )
    assert calls == shards.audio.lengths.tolist()[1:]
    assert len(frames) == 2


def test_arrays_come_back_as_views_of_one_mapped_file(tmp_path: Path) -> None:
    arrays = [np.arange(n, dtype=np.int16) for n in (3, 0, 5)]
    with Packer(tmp_path / "a.bin", np.int16) as packer:
        for array in arrays:
            packer.append(array)
        packed = packer.finish()
    assert len(packed) == 3
    assert isinstance(packed.data, np.memmap)
    for found, array in zip([packed[i] for i in range(3)], arrays, strict=True):
        np.testing.assert_array_equal(found, array)
    with pytest.raises(IndexError):
        packed[3]
    with pytest.raises(ValueError, match="read-only"):
        packed[0][0] = 1


def test_a_width_is_kept_and_another_one_refused(tmp_path: Path) -> None:
    with Packer(tmp_path / "a.bin", np.float16) as packer:
        packer.append(np.ones((4, 2)))
        with pytest.raises(ValueError, match="width"):
            packer.append(np.ones((4, 3)))
        packed = packer.finish()
    assert packed[0].shape == (4, 2)
    assert packed[0].dtype == np.float16


@pytest.mark.parametrize("torn", ["data", "log"])
def test_after_a_kill_whole_arrays_are_kept_and_torn_ones_written_again(
    tmp_path: Path, torn: str
) -> None:
    path = tmp_path / "a.bin"
    with Packer(path, np.int16) as packer:
        packer.append(np.full(10, 1))
        packer.append(np.full(10, 2))
    assert not is_packed(path)
    part = tmp_path / ("a.bin.part" if torn == "data" else "a.bin.part.jsonl")
    part.write_bytes(part.read_bytes()[:-3])

    with Packer(path, np.int16) as packer:
        assert len(packer) == 1
        packer.append(np.full(10, 3))
        packed = packer.finish()
    assert [int(packed[i][0]) for i in range(2)] == [1, 3]
    assert packed.data.size == 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "a.bin.json"]


@pytest.mark.parametrize("at", ["_write_header", "open_packed"])
def test_a_kill_at_the_end_leaves_no_part_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "a.bin"
    with monkeypatch.context() as broken, Packer(path, np.int16) as packer:
        broken.setattr(module, at, killed)
        packer.append(np.arange(4))
        with pytest.raises(KeyboardInterrupt):
            packer.finish()
    if not is_packed(path):
        with Packer(path, np.int16) as packer:
            packer.append(np.arange(4))
            packer.finish()
    assert open_packed(path)[0].tolist() == [0, 1, 2, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "a.bin.json"]


def test_an_unfinished_or_shortened_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with pytest.raises(InputError, match="not prepared"):
        open_packed(path)
    with Packer(path, np.int16) as packer:
        packer.append(np.arange(4))
        packer.finish()
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match="6 bytes, not 8"):
        open_packed(path)


def test_nothing_at_all_can_be_packed(tmp_path: Path) -> None:
    with Packer(tmp_path / "a.bin", np.int16) as packer:
        assert len(packer.finish()) == 0
    assert json.loads((tmp_path / "a.bin.json").read_text())["lengths"] == []
