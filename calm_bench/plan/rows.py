"""The rows of a benchmark: references, systems at each temperature, and what identifies each."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from calm_bench import registry
from calm_bench.config import (
    BenchmarkSpec,
    CodecRow,
    ModelConfig,
    Models,
    SystemRow,
    WeightsSpec,
    model_names,
    training_seeds,
    training_step_of,
)
from calm_bench.errors import InputError, UnknownNameError
from calm_bench.seeds import AT_SEED, is_number
from calm_bench.store.records import Row, trained
from calm_bench.types import Precision, SamplingParams

ROUND_TRIP = "_round_trip"
FIXED_ROWS: dict[str, tuple[Literal["reference", "silence", "noise"], str]] = {
    "reference": ("reference", "Reference"),
    "silence": ("silence", "Silence"),
    "noise": ("noise", "Noise, reference spectrum"),
}
"""Rows that no codec and no system makes: kind and label."""


def sampling_of(row: Row) -> SamplingParams:
    """How a system's row draws."""
    if row.kind != "system":
        raise ValueError(f"{row.cell_id} is no system's row")
    temperature = 1.0 if row.temperature is None else row.temperature
    text = row.text_temperature
    return SamplingParams(
        temperature=temperature,
        text_temperature=temperature if text is None else text,
        head_steps=row.head_steps or 1,
        top_k=row.top_k or 0,
    )


def opened_as(row: Row) -> tuple[str, Precision | None]:
    """The model that makes a row, "" for none, and the precision it runs in; a codec has none."""
    return row.model or "", (row.precision or "fp32") if row.kind == "system" else None


def choose_systems(
    spec: BenchmarkSpec, wanted: Sequence[str], models: Models
) -> tuple[SystemRow, ...]:
    """Rows by model, by label or by the first part of their name; other models become new rows."""
    rows: dict[tuple[str, str], SystemRow] = {}
    for name in wanted:
        known = ((row, (row.model, row.label)) for row in spec.systems)
        hits = [r for r, names in known if name in names or r.model.startswith(f"{name}-")]
        if not hits and (name in model_names() or (Path(name) / "config.yaml").is_file()):
            hits = [SystemRow(model=name, label=Path(name).name)]
        if not hits:
            near = {row.model.split("-")[0] for row in spec.systems}
            near |= {n for n in model_names() if models[n][0].kind == "system"}
            raise UnknownNameError("system", name, sorted(near))
        rows |= {(row.model, row.label): row for row in hits}
    return tuple(rows.values())


def with_own_round_trips(spec: BenchmarkSpec, models: Models) -> BenchmarkSpec:
    """The benchmark with a round trip of each system's own codec, if it has round trips at all.

    What its codec leaves of a recording is the most that a system can reach.
    """
    trips = [name.removesuffix(ROUND_TRIP) for name in spec.references if name.endswith(ROUND_TRIP)]
    codecs, references = dict(spec.codecs), list(spec.references)
    there = {_place(codecs[name], models) for name in trips if name in codecs}
    for system in spec.systems if trips else ():
        config = models[system.model][0]
        if config.codec is None:
            continue
        own = CodecRow(model=config.codec, levels=config.architecture.get("levels"))
        if (place := _place(own, models)) in there:
            continue
        there.add(place)
        label = f"{Path(own.model).name} round trip"
        base = Path(own.model).name
        if own.levels is not None:
            base, label = f"{base}-{own.levels}", f"{label}, {own.levels} levels"
        name = next(n for n in (base, *(f"{base}-{i}" for i in range(2, 100))) if n not in codecs)
        label += "" if name == base else f", {own.model}"
        codecs[name] = own.model_copy(update={"label": label})
        references.insert(references.index(f"{trips[-1]}{ROUND_TRIP}") + 1, f"{name}{ROUND_TRIP}")
        trips.append(name)
    return spec.model_copy(update={"codecs": codecs, "references": tuple(references)})


def _place(row: CodecRow, models: Models) -> tuple[Path, int | None]:
    """Where a codec lies, whatever it is called by, and how many of its codebooks are heard."""
    return models[row.model][1].resolve(), _levels(row, models)


def with_own_labels(systems: Sequence[SystemRow]) -> tuple[SystemRow, ...]:
    """The rows, with the models in the labels that several of them share."""
    used = Counter(label for label, _ in {(row.label, row.model) for row in systems})
    return tuple(
        row.model_copy(update={"label": f"{row.label}, {row.model}"})
        if used[row.label] > 1
        else row
        for row in systems
    )


