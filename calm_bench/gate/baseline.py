"""benchmarks/speed_baseline.yaml: the counts and ratios that `check` compares with.

Counted are all small systems that are shipped; what differs from the file is a `Change`.

What counts depend on is their key. Head calls, parameters and bytes read hold everywhere. Operators
and FLOPs depend on how torch splits its own operators, so they are kept per torch minor version and
architecture. Ratios of times depend on the processor, so they are kept per model.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field

from calm_bench.config import load_model_config, parse, read_yaml
from calm_bench.core import files, paths
from calm_bench.core.device import device_name
from calm_bench.core.progress import stage
from calm_bench.errors import InputError
from calm_bench.store.records import Stage
from calm_bench.types import Mode, SamplingParams, StrictModel

if TYPE_CHECKING:
    from calm_bench.speed.counts import StageCounts

SCALES = ("-tiny", "-debug")
KNOWN_SLACK = 0.10
"""How far under its reference a ratio may lie on the processor that the reference is of."""

UNKNOWN_SLACK = 0.30

HEADER = """\
# What `calm-bench check` compares with; `calm-bench check --update` writes it. Slacks are yours.
# counts: of one frame, on any machine. dispatched: the same, by torch version and architecture.
# ratios: RQ-Transformer / CALM on the shipped speech models, by processor, one thread.
"""


class Lasting(StrictModel):
    """Counts of a stage that hold under any torch."""

    calls: int
    parameters: int
    bytes_read: int


class Versioned(StrictModel):
    """Counts of a stage that depend on torch's version."""

    operators: int
    flops: int


class Reference(StrictModel):
    """A ratio of times that was measured, and how far under it one may lie."""

    value: float = Field(gt=0)
    slack: float = Field(default=KNOWN_SLACK, gt=0, lt=1)


class Machine(StrictModel):
    """The ratios of one processor, and the torch they were measured with."""

    torch: str
    references: dict[str, Reference]


class Baseline(StrictModel):
    """The whole file: counts by system and stage, ratios by processor."""

    version: Literal[1] = 1
    counts: dict[str, dict[Stage, Lasting]] = Field(default_factory=dict)
    dispatched: dict[str, dict[str, dict[Stage, Versioned]]] = Field(default_factory=dict)
    ratios: dict[str, Machine] = Field(default_factory=dict)

    def references(self) -> tuple[Mapping[str, Reference], str | None]:
        """What ratios are compared with here, and what there is to say of that.

        On a processor that is not in the file these are the lowest of all that are, with a slack of
        30 %.
        """
        own = device_name("cpu")
        if not self.ratios:
            return {}, "no ratio is gated: none are stored; --update stores this processor's"
        if own in self.ratios:
            machine, torch = self.ratios[own], metadata.version("torch")
            other = f"ratios stored with torch {machine.torch}, now {torch}"
            return machine.references, other if _minor(machine.torch) != _minor(torch) else None
        lowest: dict[str, Reference] = {}
        for machine in self.ratios.values():
            for name, found in machine.references.items():
                value = min(found.value, lowest.get(name, found).value)
                lowest[name] = Reference(value=value, slack=UNKNOWN_SLACK)
        return lowest, (
            f"no ratios are stored for {own}: compared with the lowest of "
            f"{', '.join(self.ratios)}, {100 * UNKNOWN_SLACK:.0f} % slack; "
            "--update stores this processor's"
        )


def torch_key() -> str:
    """What operators and FLOPs are filed under: torch 2.13 x86_64."""
    return f"torch {_minor(metadata.version('torch'))} {platform.machine().lower()}"


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def default_path() -> Path:
    """The file that is shipped."""
    return paths.benchmarks_dir() / "speed_baseline.yaml"


