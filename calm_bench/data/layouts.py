"""Which recordings a source holds: read as the layout that it looks like, or as the one told.

The layouts are those of known corpora, each as its makers describe it, and of lists that time words
or name stretches of longer files.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from calm_bench.asr import load_recognizer
from calm_bench.config import parse
from calm_bench.core.files import json_lines, text_lines
from calm_bench.core.paths import expanded
from calm_bench.core.recordings import few, list_recordings
from calm_bench.data.alignment import check_times
from calm_bench.data.corpus import Split
from calm_bench.data.sources import (
    LANGUAGE,
    SPEAKER,
    TEXT,
    Candidate,
    Layout,
    Source,
    bars,
    columns,
    find_sound,
    first_file,
    first_object,
    head,
    open_source,
    pick,
    table,
    without_suffix,
)
from calm_bench.data.splits import believed, grouped, named_split
from calm_bench.errors import InputError, UnknownNameError
from calm_bench.seeds import content_hash
from calm_bench.types import StrictModel, WordTimes

_TTS_TEXTS = ("*.normalized.txt", "*.original.txt")
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
    words: Annotated[tuple[WordTimes, ...] | None, BeforeValidator(_as_words)] = None
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
            check_times(line.words or (), where)
            # A text that some recogniser heard is heard anew: it is no ground truth.
            given = line.text_source == "given"
            yield Candidate(
                id=line.id or _id(line.audio, path),
                path=path.parent / expanded(line.audio, where),
                start=line.offset,
                seconds=line.seconds if line.offset is not None else None,
                text=line.text if given else None,
                words=line.words if given else None,
                split=line.split,
                speaker=line.speaker,
                work=line.work,
                licence=line.licence,
                language=line.language,
                listed=path,
            )


def _id(audio: str, manifest: Path) -> str:
    """A file's name as the manifest has it, relative to the manifest if it lies below."""
    return without_suffix(audio.removeprefix(f"{manifest.parent}/"))


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
                path=path.parent / expanded(line.audio_filepath, where),
                start=(line.offset or 0.0) if stretch else None,
                seconds=line.duration,
                text=(line.text or "").strip() or None,
                speaker=speaker,
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


def _timed(path: Path | None) -> list[WordTimes]:
    """What is said, and from when to when in seconds; nothing if there is no file."""
    found = []
    for number, line in text_lines(path) if path else ():
        where, cells = f"{path}:{number}", line.split(maxsplit=2)
        if len(cells) < 3:
            raise InputError(f"{where}: column {len(cells) + 1} of start, end, words is missing")
        start, end = _times(where, cells[:2])
        found.append((cells[2].strip(), start / _TIMIT_RATE, end / _TIMIT_RATE))
    return found


def said_by(speaker: str, sound: Path, text: str | None) -> Candidate:
    """The recording of one speaker, whose recordings stay together."""
    return Candidate(id=without_suffix(sound.name), path=sound, text=text, speaker=speaker)


_FILE = (
    *("file_name", "file", "filename", "fileid", "file_id", "id", "name", "path", "wav", "audio"),
    *("audio_file", "audio_path", "wav_file", "wav_filename", "wav_path", "utterance", "utt_id"),
)


def _of_row(row: Mapping[str, Any], name: str, folders: Sequence[Path], path: Path) -> Candidate:
    """The recording of a table's row: its file by name; text, speaker and split by their columns.

    Without a speaker, what has the name of a chapter and a number stays together (LJ001-0001).
    """
    bare = without_suffix(name)
    chapter = re.match(r"([A-Za-z]+\d+)-\d+$", Path(bare).name)
    speaker = pick(row, SPEAKER)
    return Candidate(
        id=re.sub(r"^(\./)?(wavs|wav|audio|clips|flac)/", "", bare),
        path=find_sound(folders, name),
        text=pick(row, TEXT),
        speaker=speaker,
        groups=(chapter[1],) if chapter and not speaker else (),
        split=named_split(str(row.get("split", ""))),
        licence=pick(row, ("licence", "license")),
        language=pick(row, LANGUAGE),
        listed=path,
    )


