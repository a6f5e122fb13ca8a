"""`calm-bench train NAME`: from a model folder's recipe to its weights and its card.

The card says what a model is, how it came about, what it can and cannot do.
"""

import hashlib
import json
import logging
import os
import platform
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric import Fabric
from safetensors.torch import save
from torch import Tensor

from calm_bench.codecs.checkpoints import build_module, load_codec, refuse_too_large
from calm_bench.config import (
    ModelConfig,
    WeightsSpec,
    is_shipped,
    load_model_config,
    parse,
    refuse_unnamed_weights,
    train_command,
)
from calm_bench.core import paths
from calm_bench.core.allocator import keep_freed_memory
from calm_bench.core.device import resolve_device
from calm_bench.core.files import disk_errors, locked, replace, sweep, text_lines
from calm_bench.core.ranks import Connected, tells_of_loss
from calm_bench.core.recordings import amount
from calm_bench.data.corpus import (
    card_of,
    corpus_dir,
    licences,
    low_rates,
    read_manifest,
)
from calm_bench.data.folder import data_command
from calm_bench.data.shards import prepare
from calm_bench.errors import BenchError, InputError, WeightsError
from calm_bench.seeds import AT_SEED, content_hash, training_of
from calm_bench.store.curves import read_curve, write_curve
from calm_bench.systems.calm import CalmSystem
from calm_bench.systems.loading import build_system
from calm_bench.systems.monologue import train_tokenizer
from calm_bench.systems.musicgen import MusicGenSystem
from calm_bench.systems.rq import RqSystem
from calm_bench.systems.text import load_text_model
from calm_bench.training import language
from calm_bench.training.codec import CodecObjective, CodecTraining, refuse_other_bottleneck
from calm_bench.training.curve import curve_of
from calm_bench.training.loop import WITHOUT_EFFECT, Trainer
from calm_bench.training.objective import Objective, TrainingConfig
from calm_bench.training.sharding import sharded_strategy
from calm_bench.training.text import (
    TextObjective,
    TextTraining,
    TokenTexts,
    start_from,
    texts_of,
    training_texts,
)

logger = logging.getLogger(__name__)

TEMPLATE = """# {name}

{description}

| | |
|---|---|
| kind | {kind}, `{type}` |
| parameters | {parameters:,} |
| steps | {step:,} of {steps:,}, batch {batch}, seed {seed} |
| start | {start} |
| optimiser | AdamW, rate {rate:g} cosine, betas {betas}, weight decay {decay:g}, EMA {ema:g} |
| cost | {flops}; {processor:.2f} h of processor time, {hours:.2f} h on {device}, torch {torch} |
| data | {data} |
| weights | release {release}, sha256 {sha256} |
| licence | {licence} |

Last validation: {validation}.

Rebuild: `{command}`
"""
TRAININGS = """
## Trainings

One recipe, from another seed each; more come from `calm-bench train {name} --seed SEED`.

| seed | steps | processor time | sha256 |
| --: | --: | --: | :-- |
"""
_TRAININGS = re.compile(r"\n## Trainings\n.*?(?=\n## |\Z)", re.DOTALL)
_REBUILD = re.compile(r"^Rebuild: `(.+)`$", re.MULTILINE)
_MEASURED_OF = re.compile(r"Of weights ([0-9a-f]{8})")
"""How notes begin that quote what was measured."""
_LINE = re.compile(r"^\| (\d+) \|.*\n", re.MULTILINE)
MADE_OF = {
    "speech": "speech made by this project",
    "music": "scores rendered by this project, whose licences the corpus card names",
}
OURS = r"weights(-[0-9a-f]{12})?\.safetensors"
"""What weights are called here: by their content, and before that by nothing."""
STRATEGIES = ("auto", "ddp", "fsdp")

