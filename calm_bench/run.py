"""One benchmark: clips, times, scores and results of a plan; and the way back into its run.

The same command finds the same folder and goes on: finished batches, rounds and scores are kept, so
a kill costs the batch in flight and nothing else. Several ranks share clips, recognition and
scoring; the first of them holds the folder, times the systems and writes what was found.
"""

import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

from calm_bench import registry
from calm_bench.config import BenchmarkSpec, Models, parse
from calm_bench.core import paths
from calm_bench.core.device import resolve_device
from calm_bench.core.files import is_there
from calm_bench.core.progress import waiting
from calm_bench.core.ranks import ALONE, Ranks
from calm_bench.core.recordings import few
from calm_bench.data.prompts import PromptsAt, PromptShelf
from calm_bench.errors import InputError, UnknownNameError
from calm_bench.generate.clips import Studio
from calm_bench.generate.codec_check import check_codecs
from calm_bench.metrics.embedded import DEFAULT_EMBEDDING
from calm_bench.metrics.fidelity import BITS_PER_SECOND
from calm_bench.numbers.pairs import compared_rows
from calm_bench.numbers.speed import SPEED_COLUMNS
from calm_bench.plan.overrides import with_measures
from calm_bench.plan.plan import Plan
from calm_bench.plan.rows import opened_as, with_temperature_kind
from calm_bench.score.clips import Clips
from calm_bench.score.held_out import TEXT_LOSS, HeldOut, held_out_scores
from calm_bench.score.scorer import Scorer, Setting
from calm_bench.score.summary import Outcome, finish, summarise_benchmark
from calm_bench.speed.tidy import tidy
from calm_bench.speed.timetable import SpeedPlan
from calm_bench.speed.timing import measure_plan, missing_times, time_systems, timed_rows
from calm_bench.store.environment import code_hashes, describe_environment
from calm_bench.store.records import CodecCheck, LatencyRecord, Manifest, Row, TrialRecord
from calm_bench.store.results import Results
from calm_bench.store.run_store import RunStore

logger = logging.getLogger(__name__)


def run_folder(plan: Plan | SpeedPlan, out: Path | None) -> Path:
    """Where a plan's run is written."""
    return paths.runs_dir() / plan.run_id if out is None else out


def is_run(name: str) -> bool:
    """Whether a path or an id below results/runs is the folder of a run."""
    return any(RunStore(folder).holds_run for folder in _places(name))


def find_run(name: str) -> Path:
    """The folder of a run, by path or by its id below results/runs.

    Raises:
        InputError: If the path is no run's folder.
        UnknownNameError: If there is no run of this id.
    """
    for folder in _places(name):
        if RunStore(folder).holds_run:
            return folder
    if any((folder / "manifest.json").exists() for folder in _places(name)):
        there = next(f for f in _places(name) if (f / "manifest.json").exists())
        RunStore(there).read_manifest()  # says what is wrong with it
    if Path(name).exists():
        raise InputError(f"{name} is no run: a run's folder holds manifest.json")
    if len(Path(name).parts) > 1:
        raise InputError(f"{name} does not exist")
    known = [path.parent.name for path in paths.runs_dir().glob("*/manifest.json")]
    raise UnknownNameError("run", name, known)


def _places(name: str) -> tuple[Path, Path]:
    return Path(name), paths.runs_dir() / name


def read_run(folder: Path) -> Outcome:
    """What a finished run found.

    Raises:
        InputError: If the run is not finished, or its results do not fit this version.
    """
    return Outcome(folder=folder, results=RunStore(folder).read_results())


def run(
    plan: Plan,
    *,
    out: Path | None = None,
    device: str = "auto",
    fresh: bool = False,
    command: Sequence[str] = (),
    ranks: Ranks = ALONE,
) -> Outcome:
    """Do what a plan says, or what is left of it; every one of several ranks calls it.

    Raises:
        BenchError: If something the user can mend stands in the way.
    """
    device = _settled(device, ranks)
    store = RunStore(run_folder(plan, out))
    with ExitStack() as held:

        def begin() -> tuple[Plan, Manifest]:
            _check_precisions(plan, device)
            held.enter_context(store.opened(plan.run_id, plan.models.weights, fresh=fresh))
            return _begin(plan, store, device, command, fresh=fresh)

        plan, manifest = ranks.share(begin)
        _refuse_apart(store, manifest, ranks)
        _make(plan, manifest, store, device, ranks)
        rows = [with_temperature_kind(row, plan.models) for row in plan.rows]
        return _finish(plan.spec, manifest, rows, store, plan.models, ranks)


