"""The music corpus: real compositions from music21, played by a General MIDI soundfont.

Each recording plays one work with instruments, key, tempo and touch of its own, drawn from the
seed, its split and its place in the list. Which works are held out depends on neither the seed nor
the number of recordings: a larger corpus starts with the smaller one's recordings.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

from calm_bench.core.files import json_lines
from calm_bench.core.paths import installed
from calm_bench.core.progress import counted, ordered_map
from calm_bench.data import music_worker
from calm_bench.data.chunks import Lines, Worker, make_chunks, refuse_other_settings
from calm_bench.data.corpus import CorpusCard, Item, Skipped, Split, working_on, write_corpus
from calm_bench.data.music_scores import PLAYING, kept_score
from calm_bench.data.music_works import Work, list_hash, phrases, playlist
from calm_bench.errors import InputError
from calm_bench.seeds import content_hash, derive_seed, file_hash

CHUNK_RECORDINGS = 32
PACKAGES = ("music21", "pretty_midi", "midirenderer")
SOUNDFONT_LICENCE = (
    "GNU General Public License 2 (TimGM6mb by Tim Brechbill, shipped by pretty_midi); "
    "the soundfont itself is neither changed nor passed on"
)
WORKER = Worker(
    command=["-m", "calm_bench.data.music_worker"],
    title="playing music",
    failed="the player failed in chunk",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One performance to be rendered; `key` changes with all that decides its samples."""

    id: str
    split: Split
    work: Work
    seed: int
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Music:
    """How many recordings each split has, the seed of the performances, and the sample rate."""

    train: int = 1200
    validation: int = 72
    test: int = 72
    seed: int = 0
    sample_rate: int = 16000

    def recordings(self) -> list[Recording]:
        """All recordings in the order test, validation, training.

        Raises:
            InputError: If there are fewer works to hold out than asked for.
        """
        order: tuple[Split, ...] = ("test", "validation", "train")
        asked = {split: int(getattr(self, split)) for split in order}
        found = {split: list(self._split(split, n)) for split, n in asked.items()}
        for split, n in asked.items():
            if len(found[split]) < n:
                raise InputError(
                    f"there are {len(found[split])} works for {split}, not the {n} asked for"
                )
        return [recording for split in asked for recording in found[split]]

    def _split(self, split: Split, n: int) -> Iterator[Recording]:
        for index, (work, take) in enumerate(islice(playlist(split), n)):
            seed = derive_seed("music", self.seed, work.path, take)
            yield Recording(
                id=f"{split}-{index:05d}",
                split=split,
                work=work,
                seed=seed,
                key=content_hash(work.path, seed, self.sample_rate, music_worker.PERFORMANCE),
            )

    def settings(self) -> dict[str, Any]:
        """Everything that decides the audio, as corpus.json records it."""
        counts = {"train": self.train, "validation": self.validation, "test": self.test}
        soundfont = soundfont_path()
        of_soundfont = {"file": soundfont.name, "sha256": file_hash(soundfont)}
        return {
            "seed": self.seed,
            "recordings": counts,
            "sample_rate": self.sample_rate,
            "works": list_hash(),
            "performance": music_worker.PERFORMANCE,
            "packages": {name: metadata.version(name) for name in PACKAGES},
            "soundfont": of_soundfont | {"licence": SOUNDFONT_LICENCE},
            "loudness_lufs": music_worker.LOUDNESS_LUFS,
            "peak": music_worker.PEAK,
        }


def soundfont_path() -> Path:
    """The General MIDI soundfont that pretty_midi ships.

    Raises:
        MissingExtraError: If a package that reads or renders scores is not installed.
    """
    folders = {name: installed(name, PLAYING, "data", name) for name in PACKAGES}
    return folders["pretty_midi"] / "TimGM6mb.sf2"


