"""Strict YAML: what a model folder and a benchmark file may say, checked before anything runs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from calm_bench.core import files, paths
from calm_bench.core.paths import AnyPath, FileName, RelativePath
from calm_bench.errors import InputError, UnknownNameError, WeightsError, near_names
from calm_bench.seeds import MAX_SEED, content_hash, file_hash, is_number, training_of
from calm_bench.types import Precision, StrictModel, WordTimes

AT_STEP = "@"
"""In a model's name: `calm-music-tiny@2000` is that model after 2,000 training steps."""
CORPORA = ("speech", "voices", "music")
"""Those that `calm-bench data` makes, each by a word of its own."""
MAX_SECONDS = 600.0
MAX_TEMPERATURE = 10.0  # a softmax is all but uniform, CALM's noise 3.2 times as wide as trained


def check_temperature(value: float) -> float:
    """Refuse what no sampler can use, by a ValueError."""
    if not 0 <= value <= MAX_TEMPERATURE:
        raise ValueError(f"a temperature is a number from 0 to {MAX_TEMPERATURE:g}, not {value:g}")
    return value


Temperature = Annotated[float, AfterValidator(check_temperature)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class WeightsSpec(StrictModel):
    """A weights file below a model's folder, the sha256 it must have, and what training wrote down.

    Attributes:
        recipe: A hash of all that decided the training but its seed; None where none was recorded.
        steps: Of the training that made it.
        codec: The sha256 of the codec's weights that a system heard through as it was trained.
    """

    file: RelativePath = "weights.safetensors"
    sha256: str
    recipe: str | None = None
    steps: int | None = None
    codec: str | None = None


class ModelConfig(StrictModel):
    """models/<name>/config.yaml: what the model is, what its weights are, how they were trained.

    `architecture` is validated by the class registered under `type`, next to its code. Weights that
    are null are drawn at random from `seed`: enough for tests and for timing; unless `release`
    names weights that another package fetches.

    Attributes:
        trainings: By seed, further trainings of the same recipe; `weights` are those of its own.
        licence: On which terms whoever trained them gives the weights; the card says so.
    """

    kind: Literal["system", "codec", "text"]
    type: str
    version: int = 1
    description: str
    codec: str | None = None
    architecture: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    weights: WeightsSpec | None = None
    trainings: dict[Seed, WeightsSpec] = Field(default_factory=dict)
    release: str | None = None
    licence: str | None = None
    seed: Seed = 0

    @property
    def own_seed(self) -> int:
        """The seed of the training that made `weights`."""
        return int(self.training.get("seed", 0))


class PromptSpec(StrictModel):
    """One prompt of a benchmark: a clip whose first `prompt_seconds` are given to the systems.

    `audio` is relative to the benchmark's folder; where it is not there, to the parent of the
    list's, or to the list's. `words` are timed words of the whole clip,
    [word, start, end] in seconds; None where the text is unknown.
    """

    id: FileName
    audio: str
    sha256: str
    group: str | None = Field(default=None, description="the recording of which several were cut")
    text: str | None = Field(default=None, description="of all the audio, if words have no times")
    words: tuple[WordTimes, ...] | None = None


class SystemRow(StrictModel):
    """One system of a benchmark: the model that is run and how its row is headed."""

    model: str
    label: str
    baseline: bool = False
    head_steps: tuple[int, ...] = (1,)
    top_k: int = 250
    precision: Precision | None = Field(default=None, description="None is fp32, and not shown")
    training: int | None = Field(default=None, description="the seed, where rows differ in it")


class CodecRow(StrictModel):
    """A codec of a benchmark; `levels` takes only its first codebooks."""

    model: str
    label: str | None = None
    levels: int | None = Field(default=None, ge=1)


_AS_ROW = BeforeValidator(lambda value: {"model": value} if isinstance(value, str) else value)
_AS_LIST = BeforeValidator(lambda value: [value] if isinstance(value, str) else value or ())

Codecs = dict[str, Annotated[CodecRow, _AS_ROW]]
"""Codecs by what their round-trip rows are called; a bare name is a model."""
Names = Annotated[tuple[str, ...], _AS_LIST]
"""A list of names, or one name alone."""


class LatencySpec(StrictModel):
    """How latency is measured inside `run`: frames per arm, warm-up generations and rounds.

    `frames` counts those of the lowest frame rate; faster codecs get as many as last as long.
    """

    frames: int = Field(default=40, ge=4)
    warmup: int = Field(default=3, ge=1)
    rounds: int = Field(default=12, ge=5)


class BenchmarkSpec(StrictModel):
    """benchmarks/<name>.yaml: the rows, the prompts and the metrics of one benchmark.

    Attributes:
        references: Rows that are no systems: reference, silence, noise, and `<name>_round_trip` for
            a name among `codecs`.
        embedding: What FAD and KAD look through, each in columns of its own.
        embedding_if_usable: The same, left out with a note where they cannot be loaded.
        segment_seconds: Length of the stretches that metrics over time compare.
    """

    name: FileName
    version: int
    description: str
    systems: tuple[SystemRow, ...]
    references: tuple[str, ...] = ("reference", "silence")
    codecs: Codecs = Field(default_factory=dict)
    temperatures: tuple[Temperature, ...] = (1.0,)
    prompt_seconds: float = Field(gt=0, le=MAX_SECONDS)
    seconds: float = Field(gt=0, le=MAX_SECONDS)
    prompts: AnyPath = Field(description="JSON lines of PromptSpec; relative to the file's folder")
    default_prompts: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=16, ge=1)
    metrics: tuple[str, ...] = ()
    embedding: Names = ()
    embedding_if_usable: Names = ()
    segment_seconds: float = Field(default=3.0, gt=0)
    asr: str | None = None
    table: tuple[str, ...] = Field(default=(), description="columns of the printed table")
    latency: LatencySpec | None = Field(default=None, description="without it nothing is timed")


