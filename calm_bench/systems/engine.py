"""From modules as they were trained to a system that is ready to be run fast.

`prepare` packs a loaded system's weights and puts the flat steps (`systems/steps.py`) in the place
of its modules. The step methods keep their names and meaning, so quality runs and latency runs
alike take what `prepare` made. Mode `plain` leaves the modules as they stand: that is what every
other mode is checked against. Tolerances on teacher-forced contexts and frames against plain, as
shares of their largest entry, are in TOLERANCES.
"""

import torch

from calm_bench.errors import InputError
from calm_bench.systems.base import System
from calm_bench.types import Mode, Precision

__all__ = ["TOLERANCES", "prepare"]

TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "bf16": 0.03, "int8": 0.15}


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
    for name in steps.replaces:
        setattr(system, name, getattr(steps, name))
    with torch.no_grad():
        system.codec.prepare()
    system.precision, system.mode, system.steps = precision, mode, steps
    return system


def check(device: torch.device, precision: Precision, mode: Mode) -> None:
    """Whether a device can do what is asked of it.

    Raises:
        InputError: If not.
    """
    if mode == "plain" and precision != "fp32":
        raise InputError(f"mode plain is the float32 reference: {precision} needs mode eager")
    if mode == "graph" and device.type != "cuda":
        raise InputError(f"mode graph captures CUDA graphs: {device.type} has mode eager")
    if precision == "int8" and device.type != "cpu":
        raise InputError(f"precision int8 runs on the CPU only: on {device.type} use bf16")
