"""What a corpus is on disk: manifest.jsonl, a line per recording, and corpus.json about all."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from calm_bench.config import CORPORA, parse
from calm_bench.core import files, paths
from calm_bench.core.audio import read_audio, same_file
from calm_bench.core.paths import RelativePath, check_relative
from calm_bench.core.recordings import amount, few
from calm_bench.errors import InputError, near_names
from calm_bench.seeds import file_hash
from calm_bench.types import StrictModel, Wave, WordTimes

logger = logging.getLogger(__name__)

Split = Literal["train", "validation", "test"]
CorpusKind = Literal["speech", "music", "folder"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def _check_audio(name: str) -> str:
    return name if Path(name).is_absolute() and "\0" not in name else check_relative(name)


class Item(StrictModel):
    """One recording of a corpus.

    `audio` is relative to the corpus folder, or absolute where the user's own file is left in its
    place; with an `offset` the recording is the stretch of `seconds` that begins there, and its
    words are timed from there. `sha256` is the file's; `words` are [word, start, end] in seconds,
    None where unknown. `text_source` tells a text that came with the audio from one that a
    recogniser heard. `work` is the composition that is played, and `licence` says on which terms
    its score, or the recording itself, was had.
    """

    id: RelativePath
    split: Split
    audio: Annotated[str, AfterValidator(_check_audio)]
    sample_rate: int
    channels: int
    seconds: float
    offset: float | None = None
    sha256: str
    text: str | None = None
    words: tuple[WordTimes, ...] | None = None
    text_source: Literal["given", "transcribed"] = "given"
    speaker: str | None = None
    work: str | None = None
    licence: str | None = None

    def read(
        self,
        corpus: Path,
        sample_rate: int | None = None,
        *,
        start: float = 0.0,
        seconds: float | None = None,
    ) -> tuple[Wave, int]:
        """The recording, or a stretch of it, as `read_audio` gives it; the rest is not decoded.

        Raises:
            InputError: If the file can no longer be read, or is not the one that was listed.
        """
        path = corpus / self.audio
        if seconds is None and self.offset is not None:
            seconds = self.seconds - start
        begin = (self.offset or 0.0) + start
        repeat = f"it was changed since {corpus / 'manifest.jsonl'} was written: repeat the command"
        with same_file(path, self.sha256, repeat):
            return read_audio(path, sample_rate, start=begin, seconds=seconds)


class Skipped(StrictModel):
    """A file that was left out, and why; `failed` if nothing could be read of it."""

    audio: str
    reason: str
    failed: bool = False


class CorpusCard(StrictModel):
    """corpus.json: how a corpus was made, what it holds, what was left out and what was checked.

    `licences` counts the recordings had on each kind of terms. `notes` are what its maker has to
    know: as what a source was read, what decided its splits. `manifest_sha256` is that of the
    manifest written with it; older ones have none.
    """

    kind: CorpusKind
    settings: dict[str, Any]
    counts: dict[str, float]
    skipped: tuple[Skipped, ...] = ()
    checks: dict[str, Any] = Field(default_factory=dict)
    licences: dict[str, int] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    manifest_sha256: str | None = None


def default_dir(name: str) -> Path:
    """Where a corpus of ours lies unless --out says otherwise."""
    return paths.home() / "data" / name


def corpus_dir(name: str) -> Path:
    """The folder of a corpus, by path or by its name under the data home.

    Raises:
        InputError: If there is no such corpus, with the command that makes it.
    """
    for folder in (Path(name), default_dir(name)):
        if (folder / "manifest.jsonl").is_file():
            return folder
    make = f"`calm-bench data {name}` makes it"
    if Path(name).is_dir():
        raise InputError(
            f"{name} is a folder and no corpus: `calm-bench data folder {name} --out CORPUS` makes "
            "one of the recordings in it"
        )
    if name not in CORPORA:
        around = (p.parent for d in (Path(), default_dir("")) for p in d.glob("*/manifest.jsonl"))
        near = near_names(name, {*CORPORA, *(folder.name for folder in around)})
        hint = f"did you mean {' or '.join(near)}? Else " if near else ""
        make = f"{hint}`calm-bench data folder RECORDINGS --out {name}` makes it of yours"
    raise InputError(f"no corpus {name!r} here or in {default_dir(name).parent}: {make}")


def low_rates(items: Iterable[Item], sample_rate: int) -> str | None:
    """What must be said of recordings with fewer samples a second than what learns from them."""
    rates = [item.sample_rate for item in items]
    low = [rate for rate in rates if rate < sample_rate]
    if not low:
        return None
    return (
        f"{len(low)} of {amount(len(rates), 'recording')} have fewer than {sample_rate} samples a "
        f"second ({min(low)} the least): they teach nothing above {min(low) / 2000:g} kHz"
    )


@contextmanager
def working_on(folder: Path, *inside: str) -> Iterator[None]:
    """Make a corpus folder, and others `inside` it, and hold its lock.

    Raises:
        InputError: If they cannot be made, or the folder holds what is no corpus.
        BenchError: If another process is working on the corpus.
    """
    _refuse_foreign(folder)
    with files.disk_errors(folder):
        for path in (folder, *(folder / name for name in inside)):
            path.mkdir(parents=True, exist_ok=True)
    with files.locked(folder / ".lock"):
        files.sweep(folder)
        yield


_OURS = {".lock", "audio", "chunks", "scores", "shards", "inspected.jsonl", "heard.jsonl"}
"""What a corpus folder holds before it is one; the last two were written by older versions."""


def _refuse_foreign(folder: Path) -> None:
    """Make a corpus in its own folder or an empty one, never among someone's files."""
    if (folder / "corpus.json").exists():
        read_card(folder)
    elif (folder / "manifest.jsonl").exists():  # the other one is written right after it
        read_manifest(folder)
    elif folder.is_dir():
        others = [
            p.name for p in folder.iterdir() if p.name not in _OURS and not files.is_unfinished(p)
        ]
        if others:
            raise InputError(f"{folder} holds no corpus, but {few(others)}: choose another --out")