Model = TypeVar("Model", bound=BaseModel)
NO_BENCHMARKS = frozenset({"claims", "peers", "published", "speed", "speed_baseline"})
"""What else lies there: what the paper claims and printed, what is timed, what `check` keeps to."""


_MOST_NODES = 100_000
_DEEPEST = 100


class _Loader(yaml.SafeLoader):
    """Refuses what its aliases make larger than a file can be, before it is made."""

    def construct_document(self, node: yaml.Node) -> Any:
        _size(node, {}, 0)
        return super().construct_document(node)


def _size(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """How many values a node holds, aliases written out."""
    if depth > _DEEPEST:
        raise yaml.YAMLError(f"more than {_DEEPEST} levels deep, or an alias of what holds it")
    if id(node) not in known:
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif node.tag == "tag:yaml.org,2002:int" and len(node.value) > 40:
            raise yaml.YAMLError(f"a number of {len(node.value):,} digits")
        known[id(node)] = 1 + sum(_size(part, known, depth + 1) for part in parts)
        if known[id(node)] > _MOST_NODES:
            raise yaml.YAMLError(f"more than {_MOST_NODES:,} values, aliases written out")
    return known[id(node)]


def yaml_value(text: str, where: object) -> Any:
    """What a text of YAML says.

    Raises:
        InputError: If it is none, has no end, or holds a number of thousands of digits.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        at = where if line is None else f"{where}:{line + 1}"
        raise InputError(f"{at}: not valid YAML: {str(error).splitlines()[0]}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        InputError: If the file is missing, is not YAML or is not a mapping.
    """
    data = yaml_value(files.read_text(path), path)
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
        # A misspelt name comes before the field that is missing for it.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        field = _place(data, first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            near = near_names(str(first["loc"][-1]), _inside(model, first["loc"]).model_fields)
            message = "unknown field" + (f"; did you mean {' or '.join(near)}?" if near else "")
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        at = f"{where}: {field}" if field else where
        raise InputError(f"{at}: {message}{more}") from error


def _place(data: Any, steps: Iterable[int | str]) -> str:
    """Where in a file an error lies; an item of a list goes by its id or name if it has one."""
    words = []
    for step in steps:
        try:
            data = data[step]
        except (LookupError, TypeError):
            data = None
        item = data if isinstance(step, int) and isinstance(data, dict) else {}
        words.append(str(item.get("id") or item.get("name") or step))
    return ".".join(words)


def _inside(model: Any, place: Iterable[int | str]) -> Any:
    for name in place:
        if name in model.model_fields:
            parts = [model.model_fields[name].annotation]
            while parts and not isinstance(parts[0], type(BaseModel)):
                parts = [*parts[1:], *get_args(parts[0])]
            model = parts[0] if parts else model
    return model


def model_names() -> list[str]:
    """Names of all model folders that can be found."""
    return sorted({p.parent.name for d in paths.models_dirs() for p in d.glob("*/config.yaml")})


def model_dir(name: str) -> Path:
    """The folder of a model, by name or by path; `name@step` is a checkpoint kept in training.

    Raises:
        UnknownNameError: If no such folder holds a config.yaml.
        WeightsError: If no checkpoint was kept at that step.
    """
    base, step = training_step_of(name)
    if step is not None:
        folder = _kept_models(base).get(step)
        if folder is None:
            raise WeightsError(
                f"{base} kept no checkpoint of step {step} in {_kept_dir(base)}; "
                f"calm-bench train {base} --set keep_every=STEPS keeps them"
            )
        return folder
    for candidate in (Path(name), *(root / name for root in paths.models_dirs())):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise UnknownNameError("model", name, model_names())


def load_model_config(name: str) -> tuple[ModelConfig, Path]:
    """A model's checked configuration and its folder; `name@seed1` has the weights of that seed.

    Raises:
        WeightsError: If there is no training of that seed.
    """
    base, seed = training_of(name)
    folder = model_dir(base)
    path = folder / "config.yaml"
    config = parse(ModelConfig, read_yaml(path), str(path))
    return (config if seed is None else _of_training(config, base, seed)), folder


def train_command(name: str) -> str:
    """The command that trains what a name stands for."""
    base, seed = training_of(name)
    return f"calm-bench train {base}" + ("" if seed is None else f" --seed {seed}")


def training_seeds(config: ModelConfig) -> list[int]:
    """The seeds that a model was trained from, its own first.

    Where there are further trainings, random weights are none of them.
    """
    untrained = config.trainings and config.weights is None and config.release is None
    own = config.own_seed
    return [*([] if untrained else [own]), *sorted(config.trainings.keys() - {own})]


def _of_training(config: ModelConfig, name: str, seed: int) -> ModelConfig:
    if seed == config.own_seed:
        return config
    if seed not in config.trainings:
        raise WeightsError(
            f"{name} has no training of seed {seed}, only of "
            f"{', '.join(map(str, training_seeds(config)))}; "
            f"calm-bench train {name} --seed {seed} makes one"
        )
    recipe = {**config.training, "seed": seed}
    own = {"seed": seed, "weights": config.trainings[seed], "training": recipe}
    return config.model_copy(update={**own, "trainings": {}})


class Models(dict[str, tuple[ModelConfig, Path]]):
    """Models' configurations and folders by name, each read once: at its first mention.

    Attributes:
        weights: By model whose identity was asked for, the sha256 of its weights; None for random
            ones.
    """

    def __init__(self) -> None:
        """Nothing is read yet."""
        super().__init__()
        self.weights: dict[str, str | None] = {}
        self._identities: dict[str, str] = {}

    def __missing__(self, name: str) -> tuple[ModelConfig, Path]:
        self[name] = load_model_config(name)
        return self[name]

    def identity(self, name: str, kind: Literal["system", "codec"]) -> str:
        """A hash of all that decides what the model does.

        Raises:
            InputError: If it is of another kind.
            WeightsError: If its weights are not there, or there and not named.
        """
        config, folder = self[name]
        if config.kind != kind:
            raise InputError(f"{name} is a {config.kind}; a {kind} is needed here")
        if name in self._identities:
            return self._identities[name]
        if is_untrained(config, folder):
            assert config.weights is not None
            raise WeightsError(
                f"{name} has no weights: {folder / config.weights.file} does not exist; "
                f"{train_command(name)} makes them"
            )
        refuse_unnamed_weights(config, folder)
        self.weights[name] = config.weights.sha256 if config.weights else config.release
        codec = self.identity(config.codec, "codec") if config.codec else None
        heard = config.weights.codec if config.weights else None
        if heard is not None and self.weights[str(config.codec)] != heard:
            raise WeightsError(
                f"{name} was trained on other weights of its codec {config.codec} than it has now: "
                f"`{train_command(name)} --fresh` trains it on these"
            )
        content = [config.type, config.version, config.architecture, config.seed]
        self._identities[name] = content_hash(content, self.weights[name], codec)
        return self._identities[name]


def is_shipped(config: ModelConfig, folder: Path) -> bool:
    """Whether a model came with calm-bench; a checkout's models/ may hold the reader's, too."""
    return paths.is_shipped_model(folder) and config.training.get("corpus") in (None, *CORPORA)


def is_untrained(config: ModelConfig, folder: Path) -> bool:
    """Whether a model lacks the weights that it names."""
    return config.weights is not None and not (folder / config.weights.file).is_file()


def unnamed_weights(config: ModelConfig, folder: Path) -> Path | None:
    """Weights that lie in a model's folder whose config.yaml names none; None if there are none."""
    if config.weights is not None or config.release is not None:
        return None
    return min(folder.glob("*.safetensors"), default=None)


def refuse_unnamed_weights(config: ModelConfig, folder: Path) -> None:
    """Refuse a model that would be drawn at random although it was trained.

    Raises:
        WeightsError: If weights lie beside a config.yaml that names none.
    """
    if (left := unnamed_weights(config, folder)) is not None:
        named = f"weights: {{file: {left.name}, sha256: {file_hash(left)}}}"
        raise WeightsError(
            f"{folder / 'config.yaml'} names no weights, and {left.name} lies beside it: name them "
            f"(`{named}`), make weights anew by `{train_command(folder.name)}`, or move the file "
            "away"
        )


def training_step_of(name: str) -> tuple[str, int | None]:
    """A model's name and the training step that `name@step` asks for; None for the final ones."""
    base, at, step = name.rpartition(AT_STEP)
    return (base, int(step)) if at and is_number(step) else (name, None)


def kept_steps(name: str) -> list[int]:
    """The training steps at which a model's checkpoints were kept, in order."""
    return sorted(_kept_models(name))


def _kept_models(name: str) -> dict[int, Path]:
    """The model folders that training left, kept/<name>-<step>, by their step."""
    folders = [path.parent for path in _kept_dir(name).glob("*/config.yaml")]
    steps = {folder: folder.name.rpartition("-")[2] for folder in folders}
    return {int(step): folder for folder, step in steps.items() if is_number(step)}


def _kept_dir(name: str) -> Path:
    return paths.home() / "training" / Path(name).name / "kept"


def benchmark_names() -> list[str]:
    """Names of the shipped benchmarks."""
    names = {path.stem for path in paths.benchmarks_dir().glob("*.yaml")}
    return sorted(names - NO_BENCHMARKS)


def load_benchmark(name: str) -> BenchmarkSpec:
    """A benchmark by name, or by the path of a YAML file.

    Raises:
        UnknownNameError: If there is no such benchmark.
        InputError: If its file does not exist or is not valid.
    """
    is_file = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_file else paths.benchmarks_dir() / f"{name}.yaml"
    if not is_file and (not path.is_file() or name in NO_BENCHMARKS):
        raise UnknownNameError("benchmark", name, benchmark_names())
    return parse(BenchmarkSpec, read_yaml(path), str(path))
