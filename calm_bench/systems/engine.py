"""From modules as they were trained to a system that is ready to be run fast.

`prepare` packs a loaded system's weights and puts the flat steps (`systems/steps.py`) in the place
of its modules. The step methods keep their names and meaning, so quality runs and latency runs
alike take what `prepare` made. Mode `plain` leaves the modules as they stand: that is what every
other mode is checked against. Tolerances on teacher-forced contexts and frames against plain, as
shares of their largest entry, are in TOLERANCES.

Modes `graph` and `compile` have not been run: no GPU was at hand. What they hand to CUDA, the steps
of fixed shapes, is tested on the CPU. `compile` is not offered there: over the flat step it gained
nothing in an experiment with a model of this kind, and took 98 s to compile.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from calm_bench.errors import InputError
from calm_bench.nn.capture import Graph, Runner
from calm_bench.systems.base import System
from calm_bench.systems.captured import CapturedSteps
from calm_bench.systems.steps import FlatSteps
from calm_bench.types import Mode, Precision

# On processors without VNNI int8 is coarser; this holds there, too.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 3e-3, "bf16": 0.03, "int8": 0.15}


def prepare(
    system: System,
    *,
    precision: Precision = "fp32",
    mode: Mode = "eager",
    release: bool = False,
) -> System:
    """Make a loaded system fast in place, and return it.

    Systems of other packages that bring no flat step keep their own, at fp32.

    Args:
        system: As it was loaded, on its device.
        precision: What weights are multiplied in.
        mode: How steps run.
        release: Let the modules go of what is packed: half the memory, but they serve for nothing
            else then.

    Raises:
        InputError: If the precision or mode cannot run on the system's device.
    """
    check(next(system.parameters()).device, precision, mode)
    if mode == "plain":
        return system
    with torch.no_grad():
        steps = system.flat(precision, release)
    if steps is None:
        if (precision, mode) != ("fp32", "eager"):
            raise InputError(
                f"{type(system).__name__} has no flat step: it runs at fp32 in mode eager or plain"
            )
        return system
    with torch.no_grad():
        system.codec.prepare()
    install(system, steps if mode == "eager" else CapturedSteps(steps, RUNNERS[mode]))
    system.precision, system.mode, system.steps = precision, mode, steps
    return system


def install(system: System, steps: FlatSteps | CapturedSteps) -> None:
    """Put flat or captured steps in the place of a system's own."""
    for name in steps.replaces:
        setattr(system, name, getattr(steps, name))


def _compiled(function: Callable[..., Any], changed: Iterable[torch.Tensor]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(function, dynamic=False)
    return compiled


RUNNERS: dict[Mode, Runner] = {"graph": Graph, "compile": _compiled}


def check(device: torch.device, precision: Precision, mode: Mode) -> None:
    """Whether a device can do what is asked of it.

    Raises:
        InputError: If not.
    """
    if mode == "plain" and precision != "fp32":
        raise InputError(f"mode plain is the float32 reference: {precision} needs mode eager")
    if mode in ("graph", "compile") and device.type != "cuda":
        raise InputError(f"mode {mode} is for CUDA devices: on {device.type} use mode eager")
    if precision in ("fp16", "int8") and device.type != "cpu":
        raise InputError(f"precision {precision} runs on the CPU only: on {device.type} use bf16")