def with_head_steps(
    systems: Sequence[SystemRow], steps: Sequence[int], models: Models
) -> tuple[SystemRow, ...]:
    """The rows with these head steps where the head takes any number; one row for each model.

    Raises:
        InputError: If no system's head does.
    """
    rows: list[SystemRow] = []
    swept: set[str] = set()
    for row in systems:
        if not registry.declares("system", models[row.model][0].type, "any_head_steps"):
            rows.append(row)
        elif row.model not in swept:
            swept.add(row.model)
            rows.append(row.model_copy(update={"head_steps": tuple(dict.fromkeys(steps))}))
    if not swept:
        raise InputError("--head-steps: no system here has a head with a number of steps to choose")
    return tuple(rows)


def with_precisions(
    systems: Sequence[SystemRow], precisions: Sequence[Precision]
) -> tuple[SystemRow, ...]:
    """The rows in each precision, which their labels name; the baseline stays in the first."""
    rows = []
    for row in systems:
        for precision in dict.fromkeys(precisions):
            update = {
                "precision": precision,
                "label": f"{row.label}, {precision}",
                "baseline": row.baseline and precision == precisions[0],
            }
            rows.append(row.model_copy(update=update))
    return tuple(rows)


def with_trainings(
    systems: Sequence[SystemRow], asked: str, models: Models
) -> tuple[tuple[SystemRow, ...], tuple[str, ...]]:
    """The rows in each of these trainings, which their labels name, and notes on what there is.

    Asked for are `all`, how many, or the seeds with commas between them.

    Raises:
        InputError: If they are asked for by other words, if a system has none of them, if no
            system has more than one, or if those of a system were not made by one recipe.
    """
    rows: list[SystemRow] = []
    notes = []
    for row in systems:
        config = models[row.model][0]
        there = training_seeds(config)
        seeds, lacks = _chosen_seeds(asked, there)
        if not seeds:
            raise InputError(
                f"{row.model} has no training of seed {asked.strip(',')}, only of "
                f"{', '.join(map(str, there))}: calm-bench train {row.model} --seed makes one"
            )
        notes += [f"{row.model} has {lacks}"] if lacks else []
        notes += _of_one_recipe(row.model, config, seeds)
        for seed in seeds:
            suffix = "" if seed == config.own_seed else f"{AT_SEED}{seed}"
            update = {"model": row.model + suffix, "label": row.label + trained(seed)}
            rows.append(row.model_copy(update={**update, "training": seed}))
    if len(rows) == len(systems) and asked != "1" and "," not in asked:
        raise InputError(
            f"--trainings {asked}: no system here has more than one; "
            "calm-bench train NAME --seed 1 makes another"
        )
    times = "times are of each system's first training: the values of weights change none"
    return tuple(rows), (*notes, times)


def _chosen_seeds(asked: str, there: Sequence[int]) -> tuple[list[int], str]:
    """Those of the seeds that were asked for, and what is lacking, in words."""
    if asked == "all":
        return list(there), ""
    words = [word.strip() for word in asked.split(",") if word.strip()]
    numbers = all(map(is_number, words))
    if not words or not numbers or not asked.strip("0"):
        raise InputError(
            f"--trainings {asked}: give `all`, how many, or seeds with commas between them (`0,2`)"
        )
    if "," not in asked:
        n, has = int(asked), min(int(asked), len(there))
        return list(there[:n]), "" if has == n else f"{has} of {n} trainings"
    seeds = list(dict.fromkeys(map(int, words)))
    missing = [str(seed) for seed in seeds if seed not in there]
    found = [seed for seed in seeds if seed in there]
    return found, f"no training of seed {', '.join(missing)}" if missing else ""


def _of_one_recipe(name: str, config: ModelConfig, seeds: Sequence[int]) -> Iterator[str]:
    """What is not known of the recipes of a model's trainings; other recipes are refused."""
    made: dict[int, WeightsSpec | None] = {**config.trainings, config.own_seed: config.weights}
    specs = [spec for seed in seeds if (spec := made[seed]) is not None]
    known = {(spec.recipe, spec.steps) for spec in specs if spec.recipe is not None}
    if len(known) > 1:
        raise InputError(
            f"{name}: trainings {', '.join(map(str, seeds))} were not made by one recipe, for one "
            "codec and in as many steps: they are no draws of one system; train the older ones anew"
        )
    if len(specs) > 1 and any(spec.recipe is None for spec in specs):
        yield f"{name}: whether its trainings were made by one recipe is not on record"


