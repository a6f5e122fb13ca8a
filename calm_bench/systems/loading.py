"""Model folders to systems ready to generate."""

from pathlib import Path
from typing import Any

import torch

from calm_bench import registry
from calm_bench.codecs.base import Codec
from calm_bench.codecs.loading import attach_card, build_module, fill_weights, load_codec
from calm_bench.config import ModelConfig, load_model_config
from calm_bench.errors import InputError
from calm_bench.systems.base import System
from calm_bench.systems.engine import prepare
from calm_bench.systems.random_weights import fill_at_random
from calm_bench.types import Mode, Precision


def build_system(config: ModelConfig, folder: Path, codec: Codec) -> Any:
    """A system of the registered class with random weights, around its codec.

    Raises:
        InputError: If the architecture has wrong or unknown fields.
    """
    cls = registry.load("system", config.type)
    return build_module(cls, config, str(folder / "config.yaml"), codec=codec, folder=folder)


def load_system(
    name: str,
    device: str = "cpu",
    *,
    precision: Precision = "fp32",
    mode: Mode = "eager",
    random_weights: bool = False,
) -> System:
    """Load a system with its codec by model name or folder, ready for inference.

    Args:
        name: A model's name or folder.
        device: Where it is to run.
        precision: What its weights are multiplied in.
        mode: How its steps run; `plain` is the modules as they were trained.
        random_weights: Draw all weights, the codec's too, and read no file. Except in mode plain
            the modules then keep no copy of what is packed, and cannot be trained.

    Raises:
        UnknownNameError: If there is no such model.
        InputError: If the model is not a system or names no codec, or the device cannot run the
            precision or mode.
        WeightsError: If its weights or its codec's cannot be used.
    """
    config, folder = load_model_config(name)
    if config.kind != "system":
        raise InputError(f"{name} is a {config.kind}, not a system")
    cls: type[System] = registry.load("system", config.type)
    if config.codec is None and not cls.brings_codec:
        raise InputError(f"{folder / 'config.yaml'}: codec: a system must name its codec")
    system: System
    sha256: str | None
    if cls.brings_codec:
        release = None if random_weights else config.release
        where = str(folder / "config.yaml")
        system = build_module(cls, config, where, folder=folder, release=release)
        sha256, random_weights = release, False
    elif random_weights:
        system = _build_at_random(config, folder, device, precision)
        sha256 = None
    else:
        system = build_system(config, folder, load_codec(str(config.codec)))
        sha256 = fill_weights(system, config, folder, apart="codec.")
    attach_card(system, folder.name, config, sha256)
    system.requires_grad_(False)
    system = system.to(device).eval()
    return prepare(system, precision=precision, mode=mode, release=random_weights)


def _build_at_random(
    config: ModelConfig, folder: Path, device: str, precision: Precision
) -> System:
    """A system and codec of the configured shapes, at no time larger than they will be."""
    codec_config, codec_folder = load_model_config(str(config.codec))
    where = str(codec_folder / "config.yaml")
    codec = build_module(registry.load("codec", codec_config.type), codec_config, where)
    attach_card(codec, codec_folder.name, codec_config, None)
    with torch.device("meta"):
        system: System = build_system(config, folder, codec)
    fill_at_random(system, config.seed, device, precision, system.exact)
    return system
