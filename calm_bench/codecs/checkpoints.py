"""Model folders to modules: configuration checked, weights verified against their sha256."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from calm_bench import registry
from calm_bench.codecs.base import Codec
from calm_bench.config import (
    ModelConfig,
    Models,
    parse,
    refuse_unnamed_weights,
    train_command,
)
from calm_bench.core.device import refuse_larger
from calm_bench.core.files import file_mark
from calm_bench.errors import InputError, WeightsError, describe
from calm_bench.seeds import AT_SEED, content_hash, file_hash
from calm_bench.types import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a loaded model is: name, configuration, hash of its weights, and its size."""

    name: str
    config: ModelConfig
    weights_sha256: str | None
    n_parameters: int


def build_module(config: ModelConfig, home: Path, **parts: Any) -> Any:
    """Build a model's registered class by its `architecture`, random weights drawn from `seed`.

    Raises:
        InputError: If the architecture has wrong or unknown fields, or does not fit its parts.
        MachineError: If it cannot fit into memory.
    """
    cls, shape = shape_of(config, home)
    if not torch.empty(0).is_meta:
        refuse_too_large(config, home)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return cls(shape, **parts)
    except InputError as error:
        raise InputError(f"{home / 'config.yaml'}: {error}") from error
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{home / 'config.yaml'} cannot be built: {describe(error)}") from error


def shape_of(config: ModelConfig, home: Path) -> tuple[Any, Any]:
    """A model's registered class and its checked `architecture`; nothing is built.

    Raises:
        InputError: If the architecture has wrong or unknown fields.
    """
    cls = registry.load(config.kind, config.type)
    where = f"{home / 'config.yaml'}: architecture"
    return cls, parse(cls.Architecture, config.architecture, where)


def refuse_too_large(
    config: ModelConfig, home: Path, device: str = "cpu", *, each: int = 4, doing: str = "load"
) -> None:
    """Refuse a model that cannot fit, at so many bytes a number, before any of it is allocated.

    Raises:
        MachineError: If the device has less memory; the message has both numbers.
    """
    _, shape = shape_of(config, home)
    if isinstance(shape, Shape):  # others' shapes do not say
        what = f"{home.name} has {shape.numbers:,} parameters at least: to {doing} it takes"
        refuse_larger(each * shape.numbers, device, what)


def fill_weights(
    module: nn.Module, config: ModelConfig, folder: Path, apart: str | None = None
) -> str | None:
    """Load the weights a config names, as float32, and return their sha256; None if it names none.

    Parameters whose names begin with `apart` are another model's (a system's codec) and stay.

    Raises:
        WeightsError: If the file is missing, has another hash, or does not fit the architecture; or
            if the config names none and there is one.
    """
    if config.weights is None:
        refuse_unnamed_weights(config, folder)
        return None
    path = folder / config.weights.file
    further = f"{AT_SEED}{path.stem}" if path.parent.name == "trainings" else ""
    again = train_command(folder.name + further)
    if not path.is_file():
        raise WeightsError(f"{path} is missing: check the checkout, or run `{again}`")
    before = file_mark(path)
    found = file_hash(path)
    if found != config.weights.sha256:
        raise WeightsError(
            f"{path} has sha256 {found[:12]}, but config.yaml names {config.weights.sha256[:12]}: "
            f"restore the file that belongs to it, or make weights anew by `{again}`"
        )
    try:
        state = load_file(path)
        state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        if apart is not None:
            own = module.state_dict()
            state |= {key: value for key, value in own.items() if key.startswith(apart)}
        module.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        raise WeightsError(
            f"{path} does not fit the architecture of config.yaml: {line}"
        ) from error
    if file_mark(path) != before:
        raise WeightsError(f"{path} changed while it was read: repeat the command")
    return found


def ready(
    module: Any, name: str, config: ModelConfig, sha256: str | None, device: str = "cpu"
) -> Any:
    """A loaded module with its card, for inference on a device."""
    size = sum(p.numel() for key, p in module.named_parameters() if not key.startswith("codec."))
    module.card = ModelCard(name=name, config=config, weights_sha256=sha256, n_parameters=size)
    return module.requires_grad_(False).to(device).eval()


def load_codec(
    name: str, device: str = "cpu", models: Models | None = None, *, random_weights: bool = False
) -> Codec:
    """Load a codec by model name or folder, ready for inference; `models` are those already read.

    Raises:
        UnknownNameError: If there is no such model.
        InputError: If the model is not a codec.
        WeightsError: If its weights cannot be used.
    """
    config, folder = (Models() if models is None else models)[name]
    if config.kind != "codec":
        raise InputError(f"{name} is a {config.kind}, not a codec")
    codec = build_module(config, folder)
    sha256 = None if random_weights else fill_weights(codec, config, folder)
    found: Codec = ready(codec, folder.name, config, sha256, device)
    return found


def codec_key(codec: Any) -> str:
    """What frames of this codec are filed under: a hash of architecture and weights."""
    card: ModelCard = codec.card
    return content_hash(
        card.config.type, card.config.architecture, card.weights_sha256, card.config.seed
    )
