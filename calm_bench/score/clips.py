"""The clips that are scored: what is known of each, and its audio when a metric asks for it.

Some clips of a row are copies of one recording: the reference and its round trips come once for
each seed, draws at temperature 0 are the same, and a folder may hold a file twice. Copies are no
further observations: each is scored and counted once (`firsts`), and of two rows each pair of
recordings is compared once (`ClipShelf.shared`).
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calm_bench.core.audio import AudioFacts, examine, read_audio, readable
from calm_bench.core.cache import ContentCache, MemoryCache
from calm_bench.core.code import computed_by
from calm_bench.core.progress import counted, ordered_map
from calm_bench.errors import InputError
from calm_bench.seeds import content_hash, file_hash
from calm_bench.store.records import Row, TrialRecord
from calm_bench.store.run_store import RunStore
from calm_bench.types import Clip, Transcript, Wave, WordTimes, timed

Firsts = Mapping[str, str]
"""By clip id, the first clip of its row that it is a copy of; any other clip stands for itself."""


READING = "reading"
"""What failed on a file that no metric got to see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A clip that could not be read, heard or scored: its file, who failed on it, and why."""

    cell_id: str
    clip_id: str
    path: Path
    by: str
    reason: str


def sound_of(path: Path) -> AudioFacts:
    """What a file holds: decoded once on this machine, whatever the file is called later.

    Raises:
        InputError: If it cannot be read; the message names it.
    """
    cache = ContentCache("sounds")
    with readable(path):
        key = content_hash(file_hash(path), computed_by(AudioFacts.__module__), length=40)
        if (kept := cache.read(key)) is not None:
            return AudioFacts(**{**kept, "remarks": tuple(kept["remarks"])})
        found = examine(path)
    cache.write(key, asdict(found))
    return found


def sounds_of(paths: Sequence[Path], title: str) -> Iterator[AudioFacts | InputError]:
    """What each file holds or why it cannot be read, several at a time and counted under a bar."""

    def look(path: Path) -> AudioFacts | InputError:
        try:
            return sound_of(path)
        except InputError as error:
            return error

    return counted(ordered_map(look, paths), len(paths), title)


@dataclass(frozen=True, kw_only=True)
class ClipEntry:
    """A clip without its audio.

    Attributes:
        clip_id: What tells it from every other clip of a run: its trial.
        sound: What its file holds.
        group: What intervals resample: the recording that its prompt was cut from, or the prompt.
    """

    clip_id: str
    prompt_id: str
    group: str
    seed_index: int
    path: Path
    sound: AudioFacts
    prompt_seconds: float
    words: tuple[WordTimes, ...] | None

    @property
    def identity(self) -> list[Any]:
        """All that a metric can know of the clip besides its transcript."""
        place = [self.prompt_id, self.group, self.seed_index]
        return [self.audio_id, *place, self.prompt_seconds, self.words]

    @property
    def audio_id(self) -> str:
        """The content hash of its samples and rate: equal for clips that sound the same."""
        return self.sound.audio_id

    @property
    def seconds(self) -> float:
        """How long it is, prompt included."""
        return self.sound.n_samples / self.sound.sample_rate

    @property
    def pair_key(self) -> str:
        """What it has in common with clips of other rows for the same prompt and seed."""
        return f"{self.prompt_id}/{self.seed_index}"


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
    looked: Callable[[str], None]

    @property
    def audio_id(self) -> str:
        return self.entry.audio_id

    @property
    def n_samples(self) -> int:
        return self.entry.sound.n_samples

    def read(self) -> Wave:
        self.looked(self.entry.clip_id)
        wave = self.held.read(self.audio_id)
        if wave is None:
            wave, _ = read_audio(self.entry.path)
            wave.flags.writeable = False  # the next metric is to find what this one found
            self.held.write(self.audio_id, wave)
        return wave


class ClipShelf:
    """Rows of clips; as much of their audio as there is room for is held at a time."""

    def __init__(
        self,
        entries: Mapping[str, Sequence[ClipEntry]],
        failures: Sequence[Failure] = (),
        max_bytes: int = 128 * 2**20,
    ) -> None:
        """Serve these clips, by row, and hold up to `max_bytes` of what was read last.

        `failures` are the clips that could not be read.
        """
        self._entries = entries
        self.failures = failures
        self._held = MemoryCache(max_bytes)
        self._unseen: set[str] = set()
        self._advance: Callable[[int], None] = lambda n: None

    @classmethod
    def of_run(cls, rows: Sequence[Row], store: RunStore) -> "ClipShelf":
        """The clips that a run has made and that can be read, in the order of prompts and seeds."""
        by_row = {row.cell_id: list[ClipEntry]() for row in rows}
        made = [r for r in store.read(TrialRecord) if r.cell_id in by_row and r.clip]
        paths = [store.root / str(record.clip) for record in made]
        failures = []
        for record, path, sound in zip(made, paths, sounds_of(paths, "reading clips"), strict=True):
            if isinstance(sound, InputError):
                about = {"cell_id": record.cell_id, "clip_id": record.trial_id}
                failures.append(Failure(**about, path=path, by=READING, reason=str(sound)))
            else:
                by_row[record.cell_id].append(_entry(record, path, sound))
        for entries in by_row.values():
            entries.sort(key=lambda entry: (entry.prompt_id, entry.seed_index))
        return cls(by_row, failures)

    @contextmanager
    def counting(self, cell_id: str, advance: Callable[[int], None]) -> Iterator[None]:
        """Count a row's clips as they are looked at, and in the end those that nobody looked at."""
        self._unseen = {entry.clip_id for entry in self.entries(cell_id)}
        self._advance = advance
        yield
        if self._unseen:
            advance(len(self._unseen))
        self._unseen = set()

    def _look(self, clip_id: str) -> None:
        if clip_id in self._unseen:
            self._unseen.remove(clip_id)
            self._advance(1)

    def entries(self, cell_id: str) -> Sequence[ClipEntry]:
        """What is known of a row's clips."""
        return self._entries.get(cell_id, ())

    def ends_before(self, cell_id: str, seconds: float) -> dict[str, float]:
        """By prompt, where a row's clips end that are shorter than that."""
        return {
            entry.prompt_id: entry.seconds
            for entry in self.entries(cell_id)
            if entry.sound.n_samples < round(seconds * entry.sound.sample_rate)
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
                wave=_Stored(entry, self._held, self._look),  # type: ignore[arg-type]
                sample_rate=entry.sound.sample_rate,
                prompt_seconds=entry.prompt_seconds,
                words=None if entry.words is None else timed(entry.words),
                transcript=transcripts.get(entry.audio_id),
            )
            for entry in entries
        ]


def _entry(record: TrialRecord, path: Path, sound: AudioFacts) -> ClipEntry:
    return ClipEntry(
        clip_id=record.trial_id,
        prompt_id=record.prompt_id,
        group=record.group or record.prompt_id,
        seed_index=record.seed_index,
        path=path,
        sound=sound,
        prompt_seconds=record.prompt_seconds,
        words=record.words,
    )
