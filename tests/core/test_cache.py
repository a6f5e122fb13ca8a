import logging
from pathlib import Path

import numpy as np
import pytest

from calm_bench.core.cache import ArrayCache, ContentCache


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CALM_BENCH_HOME", str(tmp_path))
    return tmp_path


def test_values_come_back_in_another_process_or_run() -> None:
    value = {"words": [["oh", 0.1, 0.2]], "text": "∞"}
    ContentCache("transcripts").write("abcd", value)
    assert ContentCache("transcripts").read("abcd") == value
    assert ContentCache("transcripts").read("abce") is None
    assert ContentCache("scores").read("abcd") is None


def test_arrays_come_back_to_the_bit() -> None:
    value = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    ArrayCache("vectors").write("abcd", value)
    found = ArrayCache("vectors").read("abcd")
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, value)
    assert ArrayCache("vectors").read("none") is None


def test_a_damaged_entry_counts_as_missing() -> None:
    for cache in (ContentCache("scores"), ArrayCache("vectors")):
        path = cache.path("abcd")
        path.parent.mkdir(parents=True)
        for data in (b"", b"{", b"\x93NUMPY\x01", b"\xff\xfe"):
            path.write_bytes(data)
            assert cache.read("abcd") is None


def test_pickles_are_never_loaded() -> None:
    path = ArrayCache("vectors").path("abcd")
    path.parent.mkdir(parents=True)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert ArrayCache("vectors").read("abcd") is None


def test_a_cache_that_cannot_be_written_is_one_warning(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "cache").write_text("a file where the folder should be")
    cache = ContentCache("scores")
    with caplog.at_level(logging.WARNING):
        cache.write("abcd", 1)
        cache.write("abce", 2)
        ArrayCache("vectors").write("abcd", np.zeros(2, dtype=np.float32))
    assert cache.read("abcd") is None
    assert len(caplog.records) == 1
    assert "nothing is kept for the next run" in caplog.text
