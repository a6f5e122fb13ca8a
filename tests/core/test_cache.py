import logging
import os
from pathlib import Path

import numpy as np
import pytest

from calm_bench.core import files
from calm_bench.core.cache import ArrayCache, ContentCache


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CALM_BENCH_HOME", str(tmp_path))
    return tmp_path


def test_values_come_back_in_another_process_or_run() -> None:
    value = {"words": [["oh", 0.1, 0.2]], "text": "∞"}
    ContentCache("transcripts").write("abcd", value)
    assert ContentCache("transcripts").read("abcd", dict) == value
    assert ContentCache("transcripts").read("abce", dict) is None
    assert ContentCache("scores").read("abcd", dict) is None


def test_arrays_come_back_to_the_bit() -> None:
    value = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    ArrayCache("vectors").write("abcd", value)
    found = ArrayCache("vectors").read("abcd")
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, value)
    assert ArrayCache("vectors").read("none") is None


def test_an_entry_that_is_not_what_was_kept_under_its_key_counts_as_missing() -> None:
    scores, vectors = ContentCache("scores"), ArrayCache("vectors")
    scores.write("abcd", {"value": 1.25})
    vectors.write("abcd", np.ones((2, 2), dtype=np.float32))
    for cache in (scores, vectors):
        path = cache.path("abcd")
        data = bytearray(path.read_bytes())
        cache.path("abce").write_bytes(data)  # as under another key
        data[-30] ^= 1
        path.write_bytes(data)
    for key in ("abcd", "abce"):
        assert (scores.read(key, dict), vectors.read(key)) == (None, None)


def test_an_entry_of_another_form_counts_as_missing() -> None:
    cache = ContentCache("scores")
    cache.write("abcd", {"value": [1, 2]})
    assert cache.read("abcd", lambda kept: kept["other"]) is None
    assert cache.read("abcd", lambda kept: float(kept["value"])) is None
    assert cache.read("abcd", lambda kept: kept["value"][1]) == 2


def test_pickles_are_never_loaded() -> None:
    path = ArrayCache("vectors").path("abcd")
    path.parent.mkdir(parents=True)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert ArrayCache("vectors").read("abcd") is None


def test_what_another_machine_is_writing_is_left_to_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ranks of several machines share this folder, and none sees the others' processes.
    place = home / "cache" / "scores" / "ab" / "abcd.json"
    with monkeypatch.context() as there:
        there.setattr(files, "_machine", lambda: "0" * 8)
        there.setattr(files.os, "getpid", lambda: 999_999_999)
        with files.replacing(place, beside=home / "cache" / "unfinished") as file:
            there.undo()
            ContentCache("scores").write("abce", 1)
            file.write(b"whole")
    assert place.read_bytes() == b"whole"
    assert ContentCache("scores").read("abce", int) == 1


def test_what_another_machine_left_long_ago_is_swept(home: Path) -> None:
    old, young = (home / f".a.{n}-0123abcd-00000000-0.unfinished" for n in (1, 2))
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    files.sweep(home)
    assert not old.exists()
    assert young.exists()


def test_a_cache_that_cannot_be_written_is_one_warning(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "cache").write_text("a file where the folder should be")
    cache = ContentCache("scores")
    with caplog.at_level(logging.WARNING):
        cache.write("abcd", 1)
        cache.write("abce", 2)
        ArrayCache("vectors").write("abcd", np.zeros(2, dtype=np.float32))
    assert cache.read("abcd", int) is None
    assert len(caplog.records) == 1
    assert "nothing is kept for the next run" in caplog.text
