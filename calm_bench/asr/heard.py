"""What is heard in a recording, each heard once per machine and recogniser."""

from collections.abc import Mapping
from typing import Any

from calm_bench.asr import Recognizer
from calm_bench.core.audio import audio_hash
from calm_bench.core.cache import ContentCache
from calm_bench.core.code import computed_by
from calm_bench.seeds import content_hash
from calm_bench.store.records import TranscriptRecord
from calm_bench.types import Transcript, Wave


def recipe_id_of(recipe: Mapping[str, Any]) -> str:
    """The short hash that a recipe goes by in records and results."""
    return content_hash(dict(recipe), length=12)


def hear(wave: Wave, sample_rate: int, recognizer: Recognizer) -> Transcript:
    """What is heard in a recording that is no clip of a run."""
    recipe_id, audio_id = recipe_id_of(recognizer.recipe), audio_hash(wave, sample_rate)
    cache, key = ContentCache("transcripts"), _key(recognizer, audio_id)
    if (kept := _load(cache.read(key))) is not None:
        return kept.transcript
    heard = recognizer.transcribe(wave, sample_rate)
    record = TranscriptRecord.of(audio_id, recipe_id, heard)
    cache.write(key, record.model_dump(mode="json"))
    return heard


def _key(recognizer: Recognizer, audio_id: str) -> str:
    code = computed_by(type(recognizer).__module__, __name__)
    return content_hash(recipe_id_of(recognizer.recipe), code, audio_id, length=40)


def _load(kept: Any | None) -> TranscriptRecord | None:
    return None if kept is None else TranscriptRecord.model_validate(kept)
