"""benchmarks/speed.yaml: which systems are timed at which scale, how often, and in which modes."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from calm_bench.config import SystemRow, Temperature, parse, read_yaml
from calm_bench.core import paths
from calm_bench.errors import InputError, UnknownNameError
from calm_bench.types import Mode, Precision, StrictModel

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
        together: Whether all systems fit into memory at once; else the baseline and one more do.
    """

    frames: int = Field(default=40, ge=1)
    warmup: int = Field(default=3, ge=1)
    rounds: int = Field(default=20, ge=2)
    modes: tuple[Mode, ...] = ("plain", "eager")
    precisions: tuple[Precision, ...] = ("fp32",)
    batch: tuple[int, ...] = (1,)
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
