"""Transcripts of clips, each clip heard once per machine and recogniser."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from calm_bench.asr import Recognizer
from calm_bench.asr.heard import Heard
from calm_bench.core.audio import read_audio
from calm_bench.core.progress import stage
from calm_bench.errors import describe
from calm_bench.score.clips import ClipEntry
from calm_bench.store.records import TranscriptRecord
from calm_bench.store.run_store import RunStore
from calm_bench.types import Transcript, Wave


def transcribe(
    entries: Iterable[ClipEntry], recognizer: Recognizer, store: RunStore
) -> tuple[Mapping[str, Transcript], Mapping[str, str]]:
    """By audio id, what is heard in each clip, and why nothing could be in some of them.

    New transcripts go to the run, in the order of the clips, and to the cache. What the run holds
    is not taken from there: it does not say by which code it was heard.
    """
    wanted = {entry.audio_id: entry for entry in entries}
    heard = Heard(recognizer)
    recipe_id = heard.recipe_id
    known = {r.clip_id: r for r in store.read(TranscriptRecord) if r.recipe_id == recipe_id}
    kept = {audio_id: heard.get(audio_id) for audio_id in wanted}
    missing = [wanted[audio_id] for audio_id, transcript in kept.items() if transcript is None]
    new = _hear(missing, recognizer, len(wanted))
    found, failures = {}, {}
    for audio_id, transcript in kept.items():
        if transcript is None:
            answer = next(new)
            if isinstance(answer, Exception):
                failures[audio_id] = describe(answer)
                continue
            transcript = answer
            heard.keep(audio_id, transcript)
        record = TranscriptRecord.of(audio_id, recipe_id, transcript)
        if known.get(audio_id) != record:
            store.append(record)
        found[audio_id] = transcript
    return found, failures


def _hear(
    entries: Sequence[ClipEntry], recognizer: Recognizer, total: int
) -> Iterator[Transcript | Exception]:
    """What the recogniser makes of each clip, or what it raised, under a progress bar."""
    if not entries:
        return
    with stage("transcribing", total, total - len(entries)) as advance:
        left = list(entries)
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


def _hear_alone(entry: ClipEntry, recognizer: Recognizer) -> Transcript | Exception:
    """Another clip that was read ahead may have failed, and not this one."""
    try:
        return next(iter(recognizer.transcribe_all(_audio([entry]))))
    except Exception as error:
        return error


def _audio(entries: Sequence[ClipEntry]) -> Iterator[tuple[Wave, int]]:
    return (read_audio(entry.path) for entry in tuple(entries))