def make_music(out: Path, music: Music, *, jobs: int | None = None) -> CorpusCard:
    """Play the corpus into a folder, `jobs` chunks at a time, and return its corpus.json.

    Finished chunks are kept, so a killed command goes on where it stopped. Recordings that cannot
    be used (too short, silent, clipped, the same audio twice) are listed with the reason.

    Raises:
        MissingExtraError: If music21, pretty_midi or midirenderer is not installed.
        InputError: If the folder holds other music, or more works are to be held out than exist.
        BenchError: If a worker fails or another process is working on the folder.
    """
    recordings, settings = music.recordings(), music.settings()
    with working_on(out, "audio", "chunks", "scores"):
        refuse_other_settings(out, settings, {"recordings"}, "music")
        lines = _play(out, recordings, music.sample_rate, jobs)
        items, skipped = _list(out, recordings, lines, jobs)
        checks = check_music(items, out / "scores")
        return write_corpus(
            out, items, kind="music", settings=settings, skipped=skipped, checks=checks
        )


def _played(path: Path, chunk: Sequence[Recording]) -> Lines | None:
    """The lines of a chunk that was played as far as is asked for; None if it was not."""
    if not path.is_file():
        return None
    lines = [line for _, line in json_lines(path)]
    known = [(line["id"], line["key"]) for line in lines]
    asked = [(recording.id, recording.key) for recording in chunk]
    shared = min(len(known), len(asked))
    if known[:shared] != asked[:shared]:
        raise InputError(f"{path} holds other music than this: choose another folder with --out")
    return lines[:shared] if len(known) >= len(asked) else None


def _play(
    out: Path, recordings: Sequence[Recording], sample_rate: int, jobs: int | None
) -> dict[str, dict[str, Any]]:
    """Play the chunks that are missing and return the lines of all, by recording.

    A chunk is of one split, so that more of a split only adds to its last ones.
    """
    chunks: dict[str, list[Recording]] = {}
    for recording in recordings:
        number = int(recording.id.rpartition("-")[2]) // CHUNK_RECORDINGS
        chunks.setdefault(f"{recording.split}-{number:04d}", []).append(recording)

    def job(name: str) -> dict[str, Any]:
        return {
            "soundfont": str(soundfont_path()),
            "folder": str(out / "audio"),
            "scores": str(out / "scores"),
            "sample_rate": sample_rate,
            "recordings": [
                {"id": r.id, "path": r.work.path, "seed": r.seed, "key": r.key}
                for r in chunks[name]
            ],
        }

    made = make_chunks(out, chunks, WORKER, _played, job, jobs)
    return {line["id"]: line for lines in made.values() for line in lines}


def _list(
    out: Path, recordings: Sequence[Recording], lines: dict[str, dict[str, Any]], jobs: int | None
) -> tuple[list[Item], list[Skipped]]:

    def hashed(recording: Recording) -> str | None:
        line = lines[recording.id]
        return None if "reason" in line else file_hash(out / "audio" / line["audio"])

    hashes = ordered_map(hashed, recordings, jobs)
    items: dict[str, Item] = {}
    skipped = []
    for recording, sha256 in zip(
        recordings, counted(hashes, len(recordings), "listing recordings"), strict=True
    ):
        line, work = lines[recording.id], recording.work
        name = f"{recording.id} ({work.path})"
        if sha256 is None:
            skipped.append(Skipped(audio=name, reason=line["reason"]))
        elif sha256 in items:
            reason = f"duplicate: the same audio as {items[sha256].id}"
            skipped.append(Skipped(audio=name, reason=reason))
        else:
            items[sha256] = _item(recording, line, sha256)
    return list(items.values()), skipped


def _item(recording: Recording, line: dict[str, Any], sha256: str) -> Item:
    composer, licence = recording.work.composer, recording.work.licence
    return Item(
        id=recording.id,
        split=recording.split,
        audio=f"audio/{line['audio']}",
        sample_rate=line["sample_rate"],
        channels=1,
        seconds=line["seconds"],
        sha256=sha256,
        work=recording.work.path,
        licence=f"{composer}: {licence}",
    )


def check_music(items: Sequence[Item], scores: Path) -> dict[str, int]:
    """How many held-out works training has heard a phrase of, by the scores kept in a folder."""
    works: dict[str, set[str]] = defaultdict(set)
    for item in items:
        works[item.split].add(item.work or "")

    def runs(work: str) -> set[int]:
        return phrases(kept_score(work, scores))

    training = set[int]().union(*map(runs, sorted(works["train"])))
    held_out = works["test"] | works["validation"]
    shared = sum(not training.isdisjoint(runs(work)) for work in held_out)
    return {"held_out_works_sharing_a_phrase_with_training": shared}
