"""The clips that are scored: what is known of each, and its audio when a metric asks for it.

Some clips of a row are copies of one recording: the reference and its round trips come once for
each seed, draws at temperature 0 are the same, and a folder may hold a file twice. Copies are no
further observations: each is scored and counted once (`firsts`), and of two rows each pair of
recordings is compared once (`Clips.shared`).
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from calm_bench.core.audio import AudioFacts, read_audio
from calm_bench.core.cache import MemoryCache
from calm_bench.core.sounds import require_same, sounds_of
from calm_bench.errors import InputError
from calm_bench.store.records import Row, TrialRecord
from calm_bench.store.run_store import RunStore
from calm_bench.types import Clip, Wave, timed

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


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredClip(Clip):
    """A clip whose audio lies in a file and is read each time somebody looks at it.

    Attributes:
        sound: What its file holds.
        reader: Reads it, where that is not simply done.
    """

    path: Path
    sound: AudioFacts
    reader: Callable[["StoredClip"], Wave] | None = None
    wave: Wave = field(init=False, repr=False)
    sample_rate: int = field(init=False)

    def __getattr__(self, name: str) -> Any:
        if name == "wave":
            return self.reader(self) if self.reader else self.read()[0]
        if name == "sample_rate":
            return self.sound.sample_rate
        raise AttributeError(name)

    def read(
        self, sample_rate: int | None = None, seconds: float | None = None
    ) -> tuple[Wave, int]:
        """The file's audio, as `read_audio` gives it.

        Raises:
            InputError: If the file is no longer the one that this clip is known by.
        """
        found = read_audio(self.path, sample_rate, seconds=seconds)
        require_same(self.path, self.audio_id)
        return found

    @property
    def audio_id(self) -> str:
        return self.sound.audio_id

    @property
    def n_samples(self) -> int:
        return self.sound.n_samples

    @property
    def identity(self) -> list[Any]:
        """All that a metric can know of the clip besides its transcript."""
        words = None if self.words is None else [[w.word, w.start, w.end] for w in self.words]
        place = [self.prompt_id, self.group, self.seed_index]
        return [self.audio_id, *place, self.prompt_seconds, words]


def firsts(clips: Sequence[StoredClip], *, words: bool, originals: Mapping[str, str]) -> Firsts:
    """Which clips of a row are the same: same audio, and the same words and original if they count.

    Args:
        clips: The clips of a row.
        words: Whether what was meant to be said counts.
        originals: By prompt the audio that a clip is compared with; empty where it is not.
    """
    known: dict[Hashable, str] = {}
    found = {}
    for clip in clips:
        heard = clip.audio_id, clip.prompt_seconds
        meant = clip.words if words else None, originals.get(clip.prompt_id)
        found[clip.clip_id] = known.setdefault((*heard, *meant), clip.clip_id)
    return found


class Clips:
    """Rows of clips; as much of their audio as there is room for is held at a time."""

    def __init__(
        self, rows: Mapping[str, Sequence[StoredClip]], failures: Sequence[Failure] = ()
    ) -> None:
        """Serve these clips, by row; `failures` are those that could not be read."""
        self._rows = {
            row: [replace(clip, reader=self._read) for clip in own] for row, own in rows.items()
        }
        self.failures = failures
        self._held = MemoryCache(128 * 2**20)
        self._unseen: set[str] = set()
        self._advance: Callable[[int], None] = lambda n: None

    @classmethod
    def of_run(cls, rows: Sequence[Row], store: RunStore) -> "Clips":
        """The clips that a run has made and that can be read, in the order of prompts and seeds."""
        by_row = {row.cell_id: list[StoredClip]() for row in rows}
        made = [r for r in store.read(TrialRecord) if r.cell_id in by_row and r.clip]
        paths = [store.root / str(record.clip) for record in made]
        failures = []
        for record, path, sound in zip(made, paths, sounds_of(paths, "reading clips"), strict=True):
            if not isinstance(sound, InputError) and sound.audio_id != record.clip_id:
                sound = InputError(
                    f"{path} is not the clip that the run made: the command that made it makes it "
                    "again"
                )
            if isinstance(sound, InputError):
                about = {"cell_id": record.cell_id, "clip_id": record.trial_id}
                failures.append(Failure(**about, path=path, by=READING, reason=str(sound)))
                continue
            clip = StoredClip(
                clip_id=record.trial_id,
                prompt_id=record.prompt_id,
                group=record.group or record.prompt_id,
                seed_index=record.seed_index,
                path=path,
                sound=sound,
                prompt_seconds=record.prompt_seconds,
                words=None if record.words is None else timed(record.words),
            )
            by_row[record.cell_id].append(clip)
        for clips in by_row.values():
            clips.sort(key=lambda clip: (clip.prompt_id, clip.seed_index))
        return cls(by_row, failures)

    @contextmanager
    def counting(self, cell_id: str, advance: Callable[[int], None]) -> Iterator[None]:
        """Count a row's clips as they are looked at, and in the end those that nobody looked at."""
        self._unseen = {clip.clip_id for clip in self.of(cell_id)}
        self._advance = advance
        yield
        if self._unseen:
            advance(len(self._unseen))
        self._unseen = set()

    def _read(self, clip: StoredClip) -> Wave:
        """A clip's audio, from memory as long as there is room for it."""
        if clip.clip_id in self._unseen:
            self._unseen.remove(clip.clip_id)
            self._advance(1)
        wave = self._held.read(clip.audio_id)
        if wave is None:
            wave, _ = clip.read()
            wave.flags.writeable = False  # the next metric is to find what this one found
            self._held.write(clip.audio_id, wave)
        return wave

    def of(self, cell_id: str) -> Sequence[StoredClip]:
        """A row's clips."""
        return self._rows.get(cell_id, ())

    @property
    def n_groups(self) -> Mapping[str, int]:
        """By row, how many prompts or recordings its clips are of; 0 of a row without clips."""
        found = {row: len({clip.group for clip in own}) for row, own in self._rows.items()}
        return defaultdict(int, found)

    def ends_before(self, cell_id: str, seconds: float) -> dict[str, float]:
        """By prompt, where a row's clips end that are shorter than that."""
        return {
            clip.prompt_id: clip.seconds
            for clip in self.of(cell_id)
            if clip.n_samples < round(seconds * clip.sample_rate)
        }

    def shared(
        self, pair: tuple[str, str], alike: Mapping[str, Firsts], *, once: bool
    ) -> Iterator[tuple[StoredClip, StoredClip]]:
        """The clips of two rows that answer the same prompt and seed, without repeated pairs.

        A copy is paired with each draw of the other row, so that each counts as often on both
        sides. For sets, whose numbers depend on their sizes, every recording is taken `once`.
        """
        theirs = {clip.pair_key: clip for clip in self.of(pair[1])}
        seen: set[Hashable] = set()
        for ours in self.of(pair[0]):
            if (other := theirs.get(ours.pair_key)) is None:
                continue
            ids = zip(pair, (ours.clip_id, other.clip_id), strict=True)
            sides = [(row, alike.get(row, {}).get(clip_id, clip_id)) for row, clip_id in ids]
            marks: set[Hashable] = set(sides) if once else {tuple(sides)}
            if marks.isdisjoint(seen):
                seen |= marks
                yield ours, other
