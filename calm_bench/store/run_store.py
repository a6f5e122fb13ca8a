"""A run's folder: typed records as JSON lines; a kill at any moment loses at most one append.

    manifest.json      what was asked, on which machine, with which weights
    trials.jsonl       one line per clip that was tried
    latency.jsonl      one per timed arm
    bandwidth.jsonl    one per round of `speed`
    footprints.jsonl   one per row and batch size of `speed`
    growth.jsonl       one per row and position of `speed`
    generations.jsonl  one per row and whole generation of `speed`
    transcripts.jsonl  what was heard in each clip
    scores.jsonl       one per clip and metric
    cell_scores.jsonl  one per row and set metric
    results.json       the tidy rows of the report
    ratings.json       rows of the same kind made from votes; joins them when they are read
    ranks/             what each of several ranks has recorded, until the first one takes it in
    run.log            tracebacks of what is told elsewhere in one line
    clips/ tables/ plots/ page/ votes/

A record counts once its newline is on disk; a later record with the same key replaces an earlier
one, so a half-done batch can simply be run again. Every line, and every JSON file, ends with a
checksum: what is read is what was written. A folder is a run's if its manifest is ours, and only
files of the names that are written here are ever removed.
"""

import glob
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from calm_bench import errors
from calm_bench.core import files, paths
from calm_bench.core.files import disk_errors
from calm_bench.core.recordings import few
from calm_bench.errors import InputError
from calm_bench.store.records import Manifest, Record, ScoreRecord, TrialRecord, Weights
from calm_bench.store.results import Ratings, Results
from calm_bench.types import problem

R = TypeVar("R", bound=Record)
M = TypeVar("M", bound=BaseModel)

_RANKS = "ranks"
_IMAGES = ("png", "svg")
_WRITTEN = (
    *(f"{_RANKS}/*/trials.jsonl", f"{_RANKS}/*/run.log"),
    *("clips/*/*.[0-9]*.flac", "page/index.html"),
    *(f"page/prompts/{number}.flac" for number in files.NUMBERED),
    f"page/spectrograms/{'[0-9a-f]' * 16}.png",
    *(f"plots/{kind}_*.{suffix}" for kind in ("quality", "time", "growth") for suffix in _IMAGES),
)
"""What a run's folder holds beside its records: clips and what is rebuilt from them."""


