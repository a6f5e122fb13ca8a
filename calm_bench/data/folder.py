"""A corpus of the user's own: any folder or manifest of recordings, checked, split and listed.

The audio stays where it is; the corpus folder holds the manifest, and later the shards. What was
heard in a recording is kept on this machine, so a killed command goes on where it stopped.
"""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calm_bench.asr import load_recognizer
from calm_bench.asr.recognizer import Transcripts
from calm_bench.config import CORPORA
from calm_bench.core.audio import AudioFacts, probe_audio, readable
from calm_bench.core.cache import ContentCache
from calm_bench.core.code import computed_by
from calm_bench.core.files import is_there
from calm_bench.core.paths import expanded
from calm_bench.core.progress import counted, ordered_map
from calm_bench.core.sounds import hash_of, sound_of
from calm_bench.data.alignment import align_text, leaves_speech_out, left_out_note
from calm_bench.data.corpus import (
    CorpusCard,
    Item,
    Skipped,
    Split,
    card_of,
    working_on,
    write_corpus,
)
from calm_bench.data.layouts import find_recordings, refuse_other_languages
from calm_bench.data.sources import Candidate
from calm_bench.data.splits import assign_splits
from calm_bench.errors import InputError
from calm_bench.seeds import content_hash
from calm_bench.types import TimedWord, Transcript, WordTimes, timed

