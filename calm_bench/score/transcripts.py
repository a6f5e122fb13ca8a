"""Transcripts of clips, each clip heard once per machine and recogniser."""

from collections.abc import Iterator, Mapping, Sequence

from calm_bench.asr.recognizer import Recognizer, Transcripts
from calm_bench.core.progress import stage
from calm_bench.errors import describe
from calm_bench.score.clips import StoredClip
from calm_bench.store.records import TranscriptRecord
from calm_bench.store.run_store import RunStore
from calm_bench.types import Transcript, Wave


def transcribe(
    clips: Mapping[str, StoredClip], recognizer: Recognizer, store: RunStore
) -> tuple[Mapping[str, Transcript], Mapping[str, str]]:
    """By audio id, what is heard in each clip, and why nothing could be in some of them.

    New transcripts go to the run, in the order of the clips, and to the cache. What the run holds
    is not taken from there: it does not say by which code it was heard.
    """
    kept = Transcripts(recognizer)
    known = {r.clip_id: r for r in store.read(TranscriptRecord) if r.recipe_id == kept.recipe_id}
    found = {audio_id: kept.get(audio_id) for audio_id in clips}
    missing = [clips[audio_id] for audio_id, transcript in found.items() if transcript is None]
    new = _hear(missing, recognizer, len(clips))
    heard, failures = dict[str, Transcript](), dict[str, str]()
    for audio_id, transcript in found.items():
        if transcript is None:
            answer = next(new)
            if isinstance(answer, Exception):
                failures[audio_id] = describe(answer)
                continue
            transcript = kept.keep(audio_id, answer)
        record = TranscriptRecord.of(audio_id, kept.recipe_id, transcript)
        if known.get(audio_id) != record:
            store.append(record)
        heard[audio_id] = transcript
    return heard, failures


def _hear(
    clips: Sequence[StoredClip], recognizer: Recognizer, total: int
) -> Iterator[Transcript | Exception]:
    """What the recogniser makes of each clip, or what it raised, under a progress bar."""
    if not clips:
        return
    with stage("transcribing", total, total - len(clips)) as advance:
        left = list(clips)
        while left:
            try:
                for transcript in recognizer.transcribe_all(_audio(left)):
                    del left[0]
                    advance(1)
                    yield transcript
                return
            except Exception:
                advance(1)
                yield _hear_alone(left.pop(0), recognizer)


def _hear_alone(clip: StoredClip, recognizer: Recognizer) -> Transcript | Exception:
    """Another clip that was read ahead may have failed, and not this one."""
    try:
        return next(iter(recognizer.transcribe_all(_audio([clip]))))
    except Exception as error:
        return error


def _audio(clips: Sequence[StoredClip]) -> Iterator[tuple[Wave, int]]:
    return (clip.read() for clip in tuple(clips))