def _lj_lists(source: Source) -> list[Path]:
    """Lists with bars; a metadata.csv of another form is one, too, and is refused when read."""
    tables = source.lists("metadata*.csv", "metadata*.txt", whatever=True)
    lines = {path: head(path) for path in tables}
    names = {path: columns(line.split("|")) for path, line in lines.items() if line[:1] != "{"}
    with_bars = [p for p, of in names.items() if len(of) > 1 and (len(of) <= 3 or _is_header(of))]
    return with_bars or [p for p in source.lists("metadata.csv") if p not in _hf_lists(source)]


def _is_header(names: Sequence[str]) -> bool:
    return len(names) > 1 and (names[0] in _FILE or bool({*TEXT} & {*names[1:]}))


def _ljspeech(source: Source) -> Iterator[Candidate]:
    """`metadata.csv` with id|text or id|text|normalised text, the sound files in `wavs/`."""
    for path in _lj_lists(source):
        folders = [path.parent / name for name in ("wavs", ".", "wav", "audio", "clips", "flac")]
        rows = bars(path)
        where, first = rows[0]
        names = columns(first)
        if _is_header(names) and not find_sound(folders, first[0]).is_file():
            rows = rows[1:]
        elif 2 <= len(names) <= 3:
            names = ["id", "text", "normalized_text"][: len(names)]
        else:
            raise InputError(
                f"{where}: {len(names)} column{'s' * (len(names) > 1)} and no header; LJSpeech has "
                "id|text or id|text|normalised text (--layout files reads the sounds alone)"
            )
        for where, cells in rows:
            if not cells[0].strip():
                raise InputError(f"{where}: column 1, the name of the sound file, is empty")
            row = dict(zip(names, cells, strict=True))
            yield _of_row(row, cells[0].strip(), folders, path)


def _librispeech(source: Source) -> Iterator[Candidate]:
    """`<subset>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt`, a FLAC and its text a line."""
    for path in source.lists("*.trans.txt"):
        for _, line in text_lines(path):
            name, _, text = line.strip().partition(" ")
            sound, speaker = find_sound([path.parent], f"{name}.flac"), name.split("-")[0]
            yield said_by(speaker, sound, text.strip() or None)


def _text_of(path: Path | None) -> str | None:
    """All that a file of one text says; None if there is no such file or nothing in it."""
    words = [word for _, line in text_lines(path) for word in line.split()] if path else []
    return " ".join(words) or None


def _libritts(source: Source) -> Iterator[Candidate]:
    """`<subset>/<speaker>/<chapter>/<name>.wav` and `<name>.normalized.txt` beside it."""
    texts = {path.name: path for path in source.others}
    for sound in source.sounds:
        name = without_suffix(sound.name)
        found = texts.get(f"{name}.normalized.txt") or texts.get(f"{name}.original.txt")
        yield said_by(name.split("_")[0], sound, _text_of(found))


def _vctk_sounds(source: Source) -> list[Path]:
    """The sounds below wav48*, if there are texts below txt; neither if not."""
    if not any("txt" in path.relative_to(source.root).parts for path in source.others):
        return []
    below = re.compile(r"(^|/)wav48[^/]*/", re.IGNORECASE)
    return [p for p in source.sounds if below.search(p.relative_to(source.root).as_posix())]


def _vctk(source: Source) -> Iterator[Candidate]:
    """`txt/<speaker>/<name>.txt` for `wav48*/<speaker>/<name>.wav` or `<name>_mic1.flac`."""
    texts = {path.stem: path for path in source.others if path.suffix == ".txt"}
    for sound in _vctk_sounds(source):
        said = texts.get(re.sub(r"_mic\d+$", "", without_suffix(sound.name)))
        yield said_by(sound.name.split("_")[0], sound, _text_of(said))


def _cv_lists(source: Source) -> list[Path]:
    """Lists with sounds and sentences; where some are known to be good, these alone."""
    tables = source.lists("*.tsv", whatever=True)
    found = [path for path in tables if {"path", "sentence"} <= {*columns(head(path).split("\t"))}]
    good = ("train", "dev", "test", "validated", "valid")
    return [path for path in found if path.stem in good] or found


