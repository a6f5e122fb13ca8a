"""Prepared audio: one memory-mapped int16 file per split and rate, and the frames of each codec.

The folder of a split is named by its content (file hashes, words, rate, resampler), so a corpus
that changed is prepared anew and one that did not is never read twice:

    corpus/shards/<split>-<rate>-<hash>/{audio.i16, audio.i16.json, frames-<codec>.bin, …}

In such a file many arrays lie end to end, appended one by one; who was killed goes on where he was.
T is an array's own length; a trailing width is common to all of them.
"""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from calm_bench.core import files
from calm_bench.core.audio import RESAMPLER, from_int16, to_int16
from calm_bench.core.progress import counted, ordered_map
from calm_bench.data.corpus import SPLITS, Item, Split, read_manifest
from calm_bench.errors import InputError
from calm_bench.seeds import content_hash, file_hash
from calm_bench.types import StrictModel, Wave, problem

Encode = Callable[[Wave], NDArray[Any]]
"""Audio [S] to latents [T, C] (kept as float16) or codes [T, K] (kept as int16), time first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedArrays:
    """Read-only views of arrays [T] or [T, width] that share one memory-mapped file."""

    data: NDArray[Any]
    edges: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.edges.size) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """T of each array."""
        return np.diff(self.edges)

    def __getitem__(self, index: int) -> NDArray[Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"array {index} of {len(self)}")
        return self.data[self.edges[index] : self.edges[index + 1]]


class _Header(StrictModel):
    """What a finished file holds: how numbers are written, and the arrays' width and lengths.

    `sha256` is the file's; it is not hashed again while it bears its `mark`. Older ones have none.
    """

    dtype: Literal["<i2", "<f2"]
    width: int | None = Field(ge=1)
    lengths: list[Annotated[int, Field(ge=0)]]
    sha256: str | None = None
    mark: files.FileMark = ()


_SHAPE = TypeAdapter(Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)])


def _header(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.jsonl")


def _write_header(path: Path, header: _Header) -> None:
    marked = header.model_copy(update={"mark": files.file_mark(path)})
    files.replace(_header(path), files.sealed(marked.model_dump_json().encode()))


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
    with suppress(OSError):  # a process was killed right before it would have
        _log(path).unlink(missing_ok=True)
    where = _header(path)
    try:
        header = _Header.model_validate_json(files.unsealed(where.read_bytes(), where))
    except (InputError, ValidationError) as error:
        said = problem(error) if isinstance(error, ValidationError) else error
        raise InputError(f"{where} is damaged ({said}): delete {path.parent}") from error
    dtype, width, lengths = np.dtype(header.dtype), header.width, header.lengths
    edges = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    shape = (int(edges[-1]),) if width is None else (int(edges[-1]), width)
    expected = math.prod(shape) * dtype.itemsize
    if path.stat().st_size != expected:
        found = path.stat().st_size
        raise InputError(f"{path} has {found} bytes, not {expected}: delete {path.parent}")
    if header.sha256 is not None and files.file_mark(path) != header.mark:
        if file_hash(path) != header.sha256:
            raise InputError(f"{path} is not what was prepared: delete {path.parent}")
        with suppress(InputError):  # where nothing can be written it is hashed each time
            _write_header(path, header)
    if expected == 0:  # an empty file cannot be mapped
        return PackedArrays(data=np.zeros(shape, dtype), edges=edges)
    return PackedArrays(data=np.memmap(path, dtype, "r", shape=shape), edges=edges)


class Packer:
    """Appends arrays to `path`; what a killed process had finished is kept and counted by `len`."""

    def __init__(self, path: Path, dtype: Any) -> None:
        """Take up the work where it stopped, dropping an array that was half written."""
        self.path, self.dtype = path, np.dtype(dtype)
        self._data = path.with_name(f"{path.name}.part")
        self._log = _log(path)
        if path.is_file() and self._log.is_file() and not self._data.exists():
            with files.disk_errors(path):  # it has its name, and there was no room for its header
                path.replace(self._data)
        self._shapes = self._finished()

    def __len__(self) -> int:
        return len(self._shapes)

    def _size(self, shapes: Sequence[Sequence[int]]) -> int:
        return sum(math.prod(shape) for shape in shapes) * int(self.dtype.itemsize)

    def _finished(self) -> list[list[int]]:
        try:
            lines = files.committed_lines(self._log)
            shapes = [_SHAPE.validate_json(line, strict=True) for line in lines]
        except ValidationError as error:
            raise InputError(f"{self._log} is damaged: delete {self.path.parent}") from error
        size = self._data.stat().st_size if self._data.is_file() else 0
        while shapes and self._size(shapes) > size:
            shapes.pop()
        return shapes

    def __enter__(self) -> "Packer":
        with files.disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(self._log, "".join(f"{shape}\n" for shape in self._shapes).encode())
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
        with files.disk_errors(self.path):
            while left:
                left = left[self._out.write(left) :]
            self._lines.write(f"{shape}\n")
            self._lines.flush()
        self._shapes.append(shape)

    def finish(self) -> PackedArrays:
        """Give the file its name and header and open it."""
        with files.disk_errors(self.path):
            os.fsync(self._out.fileno())
            self._close()
            sha256 = file_hash(self._data)
            self._data.replace(self.path)
        width = self._shapes[0][1] if self._shapes and len(self._shapes[0]) > 1 else None
        lengths = [shape[0] for shape in self._shapes]
        about = {"width": width, "lengths": lengths, "sha256": sha256}
        _write_header(self.path, _Header.model_validate({"dtype": self.dtype.str, **about}))
        return open_packed(self.path)  # which removes the log: without a header it is needed

    def _close(self) -> None:
        self._out.close()
        self._lines.close()

    def __exit__(self, *problem: object) -> None:
        self._close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """The prepared audio of one split at one rate; `content_hash` changes with anything in it."""

    folder: Path
    split: Split
    sample_rate: int
    content_hash: str
    items: tuple[Item, ...]
    audio: PackedArrays

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int, start: int = 0, stop: int | None = None) -> Wave:
        """Samples `start` to `stop` of a recording as floats in [-1, 1): [S']."""
        return from_int16(self.audio[index][start:stop])

    @property
    def facts(self) -> dict[str, Any]:
        """What a card says of a training on it."""
        hours = float(self.audio.edges[-1]) / self.sample_rate / 3600
        return {"train_hours": round(hours, 2), "corpus_hash": self.content_hash}


def prepare(corpus: Path, sample_rate: int, split: Split = "train") -> Shards:
    """Resample every split of a corpus into memory-mapped files, once, and open one of them.

    What is there already is not done again; a killed preparation goes on where it stopped, and
    another process's preparation is waited for.

    Raises:
        InputError: If the folder holds no corpus, none of its recordings is of the split, or a file
            can no longer be read.
    """
    every = read_manifest(corpus)
    with files.disk_errors(corpus):
        (corpus / "shards").mkdir(exist_ok=True)
    prepared: dict[Split, Shards] = {}
    with files.locked(corpus / "shards" / ".lock", wait=True):
        files.sweep(corpus / "shards")
        for name in SPLITS:
            if items := [item for item in every if item.split == name]:
                prepared[name] = _prepare_split(corpus, name, items, sample_rate)
    if split not in prepared:
        raise InputError(
            f"the corpus in {corpus} has no {split} recordings: list more of them with `calm-bench "
            f'data folder`, or say "split": "{split}" of some in a list of yours'
        )
    return prepared[split]


def _prepare_split(corpus: Path, split: Split, items: Sequence[Item], sample_rate: int) -> Shards:
    content = content_hash(RESAMPLER, sample_rate, [_identity(item) for item in items])
    folder = corpus / "shards" / f"{split}-{sample_rate}-{content}"
    path = folder / "audio.i16"
    if not is_packed(path):
        with Packer(path, np.int16) as packer:
            left = items[len(packer) :]
            waves = ordered_map(lambda item: to_int16(item.read(corpus, sample_rate)[0]), left)
            title = f"preparing {split} at {sample_rate} Hz"
            for wave in counted(waves, len(items), title, done=len(packer)):
                packer.append(wave)
            packer.finish()
    return Shards(
        folder=folder,
        split=split,
        sample_rate=sample_rate,
        content_hash=content,
        items=tuple(items),
        audio=open_packed(path),
    )


def _identity(item: Item) -> list[Any]:
    stretch = [] if item.offset is None else [item.offset, item.seconds]
    return [item.id, item.sha256, item.text, item.words, *stretch]


def frames_path(shards: Shards, codec_key: str) -> Path:
    """Where the frames of a codec lie; the key is the hash of its weights and config."""
    return shards.folder / f"frames-{codec_key}.bin"


def write_frames(
    shards: Shards, codec_key: str, encode: Encode, *, continuous: bool
) -> PackedArrays:
    """Encode every recording once per codec and open the frames; a killed run is taken up again.

    Raises:
        InputError: If a recording gives frames that its 16 bits cannot hold (NaN, overflow).
    """
    path = frames_path(shards, codec_key)
    if is_packed(path):
        return open_packed(path)
    with files.locked(path.with_name(f".{path.name}.lock"), wait=True):
        if is_packed(path):  # by the process that was waited for
            return open_packed(path)
        with Packer(path, np.float16 if continuous else np.int16) as packer:
            left = range(len(packer), len(shards))
            title = f"encoding {shards.split}"
            for index in counted(left, len(shards), title, done=len(packer)):
                frames = encode(shards.read(index))
                packer.append(_narrow(frames, packer.dtype, shards.items[index].id))
            return packer.finish()


def _narrow(frames: NDArray[Any], dtype: np.dtype[Any], item_id: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        narrow = frames.astype(dtype)
    exact = np.isfinite(narrow) if dtype == np.float16 else narrow == frames
    if not exact.all():
        raise InputError(f"the codec gives frames of {item_id} that {dtype} cannot hold")
    return narrow
