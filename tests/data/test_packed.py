import json
from pathlib import Path

import numpy as np
import pytest

from calm_bench.data.shards import Packer, is_packed, open_packed
from calm_bench.errors import InputError


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
