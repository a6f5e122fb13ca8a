"""Model folders to systems ready to generate.

Time does not depend on the values of weights, so a paper-scale model needs none to be timed: with
random weights its shapes are built without memory (on the meta device), then filled, straight in
the precision they will run at. The 2.2B speech model never exists in float32.
"""

import gc
from collections import Counter
from collections.abc import Collection, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calm_bench import registry
from calm_bench.codecs.base import Codec
from calm_bench.codecs.checkpoints import (
    build_module,
    fill_weights,
    load_codec,
    ready,
    refuse_too_large,
    shape_of,
)
from calm_bench.config import ModelConfig, Models
from calm_bench.core.cache import ContentCache
from calm_bench.core.code import SILENT, code_hash
from calm_bench.core.device import device_name
from calm_bench.core.progress import waiting
from calm_bench.errors import InputError
from calm_bench.nn.kernels import Choice, Kernels, Shape, as_choice, measure
from calm_bench.seeds import content_hash
from calm_bench.systems.base import System
from calm_bench.systems.engine import prepare
from calm_bench.types import Mode, Precision


def build_system(config: ModelConfig, folder: Path, codec: Codec) -> Any:
    """A system of the registered class with random weights, around its codec.

    Raises:
        InputError: If the architecture has wrong or unknown fields.
    """
    return build_module(config, folder, codec=codec, folder=folder)


def load_system(
    name: str,
    device: str = "cpu",
    *,
    precision: Precision = "fp32",
    mode: Mode = "eager",
    random_weights: bool = False,
    models: Models | None = None,
    codec: Codec | None = None,
) -> System:
    """Load a system with its codec by model name or folder, ready for inference.

    Mode `plain` is the modules as they were trained. With `random_weights` no file is read, and
    except in mode plain the modules keep no copy of what is packed, and cannot be trained. `models`
    were read already, and a `codec` that is on the device already stays as it is.

    Raises:
        UnknownNameError: If there is no such model.
        InputError: If the model is not a system or names no codec, or the device cannot run the
            precision or mode.
        WeightsError: If its weights or its codec's cannot be used.
    """
    models = Models() if models is None else models
    config, folder = models[name]
    if config.kind != "system":
        raise InputError(f"{name} is a {config.kind}, not a system")
    cls: type[System] = registry.load("system", config.type)
    if config.codec is None and not cls.brings_codec:
        raise InputError(f"{folder / 'config.yaml'}: codec: a system must name its codec")
    system: System
    sha256: str | None
    if cls.brings_codec:
        sha256 = None if random_weights else config.release
        system = build_module(config, folder, folder=folder, release=sha256)
        random_weights = False
    elif random_weights:
        system = _build_at_random(config, folder, device, precision, models)
        sha256 = None
    else:
        # What a system tells its codec, and what it packs of it, must not reach who else has it.
        own = load_codec(str(config.codec), models=models) if codec is None else copy(codec)
        system = build_system(config, folder, own)
        sha256 = fill_weights(system, config, folder, apart="codec.")
    system = ready(system, folder.name, config, sha256, device)
    return prepare(system, precision=precision, mode=mode, release=random_weights)


def _build_at_random(
    config: ModelConfig, folder: Path, device: str, precision: Precision, models: Models
) -> System:
    """A system and codec of the configured shapes, at no time larger than they will be."""
    codec = load_codec(str(config.codec), models=models, random_weights=True)
    refuse_too_large(config, folder, device, each=4 if precision == "fp32" else 2)
    with torch.device("meta"):
        system: System = build_system(config, folder, codec)
    fill_at_random(system, config.seed, device, precision, system.exact)
    return system


def measured_kernels(told: Mapping[str, Any] | None = None) -> Kernels:
    """The fastest kernels on this machine, each shape timed once for all runs to come.

    `told` are choices that hold here. What is found is kept by processor, instructions, version of
    torch, threads, and the code of the kernels and of how they are timed.
    """
    kept = ContentCache("kernels")
    capability = torch.backends.cpu.get_cpu_capability()
    code = code_hash(Kernels.__module__, without={*SILENT, "calm_bench.types"})
    machine = [device_name("cpu"), capability, torch.__version__, code]

    def find(shape: Shape) -> Choice:
        key = content_hash(*machine, torch.get_num_threads(), shape)
        known = kept.read(key, as_choice)
        if known is None:
            with waiting("timing kernels"):
                known = measure(shape)
            kept.write(key, known)
        return known

    return Kernels(find, told)


Opened = tuple[str, Precision | None]
"""A model and the precision it is open in; a codec has none."""


