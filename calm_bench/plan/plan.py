"""What a run will do, decided before anything is done: rows, trials, and the batches they run in.

A plan is a pure function of the benchmark, the options and the models' configurations. Its hash is
the run's name, so the same command finds its run again, and its batches never depend on what is
left to do, so a resumed run makes the same clips.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calm_bench import registry
from calm_bench.config import (
    BenchmarkSpec,
    Models,
    PromptSpec,
    is_untrained,
    load_benchmark,
    unnamed_weights,
)
from calm_bench.core import paths
from calm_bench.core.recordings import amount, few
from calm_bench.data.layouts import refuse_other_languages
from calm_bench.data.own_prompts import OwnPrompts, find_candidates, own_prompts, text_note
from calm_bench.data.prompts import load_prompt, present_prompts, read_prompt_specs
from calm_bench.errors import BenchError, InputError, UnknownNameError
from calm_bench.plan.overrides import Overrides, apply_overrides, check_lengths
from calm_bench.plan.rows import identity_of, rows_of, with_own_round_trips
from calm_bench.seeds import content_hash, derive_seed
from calm_bench.store.records import CodecCheck, Row, row_title, swept
from calm_bench.types import KernelsOf


def lacking(spec: BenchmarkSpec, models: Models) -> str | None:
    """In a few words what must come before the benchmark can run; None if nothing does."""
    states, parts = _states(spec, models), []
    for state, words in (("missing", "models"), ("untrained", "weights of")):
        if names := [name for name, found in states.items() if found == state]:
            parts.append(f"{words} {', '.join(names)}")
    if not (paths.benchmarks_dir() / spec.prompts).is_file():
        parts.append(spec.prompts)
    return "lacks " + "; ".join(parts) if parts else None


def _states(spec: BenchmarkSpec, models: Models) -> dict[str, str]:
    names = [row.model for row in spec.systems] + [row.model for row in spec.codecs.values()]
    return {name: _state(name, models) for name in names}


def _state(name: str, models: Models) -> str:
    try:
        config, folder = models[name]
    except UnknownNameError:
        return "missing"
    except BenchError:
        return "broken"  # whoever loads it says how; `doctor` does
    if unnamed_weights(config, folder) is not None:
        return "broken"
    return "untrained" if is_untrained(config, folder) else "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One clip to be made: a row, a prompt and a draw."""

    trial_id: str
    cell_id: str
    prompt: PromptSpec
    seed_index: int
    seed: int

    @property
    def clip(self) -> str:
        """Where the audio goes, relative to the run folder."""
        return f"clips/{self.cell_id}/{self.prompt.id}.{self.seed_index}.flac"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Trials of one row that are generated together, always the same ones."""

    row: Row
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a run will do.

    Attributes:
        spec: The benchmark with the options applied.
        root: The folder that the prompts' audio paths are relative to.
        models: All that the plan names, as they were read.
        notes: What the options changed that the user may not expect.
        unusable: Why recordings that were to be prompts are none.
        kernels: Which kernels products take on a processor.
        checks: What the codecs make of the prompts, where that was looked at.
    """

    spec: BenchmarkSpec
    root: Path
    prompts: tuple[PromptSpec, ...]
    rows: tuple[Row, ...]
    batches: tuple[Batch, ...]
    models: Models
    plan_hash: str
    n_seeds: int
    kernels: KernelsOf = "fixed"
    notes: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    checks: tuple[CodecCheck, ...] = ()

    @property
    def run_id(self) -> str:
        """The run's name: the benchmark and a short hash of the plan."""
        return f"{self.spec.name}-{self.plan_hash[:8]}"

    @property
    def n_trials(self) -> int:
        """How many clips the run makes."""
        return sum(len(batch.trials) for batch in self.batches)

    def as_json(self) -> dict[str, Any]:
        """The plan as one JSON object."""
        return {
            "run_id": self.run_id,
            "benchmark": self.spec.name,
            "version": self.spec.version,
            "cells": [row.model_dump() for row in self.rows],
            "prompts": [prompt.id for prompt in self.prompts],
            "seeds": self.n_seeds,
            "n_trials": self.n_trials,
            "n_batches": len(self.batches),
            "metrics": list(self.spec.metrics),
            "notes": list(self.notes),
            "unusable": list(self.unusable),
            "codec_checks": [check.model_dump() for check in self.checks],
        }