def _begin(
    plan: Plan, store: RunStore, device: str, command: Sequence[str], *, fresh: bool
) -> tuple[Plan, Manifest]:
    """The plan with what its codecs make of its prompts, and the manifest of its run."""
    store.gather(_order(plan))
    plan = check_codecs(plan, store)
    begun = store.read_manifest() if store.holds_run and not fresh else None
    spec = plan.spec.model_dump(mode="json")
    if begun is not None and spec["latency"] is None and store.read(LatencyRecord):
        spec["latency"] = begun.latency  # a run keeps the times that it has
    wanted = _manifest_of(
        plan,
        [with_temperature_kind(row, plan.models) for row in plan.rows],
        device,
        command,
        spec=spec,
        prompts=[prompt.id for prompt in plan.prompts],
        prompts_sha256=[prompt.sha256[:12] for prompt in plan.prompts],
        seeds=plan.n_seeds,
        unusable=list(plan.unusable),
    )
    taken = wanted.options["kernels"] = _kernels_of(plan, device, begun)
    if taken != "fixed":
        wanted.options["notes"].append(MEASURED)
    # Labels, metrics and tables may have changed since the run began: the plan in hand counts.
    manifest = store.begin(wanted, fresh=fresh)
    known = store.read(CodecCheck)
    store.append(*(check for check in plan.checks if check not in known))
    return plan, manifest.model_copy(update={"options": wanted.options})


MEASURED = "kernels as measured on this machine: the same seeds give other clips on another one"


def _kernels_of(plan: Plan, device: str, begun: Manifest | None) -> Any:
    """`fixed`, or by shape what every product of the plan's systems takes on this machine.

    A run that goes on keeps what it began with. Found before anything is made: several ranks do
    alike, and so does a run that goes on.
    """
    if plan.kernels == "fixed" or device != "cpu":
        return "fixed"
    if begun is not None:
        return begun.options.get("kernels", "fixed")  # another plan is refused soon
    from calm_bench.systems.loading import OpenModels, measured_kernels

    kernels = measured_kernels()
    for name, precision in dict.fromkeys(opened_as(row) for row in plan.rows):
        if name and precision:
            OpenModels(plan.models, device, kernels).system(name, precision)
    return kernels.taken


def _order(plan: Plan) -> dict[str, int]:
    """The place of each trial in the plan."""
    trials = (trial for batch in plan.batches for trial in batch.trials)
    return {trial.trial_id: place for place, trial in enumerate(trials)}


def _settled(device: str, ranks: Ranks) -> str:
    """This rank's device; threads, versions and code are those of the first rank.

    Raises:
        BenchError: If this machine has no such device, or other versions or code, whose clips must
            not be mixed with those of the other ranks.
    """
    if ranks.count == 1:
        return resolve_device(device)
    import torch

    device, threads = ranks.share(lambda: (resolve_device(device), torch.get_num_threads()))
    torch.set_num_threads(threads)
    with ranks.meeting():
        own = describe_environment(resolve_device(device))
    first = ranks.share(lambda: own)
    with ranks.meeting():
        for name in ("torch", "calm_bench", "code"):
            if own[name] != first[name]:
                raise InputError(f"{name} is {own[name]} here and {first[name]} on rank 0")
        if own["device_name"] != first["device_name"]:
            logger.warning(
                "rank %s runs on %s, rank 0 on %s: clips may differ in their last bits",
                *(ranks.rank, own["device_name"], first["device_name"]),
            )
        device = ranks.device(device)
    _say_apart(ranks)
    return device


def _say_apart(ranks: Ranks) -> None:
    """Say which ranks cannot keep what they hear and score where the first one finds it."""
    if home := ranks.apart():
        logger.warning(
            "rank %s does not see %s of rank 0 (CALM_BENCH_HOME): what it hears and scores, "
            "rank 0 does again; let both lie on one disk",
            *(ranks.rank, home),
        )


def _refuse_apart(store: RunStore, manifest: Manifest, ranks: Ranks) -> None:
    """Refuse ranks that do not see the folder that the first one writes."""
    with ranks.meeting():
        if not ranks.is_first and store.read_manifest().created != manifest.created:
            raise InputError(f"{store.root} is not the folder of rank 0: name a shared one (--out)")