class _Log(logging.FileHandler):
    """Tracebacks of what is told elsewhere; where the disk takes none, that is not told again."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class RunStore:
    """Reads and writes the records of one run folder; creating one touches nothing on disk.

    One process writes at a time: take `lock` first. Reading needs no lock.
    """

    def __init__(self, root: Path) -> None:
        """Work on the run folder `root`, which need not exist yet."""
        self.root = root

    def path(self, name: str) -> Path:
        """A path inside of the run folder, ready to be written: its parent is made.

        Raises:
            InputError: If `name` leads out of the run folder or the folder cannot be made.
        """
        path = paths.inside(self.root, name)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def holds_run(self) -> bool:
        """Whether the folder's manifest is one of ours."""
        try:
            self.read_manifest()
        except InputError:
            return False
        return True

    def refuse_foreign(self) -> None:
        """Write into a run's folder or an empty one, never among someone's files.

        Raises:
            InputError: If the folder holds something else, or is a file.
        """
        if not self.root.exists():
            return
        if not self.root.is_dir():
            raise InputError(f"{self.root} is a file: --out names the folder of the run")
        if files.is_there(self.root / "manifest.json"):
            self.read_manifest()
        elif any(p.name != ".lock" and not files.is_unfinished(p) for p in self.root.iterdir()):
            raise InputError(f"{self.root} is not empty and holds no run: choose another --out")

    def refuse_unwritable(self) -> None:
        """Find out whether the folder can be made and written, and leave nothing behind.

        Raises:
            InputError: If it cannot.
        """
        there = next(path for path in (self.root, *self.root.absolute().parents) if path.exists())
        with disk_errors(self.root), TemporaryDirectory(dir=there):
            pass

    def clear(self, *also: str) -> None:
        """Remove what earlier starts of a run have written, but for the manifest and the votes.

        The manifest says whose folder it is, until it is replaced; what listeners said can be asked
        of nobody again. Files of names that are not written here are someone's; those of `also` are
        ours, and removed last.
        """
        records = [kind.file for kind in Record.__subclasses__()]
        name = glob.escape(self.read_manifest().benchmark) if self.holds_run else ""
        tables = [f"tables/{name}.{suffix}" for suffix in ("csv", "md", "tex")]
        with disk_errors(self.root):
            files.remove(self.root, "results.json", "run.log", *records, *_WRITTEN, *tables, *also)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder for writing; the lock dies with the process, however it dies.

        What a killed process had not finished is removed.

        Raises:
            BenchError: If another process holds it.
        """
        with files.locked(self.path(".lock")):
            files.sweep(self.root)
            try:
                with self.logged():
                    yield
            finally:
                if [path.name for path in self.root.glob("[!.]*")] == ["run.log"]:
                    self.path("run.log").unlink()  # a folder with nothing else is begun anew

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Take the tracebacks of errors into run.log."""
        handler = _Log(self.path("run.log"), delay=True, encoding="utf-8")
        errors.log.addHandler(handler)
        try:
            yield
        except Exception as error:
            errors.log.debug("", exc_info=error)
            raise
        finally:
            errors.log.removeHandler(handler)
            handler.close()

    def of_rank(self, rank: int) -> "RunStore":
        """Where one of several ranks records what it makes, until `gather`."""
        return RunStore(self.root / _RANKS / str(rank))

    def gather(self, order: Mapping[str, int]) -> None:
        """Take in the trials that ranks have recorded, in the order of their ids; hold the lock.

        A kill between taking in and removing costs nothing: a trial that is read twice counts once.
        """
        parts = [RunStore(path) for path in sorted(self.root.glob(f"{_RANKS}/*"))]
        trials = [trial for part in parts for trial in part.read(TrialRecord)]
        self.append(*sorted(trials, key=lambda trial: order.get(trial.trial_id, len(order))))
        with disk_errors(self.root):
            for log in self.root.glob(f"{_RANKS}/*/run.log"):
                with self.path("run.log").open("ab") as file:
                    file.write(log.read_bytes())
            files.remove(self.root, f"{_RANKS}/*/{TrialRecord.file}", f"{_RANKS}/*/run.log")

    @contextmanager
    def opened(
        self, run_id: str, weights: Mapping[str, str | None], *, fresh: bool
    ) -> Iterator[None]:
        """Hold a run's folder, or an empty one; a fresh run begins without what lies there.

        Raises:
            BenchError: If the folder holds something else, or another process holds it, or if it
                holds what other weights made or listeners said of another run, which a fresh run
                could not bring back.
        """
        self.refuse_foreign()
        with self.lock():
            if fresh and files.is_there(self.root / "manifest.json"):
                if changes := _other_weights(self.read_manifest().weights, weights):
                    raise InputError(
                        f"{self.root} holds what other weights made ({changes}), which no command "
                        "can make again: start the new run with --out, or remove the folder"
                    )
                self.read_ratings(run_id)
                self.clear()
            yield

    def begin(self, manifest: Manifest, *, fresh: bool = False) -> Manifest:
        """Write the manifest of a new run, or check that an existing run may go on.

        A fresh run begins anew in a folder of which an earlier one was cleared away.

        Returns:
            The manifest on disk: of an existing run the one it began with, set to running again.

        Raises:
            InputError: If the folder holds another plan, or the same plan timed otherwise or made
                by another device type, torch version or other weights: neither must be mixed.
        """
        if files.is_there(self.root / "manifest.json") and not fresh:
            known = self.read_manifest()
            if changes := _changes(known, manifest):
                raise InputError(
                    f"{self.root} cannot go on: {'; '.join(changes)}. Clips of both would be "
                    "mixed: start a new run with --out, or remove the folder"
                )
            known = known.model_copy(update={"status": "running"})
            manifest = known.timed_by(manifest) if manifest.latency and not known.latency else known
        self.write_manifest(manifest)
        return manifest

    def append(self, *records: Record) -> None:
        """Add records to the files of their kinds; they are on disk when this returns.

        Raises:
            InputError: If the disk is full or not writable; nothing half-written stays.
        """
        lines: dict[str, list[bytes]] = {}
        for record in records:
            line = files.sealed(record.model_dump_json().encode()) + b"\n"
            lines.setdefault(record.file, []).append(line)
        for name, added in lines.items():
            files.append_lines(self.path(name), b"".join(added))

    def lost(
        self, results: Results, trials: Sequence[TrialRecord], scores: Sequence[ScoreRecord]
    ) -> str | None:
        """What results are of and records hold no more, and how to have it again; None if nothing.

        `trials` and `scores` are what was read here. A run that was kept without the records of its
        clips has lost none.
        """
        if not self.path(TrialRecord.file).exists():
            return None
        made = Counter(trial.cell_id for trial in trials if trial.clip)
        for cell_id, count in results.trials.items():
            if made[cell_id] < count.ok:
                return (
                    f"{self.path(TrialRecord.file)} has {made[cell_id]} of {count.ok} clips of "
                    f"{cell_id}: repeat the command that made them"
                )
        there = Counter((score.metric, score.recipe_id, score.cell_id) for score in scores)
        metric_of = {column.name: str(column.metric) for column in results.columns if column.fields}
        for value in results.rows:
            if value.metric in metric_of and value.value is not None:
                found = there[metric_of[value.metric], str(value.recipe_id), value.cell_id]
                if found < value.n:
                    return (
                        f"{self.path(ScoreRecord.file)} has {found} of {value.n} clips behind "
                        f"{value.metric} of {value.cell_id}: `calm-bench score` restores them"
                    )
        return None

    def read(self, kind: type[R]) -> list[R]:
        """All records of one kind in the order they were first written, the latest of each key.

        A last line without its newline was being written when the process died: it is left out.

        Raises:
            InputError: If any other line is not a valid record; the message has its number.
        """
        path = self.root / kind.file
        latest: dict[tuple[object, ...], R] = {}
        for number, line in enumerate(files.committed_lines(path), start=1):
            record = load_record(kind, line, f"{path}:{number}")
            latest[record.key] = record
        return list(latest.values())

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace manifest.json."""
        self.write_json("manifest.json", manifest)

    def read_manifest(self) -> Manifest:
        """The run's manifest.

        Raises:
            InputError: If the folder is no run folder.
        """
        return self.read_json(Manifest, "manifest.json")

    def write_results(self, results: Results) -> None:
        """Replace results.json."""
        self.write_json("results.json", results)

    def read_results(self) -> Results:
        """The run's tidy rows, with those made from votes if there are any.

        Raises:
            InputError: If the run has none yet, or they do not fit this version of calm-bench, or
                belong to another run.
        """
        results = self.read_json(Results, "results.json")
        if files.is_there(self.root / "manifest.json"):
            manifest = self.read_manifest()
            _refuse_another(results.run_id, manifest.run_id, self.root / "results.json")
            if not results.weights:
                results = results.model_copy(update={"weights": manifest.named_weights})
        return results.joined(self.read_ratings(results.run_id))

    def read_ratings(self, run_id: str) -> Ratings:
        """What listeners said of the run so far.

        Raises:
            InputError: If ratings.json belongs to another run.
        """
        if not files.is_there(self.root / "ratings.json"):
            return Ratings(run_id=run_id)
        ratings = self.read_json(Ratings, "ratings.json")
        _refuse_another(ratings.run_id, run_id, self.root / "ratings.json")
        return ratings

    def write_json(self, name: str, model: BaseModel) -> None:
        """Replace a file by a record as indented JSON."""
        body = files.sealed(model.model_dump_json(indent=1).encode())
        files.replace(self.path(name), body + b"\n")

    def write_text(self, name: str, text: str) -> None:
        """Replace a file of the run folder; a reader sees the old text or the new, never a part."""
        files.replace(self.path(name), text.encode())

    def read_json(self, model: type[M], name: str) -> M:
        """A record that `write_json` wrote.

        Raises:
            InputError: If it is not there, or not what was written.
        """
        path = self.root / name
        if not files.is_there(path):
            raise InputError(
                f"{self.root} has no {name}: it is not the folder of a finished run; "
                "`calm-bench run` writes these to results/runs/"
            )
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        return load_record(model, data, str(path))


def _refuse_another(found: str, wanted: str, path: Path) -> None:
    if found != wanted:
        raise InputError(f"{path} speaks of the run {found}, not of {wanted}")


def load_record(model: type[M], data: bytes, where: str) -> M:
    """What one line or file holds.

    Raises:
        InputError: If it is not what was written.
    """
    try:
        return model.model_validate_json(files.unsealed(data, where))
    except ValidationError as error:
        raise InputError(f"{where}: {problem(error)}") from error


def _changes(known: Manifest, wanted: Manifest) -> list[str]:
    """What keeps a run from going on, in words; empty if nothing does."""
    before, now = (f"{m.benchmark} version {m.version}" for m in (known, wanted))
    changes = []
    weights = _other_weights(known.weights, wanted.weights)
    if before != now:
        changes.append(f"it holds {before}, not {now}")
    if weights:  # of which the plan's hash is made, too
        changes.append(f"it holds what other weights made ({weights})")
    elif before == now and known.plan_hash != wanted.plan_hash:
        changes.append("it was planned with other options or recordings")
    if known.latency and wanted.latency and known.latency != wanted.latency:
        changes.append("its systems were timed over other frames or rounds")
    for name in ("device", "torch"):
        before, now = known.environment[name], wanted.environment[name]
        if before != now:
            changes.append(f"it was made with {name} {before}, this is {name} {now}")
    return changes


def _other_weights(known: Mapping[str, str | None], wanted: Mapping[str, str | None]) -> str:
    """The models whose weights are no longer those of a run, in words; "" if there are none."""
    changed = [
        f"{model} {Weights(sha256=known[model]).short}, now {Weights(sha256=wanted[model]).short}"
        for model in sorted(known.keys() & wanted.keys())
        if known[model] != wanted[model]
    ]
    return few(changed)