def expand(benchmark: str, overrides: Overrides) -> Plan:
    """Turn a benchmark and the options into rows, trials and batches.

    Raises:
        UnknownNameError: For a benchmark, system, metric or reference row that does not exist.
        InputError: If a file or the number of prompts cannot be used.
        WeightsError: If a model's weights file is missing.
    """
    models = Models()
    spec, notes = apply_overrides(load_benchmark(benchmark), overrides, models)
    _load_measures(spec)
    if [*_states(spec, models).values()].count("missing") > 1:  # one alone gets near names
        raise InputError(f"{spec.name} cannot run here: it {lacking(spec, models)}")
    spec = with_own_round_trips(spec, models)
    root, found = _prompts(benchmark, spec, overrides)
    prompts = found.prompts
    notes += check_lengths(spec, root, prompts)
    rows = tuple(rows_of(spec, overrides.text_temperature, models))
    # Labels, metrics, tables and timing change no clip and are no part of the run's identity.
    plan_hash = content_hash(
        [spec.name, spec.version, spec.prompt_seconds, spec.seconds, spec.batch_size],
        [identity_of(row, models) for row in rows],
        [[p.id, p.sha256, *filter(None, [p.group])] for p in prompts],
        overrides.n_seeds,
        *(asked for asked in (overrides.asr, overrides.language) if asked is not None),
        *(["kernels measured"] if overrides.kernels == "measured" else []),
    )
    return Plan(
        spec=spec,
        root=root,
        prompts=prompts,
        unusable=found.unusable,
        rows=rows,
        batches=tuple(_batches(spec, rows, prompts, overrides.n_seeds, models)),
        models=models,
        plan_hash=plan_hash,
        n_seeds=overrides.n_seeds,
        kernels=overrides.kernels,
        notes=(
            *notes,
            *found.notes,
            *_too_few_clips(spec.metrics, prompts, overrides.n_seeds),
            *_without_weights(models),
        ),
    )


def _load_measures(spec: BenchmarkSpec) -> None:
    """Refuse a metric or an embedding that cannot be used before anything is made for it."""
    for name in spec.metrics:
        registry.load("metric", name)
    for name in spec.embedding:
        registry.load("embedding", name)
    for name in spec.embedding_if_usable:
        registry.target("embedding", name)


def check_prompts(plan: Plan) -> None:
    """Read every prompt once.

    Raises:
        InputError: If some are missing, changed, damaged, silent or too short.
    """
    faults = []
    for prompt in plan.prompts:
        try:
            load_prompt(prompt, plan.spec, plan.root)
        except InputError as error:
            faults.append(str(error))
    if faults:
        many = f"{len(faults)} of {len(plan.prompts)} prompts cannot be used: {few(faults)}"
        raise InputError(many if len(faults) > 1 else faults[0])


def plan_lines(plan: Plan) -> list[str]:
    """The plan in words, to be printed before anything is done."""
    spec, n = plan.spec, len(plan.prompts)
    seeds = f" × {plan.n_seeds} seeds" if plan.n_seeds > 1 else ""
    lines = [
        f"{spec.name} (version {spec.version}): {spec.description}",
        f"{len(plan.rows)} rows × {amount(n, 'prompt')}{seeds} = {amount(plan.n_trials, 'clip')} "
        f"of {spec.seconds:g} s, {spec.prompt_seconds:g} s given, in {len(plan.batches)} batches",
    ]
    several = swept(plan.rows)
    for row in plan.rows:
        more = f"{' (baseline)' if row.baseline else ''}: {row.model}"
        lines.append(f"  {row_title(row, several)}{more if row.kind == 'system' else ''}")
    if spec.metrics:
        lines.append(f"metrics: {', '.join(spec.metrics)}")
    if spec.latency:
        lines.append(f"latency: {spec.latency.rounds} rounds of {spec.latency.frames} frames")
    return lines + [f"note: {note}" for note in plan.notes]


def _too_few_clips(
    metrics: Sequence[str], prompts: Sequence[PromptSpec], n_seeds: int
) -> Iterator[str]:
    """Which metrics will say nothing of rows this small; more draws make no more recordings."""
    recordings = len({prompt.sha256 for prompt in prompts})
    short = defaultdict(list)
    for name in metrics:
        metric = registry.load("metric", name)
        n = recordings if "reference" in metric.needs else recordings * n_seeds
        if metric.fewest_clips > n:
            short[metric.fewest_clips, n].append(name)
    for (fewest, n), names in short.items():
        under = f"under {', '.join(names)}: {fewest} are needed"
        yield f"{amount(n, 'clip')} a row {'leaves' if n == 1 else 'leave'} a dash {under}"


def _without_weights(models: Models) -> Iterator[str]:
    """Which models were not trained: those that have nothing to train, and those at random."""
    names = sorted(name for name, sha256 in models.weights.items() if sha256 is None)
    kinds = {name: models[name][0] for name in names}
    free = [n for n in names if registry.declares(kinds[n].kind, kinds[n].type, "weight_free")]
    if drawn := [name for name in names if name not in free]:
        yield (
            f"random weights in {', '.join(drawn)}: what is measured of them says something of "
            "speed and nothing of quality"
        )
    if free:
        yield f"no weights of its own, by design: {', '.join(free)}"