def run_speed(plan: SpeedPlan, *, out: Path | None, fresh: bool, command: Sequence[str]) -> Outcome:
    """Time what a plan of `speed` says, or what is left of it.

    Raises:
        BenchError: If something the user can mend stands in the way.
    """
    rows = [with_temperature_kind(row, plan.models) for row in plan.rows]
    store = RunStore(run_folder(plan, out))
    with store.opened(plan.run_id, plan.models.weights, fresh=fresh):
        asked = {
            name: getattr(plan, name).model_dump(mode="json") for name in ("request", "setting")
        }
        wanted = _manifest_of(plan, rows, plan.request.device, command, **asked)
        manifest = store.begin(wanted, fresh=fresh)
        taken = measure_plan(plan, store, manifest.options.get("kernels"))
        options = manifest.options | {"kernels": taken}
        manifest = manifest.model_copy(update={"options": options})
        return finish(store, manifest, tidy(plan, rows, store))


def _manifest_of(
    plan: Plan | SpeedPlan, rows: Sequence[Row], device: str, command: Sequence[str], **options: Any
) -> Manifest:
    """The manifest of a plan; `options` are what its kind of run keeps beside rows and notes."""
    return Manifest(
        run_id=plan.run_id,
        benchmark=plan.spec.name,
        version=plan.spec.version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=tuple(command),
        plan_hash=plan.plan_hash,
        options={
            **options,
            "cells": [row.model_dump(mode="json") for row in rows],
            "notes": list(plan.notes),
        },
        environment=describe_environment(device),
        weights=dict(plan.models.weights),
        releases={name: plan.models[name][0].version for name in plan.models.weights},
    )


def prompts_of(plan: Plan) -> PromptsAt:
    """A plan's prompts by sample rate, read once for clips and losses."""
    return cache(partial(PromptShelf, plan.spec, plan.root))


def _make(plan: Plan, manifest: Manifest, store: RunStore, device: str, ranks: Ranks) -> None:
    """Clips, held-out losses and times: a system is loaded once and stays open for all three."""
    from calm_bench.nn.kernels import Kernels
    from calm_bench.systems.loading import OpenModels

    taken = manifest.options["kernels"]

    stays = [list(rows) for _, rows in groupby(plan.rows, key=opened_as)]
    with _shared(plan, store, ranks):
        kernels = Kernels(told=None if taken == "fixed" else taken)
        opened = OpenModels(plan.models, device, kernels)
        prompts_at = prompts_of(plan)
        studio = Studio(plan, store, opened, prompts_at, ranks)
        held_out = HeldOut(plan, store, opened, prompts_at)
        rounds = missing_times(plan, store) if ranks.is_first else []
        timed = {opened_as(row) for row in timed_rows(plan.rows)} if rounds else set()
        for at, rows in enumerate(turned := ranks.turned(stays)):
            studio.make(rows)
            held_out.read(rows, ranks)
            opened.keep(timed | {opened_as(later[0]) for later in turned[at + 1 :]})
    with ranks.meeting():
        if ranks.is_first:
            for rows in stays:
                held_out.record(rows)
            time_systems(plan, store, opened, rounds)
        opened.keep(())


@contextmanager
def _shared(plan: Plan, store: RunStore, ranks: Ranks) -> Iterator[None]:
    """Work that all ranks share, and what they recorded of it, which the first one takes in."""
    logs = nullcontext() if ranks.is_first else store.of_rank(ranks.rank).logged()
    with ranks.meeting(), logs:
        yield
    ranks.share(partial(store.gather, _order(plan)))


def _check_precisions(plan: Plan, device: str) -> None:
    """Refuse a precision that the device or a system does not have before anything is made."""
    asked = [row for row in plan.rows if row.precision]
    if not asked:
        return
    import torch

    from calm_bench.systems.base import System
    from calm_bench.systems.engine import changed_methods, check

    for row in asked:
        assert row.precision is not None
        check(torch.device(device), row.precision, "eager")
        kind = registry.load("system", plan.models[str(row.model)][0].type)
        if row.precision != "fp32" and (kind.flat is System.flat or changed_methods(kind)):
            raise InputError(
                f"{row.model} runs at fp32 alone: leave out this system or --precision "
                f"{row.precision}"
            )


