"""Layouts whose lists may time words or name stretches of longer files."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from calm_bench.config import parse
from calm_bench.core.files import json_lines, text_lines
from calm_bench.core.recordings import few
from calm_bench.data.corpus import Split
from calm_bench.data.sources import (
    LANGUAGE,
    SPEAKER,
    Candidate,
    Layout,
    Source,
    first_file,
    first_object,
    pick,
    said_by,
    seen,
    without_suffix,
)
from calm_bench.data.splits import named_split
from calm_bench.errors import InputError
from calm_bench.types import StrictModel

_TIMIT_RATE = 16000  # .WRD and .TXT count samples at this rate, whatever rate a copy has


def _as_split(name: object) -> object:
    return (named_split(name) if isinstance(name, str) else None) or name


def _as_words(words: object) -> object:
    """Words as they are, if each of them has its times."""
    if isinstance(words, list) and all(isinstance(w, list) and len(w) == 3 for w in words):
        return words
    if words is None or isinstance(words, tuple):
        return words
    raise ValueError('a list is wanted, of ["word", start, end] with times in seconds')


class ManifestLine(StrictModel):
    """One line of a user's manifest; what `calm-bench data` writes is one, too.

    With an `offset` the recording is a stretch of its file, `seconds` long or to the end, and the
    times of `words` count from its beginning.
    """

    audio: str
    id: str | None = None
    text: str | None = None
    words: Annotated[tuple[tuple[str, float, float], ...] | None, BeforeValidator(_as_words)] = None
    split: Annotated[Split | None, BeforeValidator(_as_split)] = None
    speaker: str | None = None
    work: str | None = None
    licence: str | None = None
    language: str | None = Field(default=None, description="checked against --language")
    offset: float | None = Field(default=None, ge=0)
    seconds: float | None = Field(default=None, description="read from the file if it is whole")
    sample_rate: int | None = Field(default=None, description="read from the file instead")
    channels: int | None = Field(default=None, description="read from the file instead")
    sha256: str | None = Field(default=None, description="computed anew")
    text_source: Literal["given", "transcribed"] = "given"


class NemoLine(StrictModel):
    """What is read of a line of NeMo's manifests; what else such a line holds is passed over."""

    model_config = ConfigDict(extra="ignore")

    audio_filepath: str
    text: str | None = None
    duration: float | None = Field(default=None, ge=0)
    offset: float | None = Field(default=None, ge=0)


def _json_lists(source: Source, key: str) -> list[Path]:
    """Lists of JSON lines whose first object has a key; a corpus of ours is its manifest alone."""
    tables = source.lists("*.jsonl", "*.ndjson", "*.json", whatever=True)
    found = [path for path in tables if key in first_object(path)]
    ours = [path for path in found if path == source.root / "manifest.jsonl"]
    if ours and len(found) > 1:
        left = few([path.name for path in found if path not in ours])
        source.notes.append(f"left out beside manifest.jsonl: {left}")
    return ours or found


def _manifests(source: Source) -> list[Path]:
    """Lists of ours; what should be one by its name is taken for one, and refused when read."""
    if found := _json_lists(source, "audio"):
        return found
    names = ("*.jsonl", "*.ndjson") if source.path.is_file() else ("manifest.jsonl",)
    return [
        p for p in source.lists(*names) if not {"audio_filepath", "file_name"} & {*first_object(p)}
    ]


def _manifest(source: Source) -> Iterator[Candidate]:
    """A JSON object per line: `audio`, relative to the manifest, and what is known about it."""
    for path in _manifests(source):
        for where, value in json_lines(path):
            line = parse(ManifestLine, value, where)
            _check_words(line.words, where)
            # A text that some recogniser heard is heard anew: it is no ground truth.
            given = line.text_source == "given"
            yield Candidate(
                id=line.id or _id(line.audio, path),
                path=path.parent / Path(line.audio).expanduser(),
                start=line.offset,
                seconds=line.seconds if line.offset is not None else None,
                text=line.text if given else None,
                words=line.words if given else None,
                split=line.split,
                groups=tuple(name for name in (line.speaker, line.work) if name),
                speaker=line.speaker,
                work=line.work,
                licence=line.licence,
                language=line.language,
                listed=path,
            )


def _id(audio: str, manifest: Path) -> str:
    """A file's name as the manifest has it, relative to the manifest if it lies below."""
    return without_suffix(audio.removeprefix(f"{manifest.parent}/"))


def _check_words(words: Iterable[tuple[str, float, float]] | None, where: str) -> None:
    for word, start, end in words or ():
        if not (math.isfinite(start) and math.isfinite(end) and 0 <= start <= end):
            raise InputError(f"{where}: {word!r} is timed from {start} to {end} s")


def _nemo(source: Source) -> Iterator[Candidate]:
    """A JSON object per line: `audio_filepath`, `text`, `duration` and perhaps `offset`."""
    for path in _json_lists(source, "audio_filepath") or source.lists("*manifest*.json*"):
        for where, value in json_lines(path):
            line = parse(NemoLine, value, where)
            speaker = pick(value, SPEAKER)
            stretch = line.offset is not None or line.duration is not None
            name = _id(line.audio_filepath, path)
            yield Candidate(
                id=f"{name}-{line.offset:g}" if line.offset else name,
                path=path.parent / Path(line.audio_filepath).expanduser(),
                start=(line.offset or 0.0) if stretch else None,
                seconds=line.duration,
                text=(line.text or "").strip() or None,
                speaker=speaker,
                groups=(speaker,) if speaker else (),
                split=named_split(str(value.get("split", ""))),
                language=pick(value, LANGUAGE),
                listed=path,
            )


