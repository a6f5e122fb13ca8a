"""Scores of any two folders of audio: set metrics, and the clip metrics that need no text."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from calm_bench import registry
from calm_bench.core import paths
from calm_bench.core.recordings import Listing, few, group_of, list_recordings
from calm_bench.core.sounds import sounds_of
from calm_bench.errors import InputError
from calm_bench.score.clips import Clips, StoredClip
from calm_bench.score.pairing import DEFAULT_RULE, Pairing, pair, unrelated
from calm_bench.score.scorer import Scorer, Setting
from calm_bench.score.summary import Outcome, finish, summarise_run
from calm_bench.seeds import content_hash
from calm_bench.store.environment import describe_environment
from calm_bench.store.records import Manifest, Row
from calm_bench.store.results import TrialCount
from calm_bench.store.run_store import RunStore

_ALONE = "there is no folder of originals: name one with --reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderScores:
    """What is asked of folders.

    Attributes:
        metrics: Names of metrics; none for all that need no text.
        embeddings: What set metrics look through.
        pair_by: The rule of `pairing` that finds a clip's original; None to take those of the same
            path, and to do without where there are none.
        group_by: The rule of `group_of` that says which files were cut from one recording; None if
            each stands for itself.
        asr: Who hears the words, for the metrics that need them.
    """

    metrics: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    pair_by: str | None = None
    group_by: str | None = None
    asr: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The readable clips of a folder, what is wrong with the others, and what was left out."""

    path: Path
    clips: list[StoredClip]
    failures: list[str]
    notes: list[str]

    @property
    def lines(self) -> list[str]:
        """What must be said of it: what was left out, what is there twice, what is wrong."""
        n, distinct, groups = len(self.clips), self.n_distinct, {c.group for c in self.clips}
        lines = list(self.notes)
        if distinct < n:
            lines.append(
                f"{self.path}: n {n}, distinct {distinct}: copies of a recording count once"
            )
        if len(groups) < distinct:
            lines.append(
                f"{self.path}: {len(groups)} recordings, each resampled with all its clips"
            )
        return [*lines, *self.failures]

    @property
    def count(self) -> TrialCount:
        """How many recordings were read and how many files could not be."""
        return TrialCount(ok=self.n_distinct, failed=len(self.failures))

    @property
    def n_distinct(self) -> int:
        """How many recordings the clips are."""
        return len({clip.audio_id for clip in self.clips})


def score_folders(
    folder: Path,
    reference: Path | None,
    asked: FolderScores,
    *,
    out: Path | None = None,
    command: Sequence[str] = (),
) -> Outcome:
    """Score the audio below a folder, against that below another one if there is one.

    Files of both folders that pair are taken for versions of one recording, which round-trip
    metrics compare. Files that cannot be read are counted and named, never skipped in silence.

    Raises:
        InputError: If a folder holds no readable audio, nothing pairs by the rule asked for, or a
            metric that is asked for needs what is not there.
        UnknownNameError: If there is no such metric or embedding.
    """
    _check_names(asked, alone=reference is None)
    listings = _list_sides(folder, reference)
    pairing = _pair(listings, asked.pair_by)
    versions = {"clips": pairing.originals} if reference is not None else {}
    sides = {r: read_folder(f, versions.get(r), asked.group_by) for r, f in listings.items()}
    lacking = () if pairing.originals else ("paired_reference",)
    names = list(dict.fromkeys(asked.metrics)) or _metrics_without({"text", "transcript", *lacking})
    unpaired = list(pairing.notes(str(folder), str(reference)))
    setting = Setting(
        asr=asked.asr,
        embeddings=asked.embeddings,
        unpaired=unpaired[0] if unpaired else _ALONE,
    )
    doubts = unrelated(sides["clips"].clips, sides["reference"].clips if reference else ())
    manifest = _manifest(sides, asked, names, command)
    store = RunStore(paths.runs_dir() / manifest.run_id if out is None else out)
    with store.opened(manifest.run_id, {}, fresh=False):
        manifest = store.begin(manifest)
        clips = Clips({cell_id: side.clips for cell_id, side in sides.items()})
        scorer = Scorer(_rows(sides, bool(pairing.originals)), clips, store, setting)
        results = summarise_run(
            scorer,
            scorer.score(names, []),
            [],
            manifest,
            trials={cell_id: side.count for cell_id, side in sides.items()},
            notes=[*(line for side in sides.values() for line in side.lines), *unpaired, *doubts],
        )
        return finish(store, manifest, results)


def _rows(sides: Mapping[str, Folder], paired: bool) -> list[Row]:
    """The reference's row, if there is one, and the row of what is scored."""
    kinds = {"reference": "reference", "clips": "round_trip" if paired else "system"}
    rows = ({"cell_id": r, "label": str(s.path), "kind": kinds[r]} for r, s in sides.items())
    return [Row.model_validate(row) for row in rows]