def count(items: Sequence[Item], skipped: Sequence[Skipped]) -> dict[str, float]:
    """Recordings and hours of all and of each split, speakers, texts, and files skipped."""
    n: Counter[str] = Counter()
    seconds = dict.fromkeys(SPLITS, 0.0)
    for item in items:
        n[item.split] += 1
        seconds[item.split] += item.seconds
    counts: dict[str, float] = {
        "recordings": len(items),
        "hours": round(sum(seconds.values()) / 3600, 4),
        "speakers": len({item.speaker for item in items if item.speaker is not None}),
        "with_text": sum(item.text is not None for item in items),
    }
    for split in SPLITS:
        counts[split] = n[split]
        counts[f"{split}_hours"] = round(seconds[split] / 3600, 4)
    return counts | {"skipped": len(skipped)}


def licences(items: Iterable[Item]) -> dict[str, int]:
    """How many recordings were had on which terms, the most frequent first."""
    return dict(Counter(item.licence or "not stated" for item in items).most_common())


def write_corpus(
    folder: Path,
    items: Sequence[Item],
    *,
    kind: CorpusKind,
    settings: Mapping[str, Any],
    skipped: Sequence[Skipped] = (),
    checks: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> CorpusCard:
    """Write manifest.jsonl and corpus.json and return what the latter says."""
    lines = "".join(f"{item.model_dump_json()}\n" for item in items).encode()
    card = CorpusCard(
        kind=kind,
        settings=dict(settings),
        counts=count(items, skipped),
        skipped=tuple(skipped),
        checks=dict(checks or {}),
        licences=licences(items),
        notes=tuple(notes),
        manifest_sha256=hashlib.sha256(lines).hexdigest(),
    )
    files.replace(folder / "manifest.jsonl", lines)
    files.replace(folder / "corpus.json", f"{card.model_dump_json(indent=2)}\n".encode())
    return card


def read_card(folder: Path) -> CorpusCard:
    """What corpus.json says.

    Raises:
        InputError: If the folder holds no corpus, or one that cannot be read.
    """
    path = folder / "corpus.json"
    if not files.is_there(path):
        raise InputError(f"{folder} holds no corpus.json: make it with `calm-bench data folder`")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    card = files.json_value(data, path)
    if not isinstance(card, dict):
        raise InputError(f"{path} is damaged: it holds no object")
    return parse(CorpusCard, card, str(path))


def card_of(folder: Path) -> CorpusCard:
    """What corpus.json says; of a manifest that was written by hand, that it is the user's own."""
    if (folder / "corpus.json").exists():
        return read_card(folder)
    return CorpusCard(kind="folder", settings={}, counts={})


def read_manifest(folder: Path) -> list[Item]:
    """Every recording of a corpus, in the manifest's order.

    A manifest that is not the one that was made is said to be another: it may have lost recordings.

    Raises:
        InputError: If there is no manifest, or a line of it is not an item.
    """
    path, card = folder / "manifest.jsonl", folder / "corpus.json"
    if not files.is_there(path):
        raise InputError(f"no corpus in {folder}: make it with `calm-bench data folder`")
    if files.is_there(card):
        _say_unlike(folder, files.file_mark(path), files.file_mark(card))
    return [parse(Item, line, where) for where, line in files.json_lines(path)]


@lru_cache(maxsize=64)
def _say_unlike(folder: Path, *_: files.FileMark) -> None:
    """Say once of files that the manifest is not the one that corpus.json was written with."""
    wanted, path = read_card(folder).manifest_sha256, folder / "manifest.jsonl"
    if wanted is not None and file_hash(path) != wanted:
        logger.warning(
            "%s is not as it was made: if you have not changed it, repeat the command that made it",
            path,
        )