def _pairs(path: Path) -> dict[str, tuple[str, str]]:
    """`file:line` and the rest of each line by its first word; nothing if there is no file."""
    pairs: dict[str, tuple[str, str]] = {}
    for number, line in text_lines(path) if path.is_file() else ():
        key, *rest = line.split(maxsplit=1)
        if key in pairs:
            raise InputError(f"{path}:{number}: {key} has an earlier line")
        pairs[key] = (f"{path}:{number}", rest[0].strip() if rest else "")
    return pairs


def _kaldi_file(key: str, where: str, name: str, source: Source) -> Path:
    """The file of an entry of wav.scp: absolute, or relative to a folder at or above the list."""
    if not name:
        raise InputError(f"{where}: column 2, the sound file of {key}, is missing")
    if name[0] == "|" or name[-1] == "|" or re.search(r"\.(ark|ark\.gz):\d+$", name):
        raise InputError(
            f"{where}: {key} is no sound file but a pipe or an archive ({name[:60]!r}): write the "
            "sounds to files once and name these"
        )
    folder, top = Path(where.rpartition(":")[0]).parent, source.root.parent.parent
    # Recipes give paths from where they are run, which is one or two folders above their data.
    bases = [folder, *(above for above in folder.parents if above.is_relative_to(top))]
    return first_file([base / name for base in bases])


def _kaldi(source: Source) -> Iterator[Candidate]:
    """`wav.scp`, and beside it `text`, `utt2spk` and `segments`."""
    for path in source.lists("wav.scp"):
        texts, speakers = _pairs(path.with_name("text")), _pairs(path.with_name("utt2spk"))
        places = {key: _kaldi_file(key, *entry, source) for key, entry in _pairs(path).items()}
        for key, place, start, seconds in _utterances(path, places):
            speaker = speakers.get(key, ("", ""))[1] or None
            yield Candidate(
                id=key,
                path=place,
                start=start,
                seconds=seconds,
                text=texts.pop(key, ("", ""))[1] or None,
                speaker=speaker,
                groups=(speaker,) if speaker else (),
                listed=path,
            )
        if texts:
            lost = few([where for where, _ in texts.values()])
            source.notes.append(f"texts of no recording: {lost}")


def _utterances(
    path: Path, places: Mapping[str, Path]
) -> Iterator[tuple[str, Path, float | None, float | None]]:
    """What wav.scp names, or the stretches of it that `segments` beside it names."""
    segments = _pairs(path.with_name("segments"))
    if not segments:
        yield from ((key, place, None, None) for key, place in places.items())
    for key, (where, rest) in segments.items():
        recording, *cells = rest.split() or [""]
        if recording not in places:
            raise InputError(f"{where}: column 2, {recording!r}, is no recording of {path}")
        start, end = _times(where, cells[:2])
        yield key, places[recording], start, None if end == -1 else end - start


def _times(where: str, cells: Sequence[str]) -> tuple[float, float]:
    try:
        start, end = map(float, cells)
    except ValueError as error:
        raise InputError(f"{where}: {' '.join(cells)!r} is no start and end") from error
    if not (0 <= start <= end or (end == -1 and start >= 0)):
        raise InputError(f"{where}: from {start:g} to {end:g} is no stretch of time")
    return start, end


def _timit(source: Source) -> Iterator[Candidate]:
    """`<split>/<dialect>/<speaker>/<sentence>.WAV`, .TXT and .WRD beside it timed in samples."""
    beside = {(path.parent, path.name.lower()): path for path in source.others}
    seen: set[tuple[Path, str]] = set()
    for sound in source.sounds:
        name = without_suffix(without_suffix(sound.name))  # SA1.WAV.wav is a copy of SA1.WAV
        said = _timed(beside.get((sound.parent, f"{name}.txt".lower())))
        words = _timed(beside.get((sound.parent, f"{name}.wrd".lower())))
        if (sound.parent, name) not in seen:
            yield replace(
                said_by(sound.parent.name, sound, said[0][0] if said else None),
                id=(sound.parent.relative_to(source.root) / name).as_posix(),
                words=tuple(words) or None,
            )
        seen.add((sound.parent, name))


def _timed(path: Path | None) -> list[tuple[str, float, float]]:
    """What is said, and from when to when in seconds; nothing if there is no file."""
    found = []
    for number, line in text_lines(path) if path else ():
        where, cells = f"{path}:{number}", line.split(maxsplit=2)
        if len(cells) < 3:
            raise InputError(f"{where}: column {len(cells) + 1} of start, end, words is missing")
        start, end = _times(where, cells[:2])
        found.append((cells[2].strip(), start / _TIMIT_RATE, end / _TIMIT_RATE))
    return found


TIMED = {
    "manifest": Layout(
        looks_like=lambda source: seen(_manifests(source), "of objects with audio"),
        read=_manifest,
    ),
    "nemo": Layout(
        looks_like=lambda source: seen(
            _json_lists(source, "audio_filepath"), "of objects with audio_filepath"
        ),
        read=_nemo,
    ),
    "kaldi": Layout(
        looks_like=lambda source: seen(source.lists("wav.scp", "*.scp"), "lists sounds"),
        read=_kaldi,
    ),
    "timit": Layout(
        looks_like=lambda source: seen(source.lists("*.wrd", "*.phn"), "time words or phones"),
        read=_timit,
    ),
}