def _list_sides(folder: Path, reference: Path | None) -> dict[str, Listing]:
    """The clips, and the reference before them if there is one; no file is in both."""
    if reference is None:
        found = {"clips": list_recordings(folder, ())}
    elif folder.resolve() == reference.resolve():
        raise InputError(
            f"{folder} and --reference {reference} are the same folder: there is nothing to "
            "measure against anything else"
        )
    else:
        found = {"reference": list_recordings(reference, [folder])}
        found["clips"] = list_recordings(folder, [reference])
    for listing in found.values():
        listing.refuse_empty()
    return found


def _pair(listings: Mapping[str, Listing], rule: str | None) -> Pairing:
    """What belongs together; a rule that was asked for has to say so of every file it fits."""
    if "reference" not in listings:
        if rule is not None:
            raise InputError("--pair-by pairs clips with --reference DIR, which is missing")
        return pair((), ())
    clips, reference = listings["clips"], listings["reference"]
    found = pair(clips.names, reference.names, DEFAULT_RULE if rule is None else rule)
    notes = list(found.notes(str(clips.folder), str(reference.folder)))
    if rule is not None and found.ambiguous:
        name, fitting = next(iter(found.ambiguous.items()))
        raise InputError(
            f"--pair-by {rule}: {name} in {clips.folder} could be a version of "
            f"{few(fitting)} in {reference.folder}"
        )
    if rule is not None and not found.originals:
        raise InputError(f"--pair-by {rule} pairs nothing: {notes[0]}")
    return found


def read_folder(
    listing: Listing, originals: Mapping[str, str] | None = None, group_by: str | None = None
) -> Folder:
    """Every sound file of a folder, under the name of its original if it has one.

    Raises:
        InputError: If none of its files can be read, or one is of no group.
    """
    # No original is called ./a.wav, so that what is not paired is paired by no metric.
    names = [n if originals is None else originals.get(n, f"./{n}") for n in listing.names]
    groups = [n if group_by is None else group_of(group_by, n.removeprefix("./")) for n in names]
    drawn = Counter[str]()
    clips, failures, remarks = [], list(listing.unlisted), []
    sounds = sounds_of(listing.files, f"reading {listing.folder.name}")
    for path, name, group, sound in zip(listing.files, names, groups, sounds, strict=True):
        if isinstance(sound, InputError):
            failures.append(str(sound))
            continue
        clip = StoredClip(
            clip_id=content_hash(name, drawn[name], sound.audio_id),
            prompt_id=name,
            group=group,
            seed_index=drawn[name],
            path=path,
            sound=sound,
        )
        clips.append(clip)
        drawn[name] += 1
        remarks += [f"{listing.name(path)} ({remark})" for remark in sound.remarks]
    if not clips:
        raise InputError(f"{listing.folder} holds no readable audio: {failures[0]}")
    notes = listing.notes
    if remarks:
        notes.append(
            f"listen to these before you believe their numbers, in {listing.folder}: {few(remarks)}"
        )
    return Folder(path=listing.folder, clips=clips, failures=failures, notes=notes)


def _check_names(asked: FolderScores, *, alone: bool) -> None:
    """Refuse a metric that can say nothing of plain folders, whatever lies in them."""
    for name in asked.embeddings:
        registry.load("embedding", name)
    originals = {"reference", "paired_reference"} if alone else set()
    for name in asked.metrics:
        needs = registry.load("metric", name).needs
        if "text" in needs:
            others = ", ".join(_metrics_without({"text", *originals}))
            raise InputError(
                f"--metrics {name} compares with the text that was meant to be said, which files "
                f"alone do not tell; of these can be had: {others}"
            )
        if originals & needs:
            raise InputError(f"--metrics {name} measures against originals: {_ALONE}")


def _metrics_without(needs: Collection[str]) -> list[str]:
    names = registry.names("metric")
    return [name for name in names if registry.load("metric", name).needs.isdisjoint(needs)]


def _manifest(
    sides: Mapping[str, Folder], asked: FolderScores, metrics: Sequence[str], command: Sequence[str]
) -> Manifest:
    clips = [[clip.identity for clip in side.clips] for side in sides.values()]
    plan_hash = content_hash(clips, list(metrics), *(asked.embeddings or (None,)), asked.asr)
    folders = [str(side.path) for side in sides.values()]
    return Manifest(
        run_id=f"score-{plan_hash[:8]}",
        benchmark="score",
        version=1,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=tuple(command),
        plan_hash=plan_hash,
        options={"folders": folders, **asdict(asked), "metrics": list(metrics)},
        environment=describe_environment("cpu"),
    )
