"""Which recordings a source holds: read as the layout that it looks like, or as the one told."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from calm_bench.core.recordings import few, list_recordings
from calm_bench.data.corpora import CORPORA
from calm_bench.data.sources import Candidate, Layout, Source, head, open_source, without_suffix
from calm_bench.data.splits import believed, grouped
from calm_bench.data.timed import TIMED
from calm_bench.errors import InputError, UnknownNameError
from calm_bench.seeds import content_hash


def _files(source: Source) -> Iterator[Candidate]:
    """Every sound file."""
    texts = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".lst", ".scp", ".parquet", ".xlsx")
    lists = [str(p.relative_to(source.root)) for p in source.others if p.suffix.lower() in texts]
    if lists:
        source.notes.append(f"nothing is read from {few(lists)} (to read a list, name it itself)")
    for path in source.sounds:
        name = without_suffix(path.relative_to(source.root).as_posix())
        yield Candidate(id=name, path=path)


LAYOUTS: dict[str, Layout] = {
    **TIMED,
    **CORPORA,
    "files": Layout(
        looks_like=lambda source: "sound files" if source.sounds else None, read=_files
    ),
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
    return Found(layout=layout, recordings=_with_unique_ids(found), notes=source.notes)


def _recognised(source: Source) -> str:
    """The first layout that a source looks like; a note says why, and which others fit."""
    fits = {name: why for name, one in LAYOUTS.items() if (why := one.looks_like(source))}
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
        known = merged.get(key)
        if known is None or (known.split is None and candidate.split is not None):
            merged[key] = candidate
        elif candidate.split not in (None, known.split):
            merged[*key, candidate.split] = candidate
    return list(merged.values())


def _with_unique_ids(found: Iterable[Candidate]) -> list[Candidate]:
    seen: set[str] = set()
    unique = []
    for candidate in found:
        name = re.sub(r"[^\w.-]+", "-", candidate.id).strip(".-") or "recording"
        if name in seen:
            name = f"{name}-{content_hash(str(candidate.path), candidate.start, length=6)}"
        seen.add(name)
        unique.append(replace(candidate, id=name))
    return unique
