"""Which sound files a folder holds: the one place that looks for recordings.

Links to folders are followed, each folder once. Nothing is decoded: what has a sound file's suffix
is listed, so that one that cannot be read is named by whoever reads it and never skipped.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from calm_bench.errors import InputError

_NAMES = "3ga aac ac3 aif aifc aiff amr ape au bwf caf dsf flac gsm m4a m4b mka mp1 mp2 mp3 mp4 mpc"
_MORE = "nist oga ogg opus pcm ra raw rf64 sd2 snd sph spx tta voc w64 wav wave weba webm wma wv"

SUFFIXES = frozenset(f".{name}" for name in f"{_NAMES} {_MORE}".split())
"""Suffixes of sound files, in small letters, whether or not they can be decoded here."""


@dataclass(slots=True, kw_only=True)
class Listing:
    """The sound files below a folder, in the order of their names, and what was left out.

    Attributes:
        files: As reached from the folder; a link that leads nowhere is among them.
        hidden: Sound files that are hidden or lie in a hidden folder.
        elsewhere: How many sound files lie in each of the folders that were to be left out.
        repeated: Links to folders that are listed already.
        unlisted: Folders that cannot be looked into and names that cannot be written, in words.
        others: The files that are no sound files.
    """

    folder: Path
    files: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    elsewhere: Counter[Path] = field(default_factory=Counter)
    repeated: list[Path] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """A file's path below the folder; a byte that is no UTF-8 is written out."""
        return _readable(path.relative_to(self.folder))

    @property
    def names(self) -> list[str]:
        """The names of its files."""
        return [self.name(path) for path in self.files]

    @property
    def notes(self) -> list[str]:
        """What was left out, a line for each kind."""
        notes = [
            f"{amount(n, 'sound file')} in {inside} left out: it lies in {self.folder} but is not "
            "part of what is looked at there"
            for inside, n in self.elsewhere.items()
        ]
        if self.hidden:
            names = few([self.name(path) for path in self.hidden])
            notes.append(f"hidden in {self.folder} and left out: {names}")
        if self.repeated:
            names = few([self.name(path) for path in self.repeated])
            notes.append(f"links in {self.folder} to folders that are listed already: {names}")
        return notes

    def refuse_empty(self) -> None:
        """Say what a folder holds instead of sound.

        Raises:
            InputError: If it holds no sound file.
        """
        if self.files:
            return
        suffixes = Counter(path.suffix.lower() or "without suffix" for path in self.others)
        found = [f"{n} {suffix}" for suffix, n in suffixes.most_common(3)]
        found += [*self.notes, *self.unlisted]
        raise InputError(
            f"{self.folder} holds no sound files"
            + (f" (it holds {'; '.join(found)})" if found else " (it is empty)")
        )


def list_recordings(folder: Path, without: Sequence[Path] = ()) -> Listing:
    """The sound files below a folder, but for those in the folders of `without`.

    A folder that the whole of it lies in leaves nothing out.

    Raises:
        InputError: If it is no folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} {'is no folder' if folder.exists() else 'does not exist'}")
    found = Listing(folder=folder)
    _Walk(found, without).go(folder)
    found.files.sort(key=lambda path: path.relative_to(folder).parts)
    return found


def few(names: Sequence[str]) -> str:
    """The first three of some names, and how many more there are."""
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def amount(n: int, noun: str) -> str:
    """How many of something: `1 clip`, `2 clips`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def group_of(rule: str, name: str) -> str:
    """What a file belongs to by its path below a folder: what `--group-by` finds there.

    The rule is `folder`, or a pattern whose first group, or all that it finds, is the name.

    Raises:
        InputError: If the rule is no pattern, or finds nothing.
    """
    if rule == "folder":
        return PurePosixPath(name).parent.as_posix()
    try:
        found = re.search(rule, name)
    except re.error as error:
        raise InputError(
            f"--group-by {rule}: neither a rule that is known nor a pattern: {error}"
        ) from error
    group = found and next((part for part in found.groups() if part is not None), found[0])
    if not group:
        raise InputError(f"--group-by {rule!r}: nothing like it in {name}")
    return group


class _Walk:
    """One walk over a folder: real folders first, then those that links lead to."""

    def __init__(self, found: Listing, without: Sequence[Path]) -> None:
        self.found = found
        self.root = found.folder.resolve()
        real = {path.resolve(): path for path in without}
        self.without = {p: given for p, given in real.items() if not self.root.is_relative_to(p)}
        self.seen: set[Path] = set()
        self.links: list[Path] = []

    def go(self, folder: Path) -> None:
        """Take in all that lies below the folder and what links in it lead to."""
        self._take(folder)
        while self.links:
            link = self.links.pop(0)
            real = link.resolve()
            if real in self.seen or self.root.is_relative_to(real):
                self.found.repeated.append(link)
            else:
                self._take(link)

    def _take(self, folder: Path) -> None:
        real = folder.resolve()
        self.seen.add(real)
        for out, given in self.without.items():
            if real.is_relative_to(out):
                self.found.elsewhere[given] += sum(1 for _ in _sounds_below(folder))
                return
        for path in self._children(folder):
            if path.name.startswith("."):
                self.found.hidden.extend(_sounds_below(path))
            elif not path.is_dir():
                self._file(path)
            elif path.is_symlink():
                self.links.append(path)
            else:
                self._take(path)

    def _children(self, folder: Path) -> list[Path]:
        try:
            return sorted(folder.iterdir())
        except OSError as error:
            self.found.unlisted.append(
                f"{_readable(folder)} cannot be looked into: {error.strerror}"
            )
            return []

    def _file(self, path: Path) -> None:
        if path.suffix.lower() not in SUFFIXES:
            self.found.others.append(path)
        elif _readable(path) == path.as_posix():
            self.found.files.append(path)
        else:
            self.found.unlisted.append(f"{_readable(path)} has a name that is no UTF-8: rename it")


def _readable(path: Path) -> str:
    return path.as_posix().encode(errors="backslashreplace").decode()


def _sounds_below(path: Path) -> Iterator[Path]:
    """The sound files at or below a path, hidden ones too; links are not followed."""
    if not path.is_dir():
        if path.suffix.lower() in SUFFIXES:
            yield path
        return
    for folder, _, names in os.walk(path):
        yield from (Path(folder, n) for n in sorted(names) if Path(n).suffix.lower() in SUFFIXES)