Report = Callable[[int, int, Mapping[str, float]], None]
"""Called with steps done, steps in all, and the mean logs of the last stretch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How to run, apart from the recipe in the model's config.yaml.

    Attributes:
        seed: Another than the recipe's makes a further training, beside the model's own weights.
        global_batch: Whether ranks share the recipe's batch; else each learns from one of its own.
    """

    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    accelerator: str = "auto"
    threads: int | None = None
    until: int | None = None
    fresh: bool = False
    export: bool = False
    seed: int | None = None
    global_batch: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ranks(self) -> int:
        """How many there are."""
        return self.devices * self.num_nodes


def _check_devices(options: TrainOptions) -> None:
    kind = resolve_device(options.accelerator)
    if kind not in ("cpu", "cuda"):
        raise InputError(f"--device {kind}: training counts devices; give --device and --devices")
    there = torch.cuda.device_count() if kind == "cuda" else max(2, os.cpu_count() or 1)
    if options.devices > there:
        many = amount(there, "CUDA device" if kind == "cuda" else "process")
        raise InputError(f"--devices {options.devices}: this machine can have {many}")


def _fabric(recipe: TrainingConfig, options: TrainOptions) -> Fabric:
    if options.strategy not in STRATEGIES:
        raise InputError(f"--strategy {options.strategy}: choose one of {', '.join(STRATEGIES)}")
    if options.threads:
        torch.set_num_threads(options.threads)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    _check_devices(options)
    sharded = options.strategy == "fsdp"
    try:
        fabric = Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=sharded_strategy(options.ranks) if sharded else options.strategy,
            precision=recipe.precision,
        )
        fabric.launch()
    except ValueError as error:  # a launcher's variables say something else than the options
        raise InputError(str(error)) from error
    _refuse_apart(fabric)
    return fabric


def _refuse_apart(fabric: Fabric) -> None:
    """Refuse ranks that do not see what the first one keeps: its corpora, and where to go on."""
    if fabric.world_size == 1:
        return
    ranks = Connected(fabric.global_rank, fabric.world_size)
    home = ranks.apart()
    with ranks.meeting():
        if home is not None:
            raise InputError(
                f"it does not see {home} of rank 0: let CALM_BENCH_HOME name a folder on a disk "
                "that all ranks share"
            )


def _check_batch(config: ModelConfig, recipe: TrainingConfig, options: TrainOptions) -> None:
    """Say what several ranks do to a step, or refuse to share a batch that they cannot share."""
    n, parts = options.ranks, recipe.accumulate
    size, one = recipe.batch_size * parts, "the step of one process"
    if not options.global_batch or n == 1:
        if n > 1 and speaks():
            logger.warning(
                "%s ranks: a step learns from %s clips where one process learns from %s, at the "
                "same rate; --global-batch shares the %s",
                *(n, n * size, size, size),
            )
        return
    if config.kind == "codec":
        raise InputError(
            f"--global-batch: a codec's judges and codebooks learn a batch at a time, so that "
            f"ranks cannot take {one}"
        )
    if parts % n:
        settings = f"--set accumulate={n} batch_size={size // n}"
        hint = f": {settings} makes one" if size % n == 0 else ""
        raise InputError(
            f"--global-batch: {n} ranks share a step of as many batches or a multiple, and this "
            f"recipe's has {parts}{hint}"
        )


