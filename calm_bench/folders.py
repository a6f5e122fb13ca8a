"""Scores of any two folders of audio: set metrics, and the clip metrics that need no text."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from calm_bench import paths, registry
from calm_bench.audio import audio_hash, read_audio
from calm_bench.environment import describe_environment
from calm_bench.errors import InputError
from calm_bench.instruments import Setting
from calm_bench.progress import stage
from calm_bench.recordings import list_recordings
from calm_bench.scoring import Scorer
from calm_bench.seeds import content_hash
from calm_bench.shelf import ClipEntry, ClipShelf
from calm_bench.store import Cell, Manifest, RunStore, TrialCount
from calm_bench.summary import Facts, Outcome, summarise_run

__all__ = ["score_folders"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The readable clips of a folder, what is wrong with the others, and what was left out."""

    path: Path
    entries: list[ClipEntry]
    failures: list[str]
    notes: list[str]

    @property
    def names(self) -> set[str]:
        """What pairs a clip with one of the same name in another folder."""
        return {entry.prompt_id for entry in self.entries}

    @property
    def lines(self) -> list[str]:
        """What must be said of it: what was left out, what is there twice, what is wrong."""
        n, distinct = len(self.entries), len({entry.audio_id for entry in self.entries})
        twice = f"{self.path}: n {n}, distinct {distinct}: copies of a recording count once"
        return [*self.notes, *([twice] if distinct < n else []), *self.failures]

    @property
    def count(self) -> TrialCount:
        """How many clips were read and how many could not be."""
        return TrialCount(ok=len(self.entries), failed=len(self.failures))


def score_folders(
    folder: Path,
    reference: Path | None,
    *,
    metrics: Sequence[str] = (),
    embedding: str | None = None,
    out: Path | None = None,
    command: Sequence[str] = (),
) -> Outcome:
    """Score the audio below a folder, against that below another one if there is one.

    Files of the same name in both folders are taken for versions of one recording, which round-trip
    metrics compare. Files that cannot be read are counted and named, never skipped in silence.

    Raises:
        InputError: If a folder holds no readable audio.
        UnknownNameError: If there is no such metric or embedding.
    """
    names = list(metrics) or _metrics_without_text()
    for name in names:
        registry.target("metric", name)
    if embedding is not None:
        registry.target("embedding", embedding)
    sides = _read_sides(folder, reference)
    cells = _cells(sides)
    identity = [[entry.identity for entry in side.entries] for side in sides.values()]
    asked = {"folders": [c.label for c in cells], "metrics": names, "embedding": embedding}
    manifest = _manifest(content_hash(identity, names, embedding), asked, command)
    store = RunStore(paths.runs_dir() / manifest.run_id if out is None else out)
    with store.lock():
        manifest = store.begin(manifest)
        shelf = ClipShelf({cell_id: side.entries for cell_id, side in sides.items()})
        setting = Setting(embeddings=(embedding,) if embedding else ())
        scores = Scorer(cells, shelf, store, setting).score(names, [])
        facts = Facts(
            run_id=manifest.run_id,
            benchmark=manifest.benchmark,
            version=manifest.version,
            cells=cells,
            trials={cell_id: side.count for cell_id, side in sides.items()},
            notes=[line for side in sides.values() for line in side.lines],
        )
        results = summarise_run(facts, shelf, scores, [])
        store.write_results(results)
        failed = any(side.failures for side in sides.values())
        status = "partial" if failed else "finished"
        store.write_manifest(manifest.model_copy(update={"status": status}))
    return Outcome(folder=store.root, results=results)


def _cells(sides: Mapping[str, Folder]) -> list[Cell]:
    """The reference's row, if there is one, and the row of what is scored."""
    ours, theirs = sides["clips"], sides.get("reference")
    paired = theirs is not None and bool(ours.names & theirs.names)
    kind: Literal["round_trip", "system"] = "round_trip" if paired else "system"
    cells = [Cell(cell_id="clips", label=str(ours.path), kind=kind)]
    if theirs is not None:
        cells.insert(0, Cell(cell_id="reference", label=str(theirs.path), kind="reference"))
    return cells


def _read_sides(folder: Path, reference: Path | None) -> dict[str, Folder]:
    """The clips, and the reference before them if there is one; neither holds files of the other.

    Raises:
        InputError: If they are one folder, or one of them holds nothing that can be read.
    """
    if reference is None:
        return {"clips": read_folder(folder)}
    if folder.resolve() == reference.resolve():
        raise InputError(
            f"{folder} and --reference {reference} are the same folder: there is nothing to "
            "measure against anything else"
        )
    theirs = read_folder(reference, without=(folder,))
    return {"reference": theirs, "clips": read_folder(folder, without=(reference,))}


def read_folder(folder: Path, without: Sequence[Path] = ()) -> Folder:
    """Every sound file below a folder, by name.

    Args:
        folder: Where to look.
        without: Folders whose files are another side's, wherever they lie.

    Raises:
        InputError: If it is no folder, or none of its files can be read.
    """
    listing = list_recordings(folder, without)
    listing.refuse_empty()
    names = Counter(Path(listing.name(path)).with_suffix("") for path in listing.files)
    entries, failures = [], list(listing.unlisted)
    with stage(f"reading {folder.name}", len(listing.files)) as advance:
        for path in listing.files:
            name = Path(listing.name(path))
            alone = names[name.with_suffix("")] == 1
            try:
                entries.append(_entry(path, (name.with_suffix("") if alone else name).as_posix()))
            except InputError as error:
                failures.append(str(error))
            advance(1)
    if not entries:
        raise InputError(f"{folder} holds no readable audio: {failures[0]}")
    return Folder(path=folder, entries=entries, failures=failures, notes=listing.notes)


def _entry(path: Path, name: str) -> ClipEntry:
    wave, rate = read_audio(path)
    audio_id = audio_hash(wave, rate)
    return ClipEntry(
        clip_id=content_hash(name, audio_id),
        audio_id=audio_id,
        prompt_id=name,
        group=name,
        seed_index=0,
        path=path,
        sample_rate=rate,
        prompt_seconds=0.0,
        words=None,
    )


def _metrics_without_text() -> list[str]:
    """The registered metrics that look at audio alone."""

    def of_audio() -> Iterator[str]:
        for name in registry.names("metric"):
            if not {"text", "transcript"} & registry.load("metric", name).needs:
                yield name

    return list(of_audio())


def _manifest(plan_hash: str, asked: dict[str, Any], command: Sequence[str]) -> Manifest:
    return Manifest(
        run_id=f"score-{plan_hash[:8]}",
        benchmark="score",
        version=1,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=tuple(command),
        plan_hash=plan_hash,
        options=asked,
        environment=describe_environment("cpu"),
    )
