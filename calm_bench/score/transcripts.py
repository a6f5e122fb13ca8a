"""Transcripts of clips, each clip heard once per machine and recogniser."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from calm_bench.asr.recognizer import Recognizer, Transcripts
from calm_bench.core.progress import Advance, stage
from calm_bench.core.ranks import Ranks
from calm_bench.errors import describe
from calm_bench.score.clips import StoredClip
from calm_bench.store.records import TranscriptRecord
from calm_bench.store.run_store import RunStore
from calm_bench.types import Transcript, Wave


def hear_in_parts(clips: Mapping[str, StoredClip], recognizer: Recognizer, ranks: Ranks) -> None:
    """Hear what this rank takes of the clips, a few at a time, for the cache that all look into."""
    kept, left = Transcripts(recognizer), list(clips.values())
    with stage("transcribing", len(left)) as advance:
        for first in range(0, len(left), size := recognizer.threads * max(4, recognizer.at_once)):
            if not ranks.take("transcripts", kept.recipe_id, first):
                continue
            missing = [c for c in left[first : first + size] if kept.get(c.audio_id) is None]
            answers = zip(missing, _hear(missing, recognizer, advance), strict=True)
            for clip, answer in answers:
                if not isinstance(answer, Exception):  # `transcribe` meets it again, and says so
                    kept.keep(clip.audio_id, answer)


def transcribe(
    clips: Mapping[str, StoredClip], recognizer: Recognizer, store: RunStore | None
) -> tuple[Mapping[str, Transcript], Mapping[str, str]]:
    """By audio id, what is heard in each clip, and why nothing could be in some of them.

    New transcripts go to the run, in the order of the clips, and to the cache. What the run holds
    is not taken from there: it does not say by which code it was heard. Without a store nothing is
    recorded.
    """
    kept = Transcripts(recognizer)
    records = store.read(TranscriptRecord) if store else []
    known = {r.clip_id: r for r in records if r.recipe_id == kept.recipe_id}
    found = {audio_id: kept.get(audio_id) for audio_id in clips}
    missing = [clips[audio_id] for audio_id, transcript in found.items() if transcript is None]
    heard, failures = dict[str, Transcript](), dict[str, str]()
    with ExitStack() as stack:
        if missing:
            bar = stage("transcribing", len(clips), len(clips) - len(missing))
            new = _hear(missing, recognizer, stack.enter_context(bar))
        for audio_id, transcript in found.items():
            if transcript is None:
                answer = next(new)
                if isinstance(answer, Exception):
                    failures[audio_id] = describe(answer)
                    continue
                transcript = kept.keep(audio_id, answer)
            record = TranscriptRecord.of(audio_id, kept.recipe_id, transcript)
            if store and known.get(audio_id) != record:
                store.append(record)
            heard[audio_id] = transcript
    return heard, failures


def _hear(
    clips: Sequence[StoredClip], recognizer: Recognizer, advance: Advance
) -> Iterator[Transcript | Exception]:
    """What the recogniser makes of each clip, or what it raised."""
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
