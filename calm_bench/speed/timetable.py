"""What `speed` will time, decided before anything is loaded: rows, batches, rounds.

benchmarks/speed.yaml says which systems are timed at which scale, how often, and in which modes;
what was asked for changes that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from calm_bench.config import (
    BenchmarkSpec,
    Models,
    PromptSpec,
    SystemRow,
    Temperature,
    load_benchmark,
    parse,
    read_yaml,
)
from calm_bench.core import paths
from calm_bench.data.prompts import present_prompts, read_prompt_specs
from calm_bench.errors import InputError, UnknownNameError
from calm_bench.plan.rows import has_text, with_head_steps
from calm_bench.seeds import content_hash
from calm_bench.store.records import Row
from calm_bench.types import KernelsOf, Mode, Precision, StrictModel

MIN_ROUNDS = 5
"""Below that an interval of ratios is as good as none."""

SpeedScale = Literal["tiny", "paper"]


class Growth(StrictModel):
    """Where in a long generation frames are timed.

    Attributes:
        seconds: Audio generated before them.
        frames: How many are timed there.
        repeats: Generations.
    """

    seconds: tuple[float, ...] = Field(min_length=1)
    frames: int = Field(default=8, ge=1)
    repeats: int = Field(default=3, ge=1)


class Whole(StrictModel):
    """Whole generations that are timed: as many clips at once, how often."""

    batch: int = Field(default=16, ge=1)
    repeats: int = Field(default=5, ge=2)


class Setting(StrictModel):
    """How a scale is timed on one kind of device.

    Attributes:
        frames: Of the baseline's generations; other frame rates take as many as last as long.
        warmup: Generations before anything counts, at least.
        rounds: Each times every row once.
        codec_frames: How many frames the codec decodes at a time, each number a row.
        together: Whether all systems fit into memory at once; else the baseline and one more do.
    """

    frames: int = Field(default=40, ge=1)
    warmup: int = Field(default=3, ge=1)
    rounds: int = Field(default=20, ge=2)
    modes: tuple[Mode, ...] = ("plain", "eager")
    precisions: tuple[Precision, ...] = ("fp32",)
    batch: tuple[int, ...] = (1,)
    codec_frames: tuple[int, ...] = (1,)
    together: bool = True
    growth: Growth | None = None
    generation: Whole | None = None


class ScaleSpec(StrictModel):
    """The systems of one scale and how they are timed on a processor and on a GPU."""

    systems: tuple[SystemRow, ...] = Field(min_length=1)
    cpu: Setting = Setting()
    cuda: Setting = Setting()


class PartSpec(StrictModel):
    """One benchmark's systems; `prompts_of` names the benchmark whose prompts they continue."""

    prompts_of: str
    temperature: Temperature = 1.0
    tiny: ScaleSpec | None = None
    paper: ScaleSpec | None = None


class SpeedSpec(StrictModel):
    """What `calm-bench speed` times.

    Attributes:
        probe_mb: Size of the buffer that memory's bandwidth is read off, at least.
    """

    name: str
    version: int
    description: str
    probe_mb: int = Field(default=512, ge=1)
    parts: dict[str, PartSpec]

    def scale(self, part: str, scale: SpeedScale) -> ScaleSpec:
        """The systems of a part at a scale.

        Raises:
            UnknownNameError: If there is no such part.
            InputError: If the part has no such scale.
        """
        if part not in self.parts:
            raise UnknownNameError("part of the speed benchmark", part, list(self.parts))
        found = getattr(self.parts[part], scale)
        if not isinstance(found, ScaleSpec):
            raise InputError(f"{self.name} names no systems of {part} at scale {scale}")
        return found


def load_spec(path: Path | None) -> SpeedSpec:
    """The shipped list of systems, or a YAML file of the same form.

    Raises:
        InputError: If the file is missing or not valid.
    """
    path = path or paths.benchmarks_dir() / "speed.yaml"
    return parse(SpeedSpec, read_yaml(path), str(path))