class OpenModels:
    """The systems and codecs of a run, each loaded when it is first asked for and then open.

    Systems share a codec's weights with each other and with its round trips.
    """

    def __init__(self, models: Models, device: str, kernels: Kernels | None = None) -> None:
        """Nothing is open yet; models that cannot be built are refused now.

        Products take these kernels, without any those of the constants.

        Raises:
            InputError: If an architecture has wrong or unknown fields.
        """
        for config, folder in models.values():
            shape_of(config, folder)
        self.models, self.device, self.kernels = models, device, kernels or Kernels()
        self._open: dict[Opened, Any] = {}
        self._bytes: Counter[Opened] = Counter()
        self._last: Opened | None = None
        if device.startswith("cuda"):
            one = torch.ones(1, 1, device=device)
            torch.mm(one, one)  # from here on the library has its workspace, which is no system's
        self._before = allocated(device)

    def codec(self, name: str) -> Codec:
        """A codec as it was trained."""
        self._turn_to((name, None))
        if (name, None) not in self._open:
            self._open[name, None] = load_codec(name, self.device, self.models)
        codec: Codec = self._open[name, None]
        return codec

    def system(self, name: str, precision: Precision) -> System:
        """A system, ready for inference."""
        if (name, precision) not in self._open:
            codec = self.models[name][0].codec
            shared = None if codec is None else self.codec(codec)
            self._turn_to((name, precision))
            with self.kernels.choosing():
                self._open[name, precision] = load_system(
                    name, self.device, precision=precision, models=self.models, codec=shared
                )
        self._turn_to((name, precision))
        system: System = self._open[name, precision]
        return system

    def keep(self, wanted: Collection[Opened]) -> None:
        """Let go of all but these and their codecs."""
        self._turn_to(None)
        kept = {*wanted, *(self._codec_of(key) for key in wanted)}
        if gone := self._open.keys() - kept:
            for key in gone:
                del self._open[key], self._bytes[key]
            gc.collect()  # a system and its packed steps hold each other
            self._before = allocated(self.device)

    def bytes_of(self, key: Opened) -> int:
        """What a system has taken of a GPU's memory so far, its codec with it."""
        self._turn_to(None)
        return self._bytes[key] + self._bytes[self._codec_of(key)]

    def _codec_of(self, key: Opened) -> Opened:
        return (self.models[key[0]][0].codec if key[0] else None) or "", None

    def _turn_to(self, key: Opened | None) -> None:
        """From now on memory is this one's: what was taken since the last turn was the last's."""
        if key == self._last:
            return
        now = allocated(self.device)
        if self._last is not None:
            self._bytes[self._last] += now - self._before
        self._last, self._before = key, now


def allocated(device: str) -> int:
    """Bytes of all tensors on a GPU once garbage is gone; 0 on a processor, where none counts."""
    if not device.startswith("cuda"):
        return 0
    gc.collect()
    return torch.cuda.memory_allocated(device)


BLOCK = 4_194_301
"""Numbers drawn, and repeated over all matrices: drawing billions would take minutes. A prime, so
that no two rows of a matrix are the same."""


def fill_at_random(
    module: nn.Module, seed: int, device: str, precision: Precision, exact: tuple[str, ...]
) -> None:
    """Give every parameter that lies on the meta device values drawn from the seed.

    Matrices are made in bfloat16 if they will be packed for fewer than 32 bits, but for those whose
    names begin as `exact` says.
    """
    generator = torch.Generator(device).manual_seed(seed)
    narrow = torch.float32 if precision == "fp32" else torch.bfloat16
    block = torch.randn(BLOCK, generator=generator, device=device)
    used = 0
    for prefix, part in module.named_modules():
        for name, parameter in list(part.named_parameters(prefix, recurse=False)):
            if not parameter.is_meta:
                continue
            wide = parameter.ndim < 2 or name.startswith(exact)
            dtype = torch.float32 if wide else narrow
            if parameter.ndim < 2:
                values = torch.zeros if name.endswith("bias") else torch.ones
                filled = values(parameter.shape, dtype=dtype, device=device)
            else:
                scaled = (block.roll(-used) * parameter.shape[-1] ** -0.5).to(dtype)
                filled = _repeated(scaled, parameter.shape)
                used = (used + parameter.numel()) % BLOCK
            own = name.removeprefix(prefix).removeprefix(".")
            setattr(part, own, nn.Parameter(filled, requires_grad=False))


def _repeated(block: Tensor, shape: torch.Size) -> Tensor:
    filled = block.new_empty(shape)
    flat = filled.view(-1)
    for start in range(0, len(flat), len(block)):
        part = flat[start : start + len(block)]
        part.copy_(block[: len(part)])
    return filled