def _common_voice(source: Source) -> Iterator[Candidate]:
    """`train.tsv`, `dev.tsv`, `test.tsv` and `validated.tsv`, which has the rest; in `clips/`."""
    lists = _cv_lists(source)
    if left := [p.name for p in source.lists("*.tsv") if p not in lists]:
        source.notes.append(f"not validated, or no list of sounds, and left out: {few(left)}")
    for path in lists:
        # Beside dev.tsv, valid.tsv of early releases is what was validated, and no split.
        everything = path.stem == "valid" and path.with_name("dev.tsv") in lists
        for where, row in table(path, "\t"):
            name = row["path"].strip()
            if not name:
                raise InputError(f"{where}: the column path is empty")
            found = _of_row(row, name, [path.parent / "clips", path.parent], path)
            yield replace(found, listed=None) if everything else found


def _seed_lists(source: Source) -> list[Path]:
    return [path for path in source.lists("*.lst") if head(path).count("|") in (3, 4)]


def _seed_tts(source: Source) -> Iterator[Candidate]:
    """`meta.lst`: name|prompt's text|prompt's file|text[|the file in which the text is said]."""
    for path in _seed_lists(source):
        folder, prompts, unsaid = path.parent, set[str](), 0
        for where, cells in bars(path):
            name, prompt_text, prompt, text, *said = (cell.strip() for cell in cells)
            if not (name and prompt):
                raise InputError(f"{where}: column {3 if name else 1} is empty")
            both = Candidate(id=name, path=folder / prompt, groups=(prompt,), listed=path)
            if prompt not in prompts:
                sound, bare = find_sound([folder], prompt), without_suffix(prompt)
                yield replace(both, id=bare, path=sound, text=prompt_text or None)
            prompts.add(prompt)
            sound = find_sound([folder], said[0]) if said else find_sound([folder / "wavs"], name)
            if said or sound.is_file():
                yield replace(both, path=sound, text=text or None)
            else:
                unsaid += 1
        if unsaid:
            source.notes.append(f"{path.name}: {unsaid} of its texts are said in no file of wavs/")


def _file_column(names: Iterable[str]) -> str:
    return next((n for n in names if n == "file_name" or n.endswith("_file_name")), "")


def _hf_lists(source: Source) -> list[Path]:
    tables = source.lists("metadata.csv", "metadata.jsonl", whatever=True)
    names = {p: first_object(p) or columns(head(p).split(",")) for p in tables}
    return [path for path in tables if _file_column(names[path])]


def _audiofolder(source: Source) -> Iterator[Candidate]:
    """`metadata.csv` or `metadata.jsonl` with a column file_name, in any folder."""
    for path in _hf_lists(source):
        for where, row in json_lines(path) if path.suffix == ".jsonl" else table(path, ","):
            name = pick(row, (_file_column(row),))
            if name is None:
                raise InputError(f"{where}: file_name is missing or empty")
            yield _of_row(row, name, [path.parent], path)


def _files(source: Source) -> Iterator[Candidate]:
    texts = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".lst", ".scp", ".parquet", ".xlsx")
    lists = [str(p.relative_to(source.root)) for p in source.others if p.suffix.lower() in texts]
    if lists:
        source.notes.append(f"nothing is read from {few(lists)} (to read a list, name it itself)")
    for path in source.sounds:
        name = without_suffix(path.relative_to(source.root).as_posix())
        yield Candidate(id=name, path=path)


LAYOUTS = {
    "manifest": Layout(_manifest, _manifests, "{} of objects with audio"),
    "nemo": Layout(
        _nemo, lambda s: _json_lists(s, "audio_filepath"), "{} of objects with audio_filepath"
    ),
    "kaldi": Layout(_kaldi, lambda source: source.lists("wav.scp", "*.scp"), "{} lists sounds"),
    "timit": Layout(_timit, lambda s: s.lists("*.wrd", "*.phn"), "{} time words or phones"),
    "commonvoice": Layout(_common_voice, _cv_lists, "{} with path and sentence"),
    "seed-tts": Layout(_seed_tts, _seed_lists, "{} with four or five columns"),
    "audiofolder": Layout(_audiofolder, _hf_lists, "{} with a column file_name"),
    "librispeech": Layout(_librispeech, lambda s: s.lists("*.trans.txt"), "{} hold texts"),
    "libritts": Layout(_libritts, lambda s: s.lists(*_TTS_TEXTS), "{} hold texts"),
    "vctk": Layout(_vctk, _vctk_sounds, "{} below wav48, texts below txt"),
    "ljspeech": Layout(_ljspeech, _lj_lists, "{} with columns between bars"),
    "files": Layout(_files, lambda source: source.sounds, "sound files"),
}
"""By name, the most telling first: where several fit a source, the first of them is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The recordings of a source, the layout they were read as, and what has to be said of them."""

    layout: str
    recordings: list[Candidate]
    notes: list[str]


