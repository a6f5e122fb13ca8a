"""Transcripts of clips, each clip heard once per machine and recogniser."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from calm_bench.asr.recognizer import Recognizer, Transcripts
from calm_bench.core.audio import read_audio
from calm_bench.core.progress import stage
from calm_bench.errors import describe
from calm_bench.store.records import TranscriptRecord
from calm_bench.store.run_store import RunStore
from calm_bench.types import Transcript, Wave


def transcribe(
    paths: Mapping[str, Path], recognizer: Recognizer, store: RunStore
) -> tuple[Mapping[str, Transcript], Mapping[str, str]]:
    """By audio id, what is heard in each clip, and why nothing could be in some of them.

    New transcripts go to the run, in the order of the clips, and to the cache. What the run holds
    is not taken from there: it does not say by which code it was heard.
    """
    kept = Transcripts(recognizer)
    known = {r.clip_id: r for r in store.read(TranscriptRecord) if r.recipe_id == kept.recipe_id}
    found = {audio_id: kept.get(audio_id) for audio_id in paths}
    missing = [paths[audio_id] for audio_id, transcript in found.items() if transcript is None]
    new = _hear(missing, recognizer, len(paths))
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
    paths: Sequence[Path], recognizer: Recognizer, total: int
) -> Iterator[Transcript | Exception]:
    """What the recogniser makes of each file, or what it raised, under a progress bar."""
    if not paths:
        return
    with stage("transcribing", total, total - len(paths)) as advance:
        left = list(paths)
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


def _hear_alone(path: Path, recognizer: Recognizer) -> Transcript | Exception:
    """Another clip that was read ahead may have failed, and not this one."""
    try:
        return next(iter(recognizer.transcribe_all(_audio([path]))))
    except Exception as error:
        return error


def _audio(paths: Sequence[Path]) -> Iterator[tuple[Wave, int]]:
    return (read_audio(path) for path in tuple(paths))