def _prompts(benchmark: str, spec: BenchmarkSpec, overrides: Overrides) -> tuple[Path, OwnPrompts]:
    """The prompts that the options choose, the user's or the benchmark's own, below a folder."""
    if overrides.prompt_audio:
        candidates, said = find_candidates(overrides.prompt_audio)
        _check_count("--prompt-audio", overrides.n_prompts, candidates, len(candidates))
        drawn = subset([(c.id, c.groups) for c in candidates], overrides.n_prompts)
        asked = [candidates[index] for index in drawn]
        if spec.asr is not None:
            refuse_other_languages(asked, spec.asr)
        root = Path(paths.working_dir().anchor)
        own = own_prompts(asked, spec, root)
        return root, replace(own, notes=(*said, *own.notes, *text_note(own.prompts, spec.asr)))
    is_file = benchmark.endswith((".yaml", ".yml"))
    folder = Path(benchmark).resolve().parent if is_file else paths.benchmarks_dir()
    index = (folder / paths.expanded(spec.prompts, "prompts")).resolve()
    listed = read_prompt_specs(index)
    root = _root(folder, index, listed[0])
    there = present_prompts(listed, root)
    _check_count(spec.name, overrides.n_prompts, there, len(listed))
    _check_count(spec.name, spec.default_prompts, listed, len(listed))
    wanted = overrides.n_prompts or spec.default_prompts or len(listed)
    whole = len(listed) if overrides.n_prompts else wanted
    is_short, some = len(there) < whole, f"{len(there)} of {amount(whole, 'prompt')}: {_WHEEL}"
    # Of all, those that the benchmark takes by itself come first: fewer are a part of them.
    first, others = there[: spec.default_prompts], there[spec.default_prompts or len(there) :]
    chosen = (*_drawn(first, wanted), *_drawn(others, max(0, wanted - len(first))))
    return root, OwnPrompts(prompts=chosen, notes=(some,) if is_short else (), unusable=())


def _drawn(prompts: Sequence[PromptSpec], n: int) -> Iterator[PromptSpec]:
    for index in subset([(prompt.id, prompt.group) for prompt in prompts], n):
        yield prompts[index]


def _root(folder: Path, index: Path, first: PromptSpec) -> Path:
    """The folder that a list's audio is relative to: the benchmark's, or one beside the list.

    `data prompts` names audio relative to the parent of the folder that the list is in.
    """

    def holds(place: Path) -> bool:
        try:
            return paths.inside(place, first.audio).is_file()
        except (InputError, OSError):  # which reading the prompt says
            return False

    return next(filter(holds, (folder, index.parent.parent, index.parent)), folder)


_WHEEL = "an installed package carries the first of them, a checkout all"


def subset(listed: Sequence[tuple[str, object]], n: int | None) -> list[int]:
    """Which `n` of a list of ids and groups are drawn, in its order: of each group the same share.

    What is drawn for a smaller number is part of what is drawn for a greater one; None takes all.
    """
    members: dict[object, list[int]] = defaultdict(list)
    for index in sorted(range(len(listed)), key=lambda i: derive_seed("prompts", listed[i][0])):
        members[listed[index][1]].append(index)
    places = {
        index: (rank + derive_seed("group", group) / 2**63) / len(indices)
        for group, indices in members.items()
        for rank, index in enumerate(indices)
    }
    return sorted(sorted(places, key=lambda index: (places[index], index))[:n])


def _check_count(name: str, asked: int | None, prompts: Sequence[object], n_listed: int) -> None:
    if asked is not None and asked > len(prompts):
        more = f" ({n_listed} are listed: {_WHEEL})" if n_listed > len(prompts) else ""
        raise InputError(
            f"{name} has {amount(len(prompts), 'prompt')}, not the {asked} asked for{more}"
        )


def _batches(
    spec: BenchmarkSpec,
    rows: Sequence[Row],
    prompts: Sequence[PromptSpec],
    n_seeds: int,
    models: Models,
) -> Iterator[Batch]:
    """Every row's trials, cut into batches in the order of the prompts."""
    draws = [
        (prompt, index, derive_seed(spec.name, spec.version, prompt.id, index))
        for prompt in prompts
        for index in range(n_seeds)
    ]
    for row in rows:
        identity = [*identity_of(row, models), spec.prompt_seconds, spec.seconds]
        trials = []
        for prompt, index, seed in draws:
            name = content_hash(row.cell_id, identity, [prompt.id, prompt.sha256], index, seed)
            about = {"trial_id": name, "cell_id": row.cell_id}
            trials.append(Trial(**about, prompt=prompt, seed_index=index, seed=seed))
        for first in range(0, len(trials), spec.batch_size):
            yield Batch(row=row, trials=tuple(trials[first : first + spec.batch_size]))