def read_baseline(path: Path) -> Baseline:
    """The checked file.

    Raises:
        InputError: If it is missing or says something unknown.
    """
    if not path.exists():
        raise InputError(f"there is no {path}: `calm-bench check --update` writes one")
    return parse(Baseline, read_yaml(path), str(path))


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write the file, each stage on a line of its own, so that a diff shows what changed.

    Raises:
        InputError: If it is the copy that an installed package carries.
    """
    if paths.is_packaged(path.parent):
        raise InputError(f"{path} belongs to an installed package: name a --baseline of your own")
    data = baseline.model_dump(mode="json")
    text = yaml.safe_dump(data, default_flow_style=None, sort_keys=False, width=200)
    files.replace(path, (HEADER + text).encode())


Found = Mapping[str, Mapping[Stage, "StageCounts"]]
"""Counts by system and stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A count that differs from the stored one."""

    system: str
    stage: Stage
    count: str
    before: int
    after: int

    @property
    def difference(self) -> str:
        """By how much, as it is printed."""
        percent = f" ({100 * (self.after / self.before - 1):+.1f} %)" if self.before else ""
        return f"{self.after - self.before:+,}{percent}"

    @property
    def words(self) -> str:
        """What was counted."""
        return self.count.replace("_", " ")

    def __str__(self) -> str:
        """The change in one line."""
        return f"{self.system} {self.stage}: {self.words} {self.before:,} → {self.after:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What grew, what fell, how much was compared, and what could not be."""

    grown: tuple[Change, ...]
    fallen: tuple[Change, ...]
    compared: int
    notes: tuple[str, ...]


def counted_systems() -> list[Path]:
    """The folders of our own shipped systems of a few million parameters or fewer.

    Released systems bring their codec with them, and what they cost is their packages' business.
    """
    folders = [path.parent for path in paths.models_dirs()[-1].glob("*/config.yaml")]
    small = sorted(folder for folder in folders if folder.name.endswith(SCALES))
    configs = {folder: load_model_config(str(folder))[0] for folder in small}
    return [f for f, config in configs.items() if config.kind == "system" and config.codec]


def count_systems(folders: Sequence[Path]) -> dict[str, dict[Stage, "StageCounts"]]:
    """The counts of each as it is loaded by default; the parameters are those of the plain step.

    A prepared system reads copies, of which nobody can say which parameters they were. Weights are
    random: no count depends on their values.
    """
    found = {}
    with stage("counting", len(folders)) as advance:
        for folder in folders:
            plain, fast = _counted(folder, "plain"), _counted(folder, "eager")
            counts = {n: replace(c, parameters=plain[n].parameters) for n, c in fast.items()}
            found[folder.name] = counts
            advance(1)
    return found


def _counted(folder: Path, mode: Mode) -> dict[Stage, "StageCounts"]:
    from calm_bench.speed.counts import count_frame
    from calm_bench.systems.loading import load_system

    system = load_system(str(folder), mode=mode, random_weights=True)
    steps = system.default_head_steps
    return count_frame(
        system, SamplingParams(temperature=1.0, text_temperature=1.0, head_steps=steps)
    )


def stored(found: Found, baseline: Baseline) -> Baseline:
    """The baseline with these counts in place of its own; other torch versions' are kept."""

    def only(part: type[Lasting | Versioned]) -> dict[str, dict[Stage, Any]]:
        made = partial(part.model_validate, from_attributes=True)
        return {name: {s: made(n) for s, n in stages.items()} for name, stages in found.items()}

    versions = dict(sorted({**baseline.dispatched, torch_key(): only(Versioned)}.items()))
    return baseline.model_copy(update={"counts": only(Lasting), "dispatched": versions})


def differences(found: Found, baseline: Baseline) -> Counted:
    """What differs from the baseline; what is not in it is said and passes nothing."""
    key = torch_key()
    changes: list[Change] = []
    notes, compared = [], 0
    if key not in baseline.dispatched:
        known = ", ".join(baseline.dispatched) or "none"
        notes.append(
            f"operators and FLOPs are not gated: none are stored for {key} (stored: {known}); "
            "--update stores them"
        )
    for system, stages in found.items():
        if system not in baseline.counts:
            notes.append(f"{system} is not gated: the baseline lacks it; --update stores it")
            continue
        versioned = baseline.dispatched.get(key, {}).get(system, {})
        if key in baseline.dispatched and not versioned:  # stored under another torch since
            lacks = f"none of {system} are stored for {key}; --update stores them"
            notes.append(f"operators and FLOPs are not gated: {lacks}")
        for name, counts in stages.items():
            parts = (baseline.counts[system].get(name), versioned.get(name))
            before = {k: v for part in parts if part for k, v in part.model_dump().items()}
            compared += len(before)
            changes += [
                Change(system=system, stage=name, count=count, before=old, after=new)
                for count, old in before.items()
                if (new := getattr(counts, count)) != old
            ]
    gone = baseline.counts.keys() - found.keys()
    notes += [f"{system} is in the baseline and no longer here" for system in sorted(gone)]
    return Counted(
        grown=tuple(change for change in changes if change.after > change.before),
        fallen=tuple(change for change in changes if change.after < change.before),
        compared=compared,
        notes=tuple(notes),
    )
