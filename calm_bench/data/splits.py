"""Which split a recording belongs to: what its source says, or a draw that tears no group apart."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from os.path import commonpath
from pathlib import Path

from calm_bench.core.recordings import few, group_of
from calm_bench.data.corpus import SPLITS, Split
from calm_bench.data.sources import Candidate, Source, without_suffix
from calm_bench.seeds import content_hash

_WORDS: dict[str, Split] = {"train": "train", "test": "test", "eval": "test", "evaluation": "test"}
_WORDS |= dict.fromkeys(("dev", "valid", "val", "validation"), "validation")
_ALONE: dict[str, Split] = {"training": "train", "testing": "test"}  # a training-day is no split
_ANY = "|".join(_WORDS)
_TOKEN = re.compile(rf"({_ANY}) ?(?:set|split|data)?\d*")
# What a folder is called that is nothing but a split; many a folder of tests is test_something.
_SPLIT_ALONE = re.compile(
    rf"(?:{_ANY}|training|testing)(?:set|\d+)?(?:[-_](?:clean|other|si\d+|\d+|(?:{_ANY})\d*))*"
)
SHARES: dict[Split, float] = {"validation": 0.05, "test": 0.1}
"""Of the groups that are drawn, where the source gives no split."""
_MICROPHONE = re.compile(
    r"[-_. ]?(?:mic|microphone|ch|channel|headset|array|lapel)[-_]?\d+(?:-\d+)?$", re.IGNORECASE
)


def named_split(name: str) -> Split | None:
    """The split that a name says: train-clean-100, dev, valid, testset, cv-valid-test, eval92.

    A word between hyphens, underscores or dots counts, the last if there are several; testimony and
    training-day say none.
    """
    small = name.strip().lower()
    if small in _ALONE:
        return _ALONE[small]
    words = [found[1] for token in re.split(r"[-_.]+", small) if (found := _TOKEN.fullmatch(token))]
    return _WORDS[words[-1]] if words else None


def believed(source: Source, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The recordings with the splits that the names of their lists and folders say.

    The list counts before the folder of the sound, a name that is a split before one that has a
    split in it, the outer before the inner. The source's own name counts if nothing in it says a
    split. Which names were believed is among the source's notes.
    """
    folders = {candidate.path.parent for candidate in candidates}
    outside = [str(folder) for folder in folders if not folder.is_relative_to(source.root)]
    common = Path(commonpath(outside)) if outside else source.root
    names = [_names(candidate, source.root, common) for candidate in candidates]
    said = [_said(each) for each in names]
    if not any(said) and _SPLIT_ALONE.fullmatch(source.root.name.lower()):
        said = [_said([source.root.name])] * len(candidates)
    counts = Counter(f"{name} → {split}" for name, split in filter(None, said))
    if counts:
        told = ", ".join(f"{name} ({n})" for name, n in counts.most_common(8))
        source.notes.append(f"splits as the source names them: {told}")
    return [
        replace(candidate, split=found[1]) if found and candidate.split is None else candidate
        for candidate, found in zip(candidates, said, strict=True)
    ]


def _names(candidate: Candidate, root: Path, common: Path) -> list[str]:
    """The names that may say a split: of folders and list, then of the folders of the sound."""
    if candidate.split is not None:
        return []
    folder = candidate.path.parent
    inside = folder.relative_to(root if folder.is_relative_to(root) else common).parts
    if candidate.listed is None:
        return [*inside]
    return [*candidate.listed.parent.relative_to(root).parts, candidate.listed.stem, *inside]


def _said(names: Sequence[str]) -> tuple[str, Split] | None:
    alone = [name for name in names if name.lower() in _WORDS | _ALONE]
    return next(((n, split) for n in (*alone, *names) if (split := named_split(n))), None)


def grouped(source: Source, candidates: Sequence[Candidate], rule: str) -> list[Candidate]:
    """The recordings with what must stay together, by a rule; a note says if folders do.

    The rule is auto (the layout's groups; without any, microphones of one utterance and the
    outermost folders that differ), folder, none, or a pattern whose first group, or all that it
    finds in a path, is the group.

    Raises:
        InputError: If the rule is no pattern, or finds nothing in a recording's path.
    """
    if rule == "none":
        return [replace(candidate, groups=()) for candidate in candidates]
    if rule == "auto":
        groups = _default_groups(source, candidates)
    else:
        groups = [(group_of(rule, _place(c, source).as_posix()),) for c in candidates]
    shared = {path for path, n in Counter(c.path for c in candidates).items() if n > 1}
    return [
        replace(c, groups=(*keys, str(c.path)) if c.path in shared else keys)
        for c, keys in zip(candidates, groups, strict=True)
    ]


def _place(candidate: Candidate, source: Source) -> Path:
    """A recording's path below the source, or the whole of it if it lies elsewhere."""
    path = candidate.path
    return path.relative_to(source.root) if path.is_relative_to(source.root) else path


