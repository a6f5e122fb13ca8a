"""Many arrays end to end in one memory-mapped file, appended one by one and resumed after a kill.

T is an array's own length; a trailing width is common to all of them.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calm_bench.core.files import committed_lines, disk_errors, replace
from calm_bench.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedArrays:
    """Read-only views of arrays [T] or [T, width] that share one memory-mapped file."""

    data: NDArray[Any]
    edges: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.edges.size) - 1

    def __getitem__(self, index: int) -> NDArray[Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"array {index} of {len(self)}")
        return self.data[self.edges[index] : self.edges[index + 1]]


def _header(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def is_packed(path: Path) -> bool:
    """Whether the file was finished: its header is written last."""
    return path.is_file() and _header(path).is_file()


def open_packed(path: Path) -> PackedArrays:
    """Open a finished file.

    Raises:
        InputError: If it is missing, unfinished, or not as long as its header says.
    """
    if not is_packed(path):
        raise InputError(f"{path} was not prepared, or not to its end")
    header = json.loads(_header(path).read_bytes())
    dtype, width, lengths = np.dtype(header["dtype"]), header["width"], header["lengths"]
    edges = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    shape = (int(edges[-1]),) if width is None else (int(edges[-1]), width)
    expected = math.prod(shape) * dtype.itemsize
    if path.stat().st_size != expected:
        found = path.stat().st_size
        raise InputError(f"{path} has {found} bytes, not {expected}: delete {path.parent}")
    if expected == 0:  # an empty file cannot be mapped
        return PackedArrays(data=np.zeros(shape, dtype), edges=edges)
    return PackedArrays(data=np.memmap(path, dtype, "r", shape=shape), edges=edges)


class Packer:
    """Appends arrays to `path`; what a killed process had finished is kept and counted by `len`."""

    def __init__(self, path: Path, dtype: Any) -> None:
        """Take up the work where it stopped, dropping an array that was half written."""
        self.path, self.dtype = path, np.dtype(dtype)
        self._data = path.with_name(f"{path.name}.part")
        self._log = path.with_name(f"{path.name}.part.jsonl")
        self._shapes = self._finished()

    def __len__(self) -> int:
        return len(self._shapes)

    def _size(self, shapes: Sequence[Sequence[int]]) -> int:
        return sum(math.prod(shape) for shape in shapes) * int(self.dtype.itemsize)

    def _finished(self) -> list[list[int]]:
        """Shapes of the arrays that are whole on disk: each is logged after its samples."""
        shapes: list[list[int]] = [json.loads(line) for line in committed_lines(self._log)]
        size = self._data.stat().st_size if self._data.is_file() else 0
        while shapes and self._size(shapes) > size:
            shapes.pop()
        return shapes

    def __enter__(self) -> "Packer":
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._log.write_text("".join(f"{shape}\n" for shape in self._shapes))
            self._data.touch()
            self._out = self._data.open("r+b", buffering=0)
            self._out.truncate(self._size(self._shapes))
            self._out.seek(0, os.SEEK_END)
            self._lines = self._log.open("a")
        return self

    def append(self, array: NDArray[Any]) -> None:
        """Add one array [T] or [T, width], cast to the file's dtype.

        Raises:
            InputError: If the disk is full; what was appended before is safe.
        """
        shape = [int(n) for n in array.shape]
        if self._shapes and shape[1:] != self._shapes[0][1:]:
            raise ValueError(f"arrays of width {self._shapes[0][1:]} and {shape[1:]} in one file")
        left = memoryview(np.ascontiguousarray(array, self.dtype).tobytes())
        with disk_errors(self.path):
            while left:
                left = left[self._out.write(left) :]
            self._lines.write(f"{shape}\n")
            self._lines.flush()
        self._shapes.append(shape)

    def finish(self) -> PackedArrays:
        """Give the file its name and header and open it."""
        with disk_errors(self.path):
            os.fsync(self._out.fileno())
            self._close()
            self._data.replace(self.path)
        width = self._shapes[0][1] if self._shapes and len(self._shapes[0]) > 1 else None
        lengths = [shape[0] for shape in self._shapes]
        header = {"dtype": self.dtype.str, "width": width, "lengths": lengths}
        replace(_header(self.path), json.dumps(header).encode())
        self._log.unlink()
        return open_packed(self.path)

    def _close(self) -> None:
        self._out.close()
        self._lines.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