def speaks() -> bool:
    """Whether this process is the first of its ranks, which alone says what was done."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0


def train_model(name: str, options: TrainOptions, report: Report | None = None) -> Path | None:
    """Train a model, or go on where its last run stopped; write its folder when steps are done.

    Returns:
        The model's folder if its weights were written (by the first rank), None if the run stopped
        before its last step.

    Raises:
        InputError: If the recipe or the corpus cannot be used.
        BenchError: If another process is at this training.
        TrainingError: If a loss is not a number or the saved state belongs to another recipe.
    """
    keep_freed_memory()
    config, folder = load_model_config(name)
    config, recipe = with_settings(config, str(folder / "config.yaml"), options.overrides)
    config, recipe, suffix = _from_seed(config, recipe, name, options)
    _say_lost(config, folder, options.seed)
    for known in ("card.md", "notes.md"):  # refused now, not when hours of steps are done
        _text(folder / known)
    read_curve(folder)
    _check_batch(config, recipe, options)
    fabric = _fabric(recipe, options)
    if options.strategy == "fsdp" and config.kind == "codec":
        raise InputError("--strategy fsdp is for systems; a codec fits on every device, use ddp")
    work = paths.home() / "training" / (folder.name + suffix)
    with _alone(work, fabric), _others(fabric):
        # Weights, gradients, two moments and the average.
        refuse_too_large(config, folder, str(fabric.device), each=20, doing="train")
        with fabric.rank_zero_first(local=True):  # one rank prepares data, the others find it
            objective = build_objective(config, recipe, str(folder / "config.yaml"))
            if options.fresh and fabric.local_rank == 0:
                _forget(work)
        work.mkdir(parents=True, exist_ok=True)
        of = [config.type, config.architecture, _heard(config)]
        trainer = Trainer(objective, recipe, work, fabric, global_batch=options.global_batch, of=of)
        if recipe.keep_every:
            trainer.keep = partial(_keep, work, config, folder)
        if trainer.resume():
            logger.info("resuming %s at step %s of %s", name, trainer.progress.step, recipe.steps)
        for logs in trainer.train(until=options.until):
            if report is not None and fabric.is_global_zero:
                report(trainer.progress.step, recipe.steps, logs)
        done = trainer.progress.step >= recipe.steps
        if not (done or options.export):
            return None
        weights = trainer.exported()
        if fabric.is_global_zero:
            _write(folder, config, trainer, weights, options, further=bool(suffix))
        return folder


@contextmanager
def _alone(work: Path, fabric: Fabric) -> Iterator[None]:
    """Hold a training, whose state and log two processes would mix up."""
    if not fabric.is_global_zero:
        yield
        return
    lock = paths.home() / "locks" / f"{work.name}.training" / "lock"  # --fresh removes work
    with locked(lock, "train from another --seed", f"the training of {work.name}"):
        sweep(work)
        _remove_forgotten(work)
        yield


@contextmanager
def _others(fabric: Fabric) -> Iterator[None]:
    """Say in one line that another rank has ended, without which the others cannot go on."""
    try:
        yield
    except RuntimeError as error:
        if fabric.world_size == 1 or not tells_of_loss(error):
            raise
        raise BenchError(
            "another rank has ended before the training was done; what was saved is kept, the same "
            "command goes on from there"
        ) from error


def _write(
    folder: Path,
    config: ModelConfig,
    trainer: Trainer,
    weights: Mapping[str, Tensor],
    options: TrainOptions,
    *,
    further: bool,
) -> None:
    """Write a model's own weights and its card, or a further training and its line in the card."""
    seed, done = trainer.config.seed, trainer.progress
    facts = {"recipe": _recipe_hash(config, trainer.objective.origin), "steps": done.step}
    if config.codec is not None:
        facts["codec"] = _heard(config)
    with _writing(folder):
        if further:
            sha256, card = write_training(folder, seed, weights, facts), None
        else:
            sha256 = write_weights(folder, config, weights, facts)
            command = _command(folder.name, trainer.config, options, done.step)
            card = _card(folder, config, trainer, command, sha256)
        hours = done.processor_seconds / 3600
        line = f"| {seed} | {done.step:,} | {hours:.2f} h | {sha256[:12]} |\n"
        _write_card(folder, seed, line, card)
        write_curve(folder, seed, curve_of(trainer.log.records(), trainer.config))


def _say_lost(config: ModelConfig, folder: Path, seed: int | None) -> None:
    """Warn of further trainings that config.yaml names and that are not there: it was copied."""
    named = {at: spec.file for at, spec in config.trainings.items() if at != seed}
    if lost := [at for at, file in named.items() if not (folder / file).is_file()]:
        logger.warning(
            "%s names under trainings: what is not there: %s; take it out where the file was "
            "copied, or train it anew (%s --seed %s)",
            *(folder / "config.yaml", ", ".join(named[at] for at in lost)),
            *(train_command(str(folder)), lost[0]),
        )


