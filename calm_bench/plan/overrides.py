"""What the command line changes of a benchmark, and what follows from it for the reader."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calm_bench import registry
from calm_bench.asr import listener
from calm_bench.config import (
    AT_STEP,
    BenchmarkSpec,
    Models,
    PromptSpec,
    kept_steps,
)
from calm_bench.core import paths
from calm_bench.core.audio import AudioInfo, probe_audio
from calm_bench.core.recordings import few
from calm_bench.errors import InputError
from calm_bench.plan.rows import (
    ROUND_TRIP,
    choose_systems,
    with_head_steps,
    with_own_labels,
    with_precisions,
    with_trainings,
)
from calm_bench.types import KernelsOf, Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the command line changes of a benchmark; empty or None leaves the benchmark's own.

    Attributes:
        text_temperature: None lets the text stream follow the audio's temperature.
        head_steps: A row for each, of the systems whose head takes any number of steps.
        seconds: Length of the clips, prompt included; may be longer than the recordings are.
        prompt_audio: The user's own recordings, in place of the benchmark's prompts.
        checkpoints: The weights kept in training in place of the final ones.
        precisions: A row for each of every system.
        trainings: A row for each of a system's: `all`, how many, or seeds; None for its own alone.
        latency: Whether systems are timed, if the benchmark times them.
        metrics: In place of the benchmark's; what they say is no part of a run's identity.
        embeddings: What they look through, in place of the benchmark's.
        asr: Who hears the words.
        language: What is spoken.
        kernels: Which kernels products take on a processor.
    """

    temperatures: tuple[float, ...] = ()
    text_temperature: float | None = None
    head_steps: tuple[int, ...] = ()
    seconds: float | None = None
    systems: tuple[str, ...] = ()
    n_prompts: int | None = None
    prompt_audio: tuple[Path, ...] = ()
    n_seeds: int = 1
    checkpoints: bool = False
    precisions: tuple[Precision, ...] = ()
    trainings: str | None = None
    latency: bool = True
    metrics: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    asr: str | None = None
    language: str | None = None
    kernels: KernelsOf = "fixed"


def apply_overrides(
    spec: BenchmarkSpec, overrides: Overrides, models: Models
) -> tuple[BenchmarkSpec, tuple[str, ...]]:
    """The benchmark as the options change it, and notes on what follows from them.

    Raises:
        UnknownNameError: For a system that does not exist.
        InputError: If an option does not fit the benchmark.
    """
    spec, notes = _measured(spec, overrides)
    update: dict[str, Any] = {
        "asr": _listener(spec, overrides),
        "temperatures": tuple(dict.fromkeys(overrides.temperatures or spec.temperatures)),
        "references": tuple(dict.fromkeys(spec.references)),
        "metrics": tuple(dict.fromkeys(spec.metrics)),
    }
    if overrides.seconds is not None:
        if overrides.seconds <= spec.prompt_seconds:
            raise InputError(
                f"clips of {overrides.seconds:g} s have no room after the prompt of "
                f"{spec.prompt_seconds:g} s"
            )
        update["seconds"] = overrides.seconds
    if not overrides.latency:
        update["latency"] = None
    systems = spec.systems
    if overrides.systems:
        systems = choose_systems(spec, overrides.systems, models)
        if not any(row.baseline for row in systems):
            notes += ("no baseline among these systems: differences are to the first of them",)
    systems = with_own_labels(systems)
    if overrides.head_steps:
        systems = with_head_steps(systems, overrides.head_steps, models)
    if overrides.precisions:
        systems = with_precisions(systems, overrides.precisions)
    if overrides.trainings is not None:
        systems, more = with_trainings(systems, overrides.trainings, models)
        notes += more
    spec = spec.model_copy(update=update | {"systems": systems})
    if overrides.checkpoints:
        spec, more = _at_checkpoints(spec)
        notes += more
    return spec, notes


def _measured(spec: BenchmarkSpec, overrides: Overrides) -> tuple[BenchmarkSpec, tuple[str, ...]]:
    """The benchmark with the metrics and embeddings that were asked for, if any were."""
    if not overrides.metrics and not overrides.embeddings:
        return spec, ()
    note = "other measures than the benchmark's: the command without them has those again"
    return with_measures(spec, overrides.metrics, overrides.embeddings), (note,)


