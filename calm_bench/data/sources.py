"""What every layout is read with: the files of a source, and tables that say where they are wrong.

A line or a cell that does not fit is refused by file, line and column. Nothing is cut to fit.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from calm_bench.core.files import text_lines
from calm_bench.core.recordings import SUFFIXES, list_recordings
from calm_bench.data.corpus import Split
from calm_bench.errors import InputError
from calm_bench.types import WordTimes

TEXT = (
    *("normalized_text", "normalised_text", "normalized", "normalised"),
    *("normalized_transcription", "normalised_transcription"),
    *("transcription", "transcript", "text", "sentence", "raw_text"),
)
"""Names of columns that hold what is said, the best first."""
LANGUAGE = ("language", "lang", "locale")
SPEAKER = ("speaker", "speaker_id", "speaker_name", "client_id", "spk", "spk_id")
_TRIED = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".WAV", ".FLAC")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A recording that is listed, before anyone has listened to it.

    Attributes:
        start: Where it begins in its file, in seconds; None if it is the whole file.
        seconds: How long it is from there on; None for the rest of the file.
        split: Given by the source; None where a draw decides.
        groups: What must not be torn between splits, as a session; its speaker and work if nothing.
        listed: The list that names it; None if no list does.
        typed: Whether the user named the file itself, so that it is refused if it cannot be used.
    """

    id: str
    path: Path
    start: float | None = None
    seconds: float | None = None
    text: str | None = None
    words: tuple[WordTimes, ...] | None = None
    split: Split | None = None
    groups: tuple[str, ...] = ()
    speaker: str | None = None
    work: str | None = None
    licence: str | None = None
    language: str | None = None
    listed: Path | None = None
    typed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A folder with all its files, or one list or sound file.

    Attributes:
        path: A folder or a file.
        root: The folder itself, or the one that the file lies in.
        sounds: Its sound files.
        others: Its other files, among them what may list recordings.
        notes: What was left out, and what a layout had to say.
        told: Whether the layout was told, so that a single list goes by any name.
    """

    path: Path
    root: Path
    sounds: list[Path]
    others: list[Path]
    told: bool = False
    notes: list[str] = field(default_factory=list)

    def lists(self, *patterns: str, whatever: bool = False) -> list[Path]:
        """Files by the pattern of their name in small letters.

        A source that is one list goes by any name if the layout was told, or if `whatever` says
        that its content is looked at.
        """
        if self.path.is_file() and (self.told or whatever):
            return self.others
        return [p for p in self.others if any(fnmatch(p.name.lower(), one) for one in patterns)]


@dataclass(frozen=True, slots=True)
class Layout:
    """A known way of laying recordings and their texts out.

    Attributes:
        read: Its recordings.
        shown_by: The files of a source that show that it is laid out like this.
        shows: What is said of them; {} stands for their names.
    """

    read: Callable[[Source], Iterable[Candidate]]
    shown_by: Callable[[Source], Sequence[Path]]
    shows: str


def open_source(path: Path, *, told: bool = False) -> Source:
    """The files of a folder, or a file by itself.

    Raises:
        InputError: If there is nothing at the path.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if path.is_file():
        is_sound = path.suffix.lower() in SUFFIXES
        sounds, others = ([path], []) if is_sound else ([], [path])
        return Source(path=path, root=path.parent, sounds=sounds, others=others, told=told)
    found = list_recordings(path)
    notes = [*found.notes, *found.unlisted]
    sounds, others = found.files, found.others
    return Source(path=path, root=path, sounds=sounds, others=others, told=told, notes=notes)


def without_suffix(name: str) -> str:
    """A sound file's name without its suffix; other dots belong to the name."""
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name


def find_sound(folders: Sequence[Path], name: str) -> Path:
    """The sound file that a list calls by some name, with or without its suffix.

    Where there is none, the path at which the first folder should have had it.
    """
    bare = without_suffix(name)
    names = [*([name] if bare != name else []), *(bare + suffix for suffix in _TRIED)]
    return first_file([folder / one for folder in folders for one in names])


def first_file(places: Sequence[Path]) -> Path:
    """The first of some places at which there is a file; where there is none, the first."""
    try:
        return next((place for place in places if place.is_file()), places[0])
    except OSError:  # a name that no file can have, as a long text in the place of one
        return places[0]


def head(path: Path) -> str:
    """The first line of a text file; empty if it is none."""
    try:
        with path.open("rb") as file:
            return file.readline(1 << 20).decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def bars(path: Path, separator: str = "|") -> list[tuple[str, list[str]]]:
    """The lines of a list, `file:line` and their cells; each line has as many as the first.

    Raises:
        InputError: If one has more or fewer, or there is none.
    """
    rows = [(f"{path}:{n}", line.split(separator)) for n, line in text_lines(path)]
    if not rows:
        raise InputError(f"{path} is empty")
    for where, cells in rows:
        _check_width(where, cells, len(rows[0][1]), separator)
    return rows


def _check_width(where: str, cells: Sequence[str], width: int, separator: str) -> None:
    """Refuse a row that is wider or narrower than the first, naming the first column that is."""
    if len(cells) > width:
        raise InputError(
            f"{where}: column {width + 1} ({cells[width].strip()[:30]!r}) is one too many: the "
            f"first line has {width}; a {separator!r} within a text would be taken for its end"
        )
    if len(cells) < width:
        raise InputError(f"{where}: column {len(cells) + 1} of the first line's {width} is missing")


def columns(cells: Sequence[str]) -> list[str]:
    """The names in a header, as they are looked for: small letters, underscores for spaces."""
    return [cell.strip().strip('"').lower().replace(" ", "_") for cell in cells]


def table(path: Path, separator: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows under a header, `file:line` and the cells by column: quoted CSV, or between tabs.

    Raises:
        InputError: If a row has more or fewer cells than the header, or a quote stays open.
    """
    rows = _csv(path)
    if separator == "\t":
        rows = ((where, [*map(_unquoted, cells)]) for where, cells in bars(path, "\t"))
    _, header = next(rows)
    names = columns(header)
    for where, cells in rows:
        yield where, dict(zip(names, cells, strict=True))


def _csv(path: Path) -> Iterator[tuple[str, list[str]]]:
    text = "\n".join(line for _, line in text_lines(path, blank=True))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    width, start = 0, 1
    try:
        for cells in reader:
            where, start = f"{path}:{start}", reader.line_num + 1
            if cells:
                width = width or len(cells)
                _check_width(where, cells, width, ",")
                yield where, cells
    except csv.Error as error:
        raise InputError(f"{path}:{start}: not CSV: {error}") from error


def _unquoted(cell: str) -> str:
    """A cell without the quotes that its writer put in: around it, and before each of its own."""
    wrapped = len(cell) > 1 and cell[0] == cell[-1] == '"'
    for inner in ([cell[1:-1]] if wrapped else []) + [cell]:
        if '"' not in inner.replace('""', ""):
            return inner.replace('""', '"')
    return cell


def pick(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of some columns that holds a text, without the space around it."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str | int) and str(value).strip():
            return str(value).strip()
    return None


def first_object(path: Path) -> Mapping[str, Any]:
    """The object in a file's first line; empty if it does not begin with one."""
    try:
        value = json.loads(head(path))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