def _from_seed(
    config: ModelConfig, recipe: TrainingConfig, name: str, options: TrainOptions
) -> tuple[ModelConfig, TrainingConfig, str]:
    """What `--seed` makes of a model and its recipe, and the suffix of a further training's name.

    Initial weights, batches and noise all come from the seed.
    """
    if training_of(name)[1] is not None:
        raise InputError(f"{name} is one training of a model: its seed is given with --seed")
    if options.seed is None or options.seed == config.own_seed == recipe.seed:
        return config, recipe, ""
    if changed := sorted(options.overrides.keys() - WITHOUT_EFFECT):
        raise InputError(
            f"--seed {options.seed} trains {name} by the recipe of its own weights: it takes no "
            f"--set {changed[0]}; change it in config.yaml, or leave out --seed"
        )
    seed = {"seed": options.seed}
    config = config.model_copy(update={**seed, "training": {**config.training, **seed}})
    return config, recipe.model_copy(update=seed), f"{AT_SEED}{options.seed}"


def _heard(config: ModelConfig) -> str | None:
    """The sha256 of the weights of a system's codec."""
    weights = None if config.codec is None else load_model_config(config.codec)[0].weights
    return None if weights is None else weights.sha256


def _recipe_hash(config: ModelConfig, origin: str | None) -> str:
    """What decides a training besides its seed: shapes, recipe, codec, and what it starts from."""
    recipe = {k: v for k, v in config.training.items() if k not in {"seed", *WITHOUT_EFFECT}}
    codec = None if config.codec is None else (config.codec, _heard(config))
    parts = [config.type, config.architecture, recipe, codec, *([origin] if origin else [])]
    return content_hash(*parts, length=12)


def _keep(
    work: Path, config: ModelConfig, folder: Path, step: int, weights: Mapping[str, Tensor]
) -> None:
    target = work / "kept" / f"{folder.name}-{step:07d}"
    tokenizer = (config.architecture.get("text") or {}).get("tokenizer")
    if tokenizer is not None:  # first: a folder with a config.yaml is a whole model
        replace(target / tokenizer, (folder / tokenizer).read_bytes())
    write_weights(target, config, weights)


def with_settings(
    config: ModelConfig, where: str, settings: Mapping[str, Any]
) -> tuple[ModelConfig, TrainingConfig]:
    """A model whose training section holds what the command line set, and its checked recipe.

    Raises:
        InputError: If the model has no training section or one with wrong fields.
    """
    if not config.training:
        raise InputError(f"{where} has no training section: this model is not meant to be trained")
    recipe = parse(TrainingConfig, {**config.training, **settings}, f"{where}: training")
    checked = recipe.model_dump(mode="json", include=set(settings))
    return config.model_copy(update={"training": {**config.training, **checked}}), recipe


def build_objective(config: ModelConfig, recipe: TrainingConfig, where: str) -> Objective:
    """The objective that trains a model of this kind, its module drawn from the config's seed.

    Audio and frames are prepared if they are not, and a tokenizer is made if there is none.
    """
    if config.codec is not None:
        _check_codec(config.codec, where)
    corpus, folder = corpus_dir(recipe.corpus), Path(where).parent
    its_own = f"{where}: training.objective"
    if recipe.start_from is not None and config.kind != "system":
        raise InputError(f"{where}: training.start_from is for systems, not for a {config.kind}")
    if config.kind == "codec":
        codec = build_module(config, folder)
        training = parse(CodecTraining, recipe.objective, its_own)
        refuse_other_bottleneck(codec, training, its_own)
        _say_low_rates(corpus, codec.sample_rate)
        train = prepare(corpus, codec.sample_rate, "train")
        validation = prepare(corpus, codec.sample_rate, "validation")
        return CodecObjective(codec, training, train, validation, recipe.seed)
    _ensure_tokenizer(config, folder, corpus, recipe.start_from)
    if config.kind == "text":
        reading = parse(TextTraining, recipe.objective, its_own)
        model = build_module(config, folder, folder=folder)
        texts = training_texts(corpus, reading, recipe.seed), texts_of(corpus, "validation")
        learned, held_out = (TokenTexts(split, model.tokenizer) for split in texts)
        return TextObjective(model, reading, recipe, (learned, held_out))
    name = str(config.codec)
    system = build_system(config, folder, load_codec(name))
    options = parse(language.LanguageTraining, recipe.objective, its_own)
    if (objective := _objective_of(system)) is None:
        raise InputError(
            f"{where}: there is no training objective for systems of type {config.type!r}"
        )
    language.refuse_other_head(objective, options, its_own)
    _say_low_rates(corpus, system.codec.sample_rate)
    begun = start_from(system, recipe.start_from, where) if recipe.start_from else None
    splits = (
        language.frame_split(corpus, "train", name, system),
        language.frame_split(corpus, "validation", name, system),
    )
    built = objective(system, options, recipe, splits)
    if begun is not None:
        built.origin, built.given = begun
    return built