def _default_groups(source: Source, candidates: Sequence[Candidate]) -> list[tuple[str, ...]]:
    """What the layout knows; else one folder and the microphones of one utterance stay together."""
    places = [_place(candidate, source) for candidate in candidates]
    known = [c.groups or tuple(filter(None, (c.speaker, c.work))) for c in candidates]
    folders = [] if any(known) else _outer_folders(places)
    if folders:
        source.notes.append(
            "no speakers are known: the recordings of one folder stay in one split "
            f"({few(sorted({*folders} - {''}))}; --group-by none if they need not)"
        )
    groups = []
    for index, (own, place) in enumerate(zip(known, places, strict=True)):
        folder = [part for part in place.parent.parts if not _MICROPHONE.fullmatch(part)]
        utterance = "/".join([*folder, _MICROPHONE.sub("", without_suffix(place.name))])
        keys = [folders[index]] if folders and folders[index] else []
        keys += [utterance] if utterance != without_suffix(place.as_posix()) else []
        groups.append(own or tuple(keys))
    return groups


def _outer_folders(places: Sequence[Path]) -> list[str]:
    """The outermost folder in which recordings differ, "" for none; nothing if they do not.

    Whose folders lie within it, a speaker's sessions or the albums of a band, stays together, too.
    Folders of a split or of a microphone are passed over.
    """
    folders = [
        [
            part
            for part in place.parts[:-1]
            if not (_MICROPHONE.fullmatch(part) or named_split(part))
        ]
        for place in places
    ]
    same = (len({*parts}) == 1 for parts in zip(*folders, strict=False))
    shared = sum(1 for _ in takewhile(bool, same))
    outer = [folder[shared] if len(folder) > shared else "" for folder in folders]
    return outer if len({*outer}) > 1 else []


def assign_splits(
    candidates: Sequence[Candidate], hashes: Sequence[str]
) -> tuple[list[Split], list[str]]:
    """A split for each recording, and what has to be said about them.

    What the source gives is kept, and the rest of its group follows. Other groups are drawn by a
    hash of their name, or of the audio of a recording that stands alone, so that a split does not
    depend on file names or on what else is there. Nothing is drawn into a split that the source
    itself fills, and none stays empty while there are groups enough.
    """
    groups = together((c.groups[0], key) for c in candidates for key in c.groups)
    each = zip(candidates, hashes, strict=True)
    names = [groups[c.groups[0]] if c.groups else own for c, own in each]
    given: dict[str, Counter[Split]] = {name: Counter() for name in names}
    for name, candidate in zip(names, candidates, strict=True):
        if candidate.split is not None:
            given[name][candidate.split] += 1
    filled = {split for counts in given.values() for split in counts}
    wanted = {split: share for split, share in SHARES.items() if split not in filled}
    drawn = _draw(Counter(n for n in names if not given[n]), wanted, "train" in filled)
    splits: list[Split] = [
        candidate.split or next((s for s in SPLITS if given[name][s]), None) or drawn[name]
        for name, candidate in zip(names, candidates, strict=True)
    ]
    return splits, [*_torn(given), *_empty(splits, len(drawn))]


def _torn(given: Mapping[str, Mapping[Split, int]]) -> list[str]:
    torn = [
        f"{name} ({', '.join(f'{split} {n}' for split, n in counts.items())})"
        for name, counts in given.items()
        if len(counts) > 1
    ]
    return [f"the source itself puts into several splits: {few(torn)}"] if torn else []


def _empty(splits: Sequence[Split], n_drawn: int) -> list[str]:
    why = "the source gives its recordings to other splits"
    if n_drawn:
        why = f"{n_drawn} group{'s' * (n_drawn > 1)} cannot fill every split (see --group-by)"
    return [f"{split} is empty: {why}" for split in SPLITS if split not in splits]


def together(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """By key, the smallest key of all that belong to it, directly or through others."""
    from scipy.cluster.hierarchy import DisjointSet

    groups = DisjointSet()
    for one, other in pairs:
        groups.add(one)
        groups.add(other)
        groups.merge(one, other)
    return {key: min(group) for group in groups.subsets() for key in group}


def position(*name: str) -> float:
    """Where between 0 and 1 a name falls, by its hash."""
    return int(content_hash(*name), 16) / 16**16


def split_at(place: float, shares: Mapping[Split, float]) -> Split:
    """The split that a place between 0 and 1 is in: first test, then validation, then training."""
    test = shares.get("test", 0.0)
    if place < test:
        return "test"
    return "validation" if place < test + shares.get("validation", 0.0) else "train"


def _draw(
    sizes: Mapping[str, int], shares: Mapping[Split, float], trained: bool
) -> dict[str, Split]:
    """A split for each group, by a hash of its name; the smallest fill what would stay empty."""
    value = {name: position("split", name) for name in sizes}
    drawn = {name: split_at(place, shares) for name, place in value.items()}
    needed: list[Split] = [] if trained else ["train"]
    for split in (*needed, "test", "validation"):
        counts = Counter(drawn.values())
        movable = [name for name, own in drawn.items() if counts[own] > (own in needed)]
        if split in (*needed, *shares) and not counts[split] and movable:
            drawn[min(movable, key=lambda name: (sizes[name], value[name]))] = split
        needed.append(split)
    return drawn
