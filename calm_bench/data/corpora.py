"""The layouts of known speech corpora, each as its makers describe it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calm_bench.core.files import json_lines, text_lines
from calm_bench.core.recordings import few
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
    first_object,
    head,
    pick,
    said_by,
    seen,
    table,
    without_suffix,
)
from calm_bench.data.splits import named_split
from calm_bench.errors import InputError

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
    group = speaker or (chapter and chapter[1])
    return Candidate(
        id=re.sub(r"^(\./)?(wavs|wav|audio|clips|flac)/", "", bare),
        path=find_sound(folders, name),
        text=pick(row, TEXT),
        speaker=speaker,
        groups=(group,) if group else (),
        split=named_split(str(row.get("split", ""))),
        licence=pick(row, ("licence", "license")),
        language=pick(row, LANGUAGE),
        listed=path,
    )


def _lj_lists(source: Source) -> list[Path]:
    """Lists with bars; a metadata.csv of another form is one, too, and is refused when read."""
    tables = source.lists("metadata*.csv", "metadata*.txt", whatever=True)
    with_bars = [path for path in tables if _has_bars(head(path))]
    return with_bars or [p for p in source.lists("metadata.csv") if p not in _hf_lists(source)]


def _has_bars(line: str) -> bool:
    names = columns(line.split("|"))
    return len(names) > 1 and line[0] != "{" and (len(names) <= 3 or _is_header(names))


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


CORPORA = {
    "commonvoice": Layout(
        looks_like=lambda source: seen(_cv_lists(source), "with path and sentence"),
        read=_common_voice,
    ),
    "seed-tts": Layout(
        looks_like=lambda source: seen(_seed_lists(source), "with four or five columns"),
        read=_seed_tts,
    ),
    "audiofolder": Layout(
        looks_like=lambda source: seen(_hf_lists(source), "with a column file_name"),
        read=_audiofolder,
    ),
    "librispeech": Layout(
        looks_like=lambda source: seen(source.lists("*.trans.txt"), "hold texts"),
        read=_librispeech,
    ),
    "libritts": Layout(
        looks_like=lambda source: seen(
            source.lists("*.normalized.txt", "*.original.txt"), "hold texts"
        ),
        read=_libritts,
    ),
    "vctk": Layout(
        looks_like=lambda source: seen(_vctk_sounds(source), "below wav48, texts below txt"),
        read=_vctk,
    ),
    "ljspeech": Layout(
        looks_like=lambda source: seen(_lj_lists(source), "with columns between bars"),
        read=_ljspeech,
    ),
}
"""By name, the most telling first: where two fit a source, the first of them is taken."""
