"""A corpus of the user's own: any folder or manifest of recordings, checked, split and listed.

The audio stays where it is; the corpus folder holds the manifest, what was found out on the way,
and later the shards. Every answer is journalled, so a killed command goes on where it stopped.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calm_bench.asr import load_recognizer
from calm_bench.core.code import computed_by
from calm_bench.core.progress import counted
from calm_bench.data.alignment import align_text, leaves_speech_out, left_out_note
from calm_bench.data.corpus import CorpusCard, Item, Skipped, Split, working_on, write_corpus
from calm_bench.data.inspection import Facts, Journal, inspect, keep_usable
from calm_bench.data.layouts import find_recordings, refuse_other_languages
from calm_bench.data.sources import Candidate
from calm_bench.data.splits import assign_splits
from calm_bench.errors import InputError
from calm_bench.seeds import content_hash
from calm_bench.types import TimedWord, WordTimes, timed


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOptions:
    """How a folder is read.

    Attributes:
        layout: auto, or one of `layouts.LAYOUTS`.
        group_by: What stays in one split: auto, folder, none or a pattern (`splits.grouped`).
        licence: On which terms the recordings were had, where the source does not say it.
        min_seconds: Shorter recordings are skipped.
        silence_dbfs: Recordings that are never louder are skipped.
        validation: Share of groups for validation, where the source gives no split.
        test: Share for test.
        transcribe: A recogniser (`faster-whisper`) for missing texts and word times; None to leave
            them unknown.
    """

    layout: str = "auto"
    group_by: str = "auto"
    licence: str | None = None
    min_seconds: float = 1.0
    silence_dbfs: float = -60.0
    validation: float = 0.05
    test: float = 0.1
    transcribe: str | None = None

    def __post_init__(self) -> None:
        if not (self.validation >= 0 and self.test >= 0 and self.validation + self.test < 1):
            raise InputError(
                "the shares for validation and test must be at least 0 and leave some for training"
            )


def make_folder(
    source: Path, out: Path, options: FolderOptions | None = None, *, jobs: int | None = None
) -> CorpusCard:
    """List the usable recordings of `source` in a corpus at `out` and return its corpus.json.

    Raises:
        InputError: If the source cannot be read as what it is, or nothing in it can be used.
        BenchError: If another process is working on the corpus.
    """
    options = options or FolderOptions()
    listed = find_recordings(source.expanduser().resolve(), options.layout, options.group_by)
    candidates = listed.recordings
    if options.transcribe is not None:
        refuse_other_languages(candidates, options.transcribe)
    with working_on(out):
        journal = Journal(out / "inspected.jsonl")
        facts = list(inspect(candidates, journal, jobs))
        kept, skipped = keep_usable(
            candidates, facts, min_seconds=options.min_seconds, silence_dbfs=options.silence_dbfs
        )
        if not kept:
            why, n = _reasons(skipped), len(skipped)
            raise InputError(f"none of the {n} recordings in {source} is usable: {why}")
        hashes = [found.audio_hash for _, found in kept]
        shares: dict[Split, float] = {"validation": options.validation, "test": options.test}
        splits, remarks = assign_splits([candidate for candidate, _ in kept], hashes, shares)
        items = [
            _item(candidate, found, split, options.licence)
            for (candidate, found), split in zip(kept, splits, strict=True)
        ]
        remarks += left_out_note([*_partly_timed(items, hashes, out, journal)])
        checks: dict[str, Any] = {}
        if options.transcribe is not None:
            items, checks["text"] = _transcribe(items, hashes, out, options.transcribe)
        remarks += [remark for _, found in kept for remark in found.remarks]
        return write_corpus(
            out,
            items,
            kind="folder",
            settings={"source": str(source), **asdict(options), "layout": listed.layout},
            skipped=skipped,
            checks=checks,
            notes=[*listed.notes, *remarks],
        )


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


def _item(candidate: Candidate, found: Facts, split: Split, licence: str | None) -> Item:
    text, words = candidate.text, candidate.words
    if text is None and words is not None:
        text = " ".join(word for word, _, _ in words)
    return Item(
        id=candidate.id,
        split=split,
        audio=str(candidate.path.resolve()),
        sample_rate=found.sample_rate,
        channels=found.channels,
        seconds=found.seconds,
        offset=found.start,
        sha256=found.sha256,
        text=text,
        words=words,
        speaker=candidate.speaker,
        work=candidate.work,
        licence=candidate.licence or licence,
    )


def _partly_timed(
    items: Sequence[Item], hashes: Sequence[str], out: Path, journal: Journal
) -> Iterator[str]:
    """The recordings that come with timed words which leave speech out."""
    for item, audio_hash in zip(items, hashes, strict=True):
        if item.words is None:
            continue
        code = computed_by(leaves_speech_out.__module__)
        key = content_hash("speech left out", code, audio_hash, item.words)
        known = journal.get(key)
        if known is None:
            known = leaves_speech_out(timed(item.words), *item.read(out))
            journal.put(key, known)
        if known:
            yield item.id


def _transcribe(
    items: Sequence[Item], hashes: Sequence[str], out: Path, name: str
) -> tuple[list[Item], dict[str, Any]]:
    """Items with a heard text where none was given and times where none were known."""
    recognizer = load_recognizer(name)
    journal = Journal(out / "heard.jsonl")
    recipe = content_hash(dict(recognizer.recipe))
    keys = {item.id: f"{sha} {recipe}" for item, sha in zip(items, hashes, strict=True)}
    wanted = [item for item in items if item.words is None]
    unheard = [item for item in wanted if journal.get(keys[item.id]) is None]
    waves = (item.read(out) for item in unheard)
    done = len(wanted) - len(unheard)
    heard = counted(recognizer.transcribe_all(waves), len(wanted), "transcribing", done)
    for item, transcript in zip(unheard, heard, strict=True):
        journal.put(keys[item.id], asdict(transcript))
    counts = {"transcribed": 0, "aligned": 0, "not_aligned": 0, "nothing_heard": 0}
    result = []
    for item in items:
        known = item
        if item.words is None:
            known, outcome = _with_words(item, journal.get(keys[item.id]))
            counts[outcome] += 1
        result.append(known)
    return result, {"recogniser": dict(recognizer.recipe), **counts}


def _with_words(item: Item, heard: Any) -> tuple[Item, str]:
    """An item with its words and what became of it."""
    words = tuple(TimedWord(**word) for word in heard["words"])
    if item.text is None:
        if not words:
            return item, "nothing_heard"
        known = {"text": heard["text"], "text_source": "transcribed"}
        return item.model_copy(update={**known, "words": _triples(words)}), "transcribed"
    aligned = align_text(item.text, words, item.seconds, heard["language"])
    if aligned is None:
        return item, "not_aligned"
    return item.model_copy(update={"words": _triples(aligned)}), "aligned"


def _triples(words: Sequence[TimedWord]) -> tuple[WordTimes, ...]:
    return tuple((word.word, round(word.start, 4), round(word.end, 4)) for word in words)