def _check_codec(name: str, where: str) -> None:
    """Refuse a codec that has a recipe and was not trained by it; debug codecs have none."""
    codec, folder = load_model_config(name)
    refuse_unnamed_weights(codec, folder)
    if codec.kind == "codec" and codec.training and codec.weights is None:
        raise WeightsError(
            f"{where}: its codec {name} has random weights: `{train_command(name)}` comes first"
        )


def _say_low_rates(corpus: Path, sample_rate: int) -> None:
    if (note := low_rates(read_manifest(corpus), sample_rate)) and speaks():
        logger.warning("%s: %s", corpus, note)


def _ensure_tokenizer(config: ModelConfig, folder: Path, corpus: Path, like: str | None) -> None:
    """Make a tokenizer of the corpus's training texts if there is none, or take that of a model."""
    text = config.architecture.get("text") or {}
    name = text.get("tokenizer")
    if name is None or (folder / name).is_file():
        return
    if like is not None:
        tokenizer = load_text_model(like)[0].tokenizer
    else:
        texts = texts_of(corpus, "train", timed=config.kind == "system")
        tokenizer = train_tokenizer(texts, text["vocab_size"])
    replace(folder / name, tokenizer.to_str(pretty=True).encode())


def _objective_of(system: object) -> type[language.LanguageObjective] | None:
    if isinstance(system, CalmSystem):
        is_flow = system.config.sampler == "trigflow"
        return language.FlowObjective if is_flow else language.CalmObjective
    if isinstance(system, RqSystem):
        return language.RqObjective
    return language.MusicGenObjective if isinstance(system, MusicGenSystem) else None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Hold a model's folder, into which trainings of two seeds may want to write at once."""
    with locked(paths.home() / "locks" / folder.name, wait=True):
        sweep(folder)
        yield


