"""Which file of one folder is a version of which file of another: by names, checked by ear.

A rule turns a name into a key, and a file is a version of the original with its key:

    path             the path below the folder, without suffix: `a/b.mp3` is a version of `a/b.wav`
    stem             the same without folders: `x/b.mp3` is a version of `y/b.wav`
    {}_gen           a template of the stem: `b_gen.wav` is a version of `b.wav`
    {}_gen=orig_{}   one for each side, `b_gen.wav` of `orig_b.wav`; * stands for anything
    gen/{}=real/{}   with a slash, a template of the path

Where several originals fit, the one of the same name counts, else the one in the same folder.
An original may have several versions; a version has one original.

Folders that were paired wrongly give scores like any others. So a few clips are laid beside all of
the originals at hand (`unrelated`): one that is nearer to half of the others than to its own was
hardly made from it. What is compared is the level of mel bands in windows of a quarter of a second,
without the overall level: what a codec, a filter or a short delay leaves as it is.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import PurePosixPath

import numpy as np

from calm_bench.core.cache import ContentCache
from calm_bench.core.code import computed_by
from calm_bench.core.recordings import few
from calm_bench.core.waves import mel_power
from calm_bench.errors import InputError
from calm_bench.score.clips import StoredClip
from calm_bench.seeds import content_hash
from calm_bench.types import Floats

DEFAULT_RULE = "path"

Key = Callable[[str], str | None]
_PAIRS = 16
_SECONDS = 10.0
_RATE = 8000
_WINDOW = 2048
_BANDS = 32
_ALIKE = 1.0  # dB; originals nearer than this are the same recording
_ENOUGH = 0.75  # of the others must be farther than a clip's own original


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """What belongs together.

    Attributes:
        originals: By the name of a version, the name of its original.
        ambiguous: By the name of a file, the originals that it could be a version of.
        unpaired: Files without an original, the ambiguous ones among them.
        childless: Originals without a version.
        suggestion: The rule that would pair more of them, the best if there are several.
    """

    originals: Mapping[str, str]
    ambiguous: Mapping[str, Sequence[str]]
    unpaired: Sequence[str]
    childless: Sequence[str]
    suggestion: str | None

    def notes(self, folder: str, reference: str) -> Iterator[str]:
        """What does not pair: how many, the first three, and what would pair them."""
        n = len(self.originals) + len(self.unpaired)
        if self.unpaired:
            named = [self._named(name) for name in self.unpaired]
            hint = f"; --pair-by '{self.suggestion}' would pair more" if self.suggestion else ""
            yield (
                f"{len(self.unpaired)} of {n} files in {folder} have no original in {reference}: "
                f"{few(named)}{hint}"
            )
        if self.originals and self.childless:
            yield (
                f"{len(self.childless)} files in {reference} have no version in {folder}: "
                f"{few(self.childless)}"
            )

    def _named(self, name: str) -> str:
        fitting = self.ambiguous.get(name, ())[:3]
        return f"{name} (it could be a version of {' or '.join(fitting)})" if fitting else name


def pair(names: Sequence[str], originals: Sequence[str], rule: str = DEFAULT_RULE) -> Pairing:
    """Find each file's original; names are paths below their folders, with suffixes.

    Raises:
        InputError: If the rule is none of those above.
    """
    found, ambiguous = _match(names, originals, rule)
    unpaired = [name for name in names if name not in found]
    taken = set(found.values())
    return Pairing(
        originals=found,
        ambiguous=ambiguous,
        unpaired=unpaired,
        childless=[name for name in originals if name not in taken],
        suggestion=_suggestion(names, originals, unpaired) if unpaired else None,
    )


def _match(
    names: Iterable[str], originals: Iterable[str], rule: str
) -> tuple[dict[str, str], dict[str, Sequence[str]]]:
    ours, theirs = _keys(rule)
    by_key: dict[str | None, list[str]] = {}
    for other in originals:
        by_key.setdefault(theirs(other), []).append(other)
    by_key.pop(None, None)
    found: dict[str, str] = {}
    ambiguous: dict[str, Sequence[str]] = {}
    for name in names:
        fitting = by_key.get(ours(name), [])
        same = [other for other in fitting if other == name]
        beside = [o for o in fitting if PurePosixPath(o).parent == PurePosixPath(name).parent]
        chosen = same or beside or fitting
        if len(chosen) == 1:
            found[name] = chosen[0]
        elif chosen:
            ambiguous[name] = chosen
    return found, ambiguous


def _keys(rule: str) -> tuple[Key, Key]:
    """What a rule makes of a version's name and of an original's."""
    if rule in ("path", "stem"):
        return (_path, _path) if rule == "path" else (_stem, _stem)
    ours, told, theirs = rule.partition("=")
    return _template(ours, rule), _template(theirs if told else "{}", rule)


def _path(name: str) -> str:
    return unicodedata.normalize("NFC", str(PurePosixPath(name).with_suffix("")))


def _stem(name: str) -> str:
    return PurePosixPath(_path(name)).name


def _template(template: str, rule: str) -> Key:
    if template.count("{}") != 1:
        raise InputError(
            f"--pair-by {rule!r} is neither path, nor stem, nor a template with one {{}} on each "
            "side of its =, such as '{}_gen' for a_gen.wav, a version of a.wav"
        )
    parts = re.split(r"(\{\}|\*)", unicodedata.normalize("NFC", template))
    meaning = {"{}": "(.+?)", "*": ".*?"}
    pattern = re.compile("".join(meaning.get(part, re.escape(part)) for part in parts))
    part_of = _path if "/" in template else _stem

    def key(name: str) -> str | None:
        match = pattern.fullmatch(part_of(name))
        return match[1] if match else None

    return key


def _pieces(stem: str) -> list[tuple[str, str]]:
    """The pieces of a stem between separators, the longest first, each with its template."""
    words = [match.span() for match in re.finditer(r"[^\W_]+", stem)][:12]
    spans = [(a[0], b[1]) for a, b in combinations([*words, *words], 2) if a[0] <= b[0]]
    spans = sorted(set(spans) - {(0, len(stem))}, key=lambda span: span[0] - span[1])
    return [(stem[a:b], f"{stem[:a]}{{}}{stem[b:]}") for a, b in spans]


def _suggestion(
    names: Sequence[str], originals: Sequence[str], unpaired: Sequence[str]
) -> str | None:
    """The rule that pairs most of all names, None if none pairs more than are paired."""
    theirs, ours = {_stem(name) for name in originals}, {_stem(name) for name in names}
    tried: Counter[str] = Counter()
    for name in unpaired:
        tried.update(rule for piece, rule in _pieces(_stem(name)) if piece in theirs)
    for name in originals:
        tried.update(f"{{}}={rule}" for piece, rule in _pieces(_stem(name)) if piece in ours)
    best, most = None, len(names) - len(unpaired)
    for rule in [DEFAULT_RULE, "stem", *(rule for rule, _ in tried.most_common(4))]:
        n = len(_match(names, originals, rule)[0])
        best, most = (rule, n) if n > most else (best, most)
    return best


def unrelated(clips: Sequence[StoredClip], originals: Sequence[StoredClip]) -> Iterator[str]:
    """What to say if clips are no nearer to their own originals than to others.

    Where originals sound the same, or only one pairs, nothing can be told and nothing is said.
    """
    by_name = {clip.prompt_id: clip for clip in originals}
    pairs = [(clip, by_name[clip.prompt_id]) for clip in clips if clip.prompt_id in by_name]
    pairs = pairs[:: max(1, -(-len(pairs) // _PAIRS))]
    if len(pairs) < 2:
        return
    cache = ContentCache("likeness")
    key = content_hash(computed_by(__name__), [[clip.audio_id for clip in pair] for pair in pairs])
    found = cache.read(key, lambda kept: (float(kept["share"]), int(kept["n"])))
    if found is None:
        levels = []
        for clip, original in pairs:
            with suppress(InputError):  # it holds nothing at this rate, and scores name it
                levels.append((_levels(clip), _levels(original)))
        found = _share_nearer(*zip(*levels, strict=True)), len(levels)
        cache.write(key, {"share": found[0], "n": found[1]})
    share, n = found
    if share < _ENOUGH:
        yield (
            f"the pairs look unrelated: of {n} clips looked at, one is nearer to its own original "
            f"than to another in {100 * share:.0f} of 100 cases (50 by chance); see --pair-by"
        )


def _share_nearer(ours: Sequence[Floats] = (), theirs: Sequence[Floats] = ()) -> float:
    """How often a clip is nearer to its own original than to another one, 0 to 1."""
    gaps = _gaps(ours, theirs)
    nearer = np.diag(gaps)[:, None] < gaps
    told = nearer[_gaps(theirs, theirs) > _ALIKE]
    return float(told.mean()) if told.size else 1.0


def _levels(clip: StoredClip) -> Floats:
    """Levels of mel bands in dB around their mean, [frames, M]."""
    wave, rate = clip.read(_RATE, _SECONDS)
    power = mel_power(wave, rate, _WINDOW, _BANDS)
    levels: Floats = 10.0 * np.log10(np.maximum(power, 1e-10))
    levels -= levels.mean()
    return levels


def _gaps(some: Sequence[Floats], others: Sequence[Floats]) -> Floats:
    """The mean distance of the levels of each two over what both last, in dB, [N, N]."""
    gaps = np.zeros((len(some), len(others)))
    for (i, a), (j, b) in product(enumerate(some), enumerate(others)):
        frames = min(len(a), len(b))
        gaps[i, j] = np.abs(a[:frames] - b[:frames]).mean()
    return gaps
