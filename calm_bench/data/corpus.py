"""What a corpus is on disk: manifest.jsonl, a line per recording, and corpus.json about all."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from calm_bench.config import StrictModel
from calm_bench.errors import InputError
from calm_bench.files import replace, text_lines

__all__ = [
    "SPLITS",
    "CorpusCard",
    "Item",
    "Skipped",
    "Split",
    "read_card",
    "read_manifest",
    "write_corpus",
]

Split = Literal["train", "validation", "test"]
CorpusKind = Literal["speech", "music", "folder"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Item(StrictModel):
    """One recording of a corpus.

    `audio` is relative to the corpus folder, or absolute where the user's own file is left in its
    place. `sha256` is the file's; `words` are [word, start, end] in seconds, None where unknown.
    `text_source` tells a text that came with the audio from one that a recogniser heard. `work` is
    the composition that is played, and `licence` says on which terms its score was had.
    """

    id: str
    split: Split
    audio: str
    sample_rate: int
    channels: int
    seconds: float
    sha256: str
    text: str | None = None
    words: tuple[tuple[str, float, float], ...] | None = None
    text_source: Literal["given", "transcribed"] = "given"
    work: str | None = None
    licence: str | None = None


class Skipped(StrictModel):
    """A file that was left out, and why."""

    audio: str
    reason: str


class CorpusCard(StrictModel):
    """corpus.json: how a corpus was made, what it holds, what was left out and what was checked."""

    kind: CorpusKind
    settings: dict[str, Any]
    counts: dict[str, float]
    skipped: tuple[Skipped, ...] = ()
    checks: dict[str, Any] = Field(default_factory=dict)


def count(items: Iterable[Item], skipped: Sequence[Skipped]) -> dict[str, float]:
    """Items and hours of each split, and the number of files skipped."""
    n: Counter[str] = Counter()
    seconds = dict.fromkeys(SPLITS, 0.0)
    for item in items:
        n[item.split] += 1
        seconds[item.split] += item.seconds
    counts: dict[str, float] = {}
    for split in SPLITS:
        counts[split] = n[split]
        counts[f"{split}_hours"] = round(seconds[split] / 3600, 4)
    return counts | {"skipped": len(skipped)}


def write_corpus(
    folder: Path,
    items: Sequence[Item],
    *,
    kind: CorpusKind,
    settings: Mapping[str, Any],
    skipped: Sequence[Skipped] = (),
    checks: Mapping[str, Any] | None = None,
) -> CorpusCard:
    """Write manifest.jsonl and corpus.json and return what the latter says."""
    card = CorpusCard(
        kind=kind,
        settings=dict(settings),
        counts=count(items, skipped),
        skipped=tuple(skipped),
        checks=dict(checks or {}),
    )
    lines = "".join(f"{item.model_dump_json()}\n" for item in items)
    replace(folder / "manifest.jsonl", lines.encode())
    replace(folder / "corpus.json", f"{card.model_dump_json(indent=2)}\n".encode())
    return card


def read_card(folder: Path) -> CorpusCard:
    """What corpus.json says.

    Raises:
        InputError: If the folder holds no corpus, or one that cannot be read.
    """
    try:
        return CorpusCard.model_validate_json((folder / "corpus.json").read_bytes())
    except OSError as error:
        raise InputError(
            f"{folder} holds no corpus.json: make it with `calm-bench data`"
        ) from error
    except ValidationError as error:
        raise InputError(f"{folder / 'corpus.json'} is damaged: {_first(error)}") from error


def read_manifest(folder: Path) -> list[Item]:
    """Every recording of a corpus, in the manifest's order.

    Raises:
        InputError: If there is no manifest, or a line of it is not an item.
    """
    path = folder / "manifest.jsonl"
    if not path.is_file():
        raise InputError(f"no corpus in {folder}: make it with `calm-bench data`")
    items = []
    for number, line in text_lines(path):
        try:
            items.append(Item.model_validate(json.loads(line)))
        except (ValueError, ValidationError) as error:
            raise InputError(f"{path}:{number}: not a recording: {_first(error)}") from error
    return items


def _first(error: ValueError) -> str:
    """The first thing wrong, on one line."""
    if isinstance(error, ValidationError):
        found = error.errors()[0]
        return f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"
    return str(error)