def write_weights(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Write weights as safetensors, and config.yaml beside them with their name and sha256.

    The file is named by its content, and config.yaml is replaced once it is there: whatever moment
    a kill comes at, the config names whole weights, the old or the new. Further trainings that it
    names stay.

    Returns:
        The sha256 of the file.
    """
    packed, sha256 = _packed(weights)
    name = f"weights-{sha256[:12]}.safetensors"
    named = WeightsSpec(file=name, sha256=sha256, **(facts or {}))
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    replace(folder / name, packed)
    known = load_model_config(str(folder))[0] if (folder / "config.yaml").is_file() else None
    trainings = known.trainings if known else {}
    _write_config(folder, config.model_copy(update={"weights": named, "trainings": trainings}))
    for path in list(folder.iterdir()):  # files of other names are the user's
        if re.fullmatch(OURS, path.name) and path.name != name:
            path.unlink()
    return sha256


def write_training(
    folder: Path, seed: int, weights: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> str:
    """Write a further training beside a model's own, and name it in config.yaml.

    While the file is replaced, config.yaml does not name it: a kill leaves no name without weights.

    Returns:
        The sha256 of the file.
    """
    packed, sha256 = _packed(weights)
    named = WeightsSpec(file=f"trainings/{seed}.safetensors", sha256=sha256, **facts)
    config, _ = load_model_config(str(folder))
    others = {known: spec for known, spec in config.trainings.items() if known != seed}
    if seed in config.trainings:
        _write_config(folder, config.model_copy(update={"trainings": others}))
    replace(folder / named.file, packed)
    trainings = dict(sorted({**others, seed: named}.items()))
    _write_config(folder, config.model_copy(update={"trainings": trainings}))
    return sha256


def _write_config(folder: Path, config: ModelConfig) -> None:
    data = config.model_dump(mode="json", exclude_none=True)
    trainings = data.pop("trainings").values()
    if trainings:  # by numbers, of which JSON makes texts
        data["trainings"] = dict(zip(config.trainings, trainings, strict=True))
    text = yaml.safe_dump(data, sort_keys=False, width=100, allow_unicode=True)
    replace(folder / "config.yaml", text.encode())


def _write_card(folder: Path, seed: int, line: str, text: str | None) -> None:
    """Write a card, or without a text the one that is there, with the lines of all trainings.

    The lines stand below what is generated and above the notes.
    """
    path = folder / "card.md"
    before = _text(path) or f"# {folder.name}\n"
    found = _TRAININGS.search(before)
    lines = {int(known[1]): known[0] for known in _LINE.finditer(found[0] if found else "")}
    lines = dict(sorted({**lines, seed: line}.items()))
    text = _TRAININGS.sub("", before) if text is None else text
    generated, rule, notes = text.partition("\n## ")
    section = TRAININGS.format(name=folder.name) + "".join(lines.values())
    replace(path, f"{generated.rstrip()}\n{section}{rule}{notes}".encode())


def _text(path: Path) -> str:
    lines = text_lines(path, blank=True) if path.exists() else []
    return "\n".join(line for _, line in lines)


def _packed(weights: Mapping[str, Tensor]) -> tuple[bytes, str]:
    """Weights as a safetensors file, and its sha256.

    Matrices are stored as float16; vectors (norms, biases, latent statistics) are small and stay
    float32.
    """
    half = {
        key: (value.half() if value.is_floating_point() and value.ndim > 1 else value)
        .contiguous()
        .cpu()
        .clone()
        for key, value in weights.items()
    }
    for key, value in half.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"the weight {key} does not fit into float16")
    packed = save(half)
    return packed, hashlib.sha256(packed).hexdigest()


def _forget(work: Path) -> None:
    """Remove all that an earlier training left: state, log and kept checkpoints.

    One rename takes it out of the way, so that a kill leaves a whole training or none.
    """
    with disk_errors(work):
        if work.exists():
            work.rename(_remove_forgotten(work))
    _remove_forgotten(work)


def _remove_forgotten(work: Path) -> Path:
    """Remove what a killed command had taken out of the way; where that lies."""
    place = work.with_name(f".{work.name}.forgotten")
    with disk_errors(work):
        if place.exists():
            shutil.rmtree(place)
    return place


def _command(name: str, recipe: TrainingConfig, options: TrainOptions, step: int) -> str:
    """What trains a model like this: the recipe's changes, the ranks, the steps."""
    values = recipe.model_dump(mode="json", include=set(options.overrides))
    words = ["calm-bench", "train", name]
    words += [word for k, v in values.items() for word in ("--set", f"{k}={json.dumps(v)}")]
    for option, count in (("--devices", options.devices), ("--num-nodes", options.num_nodes)):
        words += [option, str(count)] if count > 1 else []  # each rank adds a batch to a step
    words += ["--global-batch"] if options.global_batch else []
    words += ["--steps", str(step), "--export"] if step < recipe.steps else []
    return shlex.join(words)


def _rebuild(config: ModelConfig, recipe: TrainingConfig, command: str) -> str:
    """All that makes a model again: corpus, a codec of the user's own, what it begins as."""
    steps = [data_command(corpus_dir(recipe.corpus), recipe.corpus)]
    if config.codec is not None:
        codec, home = load_model_config(config.codec)
        if codec.training and not is_shipped(codec, home):
            steps += _made_by(config.codec)
    if recipe.start_from is not None:
        steps += _made_by(recipe.start_from)
    return " && ".join(dict.fromkeys([*steps, command]))


def _made_by(name: str) -> list[str]:
    """The commands that make a model again, as its card has them; of a further training its own."""
    own = training_of(name)[1] is None
    made = _REBUILD.search(_text(load_model_config(name)[1] / "card.md")) if own else None
    return made[1].split(" && ") if made else [train_command(name)]


def _licence(config: ModelConfig, folder: Path, corpus: Path) -> str:
    """On which terms the weights are given, if they are, and those of what they learned from."""
    if (kind := card_of(corpus).kind) in MADE_OF:
        terms = MADE_OF[kind]
        named = config.licence or ("MIT" if is_shipped(config, folder) else None)
    else:
        trained = [item for item in read_manifest(corpus) if item.split == "train"]
        terms = ", ".join(f"{name} ({n} recordings)" for name, n in licences(trained).items())
        named = config.licence
    stated = named or "none stated (`licence:` in config.yaml states one)"
    stated = " ".join(stated.split()).replace("|", "\\|")
    return f"{stated}; trained on {terms}"


def _start(objective: Objective, recipe: TrainingConfig) -> str:
    if objective.origin is None:
        return "weights drawn at random"
    rate = "" if recipe.start_rate == 1 else f", trained at {recipe.start_rate:g} times the rate"
    return f"backbone and text tables of {objective.origin}{rate}; all else drawn at random"


def _card(folder: Path, config: ModelConfig, trainer: Trainer, command: str, sha256: str) -> str:
    """The text of card.md, from what the run recorded; `notes.md` beside it is appended."""
    fabric = trainer.fabric
    recipe = trainer.config
    device = f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
    if fabric.device.type == "cuda":
        device = torch.cuda.get_device_name(fabric.device)
    flops = trainer.progress.flops * trainer.progress.step  # older runs counted none
    corpus = corpus_dir(recipe.corpus)
    validation = trainer.log.last_validation()
    parameters = trainer.objective.module.named_parameters()
    text = TEMPLATE.format(
        name=folder.name,
        description=config.description,
        kind=config.kind,
        type=config.type,
        parameters=sum(p.numel() for key, p in parameters if not key.startswith("codec.")),
        step=trainer.progress.step,
        steps=recipe.steps,
        batch=recipe.batch_size * trainer.parts * fabric.world_size,
        seed=recipe.seed,
        start=_start(trainer.objective, recipe),
        rate=recipe.learning_rate,
        betas=recipe.betas,
        decay=recipe.weight_decay,
        ema=recipe.ema,
        flops=f"{flops:.2g} FLOPs in matrix products" if flops else "FLOPs not counted",
        processor=trainer.progress.processor_seconds / 3600 * fabric.world_size,
        hours=trainer.progress.seconds / 3600,
        device=device,
        torch=torch.__version__,
        release=config.version,
        sha256=sha256[:12],
        data=", ".join(f"{k.replace('_', ' ')} {v}" for k, v in trainer.objective.facts().items()),
        validation=", ".join(f"{k} {v:.4g}" for k, v in validation.items()) or "none yet",
        command=_rebuild(config, recipe, command),
        licence=_licence(config, folder, corpus),
    )
    return text + _notes(folder, sha256)


def _notes(folder: Path, sha256: str) -> str:
    """The notes of a card; where they quote numbers of other weights than these, they say so."""
    notes = folder / "notes.md"
    if not (text := _text(notes)):
        return ""

    def told(found: re.Match[str]) -> str:
        return found[0] if sha256.startswith(found[1]) else f"Of earlier weights {found[1]}"

    return "\n" + _MEASURED_OF.sub(told, text)
