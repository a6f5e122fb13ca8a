"""The device that was asked for, and what it is called."""

import platform
import sys
from functools import cache
from pathlib import Path

from calm_bench.errors import InputError, MachineError


def resolve_device(name: str) -> str:
    """The device to use: `auto` is a GPU if there is one, else the processor.

    Raises:
        InputError: If the name means no device.
        MachineError: If this machine has no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}: use auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"systems run on cpu or cuda, not on {device.type}")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise MachineError(f"no device {name}: this machine has {count or 'no'} CUDA devices")
    return name


def device_name(device: str) -> str:
    """The name of the GPU, or of the processor."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return _processor()


@cache
def _processor() -> str:
    """The processor's model name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine() or sys.platform)
