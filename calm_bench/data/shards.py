"""Prepared audio: one memory-mapped int16 file per split and rate, and the frames of each codec.

The folder of a split is named by its content (file hashes, words, rate, resampler), so a corpus
that changed is prepared anew and one that did not is never read twice:

    corpus/shards/<split>-<rate>-<hash>/{audio.i16, audio.i16.json, index.json, frames-<codec>.bin}
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calm_bench.core.audio import RESAMPLER
from calm_bench.core.files import disk_errors, locked, replace
from calm_bench.core.parallel import counted, ordered_map
from calm_bench.data.corpus import SPLITS, Item, Split, read_manifest
from calm_bench.data.packed import PackedArrays, Packer, is_packed, open_packed
from calm_bench.errors import InputError
from calm_bench.seeds import content_hash
from calm_bench.types import TimedWord, Wave

FULL_SCALE = 32768

Encode = Callable[[Wave], NDArray[Any]]
"""Audio [S] to latents [T, C] (kept as float16) or codes [T, K] (kept as int16), time first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardItem:
    """One recording of a split: where its samples lie and what is said in it."""

    id: str
    split: Split
    offset: int
    samples: int
    text: str | None
    words: tuple[TimedWord, ...] | None
    sha: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """The prepared audio of one split at one rate; `content_hash` changes with anything in it."""

    folder: Path
    split: Split
    sample_rate: int
    content_hash: str
    items: tuple[ShardItem, ...]
    audio: PackedArrays

    def __len__(self) -> int:
        """How many recordings there are."""
        return len(self.items)

    def wave(self, index: int) -> NDArray[np.int16]:
        """The samples of a recording, a view of the file: [S]."""
        view: NDArray[np.int16] = self.audio[index]
        return view

    def read(self, index: int, start: int = 0, stop: int | None = None) -> Wave:
        """Samples `start` to `stop` of a recording as floats in [-1, 1): [S']."""
        return self.wave(index)[start:stop].astype(np.float32) / np.float32(FULL_SCALE)

    @property
    def seconds(self) -> float:
        """Length of all recordings together."""
        return float(self.audio.edges[-1]) / self.sample_rate


def _identity(items: list[Item], sample_rate: int) -> str:
    parts = [
        [item.id, item.sha256, item.text, item.words]
        + ([] if item.offset is None else [item.offset, item.seconds])
        for item in items
    ]
    return content_hash(RESAMPLER, sample_rate, parts)


def _folder(corpus: Path, split: Split, items: list[Item], sample_rate: int) -> Path:
    return corpus / "shards" / f"{split}-{sample_rate}-{_identity(items, sample_rate)}"


def _split_items(corpus: Path, split: str) -> list[Item]:
    items = [item for item in read_manifest(corpus) if item.split == split]
    if not items:
        raise InputError(f"the corpus in {corpus} has no {split} recordings")
    return items


def _pcm(corpus: Path, item: Item, sample_rate: int) -> NDArray[np.int16]:
    """A recording as int16 at the shards' rate, [S]."""
    wave, _ = item.read(corpus, sample_rate)
    scaled = np.rint(wave.astype(np.float64) * FULL_SCALE)
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def _prepare_split(
    corpus: Path, split: Split, items: list[Item], sample_rate: int, jobs: int | None
) -> None:
    folder = _folder(corpus, split, items, sample_rate)
    path = folder / "audio.i16"
    if not is_packed(path):
        with Packer(path, np.int16) as packer:
            left = items[len(packer) :]
            waves = ordered_map(lambda item: _pcm(corpus, item, sample_rate), left, jobs)
            title = f"preparing {split} at {sample_rate} Hz"
            for wave in counted(waves, len(items), title, done=len(packer)):
                packer.append(wave)
            packer.finish()
    index = folder / "index.json"
    if not index.is_file():
        edges = open_packed(path).edges
        replace(index, json.dumps(list(_index(items, edges)), ensure_ascii=False).encode())


def _index(items: list[Item], edges: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    for item, start, stop in zip(items, edges[:-1], edges[1:], strict=True):
        yield {
            "id": item.id,
            "split": item.split,
            "offset": int(start),
            "samples": int(stop - start),
            "text": item.text,
            "words": item.words,
            "sha": item.sha256,
        }


def prepare(
    corpus_dir: Path, sample_rate: int, split: Split = "train", *, jobs: int | None = None
) -> Shards:
    """Resample every split of a corpus into memory-mapped files, once, and open one of them.

    What is there already is not done again; a killed preparation goes on where it stopped, and
    another process's preparation is waited for.

    Raises:
        InputError: If the folder holds no corpus, or a file of it can no longer be read.
    """
    every = read_manifest(corpus_dir)
    with disk_errors(corpus_dir):
        (corpus_dir / "shards").mkdir(exist_ok=True)
    with locked(corpus_dir / "shards" / ".lock", wait=True):
        for name in SPLITS:
            items = [item for item in every if item.split == name]
            if items:
                _prepare_split(corpus_dir, name, items, sample_rate, jobs)
    return open_shards(corpus_dir, sample_rate, split)


def open_shards(corpus_dir: Path, sample_rate: int, split: Split) -> Shards:
    """Open the prepared audio of one split.

    Raises:
        InputError: If the split is empty or was not prepared at this rate since the corpus changed.
    """
    items = _split_items(corpus_dir, split)
    folder = _folder(corpus_dir, split, items, sample_rate)
    if not (folder / "index.json").is_file():
        raise InputError(f"the {split} split of {corpus_dir} is not prepared at {sample_rate} Hz")
    records = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    return Shards(
        folder=folder,
        split=split,
        sample_rate=sample_rate,
        content_hash=_identity(items, sample_rate),
        items=tuple(_item(record) for record in records),
        audio=open_packed(folder / "audio.i16"),
    )


def _item(record: dict[str, Any]) -> ShardItem:
    words = record.pop("words")
    if words is not None:
        words = tuple(TimedWord(word=w, start=start, end=end) for w, start, end in words)
    return ShardItem(words=words, **record)


def frames_path(shards: Shards, codec_key: str) -> Path:
    """Where the frames of a codec lie; the key is the hash of its weights and config."""
    return shards.folder / f"frames-{codec_key}.bin"


def write_frames(shards: Shards, codec_key: str, encode: Encode) -> PackedArrays:
    """Encode every recording once per codec and open the frames; a killed run is taken up again.

    Raises:
        InputError: If a recording gives frames that its 16 bits cannot hold (NaN, overflow).
    """
    path = frames_path(shards, codec_key)
    if is_packed(path):
        return open_packed(path)
    with locked(path.with_name(f".{path.name}.lock"), wait=True):
        if is_packed(path):  # by the process that was waited for
            return open_packed(path)
        return _encode_all(shards, path, encode)


def _encode_all(shards: Shards, path: Path, encode: Encode) -> PackedArrays:
    first = encode(shards.read(0))
    dtype = np.int16 if np.issubdtype(first.dtype, np.integer) else np.float16
    with Packer(path, dtype) as packer:
        left = islice(range(len(shards)), len(packer), None)
        for index in counted(left, len(shards), f"encoding {shards.split}", done=len(packer)):
            frames = first if index == 0 else encode(shards.read(index))
            packer.append(_narrow(frames, dtype, shards.items[index].id))
        return packer.finish()


def _narrow(frames: NDArray[Any], dtype: Any, item_id: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        narrow = frames.astype(dtype)
    exact = np.isfinite(narrow) if dtype is np.float16 else narrow == frames
    if not exact.all():
        raise InputError(f"the codec gives frames of {item_id} that {np.dtype(dtype)} cannot hold")
    return narrow
