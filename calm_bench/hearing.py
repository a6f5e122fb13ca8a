"""Transcripts of clips, each clip heard once per machine and recogniser."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from calm_bench.asr import Recognizer
from calm_bench.audio import read_audio
from calm_bench.cache import ContentCache
from calm_bench.progress import stage
from calm_bench.seeds import content_hash
from calm_bench.shelf import ClipEntry
from calm_bench.store import RunStore, TranscriptRecord
from calm_bench.types import Transcript, Wave

__all__ = ["recipe_id_of", "transcribe"]


def recipe_id_of(recipe: Mapping[str, Any]) -> str:
    """The short hash that a recipe goes by in records and results."""
    return content_hash(dict(recipe), length=12)


def transcribe(
    entries: Iterable[ClipEntry], recognizer: Recognizer, store: RunStore
) -> Mapping[str, Transcript]:
    """By audio id, what is heard in each clip; new transcripts go to the run and to the cache."""
    wanted = {entry.audio_id: entry for entry in entries}
    recipe_id = recipe_id_of(recognizer.recipe)
    cache = ContentCache("transcripts")
    found = {
        record.clip_id: record.transcript
        for record in store.read(TranscriptRecord)
        if record.recipe_id == recipe_id and record.clip_id in wanted
    }
    missing = []
    for audio_id in wanted.keys() - found.keys():
        kept = cache.read(f"{recipe_id}-{audio_id}")
        if kept is None:
            missing.append(wanted[audio_id])
            continue
        record = TranscriptRecord.model_validate(kept)
        store.append(record)
        found[audio_id] = record.transcript
    for record in _hear(sorted(missing, key=_order), recognizer, recipe_id, len(wanted)):
        cache.write(f"{recipe_id}-{record.clip_id}", record.model_dump(mode="json"))
        store.append(record)
        found[record.clip_id] = record.transcript
    return found


def _order(entry: ClipEntry) -> str:
    return str(entry.path)


def _hear(
    entries: Sequence[ClipEntry], recognizer: Recognizer, recipe_id: str, total: int
) -> Iterator[TranscriptRecord]:
    """Records as the recogniser makes them, under a progress bar."""
    if not entries:
        return

    def audio() -> Iterator[tuple[Wave, int]]:
        for entry in entries:
            yield read_audio(entry.path)

    with stage("transcribing", total, total - len(entries)) as advance:
        for entry, heard in zip(entries, recognizer.transcribe_all(audio()), strict=True):
            yield TranscriptRecord.of(entry.audio_id, recipe_id, heard)
            advance(1)