def find_recordings(
    path: Path, layout: str = "auto", group_by: str = "auto", *, split: bool = True
) -> Found:
    """The recordings of a folder or list in a fixed order, with unique ids, splits and groups.

    Without `split` no names of folders are read for splits and groups.

    Raises:
        InputError: If the source does not exist, holds nothing, or is not what it looks like.
        UnknownNameError: If there is no such layout.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, ["auto", *LAYOUTS])
    source = open_source(path, told=layout != "auto")
    if layout == "auto":
        layout = _recognised(source)
    found = list(LAYOUTS[layout].read(source))
    if not found:
        raise InputError(f"{path} lists no recordings (read as {layout})")
    if split:
        found = grouped(source, _merged(believed(source, found)), group_by)
    known = {candidate.path for candidate in found}
    if left := [str(p.relative_to(source.root)) for p in source.sounds if p not in known]:
        source.notes.append(f"{len(left)} sound files are in no list and left out: {few(left)}")
    notes = list(dict.fromkeys(source.notes))  # a look at a source and its reading may say the same
    return Found(layout=layout, recordings=_with_unique_ids(found), notes=notes)


def _recognised(source: Source) -> str:
    """The first layout that a source looks like; a note says why, and which others fit."""
    fits = {
        name: layout.shows.format(few([path.name for path in shown]))
        for name, layout in LAYOUTS.items()
        if (shown := layout.shown_by(source))
    }
    if not fits and source.path.is_dir():
        list_recordings(source.path).refuse_empty()
    if not fits:
        first = head(source.path)[:60]
        raise InputError(
            f"{source.path} is no list of a known form: its first line is {first!r} "
            f"(`calm-bench data folder --layout` takes {', '.join(LAYOUTS)})"
        )
    first, *rest = fits
    others = [f"{name} ({fits[name]})" for name in rest if name != "files"]
    also = f"; it looks like {', '.join(others)}, too (`data folder --layout`)" if others else ""
    source.notes.insert(0, f"read as {first}: {fits[first]}{also}")
    return first


def _merged(found: Iterable[Candidate]) -> list[Candidate]:
    """Each recording once that several lists name alike; the list that says a split counts.

    What they do not agree about stays there twice, and is told when the audio turns out the same.
    """
    merged: dict[tuple[object, ...], Candidate] = {}
    for candidate in found:
        key = (candidate.path, candidate.start, candidate.seconds, candidate.text)
        known = merged.setdefault(key, candidate)
        if known.split is None:
            merged[key] = known if candidate.split is None else candidate
        elif candidate.split not in (None, known.split):
            merged[*key, candidate.split] = candidate
    return list(merged.values())


_LONGEST_ID = 180
"""Bytes, so that prompts and numbers of clips can be named by it."""


def _with_unique_ids(found: Iterable[Candidate]) -> list[Candidate]:
    seen: set[str] = set()
    unique = []
    for candidate in found:
        name = re.sub(r"[^\w.-]+", "-", candidate.id).strip(".-") or "recording"
        if name in seen or len(name.encode()) > _LONGEST_ID:
            short = name.encode()[:_LONGEST_ID].decode(errors="ignore")
            known: list[object] = [str(candidate.path), candidate.start]
            while (name := f"{short}-{content_hash(*known, length=6)}") in seen:
                known.append(candidate.seconds)
        seen.add(name)
        unique.append(replace(candidate, id=name))
    return unique


def refuse_other_languages(candidates: Sequence[Candidate], recogniser: str) -> None:
    """Refuse recordings that are listed in another language than the recogniser listens to.

    Languages are known by two letters: en, eng, en-US and English are one.

    Raises:
        InputError: If there are some.
    """
    named = [(c.id, c.language) for c in candidates if c.language]
    heard = load_recognizer(recogniser).language if named else ""
    other = [(name, said) for name, said in named if said[:2].lower() != heard[:2]]
    if other:
        raise InputError(
            f"{len(other)} of {len(candidates)} recordings are not in {heard!r}, {other[0][0]} "
            f"for one is in {other[0][1]!r}: say --language, or list one language alone"
        )