TOLERANCE = 0.05
"""Seconds by which a list may be wrong about where a file ends."""
SILENCE_DBFS = -60.0
"""Recordings that are never louder are skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOptions:
    """How a folder is read.

    Attributes:
        layout: auto, or one of `layouts.LAYOUTS`.
        group_by: What stays in one split: auto, folder, none or a pattern (`splits.grouped`).
        licence: On which terms the recordings were had, where the source does not say it.
        min_seconds: Shorter recordings are skipped.
        transcribe: A recogniser (`faster-whisper`) for missing texts and word times; None to leave
            them unknown.
    """

    layout: str = "auto"
    group_by: str = "auto"
    licence: str | None = None
    min_seconds: float = 1.0
    transcribe: str | None = None


def make_folder(
    source: Path, out: Path, options: FolderOptions | None = None, *, jobs: int | None = None
) -> CorpusCard:
    """List the usable recordings of `source` in a corpus at `out` and return its corpus.json.

    Raises:
        InputError: If the source cannot be read as what it is, or nothing in it can be used.
        BenchError: If another process is working on the corpus.
    """
    options, source = options or FolderOptions(), expanded(source, "the source")
    listed = find_recordings(source.resolve(), options.layout, options.group_by)
    candidates = listed.recordings
    if options.transcribe is not None:
        refuse_other_languages(candidates, options.transcribe)
    with working_on(out):
        kept, skipped = keep_usable(candidates, inspect(candidates, jobs), options)
        if not kept:
            why, n = _reasons(skipped), len(skipped)
            raise InputError(f"none of the {n} recordings in {source} is usable: {why}")
        hashes = [found.sound.audio_id for found in kept]
        splits, remarks = assign_splits([found.candidate for found in kept], hashes)
        items = [
            _item(found, split, options.licence) for found, split in zip(kept, splits, strict=True)
        ]
        remarks += left_out_note([*_partly_timed(items, hashes, out)])
        checks: dict[str, Any] = {}
        if options.transcribe is not None:
            items, checks["text"] = _transcribe(items, hashes, out, options.transcribe)
        remarks += [remark for found in kept for remark in found.sound.remarks]
        settings = {"source": str(source), **asdict(options), "layout": listed.layout}
        return write_corpus(
            out,
            items,
            kind="folder",
            settings=settings,
            skipped=skipped,
            checks=checks,
            notes=[*_replaced(out, settings), *listed.notes, *remarks],
        )


def _replaced(out: Path, settings: dict[str, Any]) -> list[str]:
    """A note where a corpus of another source or other options lies."""
    if not is_there(out / "corpus.json"):
        return []
    try:
        known = card_of(out).settings == settings
    except InputError:
        return []  # damaged, and about to be whole again
    if known:
        return []
    return [f"this takes the place of a corpus that `{data_command(out, out.name)}` made"]


def data_command(corpus: Path, name: str) -> str:
    """The command that makes a corpus again, ours or the user's own, which recipes call `name`.

    Raises:
        InputError: If the folder holds no corpus.
    """
    card = card_of(corpus)
    if card.kind == "folder":
        return folder_command(corpus)
    if name in CORPORA:
        return f"calm-bench data {name}"
    words = ["calm-bench", "data", "voices" if "voices" in card.settings else card.kind]
    settings = {"seed": 0, **card.settings}
    counts = settings.get("stories") or settings.get("recordings") or {}
    asked = {**counts, "sample-rate": settings.get("sample_rate"), "seed": settings["seed"]}
    for option, value in {**asked, "out": name}.items():
        words += [] if value is None else [f"--{option}", str(value)]
    return shlex.join(words)


def folder_command(corpus: Path, **changes: str) -> str:
    """The command that lists a corpus of the user's own again, by what its corpus.json says.

    Args:
        corpus: Its folder.
        changes: Options of `FolderOptions` to be others than they were.

    Raises:
        InputError: If the folder holds no corpus.
    """
    settings = {**card_of(corpus).settings, **changes}
    plain = {**asdict(FolderOptions()), "layout": "files"}
    words = ["calm-bench", "data", "folder", str(settings.get("source", "RECORDINGS"))]
    words += ["--out", str(corpus)]
    for name in ("layout", "group_by", "licence", "min_seconds", "transcribe"):
        if (value := settings.get(name)) not in (None, plain[name]):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _reasons(skipped: Iterable[Skipped]) -> str:
    """Each kind of reason with its first file and how many more there are, frequent ones first."""
    kinds: dict[str, list[Skipped]] = {}
    for one in skipped:
        kinds.setdefault(one.reason.partition(":")[0], []).append(one)
    return "; ".join(
        f"{same[0].audio}: {same[0].reason}"
        + (f", and {len(same) - 1} more like it" if len(same) > 1 else "")
        for same in sorted(kinds.values(), key=len, reverse=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """A recording that was listened to, to its end: a header may promise what the rest lacks.

    The same recording has one `audio_id` as FLAC and as WAV. `start` is where a stretch of a
    file begins, None if it is the whole file.
    """

    candidate: Candidate
    sha256: str
    start: float | None
    sound: AudioFacts

    @property
    def seconds(self) -> float:
        """How long it is."""
        return round(self.sound.n_samples / self.sound.sample_rate, 4)


def inspect(
    candidates: Sequence[Candidate], jobs: int | None = None
) -> Iterator[Inspected | InputError]:
    """What every candidate holds, or why it cannot be read, in order.

    A file is known by what it holds: it is decoded once, however often it is listed; one put in its
    place is seen, whatever its size and date, and one that was moved is not decoded again.
    """

    def look(candidate: Candidate) -> Inspected | InputError:
        path = candidate.path
        try:
            with readable(path):
                sha256, stretch = hash_of(path), _stretch(candidate)
                sound = sound_of(path, *stretch or ())
        except InputError as error:
            return error
        start = stretch[0] if stretch else None
        return Inspected(candidate=candidate, sha256=sha256, start=start, sound=sound)

    results = ordered_map(look, candidates, jobs)
    return counted(results, len(candidates), "inspecting recordings")


def _stretch(candidate: Candidate) -> tuple[float, float] | None:
    """From where on and how long a recording is in its file; None for the whole of it."""
    if candidate.start is None:
        return None
    start, whole = candidate.start, probe_audio(candidate.path).seconds
    end = whole if candidate.seconds is None else start + candidate.seconds
    if start >= whole or end > whole + TOLERANCE:
        raise InputError(f"{candidate.path} lasts {whole:g} s and has no {start:g} to {end:g} s")
    if start == 0 and end >= whole - TOLERANCE:
        return None
    return start, min(end, whole) - start


def keep_usable(
    candidates: Sequence[Candidate],
    inspected: Iterable[Inspected | InputError],
    options: FolderOptions,
) -> tuple[list[Inspected], list[Skipped]]:
    """The recordings that can be used and those that cannot, each with its reason.

    Of recordings with the same audio the first in the list is kept.
    """
    kept: dict[str, Inspected] = {}
    skipped = []
    for candidate, found in zip(candidates, inspected, strict=True):
        failed = isinstance(found, InputError)
        if isinstance(found, InputError):
            reason: str | None = str(found).removeprefix(f"{candidate.path} ")
        elif (reason := _useless(found, options)) is None:
            first = kept.setdefault(found.sound.audio_id, found)
            reason = None if first is found else _repeated(candidate, first.candidate)
        if reason is not None:
            place = "" if candidate.start is None else f" from {candidate.start:g} s"
            skipped.append(Skipped(audio=f"{candidate.path}{place}", reason=reason, failed=failed))
    return list(kept.values()), skipped


def _useless(found: Inspected, options: FolderOptions) -> str | None:
    """Why a recording that can be read is of no use; None if it is of some."""
    if found.seconds < options.min_seconds:
        return f"too short: {found.seconds:.2f} s, less than {options.min_seconds:g} s"
    level = found.sound.level_dbfs
    if level is None:
        return "silent: every sample is zero"
    return f"silent: never louder than {level:.0f} dBFS" if level < SILENCE_DBFS else None


def _repeated(candidate: Candidate, first: Candidate) -> str:
    reason = f"duplicate: the same audio as {first.path}"
    if candidate.split != first.split:
        reason += f", which is in {first.split}, this one in {candidate.split}"
    return reason


def _item(found: Inspected, split: Split, licence: str | None) -> Item:
    candidate = found.candidate
    text, words = candidate.text, candidate.words
    if text is None and words is not None:
        text = " ".join(word for word, _, _ in words)
    return Item(
        id=candidate.id,
        split=split,
        audio=str(candidate.path.resolve()),
        sample_rate=found.sound.sample_rate,
        channels=found.sound.channels,
        seconds=found.seconds,
        offset=found.start,
        sha256=found.sha256,
        text=text,
        words=words,
        speaker=candidate.speaker,
        work=candidate.work,
        licence=candidate.licence or licence,
    )


def _partly_timed(items: Sequence[Item], hashes: Sequence[str], out: Path) -> Iterator[str]:
    """The recordings that come with timed words which leave speech out."""
    cache = ContentCache("sparse")
    for item, audio_hash in zip(items, hashes, strict=True):
        if item.words is None:
            continue
        code = computed_by(leaves_speech_out.__module__)
        key = content_hash(code, audio_hash, item.words, length=40)
        known = cache.read(key, bool)
        if known is None:
            known = leaves_speech_out(timed(item.words), *item.read(out))
            cache.write(key, known)
        if known:
            yield item.id


def _transcribe(
    items: Sequence[Item], hashes: Sequence[str], out: Path, name: str
) -> tuple[list[Item], dict[str, Any]]:
    """Items with a heard text where none was given and times where none were known."""
    recognizer = load_recognizer(name)
    kept = Transcripts(recognizer)
    wanted = {sha: item for item, sha in zip(items, hashes, strict=True) if item.words is None}
    heard = {sha: known for sha in wanted if (known := kept.get(sha)) is not None}
    unheard = [sha for sha in wanted if sha not in heard]
    waves = (wanted[sha].read(out) for sha in unheard)
    answers = counted(
        recognizer.transcribe_all(waves), len(wanted), "transcribing", done=len(heard)
    )
    for sha, answer in zip(unheard, answers, strict=True):
        heard[sha] = kept.keep(sha, answer)
    counts = {"transcribed": 0, "aligned": 0, "not_aligned": 0, "nothing_heard": 0}
    result = {item.id: item for item in items}
    for sha, item in wanted.items():
        result[item.id], outcome = _with_words(item, heard[sha])
        counts[outcome] += 1
    return list(result.values()), {"recogniser": dict(recognizer.recipe), **counts}


def _with_words(item: Item, heard: Transcript) -> tuple[Item, str]:
    if item.text is None:
        if not heard.words:
            return item, "nothing_heard"
        known = {"text": heard.text, "text_source": "transcribed"}
        return item.model_copy(update={**known, "words": _triples(heard.words)}), "transcribed"
    aligned = align_text(item.text, heard.words, item.seconds, heard.language)
    if aligned is None:
        return item, "not_aligned"
    return item.model_copy(update={"words": _triples(aligned)}), "aligned"


def _triples(words: Sequence[TimedWord]) -> tuple[WordTimes, ...]:
    return tuple((word.word, round(word.start, 4), round(word.end, 4)) for word in words)
