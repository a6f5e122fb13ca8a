"""Which recordings a folder holds: LJSpeech, LibriSpeech, a JSONL manifest or just sound files."""

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from calm_bench.config import StrictModel, parse
from calm_bench.data.corpus import SPLITS, Split
from calm_bench.errors import InputError, UnknownNameError
from calm_bench.files import text_lines
from calm_bench.recordings import list_recordings
from calm_bench.seeds import content_hash

__all__ = ["LAYOUTS", "Candidate", "find_recordings"]

SPLIT_NAMES: dict[str, Split] = {"dev": "validation", "valid": "validation", "eval": "test"}
SPLIT_NAMES |= {split: split for split in SPLITS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A recording that is listed, before anyone has listened to it.

    Attributes:
        split: Given by the source; None where the hash decides.
        group: What must not be torn between splits, a speaker or a work; None if every file is its
            own.
    """

    id: str
    path: Path
    text: str | None = None
    words: tuple[tuple[str, float, float], ...] | None = None
    split: Split | None = None
    group: str | None = None
    work: str | None = None
    licence: str | None = None


class ManifestLine(StrictModel):
    """One line of a user's manifest; what `calm-bench data` writes is one, too."""

    audio: str
    id: str | None = None
    text: str | None = None
    words: tuple[tuple[str, float, float], ...] | None = None
    split: Split | None = None
    speaker: str | None = None
    work: str | None = None
    licence: str | None = None
    sample_rate: int | None = Field(default=None, description="read from the file instead")
    channels: int | None = Field(default=None, description="read from the file instead")
    seconds: float | None = Field(default=None, description="read from the file instead")
    sha256: str | None = Field(default=None, description="computed anew")
    text_source: Literal["given", "transcribed"] = "given"


def find_recordings(source: Path, layout: str = "auto") -> list[Candidate]:
    """The recordings of a folder or manifest, in a fixed order, with ids that are unique.

    Raises:
        InputError: If the source does not exist, holds nothing, or its metadata cannot be read.
        UnknownNameError: If there is no such layout.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, ["auto", *LAYOUTS])
    if not source.exists():
        raise InputError(f"{source} does not exist")
    chosen = _recognise(source) if layout == "auto" else layout
    found = LAYOUTS[chosen](source)
    if not found:
        raise InputError(f"{source} lists no recordings (read as {chosen})")
    return _with_unique_ids(found)


def _recognise(source: Path) -> str:
    if source.is_file():
        return "manifest"
    if (source / "manifest.jsonl").is_file():
        return "manifest"
    if (source / "metadata.csv").is_file():
        return "ljspeech"
    return "librispeech" if any(source.rglob("*.trans.txt")) else "files"


def _with_unique_ids(found: Iterable[Candidate]) -> list[Candidate]:
    seen: set[str] = set()
    unique = []
    for candidate in found:
        name = re.sub(r"[^\w.-]+", "-", candidate.id).strip(".-") or "recording"
        if name in seen:
            name = f"{name}-{content_hash(str(candidate.path), length=6)}"
        seen.add(name)
        unique.append(replace(candidate, id=name))
    return unique


def _split_of(folder: str) -> Split | None:
    """The split that a folder's name gives: train-clean-100, dev-other, test, valid, ..."""
    return SPLIT_NAMES.get(re.split(r"[-_ ]", folder.lower())[0])


def _files(source: Path) -> list[Candidate]:
    """Every sound file below a folder; hidden ones are left out."""
    found = []
    listing = list_recordings(source)
    for path in listing.files:
        parts = Path(listing.name(path)).parts
        split = _split_of(parts[0]) if len(parts) > 1 else None
        name = "/".join([*parts[:-1], path.stem])
        found.append(Candidate(id=name, path=path, split=split))
    return found


def _ljspeech(source: Path) -> list[Candidate]:
    """`metadata.csv` with id|text|normalised text, and `wavs/<id>.wav`."""
    found = []
    path = source / "metadata.csv"
    for number, line in text_lines(path):
        name, _, rest = line.partition("|")
        if not name or not rest:
            raise InputError(f"{path}:{number}: not of the form id|text|normalised text")
        written, _, normalised = rest.partition("|")
        text = (normalised or written).strip() or None
        found.append(Candidate(id=name, path=source / "wavs" / f"{name}.wav", text=text))
    return found


def _librispeech(source: Path) -> list[Candidate]:
    """`<subset>/<speaker>/<chapter>/*.trans.txt` with a text per line, and a FLAC per text."""
    found = []
    for path in sorted(source.rglob("*.trans.txt")):
        parts = path.relative_to(source).parts
        split = next((s for s in map(_split_of, [source.name, *parts[:-1]]) if s), None)
        for _, line in text_lines(path):
            name, _, text = line.partition(" ")
            audio = path.with_name(f"{name}.flac")
            speaker = name.split("-")[0]
            found.append(Candidate(id=name, path=audio, text=text, split=split, group=speaker))
    return found


def _manifest(source: Path) -> list[Candidate]:
    """A JSON object per line: `audio`, relative to the manifest, and what is known about it."""
    path = source / "manifest.jsonl" if source.is_dir() else source
    found = []
    for number, text in text_lines(path):
        where = f"{path}:{number}"
        line = parse(ManifestLine, _object(text, where), where)
        _check_words(line.words, where)
        # A text that some recogniser heard is heard anew: it is no ground truth.
        given = line.text_source == "given"
        found.append(
            Candidate(
                id=line.id or Path(line.audio).with_suffix("").as_posix(),
                path=path.parent / Path(line.audio).expanduser(),
                text=line.text if given else None,
                words=line.words if given else None,
                split=line.split,
                group=line.speaker or line.work,
                work=line.work,
                licence=line.licence,
            )
        )
    return found


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: not an object with `audio` and optional `text` and `words`")
    return value


def _check_words(words: Iterable[tuple[str, float, float]] | None, where: str) -> None:
    for word, start, end in words or ():
        if not (math.isfinite(start) and math.isfinite(end) and 0 <= start <= end):
            raise InputError(f"{where}: {word!r} is timed from {start} to {end} s")


LAYOUTS: dict[str, Callable[[Path], list[Candidate]]] = {
    "files": _files,
    "librispeech": _librispeech,
    "ljspeech": _ljspeech,
    "manifest": _manifest,
}
