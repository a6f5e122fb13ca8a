"""The clips that are scored: what is known of each, and its audio when a metric asks for it.

Some clips of a row are copies of one recording: the reference and its round trips come once for
each seed, draws at temperature 0 are the same, and a folder may hold a file twice. Copies are no
further observations: each is scored and counted once (`firsts`), and of two rows each pair of
recordings is compared once (`ClipShelf.shared`).
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from calm_bench.audio import probe_audio, read_audio
from calm_bench.cache import MemoryCache
from calm_bench.store import Cell, RunStore, TrialRecord
from calm_bench.types import Clip, TimedWord, Transcript, Wave

__all__ = ["ClipEntry", "ClipShelf", "Firsts", "entries_of", "firsts"]

Firsts = Mapping[str, str]
"""By clip id, the first clip of its row that it is a copy of; any other clip stands for itself."""


@dataclass(frozen=True, kw_only=True)
class ClipEntry:
    """A clip without its audio.

    Attributes:
        clip_id: What tells it from every other clip of a run: its trial.
        audio_id: The content hash of its samples and rate.
        group: What intervals resample: the recording that its prompt was cut from, or the prompt.
    """

    clip_id: str
    audio_id: str
    prompt_id: str
    group: str
    seed_index: int
    path: Path
    sample_rate: int
    prompt_seconds: float
    words: tuple[tuple[str, float, float], ...] | None

    @property
    def identity(self) -> list[Any]:
        """All that a metric can know of the clip besides its transcript."""
        place = [self.prompt_id, self.group, self.seed_index]
        return [self.audio_id, *place, self.prompt_seconds, self.words]

    @property
    def pair_key(self) -> str:
        """What it has in common with clips of other rows for the same prompt and seed."""
        return f"{self.prompt_id}/{self.seed_index}"

    @cached_property
    def n_samples(self) -> int:
        """How long it is, from the file's header."""
        return round(probe_audio(self.path).seconds * self.sample_rate)


def entries_of(cells: Sequence[Cell], store: RunStore) -> dict[str, list[ClipEntry]]:
    """By row, the clips that a run has made, in the order of prompts and seeds."""
    known = {cell.cell_id: list[ClipEntry]() for cell in cells}
    for record in store.read(TrialRecord):
        if record.cell_id not in known or not (record.clip and record.clip_id):
            continue
        assert record.sample_rate is not None  # the record's own rule
        known[record.cell_id].append(
            ClipEntry(
                clip_id=record.trial_id,
                audio_id=record.clip_id,
                prompt_id=record.prompt_id,
                group=record.group or record.prompt_id,
                seed_index=record.seed_index,
                path=store.root / record.clip,
                sample_rate=record.sample_rate,
                prompt_seconds=record.prompt_seconds,
                words=record.words,
            )
        )
    for entries in known.values():
        entries.sort(key=lambda entry: (entry.prompt_id, entry.seed_index))
    return known


def firsts(entries: Sequence[ClipEntry], *, words: bool, originals: Mapping[str, str]) -> Firsts:
    """Which clips of a row are the same: same audio, and the same words and original if they count.

    Args:
        entries: The clips of a row.
        words: Whether what was meant to be said counts.
        originals: By prompt the audio that a clip is compared with; empty where it is not.
    """
    known: dict[Hashable, str] = {}
    return {
        entry.clip_id: known.setdefault(
            (
                entry.audio_id,
                entry.prompt_seconds,
                entry.words if words else None,
                originals.get(entry.prompt_id),
            ),
            entry.clip_id,
        )
        for entry in entries
    }


@dataclass(frozen=True, slots=True)
class _Stored:
    """The audio of an entry, in memory as long as there is room for it."""

    entry: ClipEntry
    held: MemoryCache

    @property
    def audio_id(self) -> str:
        return self.entry.audio_id

    @property
    def n_samples(self) -> int:
        return self.entry.n_samples

    def read(self) -> Wave:
        key = str(self.entry.path)
        wave = self.held.read(key)
        if wave is None:
            wave, _ = read_audio(self.entry.path)
            wave.flags.writeable = False  # the next metric is to find what this one found
            self.held.write(key, wave)
        return wave


class ClipShelf:
    """Rows of clips; as much of their audio as there is room for is held at a time."""

    def __init__(
        self, entries: Mapping[str, Sequence[ClipEntry]], max_bytes: int = 128 * 2**20
    ) -> None:
        """Serve these clips, by row, and hold up to `max_bytes` of what was read last."""
        self._entries = entries
        self._held = MemoryCache(max_bytes)

    def entries(self, cell_id: str) -> Sequence[ClipEntry]:
        """What is known of a row's clips."""
        return self._entries.get(cell_id, ())

    def ends_before(self, cell_id: str, seconds: float) -> dict[str, float]:
        """By prompt, where a row's clips end that are shorter than that."""
        return {
            entry.prompt_id: entry.n_samples / entry.sample_rate
            for entry in self.entries(cell_id)
            if entry.n_samples < round(seconds * entry.sample_rate)
        }

    def shared(
        self, pair: tuple[str, str], alike: Mapping[str, Firsts], *, once: bool
    ) -> Iterator[tuple[ClipEntry, ClipEntry]]:
        """The clips of two rows that answer the same prompt and seed, without repeated pairs.

        A copy is paired with each draw of the other row, so that each counts as often on both
        sides. For sets, whose numbers depend on their sizes, every recording is taken `once`.
        """
        theirs = {entry.pair_key: entry for entry in self.entries(pair[1])}
        seen: set[Hashable] = set()
        for ours in self.entries(pair[0]):
            if (other := theirs.get(ours.pair_key)) is None:
                continue
            ids = zip(pair, (ours.clip_id, other.clip_id), strict=True)
            sides = [(row, alike.get(row, {}).get(clip_id, clip_id)) for row, clip_id in ids]
            marks: set[Hashable] = set(sides) if once else {tuple(sides)}
            if marks.isdisjoint(seen):
                seen |= marks
                yield ours, other

    def clips(
        self, entries: Iterable[ClipEntry], transcripts: Mapping[str, Transcript]
    ) -> list[Clip]:
        """Clips that are read when they are looked at, with what was heard in them, by audio."""
        return [
            Clip(
                clip_id=entry.clip_id,
                prompt_id=entry.prompt_id,
                group=entry.group,
                seed_index=entry.seed_index,
                wave=_Stored(entry, self._held),  # type: ignore[arg-type]
                sample_rate=entry.sample_rate,
                prompt_seconds=entry.prompt_seconds,
                words=_timed(entry.words),
                transcript=transcripts.get(entry.audio_id),
            )
            for entry in entries
        ]


def _timed(words: tuple[tuple[str, float, float], ...] | None) -> tuple[TimedWord, ...] | None:
    if words is None:
        return None
    return tuple(TimedWord(word=word, start=start, end=end) for word, start, end in words)
