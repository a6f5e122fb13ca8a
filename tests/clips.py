"""Clips, folders of recordings and corpora as tests make them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import soundfile
from numpy.typing import ArrayLike

from calm_bench.core.audio import write_flac
from calm_bench.data.corpus import Item, write_corpus
from calm_bench.embeddings.base import Embedding
from calm_bench.seeds import file_hash
from calm_bench.types import Clip, TimedWord, Transcript, Wave

Files = Mapping[str, str | float]
"""Files by name: a text, or the seconds of a sound."""


def contents(root: Path) -> dict[str, bytes]:
    """What each file below a folder holds."""
    found = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def clip_of(
    wave: ArrayLike, name: str = "a", rate: int = 16_000, *, prompt: str = "", **known: Any
) -> Clip:
    """A clip of these samples, of the prompt of its own name or of another."""
    return Clip(
        clip_id=name,
        prompt_id=prompt or name,
        seed_index=0,
        wave=np.asarray(wave, dtype=np.float32).reshape(-1),
        sample_rate=rate,
        **known,
    )


def timed(text: str | None, onsets: list[float] | None = None) -> tuple[TimedWord, ...] | None:
    """Words at the given onsets, or one every half second."""
    if text is None:
        return None
    words = text.split()
    onsets = onsets or [0.5 * i for i in range(len(words))]
    return tuple(
        TimedWord(word=word, start=start, end=start + 0.4)
        for word, start in zip(words, onsets, strict=True)
    )


def spoken(
    meant: str | None,
    heard: str | None,
    *,
    prompt_words: int = 2,
    name: str = "p0",
    seconds: float | None = None,
    meant_at: list[float] | None = None,
    heard_at: list[float] | None = None,
) -> Clip:
    """A clip by what was meant and what was heard, each word half a second after the last.

    Its length leaves room for every word; words from `prompt_words` on are the continuation.
    """
    longest = max(len((text or "").split()) for text in (meant, heard))
    seconds = 0.5 * longest + 0.5 if seconds is None else seconds
    words = timed(heard, heard_at)
    return Clip(
        clip_id=f"id-{name}",
        prompt_id=name,
        seed_index=0,
        wave=np.zeros(round(seconds * 16_000), np.float32),
        sample_rate=16_000,
        prompt_seconds=0.5 * prompt_words,
        words=timed(meant, meant_at),
        transcript=None if words is None else Transcript(text=heard or "", words=words),
    )


class Rows(Embedding):
    """A wave is its vectors, `dim` numbers each; how many waves were embedded is counted."""

    name, version, sample_rate = "rows", "1", 100
    recipe = MappingProxyType({})

    def __init__(self, dim: int = 4) -> None:
        self.dim, self.min_seconds, self.embedded = dim, dim / 100, 0

    def embed(self, waves: Sequence[Wave]) -> list[np.ndarray]:
        self.embedded += len(waves)
        return [wave[: len(wave) // self.dim * self.dim].reshape(-1, self.dim) for wave in waves]


def lay(root: Path, files: Files | Iterable[str], rate: int = 8000) -> Path:
    """Write files: texts, and sounds of noise of their own, by their seconds or of one second."""
    contents: Files = files if isinstance(files, Mapping) else dict.fromkeys(files, 1.0)
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_bytes(content.encode())
            continue
        rng = np.random.default_rng(list(name.encode()))
        wave = 0.1 * rng.standard_normal(round(content * rate))
        form = "NIST" if path.suffix.isupper() else path.suffix[1:]
        soundfile.write(path, wave, rate, format=form)
    return root


def lay_corpus(folder: Path, rate: int, recordings: Iterable[tuple[str, Any, Wave, Any]]) -> Path:
    """Write a corpus of recordings: of each its id, split and samples, and what else is known."""
    items = []
    for name, split, wave, known in recordings:
        path = folder / f"{name}.flac"
        write_flac(path, wave, rate)
        sound = {"sample_rate": rate, "channels": 1, "seconds": len(wave) / rate}
        about = {"id": name, "split": split, "audio": path.name, "sha256": file_hash(path)}
        items.append(Item.model_validate(about | sound | known))
    write_corpus(folder, items, kind="folder", settings={})
    return folder
