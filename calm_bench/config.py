"""Strict YAML: what a model folder and a benchmark file may say, checked before anything runs."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from calm_bench import paths
from calm_bench.errors import InputError, UnknownNameError, near_names

__all__ = [
    "BenchmarkSpec",
    "LatencySpec",
    "ModelConfig",
    "PromptSpec",
    "StrictModel",
    "SystemRow",
    "Temperature",
    "WeightsSpec",
    "benchmark_names",
    "load_benchmark",
    "load_model_config",
    "model_names",
    "parse",
    "read_yaml",
]

REFERENCE_ROWS = ("reference", "vae_round_trip", "rvq_round_trip", "silence")


def check_temperature(value: float) -> float:
    """Refuse what no sampler can use.

    Raises:
        ValueError: If the temperature is negative, infinite or not a number.
    """
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"a temperature must be a finite number of at least 0, not {value}")
    return value


Temperature = Annotated[float, AfterValidator(check_temperature)]


class StrictModel(BaseModel):
    """A frozen record that refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class WeightsSpec(StrictModel):
    """The weights file beside config.yaml and the sha256 it must have."""

    file: str = "weights.safetensors"
    sha256: str


class ModelConfig(StrictModel):
    """models/<name>/config.yaml: what the model is, what its weights are, how they were trained.

    `architecture` is validated by the class registered under `type`, next to its code. Weights that
    are null are drawn at random from `seed`: enough for tests and for timing.
    """

    kind: Literal["system", "codec"]
    type: str
    version: int = 1
    description: str
    codec: str | None = None
    architecture: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    weights: WeightsSpec | None = None
    seed: int = 0


class PromptSpec(StrictModel):
    """One prompt of a benchmark: a clip whose first `prompt_seconds` are given to the systems.

    `audio` is relative to the benchmarks folder. `words` are timed words of the whole clip,
    [word, start, end] in seconds; None where the text is unknown.
    """

    id: str
    audio: str
    sha256: str
    words: tuple[tuple[str, float, float], ...] | None = None


class SystemRow(StrictModel):
    """One system of a benchmark: the model that is run and how its row is headed."""

    model: str
    label: str
    baseline: bool = False
    head_steps: tuple[int, ...] = (1,)
    top_k: int = 250


class LatencySpec(StrictModel):
    """How latency is measured inside `run`: frames per arm, warm-up frames and rounds."""

    frames: int = Field(default=40, ge=4)
    warmup: int = Field(default=3, ge=1)
    rounds: int = Field(default=12, ge=5)


class BenchmarkSpec(StrictModel):
    """benchmarks/<name>.yaml: the rows, the prompts and the metrics of one benchmark."""

    name: str
    version: int
    description: str
    systems: tuple[SystemRow, ...]
    references: tuple[str, ...] = ("reference", "silence")
    codecs: dict[str, str] = Field(default_factory=dict)
    temperatures: tuple[Temperature, ...] = (1.0,)
    prompt_seconds: float = Field(gt=0)
    seconds: float = Field(gt=0)
    prompts: str = Field(description="JSON lines of PromptSpec, below the benchmarks folder")
    default_prompts: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=16, ge=1)
    metrics: tuple[str, ...] = ()
    embedding: str | None = None
    asr: str | None = None
    table: tuple[str, ...] = Field(default=(), description="columns of the printed table")
    latency: LatencySpec | None = LatencySpec()


Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        InputError: If the file is missing, is not YAML or is not a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
        raise InputError(f"{path}:{line}: not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold a mapping of names to values")
    return data


def parse(model: type[Model], data: dict[str, Any], where: str) -> Model:
    """Validate a mapping, turning what pydantic found into one line.

    Raises:
        InputError: What is wrong, at which field of `where`, and near names for unknown fields.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            near = near_names(str(first["loc"][-1]), model.model_fields)
            message = "unknown field" + (f"; did you mean {' or '.join(near)}?" if near else "")
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise InputError(f"{where}: {field}: {message}{more}") from error


def model_names() -> list[str]:
    """Names of all model folders that can be found."""
    return sorted({p.parent.name for d in paths.models_dirs() for p in d.glob("*/config.yaml")})


def model_dir(name: str) -> Path:
    """The folder of a model, by name or by path.

    Raises:
        UnknownNameError: If no such folder holds a config.yaml.
    """
    for candidate in (Path(name), *(root / name for root in paths.models_dirs())):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise UnknownNameError("model", name, model_names())


def load_model_config(name: str) -> tuple[ModelConfig, Path]:
    """A model's checked configuration and its folder."""
    folder = model_dir(name)
    path = folder / "config.yaml"
    return parse(ModelConfig, read_yaml(path), str(path)), folder


def benchmark_names() -> list[str]:
    """Names of the shipped benchmarks."""
    return sorted(path.stem for path in paths.benchmarks_dir().glob("*.yaml"))


def load_benchmark(name: str) -> BenchmarkSpec:
    """A benchmark by name, or by the path of a YAML file.

    Raises:
        UnknownNameError: If there is no such benchmark.
        InputError: If its file is not valid.
    """
    is_file = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_file else paths.benchmarks_dir() / f"{name}.yaml"
    if not path.is_file():
        raise UnknownNameError("benchmark", name, benchmark_names())
    return parse(BenchmarkSpec, read_yaml(path), str(path))