class Request(StrictModel):
    """What was asked for; empty lists and None leave the choice to the list of systems."""

    part: str
    scale: SpeedScale = "tiny"
    device: str = "cpu"
    modes: tuple[Mode, ...] = ()
    precisions: tuple[Precision, ...] = ()
    batch: tuple[int, ...] = ()
    head_steps: tuple[int, ...] = ()
    codec_frames: tuple[int, ...] = ()
    frames: int | None = None
    rounds: int | None = None
    threads: int | None = None
    growth: bool = True
    generation: bool = False
    clock: Literal["wall", "cpu"] = "wall"
    kernels: KernelsOf = "fixed"
    spec: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedPlan:
    """Everything that will be timed.

    Attributes:
        benchmark: Whose prompts are continued, which is one of the shipped.
        models: All that the plan names, as they were read.
    """

    request: Request
    spec: SpeedSpec
    setting: Setting
    rows: tuple[Row, ...]
    benchmark: BenchmarkSpec
    prompts: tuple[PromptSpec, ...]
    models: Models
    plan_hash: str
    notes: tuple[str, ...]

    @property
    def run_id(self) -> str:
        """The run's name: what is timed and a short hash of all that decides the numbers."""
        request = self.request
        return f"{self.spec.name}-{request.part}-{request.scale}-{self.plan_hash[:8]}"

    @property
    def random(self) -> bool:
        """Whether the systems are drawn at random without looking for weights."""
        return self.request.scale == "paper"

    @property
    def growth_rows(self) -> tuple[Row, ...]:
        """The rows whose growth is looked at: each system once, in its fastest shipped step."""
        if self.setting.growth is None:
            return ()
        by_system: dict[tuple[object, ...], Row] = {}
        for row in self.rows:
            if row.codec_frames > 1:  # every frame is timed alone there
                continue
            known = by_system.get((row.model, row.head_steps))
            if known is None or known.mode == "plain":
                by_system[row.model, row.head_steps] = row
        return tuple(by_system.values())

    def as_json(self) -> dict[str, Any]:
        """The plan as one JSON object."""
        return {
            "run_id": self.run_id,
            "request": self.request.model_dump(mode="json"),
            "setting": self.setting.model_dump(mode="json"),
            "cells": [row.model_dump(mode="json") for row in self.rows],
            "prompts": [prompt.id for prompt in self.prompts],
            "notes": list(self.notes),
        }


def expand(request: Request) -> SpeedPlan:
    """Turn what was asked into rows, batches and rounds.

    Raises:
        BenchError: If a name does not exist or the request cannot be met.
    """
    if request.clock == "cpu" and (request.device != "cpu" or request.threads != 1):
        raise InputError(
            "--clock cpu counts the time of one thread of a processor: "
            "it needs --device cpu --threads 1"
        )
    spec = load_spec(request.spec)
    scale, part = spec.scale(request.part, request.scale), spec.parts[request.part]
    setting = _setting(scale.cuda if request.device.startswith("cuda") else scale.cpu, request)
    models, systems = Models(), scale.systems
    steps = _variants(setting.modes, setting.precisions, request.device)
    variants = [(*step, frames) for step in steps for frames in setting.codec_frames]
    if request.head_steps:
        systems = with_head_steps(systems, request.head_steps, models)
    found = (_rows_of(system, variants, part.temperature, models) for system in systems)
    rows = tuple(chain.from_iterable(found))
    benchmark = load_benchmark(part.prompts_of)
    prompts = _prompts(benchmark, setting)
    plan_hash = content_hash(
        [spec.name, spec.version, spec.probe_mb, benchmark.prompt_seconds],
        request.model_dump(include={"part", "scale", "device", "threads", "clock"}),
        setting.model_dump(mode="json", exclude={"codec_frames"}),  # rows tell
        [[row.cell_id, row.head_steps, row.top_k] for row in rows],
        [models.identity(system.model, "system") for system in systems],
        [prompt.sha256 for prompt in prompts],
        *(["kernels measured"] if request.kernels == "measured" else []),
    )
    return SpeedPlan(
        request=request,
        spec=spec,
        setting=setting,
        rows=rows,
        benchmark=benchmark,
        prompts=prompts,
        models=models,
        plan_hash=plan_hash,
        notes=tuple(_notes(request, setting, models)),
    )


def _prompts(benchmark: BenchmarkSpec, setting: Setting) -> tuple[PromptSpec, ...]:
    """The first prompts whose audio is here, as many as a step has clips at most."""
    root = paths.benchmarks_dir()
    n = max(*setting.batch, setting.generation.batch if setting.generation else 1)
    found = present_prompts(read_prompt_specs(root / benchmark.prompts), root)[:n]
    if not found:
        raise InputError(f"no prompt of {benchmark.name} is here: {root / benchmark.prompts}")
    return tuple(found)


def _setting(setting: Setting, request: Request) -> Setting:
    """A device's setting with the options applied; batch 1 and one frame a call come first."""
    given = request.model_dump(include={"modes", "precisions", "frames", "rounds"})
    changed = {name: value for name, value in given.items() if value}
    batch = sorted({1, *(request.batch or setting.batch)})
    at_once = sorted({1, *(request.codec_frames or setting.codec_frames)})
    parts = {
        "codec_frames": tuple(at_once),
        "growth": setting.growth if request.growth else None,
        "generation": (setting.generation or Whole()) if request.generation else None,
    }
    return setting.model_copy(update={**changed, "batch": tuple(batch), **parts})


