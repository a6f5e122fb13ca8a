"""What is heard in a recording, each heard once per machine and recogniser."""

from dataclasses import asdict
from functools import cached_property

from pydantic import TypeAdapter

from calm_bench.asr import Recognizer
from calm_bench.core.audio import audio_hash
from calm_bench.core.cache import ContentCache
from calm_bench.core.code import computed_by
from calm_bench.seeds import content_hash, recipe_id_of
from calm_bench.types import Transcript, Wave

_TRANSCRIPT = TypeAdapter(Transcript)


class Heard:
    """What a recogniser has heard on this machine, by the content hash of the audio."""

    def __init__(self, recognizer: Recognizer) -> None:
        """Nothing is read yet."""
        self.recognizer = recognizer
        self._cache = ContentCache("transcripts")

    @cached_property
    def recipe_id(self) -> str:
        """What the recogniser's transcripts go by."""
        return recipe_id_of(self.recognizer.recipe)

    def get(self, audio_id: str) -> Transcript | None:
        """What was heard in this audio, or None if it never was."""
        kept = self._cache.read(self._key(audio_id))
        return None if kept is None else _TRANSCRIPT.validate_python(kept)

    def keep(self, audio_id: str, transcript: Transcript) -> None:
        """From now on this was heard in this audio."""
        self._cache.write(self._key(audio_id), asdict(transcript))

    def _key(self, audio_id: str) -> str:
        code = computed_by(type(self.recognizer).__module__, __name__)
        return content_hash(self.recipe_id, code, audio_id, length=40)


def hear(wave: Wave, sample_rate: int, recognizer: Recognizer) -> Transcript:
    """What is heard in a recording that is no clip of a run."""
    heard, audio_id = Heard(recognizer), audio_hash(wave, sample_rate)
    transcript = heard.get(audio_id)
    if transcript is None:
        transcript = recognizer.transcribe(wave, sample_rate)
        heard.keep(audio_id, transcript)
    return transcript
