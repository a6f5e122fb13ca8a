"""A model folder to what trains it, and what training makes back to the folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from calm_bench import paths, registry
from calm_bench.codecs.loading import build_module
from calm_bench.config import ModelConfig, parse
from calm_bench.data.shards import Shards, prepare
from calm_bench.errors import InputError
from calm_bench.seeds import file_hash
from calm_bench.training.objective import Objective
from calm_bench.training.recipe import TrainingConfig

__all__ = ["build_objective", "corpus_dir", "training_config", "write_model", "write_weights"]


def training_config(
    config: ModelConfig, where: str, overrides: Mapping[str, Any]
) -> TrainingConfig:
    """The checked recipe of a model, with what the command line overrides.

    Raises:
        InputError: If the model has no training section or one with wrong fields.
    """
    if not config.training:
        raise InputError(f"{where} has no training section: this model is not meant to be trained")
    return parse(TrainingConfig, {**config.training, **overrides}, f"{where}: training")


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


def shards_of(corpus: Path, sample_rate: int) -> tuple[Shards, Shards]:
    """Training and validation audio at a rate, prepared if they are not."""
    train = prepare(corpus, sample_rate, "train")
    return train, prepare(corpus, sample_rate, "validation")


def build_objective(config: ModelConfig, recipe: TrainingConfig, where: str) -> Objective:
    """The objective that trains a model of this kind, its module drawn from the config's seed."""
    corpus = corpus_dir(recipe.corpus)
    if config.kind == "codec":
        from calm_bench.training.codec import CodecObjective, CodecTraining

        codec = build_module(registry.load("codec", config.type), config, where)
        extra = parse(CodecTraining, recipe.objective, f"{where}: training.objective")
        train, validation = shards_of(corpus, codec.sample_rate)
        return CodecObjective(codec, extra, train, validation, recipe.seed)
    from calm_bench.training.dispatch import build_language_objective

    return build_language_objective(config, recipe, where, corpus)


def write_model(folder: Path, config: ModelConfig, weights: Mapping[str, Tensor], card: str) -> str:
    """Write weights, config.yaml and the card.

    Returns:
        The sha256 of the weights.
    """
    sha256 = write_weights(folder, config, weights)
    (folder / "card.md").write_text(card, encoding="utf-8")
    return sha256


def write_weights(folder: Path, config: ModelConfig, weights: Mapping[str, Tensor]) -> str:
    """Write weights as safetensors, and their sha256 into config.yaml beside them.

    Matrices are stored as float16; vectors (norms, biases, latent statistics) are small and
    stay float32.

    Returns:
        The sha256 of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "weights.safetensors"
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
    save_file(half, path)
    sha256 = file_hash(path)
    data = config.model_dump(mode="json", exclude_none=True)
    data["weights"] = {"file": path.name, "sha256": sha256}
    text = yaml.safe_dump(data, sort_keys=False, width=100)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return sha256
