"""What a music corpus is asked before it is trusted: are the splits apart, what is it made of?"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calm_bench.data.corpus import Item
from calm_bench.data.music_groups import phrases
from calm_bench.data.scores import kept_score


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
