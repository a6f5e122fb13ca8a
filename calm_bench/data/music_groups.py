"""Which works belong together: read every score that may be played and write music_works.tsv anew.

    python -m calm_bench.data.music_groups KEPT_SCORES_DIR

It takes half an hour and is needed only when music21 or music_sources.yaml changes; `corpus.json`
of a corpus says whether test and training works share a phrase after all.
"""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from calm_bench.core.parallel import counted
from calm_bench.data.corpus import Item
from calm_bench.data.music_works import WORKS, load_sources
from calm_bench.data.scores import Score, corpus_dir, kept_score
from calm_bench.errors import InputError


def check_music(
    items: Sequence[Item], lines: Mapping[str, Mapping[str, Any]], scores: Path
) -> dict[str, Any]:
    """Works of each split, hours of each composer, and held-out works that training has heard.

    Args:
        items: The recordings.
        lines: By recording, what the player said about it.
        scores: The folder of the scores that were read.
    """
    works: dict[str, set[str]] = defaultdict(set)
    hours: dict[str, float] = defaultdict(float)
    for item in items:
        works[item.split].add(item.work or "")
        hours[(item.licence or "").partition(":")[0]] += item.seconds / 3600

    def runs(work: str) -> set[int]:
        return phrases(kept_score(work, scores))

    training = set[int]().union(*map(runs, sorted(works["train"])))
    held_out = works["test"] | works["validation"]
    return {
        "works": {split: len(found) for split, found in sorted(works.items())},
        "held_out_works_sharing_a_phrase_with_training": sum(
            not training.isdisjoint(runs(work)) for work in held_out
        ),
        "composer_hours": {name: round(value, 3) for name, value in sorted(hours.items())},
        "ensembles": dict(sorted(Counter(lines[item.id]["ensemble"] for item in items).items())),
    }


PHRASE_NOTES = 16
"""Steps and rhythm of this many notes in a row, in any part, make two works one group."""
MIN_STEPS = 6
OPUS = (
    re.compile(r"^(bach/bwv\d+)\."),  # a cantata, passion or oratorio
    re.compile(r"^((?:haydn|mozart|beethoven)/[^/.]+)[/.]"),
    re.compile(r"^(schumann_robert/opus41no1)/"),
)
Phrase = tuple[tuple[int, float], ...]


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
            run: Phrase = tuple(steps[i : i + PHRASE_NOTES - 1])
            if len(set(run)) >= MIN_STEPS:
                found.add(hash(run))
    return found


def group_works(works: Sequence[tuple[str, set[int]]]) -> dict[str, str]:
    """The group of each path: the first path of all that hang together by opus or by a phrase."""
    leader = {path: path for path, _ in works}

    def find(path: str) -> str:
        while leader[path] != path:
            leader[path] = leader[leader[path]]
            path = leader[path]
        return path

    first: dict[object, str] = {}
    for path, runs in works:
        for mark in (opus(path), *runs):
            other = find(first.setdefault(mark, path))
            mine = find(path)
            leader[max(mine, other)] = min(mine, other)
    return {path: find(path) for path, _ in works}


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
