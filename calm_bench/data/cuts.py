"""Prompts with their real continuations, cut from the held-out recordings of a corpus."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path

from calm_bench.config import PromptSpec
from calm_bench.core.audio import write_flac
from calm_bench.core.files import growing_folder, replace
from calm_bench.core.paths import check_name
from calm_bench.core.progress import counted, ordered_map
from calm_bench.data.corpus import Item, Split, read_manifest
from calm_bench.data.prompts import read_prompt_specs
from calm_bench.data.sources import without_suffix
from calm_bench.errors import InputError
from calm_bench.seeds import file_hash
from calm_bench.types import WordTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """What is cut.

    Attributes:
        n: How many clips.
        seconds: The length of a clip.
        prompt_seconds: How much of it is the prompt.
        per_recording: At most so many of each recording.
        offset: Where the first clip of a recording begins, in seconds; None spreads the clips over
            the whole of it: one lies in its middle, two in the middles of its halves.
        sample_rate: The rate of what is written.
        split: Of which recordings. What is chosen on validation prompts is judged on test prompts.
    """

    n: int = 32
    seconds: float = 12.0
    prompt_seconds: float = 3.0
    per_recording: int = 1
    offset: float | None = None
    sample_rate: int = 16000
    split: Split = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clip:
    """A stretch of a recording, the `number`-th of those that are cut from it."""

    item: Item
    number: int
    start: float


def write_prompts(
    corpus: Path, out_dir: Path, name: str, cuts: Cuts, *, fresh: bool = False
) -> Path:
    """Cut the first `n` clips of a split's recordings that are long enough; none overlap.

    Recordings take turns, so that a shorter list has as many of them as it can. Where texts are
    known, a clip begins with a word, and one is passed over if what it says after `prompt_seconds`
    is said in one training recording word by word: a model could have learned that by heart.

    Writes `<out_dir>/<name>/<id>.flac` and `<out_dir>/<name>.jsonl`, whose path is returned. It
    names audio relative to the parent of `out_dir`, the benchmarks folder. Other prompts of this
    name are replaced only by a `fresh` list.

    Raises:
        InputError: If the corpus has too few recordings of this length in the split, or other
            prompts or what is no list lies there.
    """
    index = out_dir / f"{_named(name, '--name')}.jsonl"
    # What is no list of prompts is not ours to replace.
    listed = read_prompt_specs(index) if index.exists() else None
    known = read_manifest(corpus)
    held_out = [item for item in known if item.split == cuts.split]
    training = [_spoken(item, 0.0, math.inf) for item in known if item.split == "train"]

    def is_told(clip: _Clip) -> bool:
        start, end = clip.start + cuts.prompt_seconds, clip.start + cuts.seconds
        phrase = _spoken(clip.item, start, end)
        return bool(phrase) and any(phrase in text for text in training)

    every = _in_turns([_clips(item, cuts) for item in held_out])
    clips = [clip for clip in every if not is_told(clip)]
    if len(clips) < cuts.n:
        raise InputError(f"{corpus} has {_too_few(clips, held_out, cuts)}")

    place = f"{out_dir.absolute().name}/{name}"
    with growing_folder(out_dir / name) as folder:
        cut = partial(_cut, corpus, cuts, folder, place)
        specs = [*counted(ordered_map(cut, clips[: cuts.n]), cuts.n, "cutting prompts")]
        if not fresh:
            _refuse_others(index, listed, specs)
        (out_dir / name).mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.replace(out_dir / name / path.name)
        replace(index, "".join(f"{spec.model_dump_json()}\n" for spec in specs).encode())
    for gone in {spec.audio for spec in listed or ()} - {spec.audio for spec in specs}:
        if Path(gone).parent == Path(place):  # another list may have had another place
            (out_dir / name / Path(gone).name).unlink(missing_ok=True)
    return index


def _cut(corpus: Path, cuts: Cuts, folder: Path, place: str, clip: _Clip) -> PromptSpec:
    """A clip as a prompt, whose audio is written into a folder and will lie at a place."""
    item, rate = clip.item, cuts.sample_rate
    wave, _ = item.read(corpus, rate, start=clip.start, seconds=cuts.seconds)
    own = item.id if cuts.per_recording == 1 else f"{item.id}-{clip.number}"
    path = folder / f"{_named(own, 'a prompt')}.flac"
    write_flac(path, wave, rate)
    return PromptSpec(
        id=own,
        audio=f"{place}/{path.name}",
        sha256=file_hash(path),
        group=_group(item),
        # A transcribed text is no ground truth: the run transcribes the prompt and says so.
        words=_cut_words(clip, cuts.seconds) if item.text_source == "given" else None,
    )


def _refuse_others(
    index: Path, listed: Sequence[PromptSpec] | None, specs: Sequence[PromptSpec]
) -> None:
    """Refuse to replace other prompts; of a list of the same, audio that was lost is made again."""
    instead = "choose another --name, or replace it with --fresh"
    if listed is not None and list(listed) != list(specs):
        raise InputError(f"{index} lists other prompts than these: {instead}")
    for spec in specs if listed is None else ():
        path = index.parent / index.stem / Path(spec.audio).name
        if path.exists() and not (path.is_file() and file_hash(path) == spec.sha256):
            raise InputError(f"{path} is there already and is another prompt: {instead}")


def _named(name: str, what: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise InputError(f"{what}: {error}") from error


def _group(item: Item) -> str:
    """What hangs together: draws of one work, stretches of one file, or one recording's clips."""
    if item.work is not None:
        return item.work
    return item.id if item.offset is None else without_suffix(Path(item.audio).name)


