"""benchmarks/speed_baseline.yaml: the counts and ratios that `check` compares with.

What counts depend on is their key. Head calls, parameters and bytes read hold everywhere. Operators
and FLOPs depend on how torch splits its own operators, so they are kept per torch minor version and
architecture. Ratios of times depend on the processor, so they are kept per model.
"""

import math
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from calm_bench.config import parse, read_yaml
from calm_bench.core import paths
from calm_bench.core.device import device_name
from calm_bench.core.files import replace
from calm_bench.errors import InputError
from calm_bench.store.records import Stage
from calm_bench.types import StrictModel

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
            if _minor(machine.torch) == _minor(torch):
                return machine.references, None
            return machine.references, f"ratios stored with torch {machine.torch}, now {torch}"
        lowest: dict[str, float] = {}
        for machine in self.ratios.values():
            for name, reference in machine.references.items():
                lowest[name] = min(reference.value, lowest.get(name, math.inf))
        note = (
            f"no ratios are stored for {own}: compared with the lowest of "
            f"{', '.join(self.ratios)}, {100 * UNKNOWN_SLACK:.0f} % slack; "
            "--update stores this processor's"
        )
        found = {n: Reference(value=v, slack=UNKNOWN_SLACK) for n, v in lowest.items()}
        return found, note


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
    text = yaml.safe_dump(
        baseline.model_dump(mode="json"), default_flow_style=None, sort_keys=False, width=200
    )
    replace(path, (HEADER + text).encode())
