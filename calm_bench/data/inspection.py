"""What is found when a recording is listened to, and the reasons for which it is left out."""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from calm_bench.core.audio import examine, probe_audio, readable
from calm_bench.core.code import computed_by
from calm_bench.core.files import append_lines, committed_lines
from calm_bench.core.progress import counted, ordered_map
from calm_bench.data.corpus import Skipped
from calm_bench.data.sources import Candidate
from calm_bench.errors import InputError
from calm_bench.seeds import file_hash
from calm_bench.types import StrictModel

TOLERANCE = 0.05
"""Seconds by which a list may be wrong about where a file ends."""


class Facts(StrictModel):
    """What a sound file holds; `error` says why it cannot be read, and then the rest is empty.

    `audio_hash` is that of the decoded mono audio, so the same recording has one hash as FLAC and
    as WAV. `level_dbfs` is the loudest 0.1 s, None for digital silence. `start` is where a stretch
    of a file begins, None if it is the whole file.
    """

    sample_rate: int = 0
    channels: int = 0
    seconds: float = 0.0
    sha256: str = ""
    audio_hash: str = ""
    start: float | None = None
    level_dbfs: float | None = None
    remarks: tuple[str, ...] = ()
    error: str | None = None


class Journal:
    """Answers that were dear to get, one JSON line each, so that a killed command keeps them."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier start has written; a torn last line is dropped."""
        self.path = path
        self._lock = threading.Lock()
        records = [json.loads(line) for line in committed_lines(path)]
        self._known: dict[str, Any] = {record["key"]: record["value"] for record in records}

    def get(self, key: str) -> Any | None:
        """The answer under a key, None if there is none."""
        return self._known.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep an answer."""
        line = json.dumps({"key": key, "value": value}, ensure_ascii=False)
        with self._lock:
            append_lines(self.path, f"{line}\n".encode())
            self._known[key] = value


def _look(candidate: Candidate, sha256: str) -> Facts:
    """Decode a recording to its end: a header may promise what the rest does not keep."""
    start, seconds = _stretch(candidate)
    found = examine(candidate.path, start or 0.0, seconds)
    return Facts(
        sample_rate=found.sample_rate,
        channels=found.channels,
        seconds=round(found.n_samples / found.sample_rate, 4),
        sha256=sha256,
        audio_hash=found.audio_id,
        start=start,
        level_dbfs=found.level_dbfs,
        remarks=found.remarks,
    )


def _stretch(candidate: Candidate) -> tuple[float | None, float | None]:
    """From where on and how long a recording is in its file; two None for the whole of it.

    Raises:
        InputError: If the file ends before.
    """
    if candidate.start is None:
        return None, None
    start, whole = candidate.start, probe_audio(candidate.path).seconds
    end = whole if candidate.seconds is None else start + candidate.seconds
    if start >= whole or end > whole + TOLERANCE:
        raise InputError(f"{candidate.path} lasts {whole:g} s and has no {start:g} to {end:g} s")
    if start == 0 and end >= whole - TOLERANCE:
        return None, None
    return start, min(end, whole) - start


def inspect(
    candidates: Sequence[Candidate], journal: Journal, jobs: int | None = None
) -> Iterator[Facts]:
    """The facts of every candidate in order; a file is decoded once, however often it is listed.

    The journal knows a file by what it holds: one put in its place is seen, whatever its size and
    date, and one that was moved is not decoded again.
    """

    def facts(candidate: Candidate) -> Facts:
        try:
            with readable(candidate.path):
                sha256 = file_hash(candidate.path)
                stretch = [] if candidate.start is None else [candidate.start, candidate.seconds]
                key = " ".join(map(str, (computed_by(__name__), sha256, *stretch)))
                known = journal.get(key)
                if known is None:
                    known = _look(candidate, sha256).model_dump()
                    journal.put(key, known)
        except InputError as error:
            return Facts(error=str(error))
        return Facts.model_validate(known)

    results = ordered_map(facts, candidates, jobs)
    return counted(results, len(candidates), "inspecting recordings")


def keep_usable(
    candidates: Sequence[Candidate],
    facts: Sequence[Facts],
    *,
    min_seconds: float,
    silence_dbfs: float,
) -> tuple[list[tuple[Candidate, Facts]], list[Skipped]]:
    """The recordings that can be used and those that cannot, each with its reason.

    Of recordings with the same audio the first in the list is kept.
    """
    kept: dict[str, tuple[Candidate, Facts]] = {}
    skipped = []
    for candidate, found in zip(candidates, facts, strict=True):
        reason = found.error or _useless(found, min_seconds, silence_dbfs)
        if reason is None and found.audio_hash in kept:
            first = kept[found.audio_hash][0]
            reason = f"duplicate: the same audio as {first.path}"
            if candidate.split != first.split:
                reason += f", which is in {first.split}, this one in {candidate.split}"
        if reason is None:
            kept[found.audio_hash] = (candidate, found)
        else:
            reason = reason.removeprefix(f"{candidate.path} ")
            place = "" if candidate.start is None else f" from {candidate.start:g} s"
            failed = found.error is not None
            skipped.append(Skipped(audio=f"{candidate.path}{place}", reason=reason, failed=failed))
    return list(kept.values()), skipped


def _useless(found: Facts, min_seconds: float, silence_dbfs: float) -> str | None:
    """Why a recording that can be read is of no use; None if it is of some."""
    if found.seconds < min_seconds:
        return f"too short: {found.seconds:.2f} s, less than {min_seconds:g} s"
    if found.level_dbfs is None:
        return "silent: every sample is zero"
    if found.level_dbfs < silence_dbfs:
        return f"silent: never louder than {found.level_dbfs:.0f} dBFS"
    return None
