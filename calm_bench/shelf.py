"""The clips that are scored: what is known of each, and its audio when a metric asks for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from calm_bench.audio import read_audio
from calm_bench.store import Cell, RunStore, TrialRecord
from calm_bench.types import Clip, TimedWord, Transcript, Wave

__all__ = ["ClipEntry", "ClipShelf", "entries_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipEntry:
    """A clip without its audio."""

    trial_id: str
    clip_id: str
    prompt_id: str
    seed_index: int
    path: Path
    prompt_seconds: float
    words: tuple[tuple[str, float, float], ...] | None

    @property
    def identity(self) -> list[Any]:
        """All that a metric can know of the clip besides its transcript."""
        return [self.clip_id, self.prompt_id, self.seed_index, self.prompt_seconds, self.words]


def entries_of(cells: Sequence[Cell], store: RunStore) -> dict[str, list[ClipEntry]]:
    """By row, the clips that a run has made, in the order of prompts and seeds."""
    known = {cell.cell_id: list[ClipEntry]() for cell in cells}
    for record in store.read(TrialRecord):
        if record.cell_id not in known or not record.clip or not record.clip_id:
            continue
        known[record.cell_id].append(
            ClipEntry(
                trial_id=record.trial_id,
                clip_id=record.clip_id,
                prompt_id=record.prompt_id,
                seed_index=record.seed_index,
                path=store.root / record.clip,
                prompt_seconds=record.prompt_seconds,
                words=record.words,
            )
        )
    for entries in known.values():
        entries.sort(key=lambda entry: (entry.prompt_id, entry.seed_index))
    return known


class ClipShelf:
    """Rows of clips; the audio of a few rows is held at a time."""

    def __init__(self, entries: Mapping[str, Sequence[ClipEntry]]) -> None:
        """Serve these clips, by row."""
        self._entries = entries
        # The reference, the baseline and the row that is scored.
        self._waves = lru_cache(maxsize=3)(self._read)

    def entries(self, cell_id: str) -> Sequence[ClipEntry]:
        """What is known of a row's clips."""
        return self._entries.get(cell_id, ())

    def clips(self, cell_id: str, transcripts: Mapping[str, Transcript]) -> list[Clip]:
        """A row's clips with their audio and, where there is one, their transcript."""
        return [
            Clip(
                clip_id=entry.clip_id,
                prompt_id=entry.prompt_id,
                seed_index=entry.seed_index,
                wave=wave,
                sample_rate=rate,
                prompt_seconds=entry.prompt_seconds,
                words=_timed(entry.words),
                transcript=transcripts.get(entry.clip_id),
            )
            for entry, (wave, rate) in zip(self.entries(cell_id), self._waves(cell_id), strict=True)
        ]

    def _read(self, cell_id: str) -> list[tuple[Wave, int]]:
        return [read_audio(entry.path) for entry in self.entries(cell_id)]


def _timed(words: tuple[tuple[str, float, float], ...] | None) -> tuple[TimedWord, ...] | None:
    if words is None:
        return None
    return tuple(TimedWord(word=word, start=start, end=end) for word, start, end in words)
