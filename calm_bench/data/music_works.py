"""The works that may be played: whose they are, on which terms, and in which split each one is.

`music_sources.yaml` says which scores of music21's corpus may be used. `music_works.tsv` lists them
with the group that each belongs to: movements of one work, a cantata's chorales, and pieces that
share a long phrase (the same hymn or tune under another number or name). A group is in one split,
chosen by the hash of its name, so that neither more recordings nor another seed ever move a work.

    python -m calm_bench.data.music_works KEPT_SCORES_DIR

reads every score that may be played and writes the list anew. It takes half an hour and is needed
only when music21 or music_sources.yaml changes; `corpus.json` of a corpus says whether test and
training works share a phrase after all.
"""

import fnmatch
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count, pairwise
from pathlib import Path

from calm_bench.config import parse, read_yaml
from calm_bench.core.progress import counted
from calm_bench.data.corpus import Split
from calm_bench.data.music_scores import Score, corpus_dir, kept_score
from calm_bench.data.splits import position, split_at, together
from calm_bench.errors import InputError
from calm_bench.seeds import content_hash, file_hash
from calm_bench.types import StrictModel

SOURCES = Path(__file__).with_name("music_sources.yaml")
WORKS = Path(__file__).with_name("music_works.tsv")
HELD_OUT: dict[Split, float] = {"test": 0.12, "validation": 0.05}
"""Shares of the groups."""
PHRASE_NOTES = 16
"""Steps and rhythm of this many notes in a row, in any part, make two works one group."""
MIN_STEPS = 6
OPUS = (
    re.compile(r"^(bach/bwv\d+)\."),  # a cantata, passion or oratorio
    re.compile(r"^((?:haydn|mozart|beethoven)/[^/.]+)[/.]"),
    re.compile(r"^(schumann_robert/opus41no1)/"),
)


class Source(StrictModel):
    """Scores of one composer on one set of terms."""

    composer: str
    files: tuple[str, ...]
    licence: str


class Family(StrictModel):
    """Music of one kind, and its share of the recordings beside the others' weights."""

    weight: float
    sources: tuple[Source, ...]


class LeftOut(StrictModel):
    """Scores that are not played, and why."""

    files: tuple[str, ...]
    reason: str


class Sources(StrictModel):
    """What music_sources.yaml says."""

    families: dict[str, Family]
    left_out: tuple[LeftOut, ...]

    def refused(self, file: str) -> str | None:
        """Why a score is not played; None if nothing speaks against it."""
        return next((e.reason for e in self.left_out if _matches(file, e.files)), None)

    def find(self, file: str) -> tuple[str, Source] | None:
        """The family and the source of a score that may be played; None if it may not."""
        if self.refused(file) is not None:
            return None
        every = ((name, s) for name, family in self.families.items() for s in family.sources)
        return next((found for found in every if _matches(file, found[1].files)), None)