def _variants(
    modes: Sequence[Mode], precisions: Sequence[Precision], device: str
) -> list[tuple[Mode, Precision]]:
    """Modes and precisions as rows: each mode in each precision.

    The plain step is fp32, on a GPU also bf16 where that is asked for.
    """
    of_plain: tuple[Precision, ...] = ("fp32", "bf16") if device.startswith("cuda") else ("fp32",)
    others = [mode for mode in dict.fromkeys(modes) if mode != "plain"]
    if not others and any(precision not in of_plain for precision in precisions):
        raise InputError(
            f"the plain step is always {' or '.join(of_plain)}: --precision needs another mode "
            "beside it, as in --mode plain eager"
        )
    own = [precision for precision in of_plain if precision in precisions] or ["fp32"]
    plain: list[tuple[Mode, Precision]] = [("plain", p) for p in own if "plain" in modes]
    return plain + [(mode, p) for mode in others for p in dict.fromkeys(precisions)]


def _rows_of(
    row: SystemRow,
    variants: Sequence[tuple[Mode, Precision, int]],
    temperature: float,
    models: Models,
) -> Iterator[Row]:
    for steps in row.head_steps:
        for mode, precision, at_once in variants:
            name = f"{Path(row.model).name}-{mode}-{precision}"
            name += f"-f{at_once}" if at_once > 1 else ""
            label = row.label
            if len(row.head_steps) > 1:
                label += f", {steps} step{'s' * (steps != 1)}"
            label += f", {mode} {precision}" if len(variants) > 1 else ""
            label += f", {at_once} frames a call" if at_once > 1 else ""
            yield Row(
                cell_id=name + (f"-s{steps}" if len(row.head_steps) > 1 else ""),
                label=label,
                kind="system",
                model=row.model,
                temperature=temperature,
                text_temperature=temperature if has_text(row.model, models) else None,
                head_steps=steps,
                top_k=row.top_k,
                precision=precision,
                mode=mode,
                codec_frames=at_once,
                baseline=row.baseline,
            )


def _notes(request: Request, setting: Setting, models: Models) -> Iterator[str]:
    """What the table must say of how it was made."""
    weights = models.weights
    if len(dict.fromkeys(weights.values())) == 1 and None in weights.values():
        systems = "all systems"
    else:
        systems = ", ".join(
            name
            for name, sha in weights.items()
            if sha is None and models[name][0].kind == "system"
        )
    if systems:
        yield f"random weights: {systems}; time does not depend on their values"
    if request.scale == "paper" and request.device == "cpu":
        yield (
            f"the paper's shapes on a processor: {setting.frames} frames, {setting.rounds} rounds, "
            f"{', '.join(setting.precisions)}; a look at ratios, no measurement of 30 s"
        )
    if request.kernels == "measured" and request.device == "cpu":
        yield "kernels as measured on this machine; manifest.json has those of every shape"
    if request.clock == "cpu":
        yield (
            "times are processor time of the one thread that works: what else runs on the machine "
            "is not in them, except through caches and memory that it shares"
        )
    if max(setting.codec_frames) > 1:
        yield (
            "frames a call: the codec decodes the first alone, then so many at a time; live, where "
            "frames come as they are heard, the first of those waits for the others"
        )
    if setting.rounds < MIN_ROUNDS:
        yield f"{setting.rounds} rounds: the intervals are as good as none"


def sessions(plan: SpeedPlan) -> list[tuple[Row, ...]]:
    """The rows that are in memory at once: all, or each with the baseline of its own variant."""
    if plan.setting.together:
        return [plan.rows]
    variants = [list(group) for _, group in groupby(sorted(plan.rows, key=_variant), key=_variant)]
    found: list[tuple[Row, ...]] = []
    for group in variants:
        base = [row for row in group if row.baseline]
        others = [row for row in group if not row.baseline]
        found += [(*base, row) for row in others] or [tuple(base)]
    return found


def _variant(row: Row) -> tuple[str, str]:
    return row.mode or "", row.precision or ""


def plan_lines(plan: SpeedPlan) -> list[str]:
    """The plan in words, for the terminal."""
    setting, request = plan.setting, plan.request
    lines = [
        f"{plan.run_id}: {request.part} at scale {request.scale} on {request.device}",
        *(f"  {row.label}{' (baseline)' if row.baseline else ''}" for row in plan.rows),
        f"{setting.rounds} rounds of {setting.frames} frames at batch "
        f"{', '.join(map(str, setting.batch))}; the baseline once more as control",
    ]
    if plan.growth_rows and setting.growth:
        lines.append(f"growth to {max(setting.growth.seconds):g} s, {setting.growth.repeats} times")
    if whole := setting.generation:
        seconds = plan.benchmark.seconds - plan.benchmark.prompt_seconds
        lines.append(f"whole generations of {whole.batch} × {seconds:g} s, {whole.repeats} times")
    return [*lines, *(f"note: {note}" for note in plan.notes)]