def rows_of(spec: BenchmarkSpec, text_temperature: float | None, models: Models) -> Iterator[Row]:
    """Reference rows first, then every system at every temperature, if it has any."""
    yield from (_reference_row(spec, name, models) for name in spec.references)
    taken: set[str] = set()
    for system in spec.systems:
        models.identity(system.model, "system")
        own = models[system.model][0].type
        cold = registry.declares("system", own, "temperature_kind", "none")
        for steps in system.head_steps:
            for temperature in (None,) if cold else spec.temperatures:
                row = _system_row(system, steps, temperature, text_temperature, models)
                names = (row.cell_id, *(f"{row.cell_id}-{i}" for i in range(2, 100)))
                name = next(name for name in names if name not in taken)
                taken.add(name)
                yield row.model_copy(update={"cell_id": name})


def _system_row(
    row: SystemRow, steps: int, temperature: float | None, text: float | None, models: Models
) -> Row:
    base, step = training_step_of(row.model)
    has_any = temperature is not None and has_text(row.model, models)
    text = (temperature if text is None else text) if has_any else None
    name = Path(base).name.replace(AT_SEED, "-seed")
    name += "" if step is None else f"-step{step}"
    name += "" if temperature is None else f"-t{temperature:g}"
    name += f"-text{text:g}" if text not in (None, temperature) else ""
    name += f"-s{steps}" if len(row.head_steps) > 1 else ""
    name += f"-{row.precision}" if row.precision else ""
    return Row(
        cell_id=name,
        label=row.label,
        kind="system",
        model=row.model,
        temperature=temperature,
        text_temperature=text,
        head_steps=steps,
        top_k=row.top_k,
        training_step=step,
        training=row.training,
        precision=row.precision,
        baseline=row.baseline,
    )


def with_temperature_kind(row: Row, models: Models) -> Row:
    """A row with what its temperature means, which only the system's class knows."""
    if row.kind != "system":
        return row
    cls = registry.load("system", models[str(row.model)][0].type)
    return row.model_copy(update={"temperature_kind": cls.temperature_kind})


def has_text(model: str, models: Models) -> bool:
    """Whether a system draws text beside its audio; one of another package may."""
    config = models[model][0]
    if config.architecture.get("text") or config.type not in registry.SYSTEMS:
        return True
    return registry.declares("system", config.type, "own_text")


def _reference_row(spec: BenchmarkSpec, name: str, models: Models) -> Row:
    if (found := FIXED_ROWS.get(name)) is not None:
        return Row(cell_id=name, label=found[1], kind=found[0])
    codec = name.removesuffix(ROUND_TRIP)
    if codec == name:
        known = [*FIXED_ROWS, *(f"{codec}{ROUND_TRIP}" for codec in spec.codecs)]
        raise UnknownNameError("reference row", name, known)
    if codec not in spec.codecs:
        raise InputError(f"{spec.name} has a row {name} but names no codec for {codec!r}")
    row = spec.codecs[codec]
    models.identity(row.model, "codec")
    return Row(
        cell_id=name,
        label=row.label or f"{codec.upper()} round trip",
        kind="round_trip",
        model=row.model,
        levels=_levels(row, models),
    )


def _levels(row: CodecRow, models: Models) -> int | None:
    """How many codebooks a round trip keeps; None for all."""
    if row.levels is None:
        return None
    has = models[row.model][0].architecture.get("n_codebooks")
    if not isinstance(has, int) or has < row.levels:
        count = f"has {has}" if isinstance(has, int) else "has no codebooks"
        raise InputError(f"{row.model} {count}: its first {row.levels} cannot be taken")
    return row.levels if row.levels < has else None


def identity_of(row: Row, models: Models) -> list[Any]:
    """All that decides what a row sounds like."""
    if row.model is None:
        return [row.kind]
    kind: Literal["system", "codec"] = "system" if row.kind == "system" else "codec"
    text = sampling_of(row).text_temperature if row.kind == "system" else None
    drawn = [row.temperature, text, row.head_steps, row.top_k]
    levels = [] if row.levels is None else [row.levels]
    precision = [] if row.precision is None else [row.precision]
    return [row.kind, models.identity(row.model, kind), *drawn, *levels, *precision]