def _matches(file: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One piece, by its path in music21's corpus (with #n for a tune of a book).

    Attributes:
        group: What must stay together in one split.
    """

    path: str
    group: str
    family: str
    composer: str
    licence: str


@cache
def load_sources() -> Sources:
    """What may be played and what may not."""
    return parse(Sources, read_yaml(SOURCES), str(SOURCES))


@cache
def load_works() -> tuple[Work, ...]:
    """Every work that may be played.

    Raises:
        InputError: If one is listed that may not be.
    """
    sources = load_sources()
    works = []
    for line in WORKS.read_text(encoding="utf-8").splitlines():
        path, group = line.split("\t")
        found = sources.find(path.partition("#")[0])
        if found is None:
            raise InputError(f"{WORKS.name} lists {path}, which {SOURCES.name} does not allow")
        family, source = found
        terms = {"composer": source.composer, "licence": source.licence}
        works.append(Work(path=path, group=group, family=family, **terms))
    return tuple(works)


def list_hash() -> str:
    """Changes with the works, their groups, the terms and the weights."""
    return content_hash(file_hash(SOURCES), file_hash(WORKS))


def split_of(group: str) -> Split:
    """Where the works of a group are: some 12 % for test, 5 % for validation."""
    return split_at(position("music split", group), HELD_OUT)


def playlist(split: Split) -> Iterator[tuple[Work, int]]:
    """What is played in a split, in order: works, and how often each was played before.

    Families take turns by their weights, so any head of the list is a like mixture. Training goes
    on for ever, each work played anew when its family is through; held-out splits play one work of
    every group: the test split once, validation round after round in the order of the first.
    """
    if split != "validation":
        yield from _turns(split)
        return
    works = [work for work, _ in _turns(split)]
    yield from ((work, take) for take in count() for work in works)


def _turns(split: Split) -> Iterator[tuple[Work, int]]:
    pools = _pools(split)
    weights = {name: load_sources().families[name].weight for name in pools}
    taken: Counter[str] = Counter()
    while pools:
        family = min(pools, key=lambda name: ((taken[name] + 1) / weights[name], name))
        pool, place = pools[family], taken[family]
        if split != "train" and place >= len(pool):
            del pools[family]
            continue
        taken[family] += 1
        yield pool[place % len(pool)], place // len(pool)


def _pools(split: Split) -> dict[str, list[Work]]:
    """By family, the works of a split in the order of a hash."""
    pools: dict[str, list[Work]] = {}
    groups: set[str] = set()
    for work in sorted(load_works(), key=lambda work: content_hash("music order", work.path)):
        if split_of(work.group) != split or (split != "train" and work.group in groups):
            continue
        groups.add(work.group)
        pools.setdefault(work.family, []).append(work)
    return pools


def opus(path: str) -> str:
    """The work that a movement is of; the path itself for a work that stands alone."""
    return next((m[1] for pattern in OPUS if (m := pattern.match(path))), path)


def phrases(score: Score) -> set[int]:
    """Hashes of every run of notes in a part: steps in semitones and ratios of length.

    They are the same in every key and notation. Runs of few different steps (scales, repeated
    notes) are found everywhere, say nothing and are left out.
    """
    found = set()
    for part in score.parts:
        steps = [
            (after[2] - before[2], round(after[1] / before[1], 2))
            for before, after in pairwise(part)
        ]
        for i in range(len(steps) - PHRASE_NOTES + 2):
            run = tuple(steps[i : i + PHRASE_NOTES - 1])
            if len(set(run)) >= MIN_STEPS:
                found.add(hash(run))
    return found


def group_works(works: Sequence[tuple[str, set[int]]]) -> dict[str, str]:
    """The group of each path: the first path of all that hang together by opus or by a phrase."""
    first: dict[object, str] = {}
    marks = ((path, mark) for path, runs in works for mark in (opus(path), *runs))
    return together((path, first.setdefault(mark, path)) for path, mark in marks)


def playable() -> Iterator[str]:
    """Every work of music21's corpus that may be played, tunes of a book one by one."""
    root, sources = corpus_dir(), load_sources()
    for path in sorted(root.rglob("*.*")):
        file = path.relative_to(root).as_posix()
        if sources.find(file) is None:
            continue
        if path.suffix != ".abc":
            yield file
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        numbers = [int(number) for number in re.findall(r"^X:\s*(\d+)", text, re.MULTILINE)]
        yield from [file] if len(numbers) < 2 else (f"{file}#{n}" for n in numbers)


def main(kept: Path) -> None:
    """Read the scores into a folder and write the list; what cannot be read is not listed."""
    paths = list(playable())
    found: list[tuple[str, set[int]]] = []
    for path in counted(paths, len(paths), "reading scores"):
        try:
            found.append((path, phrases(kept_score(path, kept))))
        except InputError as error:
            sys.stderr.write(f"left out: {error}\n")
    groups = group_works(found)
    lines = "".join(f"{path}\t{groups[path]}\n" for path, _ in found)
    WORKS.write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