def _too_few(clips: Sequence[_Clip], items: Sequence[Item], cuts: Cuts) -> str:
    n_long = len({clip.item.id for clip in clips})
    long = cuts.seconds + (cuts.offset or 0.0)
    of_all = f'a list of yours can say "split": "{cuts.split}" of all'
    if items and not any(_clips(item, cuts) for item in items):
        longest = max(item.seconds for item in items)
        return (
            f"no {cuts.split} recording of at least {long:g} s: the longest of {len(items)} lasts "
            f"{longest:.2f} s; --seconds asks for less, and {of_all}"
        )
    of_each = f", which give {len(clips)} clips" if len(clips) > n_long else ""
    return (
        f"{n_long} {cuts.split} recordings of at least {long:g} s{of_each}, not {cuts.n}: "
        f"--n asks for fewer, --per-recording takes more of each, and {of_all}"
    )


def _clips(item: Item, cuts: Cuts) -> list[_Clip]:
    """The clips of a recording: a part of it for each, the clip in the middle of its part."""
    first = cuts.offset or 0.0
    # What is a float's error short of a clip is one.
    n = min(cuts.per_recording, math.floor((item.seconds - first) / cuts.seconds + 1e-6))
    clips = []
    for number in range(n):
        part = (item.seconds - first) / n
        start = first + number * part
        if cuts.offset is None:
            start = _word_near(item, start, start + part - cuts.seconds)
        clips.append(_Clip(item=item, number=number + 1, start=math.floor(start * 1e4) / 1e4))
    return clips


def _word_near(item: Item, low: float, high: float) -> float:
    """The middle between two times, or where the word nearest to it begins, if one does there."""
    middle = (low + high) / 2
    starts = [start for _, start, _ in item.words or () if low <= start <= high]
    return min(starts, key=lambda start: abs(start - middle), default=middle)


def _in_turns(clips: Sequence[list[_Clip]]) -> list[_Clip]:
    """A clip of each recording, then the next: each begins elsewhere, so that no part leads."""
    turned = [
        own[k % len(own) :] + own[: k % len(own)] for k, own in enumerate(filter(None, clips))
    ]
    return [clip for clip in chain(*zip_longest(*turned)) if clip is not None]


def _spoken(item: Item, start: float, end: float) -> str:
    """The words that begin in a stretch of a recording, bare and between spaces; "" if unknown."""
    words = [word for word, at, _ in item.words or () if start <= at < end]
    bare = [re.sub(r"[^\w']", "", word).lower() for word in words]
    return f" {' '.join(bare)} " if bare else ""


def _cut_words(clip: _Clip, seconds: float) -> tuple[WordTimes, ...] | None:
    """The words that begin within the clip; the last may end with it in mid-word."""
    if clip.item.words is None:
        return None
    return tuple(
        (word, round(start - clip.start, 4), round(min(end - clip.start, seconds), 4))
        for word, start, end in clip.item.words
        if clip.start <= start < clip.start + seconds
    )