def with_measures(
    spec: BenchmarkSpec,
    metrics: Sequence[str],
    embeddings: Sequence[str],
    *,
    beside: bool = False,
) -> BenchmarkSpec:
    """The benchmark with these metrics and embeddings in place of its own, or beside them.

    Its table keeps the columns that can still be filled, and takes all of a metric asked for that
    has none in it.

    Raises:
        UnknownNameError: For a metric or an embedding that does not exist.
        InputError: If no metric looks through an embedding.
    """
    for name in embeddings:
        registry.load("embedding", name)
    own = spec.metrics if beside or not metrics else ()
    chosen = {name: registry.load("metric", name) for name in (*own, *metrics)}
    if embeddings and not any(hasattr(metric, "embedder") for metric in chosen.values()):
        raise InputError(
            f"--embedding: none of the metrics {', '.join(chosen)} looks through one; add "
            "`--metrics fad kad`"
        )
    columns = {name: [column.name for column in cls.columns] for name, cls in chosen.items()}
    known = {column for some in columns.values() for column in some}
    table = [name for name in spec.table if name.partition("[")[0] in known]
    shown = {name.partition("[")[0] for name in table}
    for name in metrics if spec.table else ():
        table += columns[name] if shown.isdisjoint(columns[name]) else []
    named = [name.partition("[")[0] for name in table if "[" in name]
    table += [f"{name}[{embedding}]" for name in named for embedding in embeddings]
    update: dict[str, Any] = {"metrics": tuple(chosen), "table": tuple(dict.fromkeys(table))}
    if embeddings:
        names = dict.fromkeys((*(spec.embedding if beside else ()), *embeddings))
        update |= {"embedding": tuple(names)}
        update |= {} if beside else {"embedding_if_usable": ()}
    return spec.model_copy(update=update)


def _listener(spec: BenchmarkSpec, overrides: Overrides) -> str | None:
    """The recogniser, which knows the language; found out before anything is generated."""
    if overrides.asr is None and overrides.language is None:
        return spec.asr
    if spec.asr is None:
        raise InputError(f"{spec.name} listens to no words: it takes no --asr and no --language")
    return listener(overrides.asr or spec.asr, overrides.language)


def _at_checkpoints(spec: BenchmarkSpec) -> tuple[BenchmarkSpec, tuple[str, ...]]:
    """A row for each checkpoint that was kept of each system, against the reference alone."""
    kept = {row.model: kept_steps(row.model) for row in spec.systems}
    rows = tuple(
        row.model_copy(update={"model": f"{row.model}{AT_STEP}{step}"})
        for row in spec.systems
        for step in kept[row.model]
    )
    without = ", ".join(sorted(name for name, steps in kept.items() if not steps))
    if not rows:
        raise InputError(
            f"no checkpoints were kept of {without}: "
            "calm-bench train NAME --set keep_every=STEPS keeps them"
        )
    references = tuple(name for name in spec.references if name == "reference")
    update = {"systems": rows, "references": references, "latency": None}
    notes = ["weights kept in training in place of the final ones; nothing is timed"]
    notes += [f"no checkpoints were kept of {without}"] if without else []
    return spec.model_copy(update=update), tuple(notes)


def check_lengths(
    spec: BenchmarkSpec, root: Path, prompts: Sequence[PromptSpec]
) -> tuple[str, ...]:
    """What to know of recordings that end before the clips do.

    Raises:
        InputError: If some are shorter than the prompt that is cut from them.
    """
    ends = {prompt.audio: end for prompt in prompts if (end := _declared(root, prompt))}
    short = [
        f"{name} ({end.seconds:.2f} s)"
        for name, end in ends.items()
        if not end.lasts(spec.prompt_seconds)
    ]
    if short:
        raise InputError(
            f"too short for the prompt of {spec.prompt_seconds:g} s: {few(short)}; "
            f"`calm-bench data folder DIR --out CORPUS --min-seconds {spec.prompt_seconds:g}` "
            "leaves them out, and --prompt-audio takes the CORPUS"
        )
    early = {name: end.seconds for name, end in ends.items() if not end.lasts(spec.seconds)}
    of_recordings = ("reference", "noise")  # as round trips are: made of the real continuation
    if not early or not any(r in of_recordings or r.endswith(ROUND_TRIP) for r in spec.references):
        return ()
    first = min(early, key=lambda name: early[name])
    return (
        f"{len(early)} of {len(prompts)} recordings end before the clips' {spec.seconds:g} s, "
        f"{first} first, after {early[first]:.2f} s: rows made of recordings hold what there is of "
        "them, and what is measured against recordings looks no further",
    )


def _declared(root: Path, prompt: PromptSpec) -> AudioInfo | None:
    """What a recording's header says; None for one that is refused with its fault when read."""
    try:
        found = probe_audio(paths.inside(root, prompt.audio))
    except InputError:
        return None
    return found if found.seconds > 0 else None