def score_run(
    folder: Path,
    ranks: Ranks = ALONE,
    *,
    metrics: Sequence[str] = (),
    embeddings: Sequence[str] = (),
) -> Outcome:
    """Score a run's clips again, with the metrics that can run now; every rank calls it.

    Args:
        folder: The run's.
        ranks: That share the work.
        metrics: Beside those that the run has; from now on they are the run's, too.
        embeddings: That its metrics look through beside its own.

    Raises:
        InputError: If the folder's manifest is not that of a benchmark, or none of its clips is on
            disk: what was found in them would be lost.
    """
    if ranks.count > 1:
        _settled("cpu", ranks)
    store = RunStore(folder)
    with ExitStack() as held:

        def begin() -> Manifest:
            manifest = _scorable(store)
            held.enter_context(store.lock())
            _refuse_lost_trials(manifest, store)
            return manifest

        manifest, where = ranks.share(begin), str(folder / "manifest.json")
        kept = dict(manifest.options["spec"])
        kept.pop("reference_seconds", None)  # of older runs; the reference row's clips tell it
        spec = parse(BenchmarkSpec, kept, where)
        if metrics or embeddings:
            if any(hasattr(registry.load("metric", name), "embedder") for name in spec.metrics):
                own = spec.embedding or (DEFAULT_EMBEDDING,)
                spec = spec.model_copy(update={"embedding": own})
            spec = with_measures(spec, metrics, embeddings, beside=True)
            options = {**manifest.options, "spec": spec.model_dump(mode="json")}
            manifest = manifest.model_copy(update={"options": options})
        rows = [parse(Row, row, where) for row in manifest.options["cells"]]
        return _finish(spec, manifest, rows, store, Models(), ranks)


def _scorable(store: RunStore) -> Manifest:
    """The manifest of a run that can be scored again."""
    manifest = store.read_manifest()
    if "spec" not in manifest.options:
        raise InputError(
            f"{store.root} holds scores of plain folders: repeat the command that made it"
        )
    clips = [trial.clip for trial in store.read(TrialRecord) if trial.clip]
    if clips and not any(paths.inside(store.root, clip).is_file() for clip in clips):
        raise InputError(
            f"{store.root}: none of its {len(clips)} clips are on disk, so that nothing can be "
            "scored again; `calm-bench report` shows what was found in them"
        )
    return manifest


def _refuse_lost_trials(manifest: Manifest, store: RunStore) -> None:
    """Refuse to score a finished run anew that has lost the records of some of its clips."""
    options, n = manifest.options, len(store.read(TrialRecord))
    wanted = (
        len(options.get("cells", ())) * len(options.get("prompts", ())) * options.get("seeds", 1)
    )
    if manifest.status != "running" and n < wanted:
        raise InputError(
            f"{store.root / TrialRecord.file} has {n} of {wanted} clips: restore it, or make the "
            f"lost ones again: {shlex.join(manifest.command)}"
        )


_MADE_BY_RUNS = {column.name for column in (*SPEED_COLUMNS, *TEXT_LOSS, BITS_PER_SECOND)}
"""Columns of what clips alone do not tell."""


def _refuse_lost(manifest: Manifest, store: RunStore, results: Results) -> None:
    """Refuse to take back numbers of a run that scoring could not give again."""
    if not is_there(store.root / "results.json"):
        return
    known, found = (
        {(v.cell_id, v.metric): v.n for v in rows if v.value is not None}
        for rows in (store.read_results().rows, results.rows)
    )
    lost = [key for key, n in known.items() if key[1] in _MADE_BY_RUNS and found.get(key, 0) < n]
    if lost:
        names = few(sorted({f"{metric} of {row}" for row, metric in lost}))
        raise InputError(
            f"{store.root} has lost what only its run can tell ({names}): restore its records, or "
            f"make them again: {shlex.join(manifest.command)} --fresh"
        )


def _finish(
    spec: BenchmarkSpec,
    manifest: Manifest,
    rows: Sequence[Row],
    store: RunStore,
    models: Models,
    ranks: Ranks = ALONE,
) -> Outcome:
    pairs = compared_rows(rows)
    with ranks.meeting():
        scorer = Scorer(rows, Clips.of_run(rows, store), store, Setting.of(spec), ranks)
    scorer.prepare(spec.metrics)

    def summed_up() -> Outcome:
        scores = scorer.score(spec.metrics, pairs) + held_out_scores(rows, store, models)
        with waiting("computing intervals"):
            results = summarise_benchmark(spec, manifest, scorer, scores, pairs)
        _refuse_lost(manifest, store, results)
        return finish(store, manifest.scored_by(code_hashes()), results)

    return ranks.share(summed_up)
