"""Whether files that pair by their names also sound alike.

Folders that were paired wrongly give scores like any others. So a few clips are laid beside all of
the originals at hand: one that is nearer to half of the others than to its own was hardly made from
it. What is compared is the level of mel bands in windows of a quarter of a second, without the
overall level: what a codec, a filter or a short delay leaves as it is.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import product

import numpy as np
from numpy.typing import NDArray

from calm_bench.core.audio import read_audio
from calm_bench.core.cache import ContentCache
from calm_bench.core.code import computed_by
from calm_bench.core.spectra import mel_power
from calm_bench.errors import InputError
from calm_bench.score.clips import ClipEntry
from calm_bench.seeds import content_hash

Floats = NDArray[np.float64]

_PAIRS = 16
_SECONDS = 10.0
_RATE = 8000
_WINDOW = 2048
_BANDS = 32
_ALIKE = 1.0  # dB; originals nearer than this are the same recording
_ENOUGH = 0.75  # of the others must be farther than a clip's own original


def unrelated(clips: Sequence[ClipEntry], originals: Sequence[ClipEntry]) -> str | None:
    """What to say if clips are no nearer to their own originals than to others; None if they are.

    Where originals sound the same, or only one pairs, nothing can be told and nothing is said.
    """
    by_name = {entry.prompt_id: entry for entry in originals}
    pairs = [(clip, by_name[clip.prompt_id]) for clip in clips if clip.prompt_id in by_name]
    pairs = pairs[:: max(1, -(-len(pairs) // _PAIRS))]
    if len(pairs) < 2:
        return None
    cache = ContentCache("likeness")
    key = content_hash(computed_by(__name__), [[e.audio_id for e in pair] for pair in pairs])
    found = cache.read(key)
    if found is None:
        levels = list(_levels_of(pairs))
        found = {"share": _share_nearer(*zip(*levels, strict=True)), "n": len(levels)}
        cache.write(key, found)
    share, n = found["share"], found["n"]
    if share >= _ENOUGH:
        return None
    return (
        f"the pairs look unrelated: of {n} clips looked at, one is nearer to its own "
        f"original than to another in {100 * share:.0f} of 100 cases (50 by chance); see --pair-by"
    )


def _levels_of(pairs: Iterable[tuple[ClipEntry, ClipEntry]]) -> Iterator[tuple[Floats, Floats]]:
    """Both sides of each pair, but for those that hold nothing at this rate: scores name these."""
    for clip, original in pairs:
        with suppress(InputError):
            yield _levels(clip), _levels(original)


def _share_nearer(ours: Sequence[Floats] = (), theirs: Sequence[Floats] = ()) -> float:
    """How often a clip is nearer to its own original than to another one, 0 to 1."""
    gaps = _gaps(ours, theirs)
    nearer = np.diag(gaps)[:, None] < gaps
    told = nearer[_gaps(theirs, theirs) > _ALIKE]
    return float(told.mean()) if told.size else 1.0


def _levels(entry: ClipEntry) -> Floats:
    """Levels of mel bands in dB around their mean, [frames, M]."""
    wave, rate = read_audio(entry.path, _RATE, seconds=_SECONDS)
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
