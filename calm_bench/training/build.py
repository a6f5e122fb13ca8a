"""A model folder to what trains it, and what training makes back to the folder."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from calm_bench import registry
from calm_bench.codecs.checkpoints import build_module, load_codec
from calm_bench.config import ModelConfig, WeightsSpec, parse
from calm_bench.core import paths
from calm_bench.core.files import disk_errors, replace
from calm_bench.data.shards import prepare
from calm_bench.errors import InputError
from calm_bench.systems.calm import CalmSystem
from calm_bench.systems.loading import build_system
from calm_bench.systems.monologue import train_tokenizer
from calm_bench.systems.musicgen import MusicGenSystem
from calm_bench.systems.rq import RqSystem
from calm_bench.training.calm import CalmObjective, FlowObjective
from calm_bench.training.codec import CodecObjective, CodecTraining
from calm_bench.training.language import (
    LanguageObjective,
    LanguageTraining,
    MusicGenObjective,
    RqObjective,
    frame_split,
)
from calm_bench.training.objective import Objective, TrainingConfig

OURS = r"weights(-[0-9a-f]{12})?\.safetensors"
"""What weights are called here: by their content, and before that by nothing."""


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


def corpus_dir(name: str) -> Path:
    """The folder of a corpus, by path or by its name under the data home.

    Raises:
        InputError: If there is no such corpus, with the command that makes it.
    """
    for folder in (Path(name), paths.home() / "data" / name):
        if (folder / "manifest.jsonl").is_file():
            return folder
    raise InputError(
        f"no corpus {name!r} here or in {paths.home() / 'data'}: run `calm-bench data {name}`, "
        "or bring yours with `calm-bench data folder DIR`"
    )


def build_objective(config: ModelConfig, recipe: TrainingConfig, where: str) -> Objective:
    """The objective that trains a model of this kind, its module drawn from the config's seed.

    Audio and frames are prepared if they are not, and a tokenizer is made if there is none.
    """
    corpus = corpus_dir(recipe.corpus)
    its_own = f"{where}: training.objective"
    if config.kind == "codec":
        codec = build_module(registry.load("codec", config.type), config, where)
        training = parse(CodecTraining, recipe.objective, its_own)
        train = prepare(corpus, codec.sample_rate, "train")
        validation = prepare(corpus, codec.sample_rate, "validation")
        return CodecObjective(codec, training, train, validation, recipe.seed)
    folder, name = Path(where).parent, str(config.codec)
    _ensure_tokenizer(config, folder, corpus)
    system = build_system(config, folder, load_codec(name))
    options = parse(LanguageTraining, recipe.objective, its_own)
    objective = _objective_of(system)
    if objective is None:
        raise InputError(
            f"{where}: there is no training objective for systems of type {config.type!r}"
        )
    splits = (
        frame_split(corpus, "train", name, system),
        frame_split(corpus, "validation", name, system),
    )
    return objective(system, options, recipe, splits)


def _ensure_tokenizer(config: ModelConfig, folder: Path, corpus: Path) -> None:
    text = config.architecture.get("text") or {}
    name = text.get("tokenizer")
    if name is None or (folder / name).is_file():
        return
    shards = prepare(corpus, load_codec(str(config.codec)).sample_rate, "train")
    texts = [" ".join(word for word, _, _ in item.words) for item in shards.items if item.words]
    if not texts:
        raise InputError(
            f"{corpus} has no words: a system with a text stream cannot be trained on it"
        )
    tokenizer = train_tokenizer(texts, text["vocab_size"])
    tokenizer.save(str(folder / name))


def _objective_of(system: object) -> type[LanguageObjective] | None:
    """The objective for a system's head."""
    if isinstance(system, CalmSystem):
        return FlowObjective if system.config.sampler == "trigflow" else CalmObjective
    if isinstance(system, RqSystem):
        return RqObjective
    return MusicGenObjective if isinstance(system, MusicGenSystem) else None


def write_weights(folder: Path, config: ModelConfig, weights: Mapping[str, Tensor]) -> str:
    """Write weights as safetensors, and config.yaml beside them with their name and sha256.

    The file is named by its content, and config.yaml is replaced once it is there: whatever moment
    a kill comes at, the config names whole weights, the old or the new. Matrices are stored as
    float16; vectors (norms, biases, latent statistics) are small and stay float32.

    Returns:
        The sha256 of the weights.
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
    sha256 = hashlib.sha256(packed).hexdigest()
    named = WeightsSpec(file=f"weights-{sha256[:12]}.safetensors", sha256=sha256)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    replace(folder / named.file, packed)
    data = config.model_copy(update={"weights": named}).model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(data, sort_keys=False, width=100, allow_unicode=True)
    replace(folder / "config.yaml", text.encode())
    for path in list(folder.iterdir()):  # files of other names are the user's
        if re.fullmatch(OURS, path.name) and path.name != named.file:
            path.unlink()
    return sha256
