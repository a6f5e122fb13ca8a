"""The device that was asked for, and what it is called."""

import os
import platform
import sys
from contextlib import suppress
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


def memory_of(device: str) -> int | None:
    """Bytes of memory that a process may have on a device; None where nothing tells."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        import resource

        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
        limits += [n for n in resource.getrlimit(resource.RLIMIT_AS)[:1] if n > 0]
    except (ImportError, AttributeError, ValueError, OSError):  # not on every system
        return None
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int((Path("/sys/fs/cgroup") / file).read_text(encoding="ascii")))
    return min(limits)


def refuse_larger(n_bytes: int, device: str, what: str) -> None:
    """Refuse what cannot fit, before any of it is allocated.

    Raises:
        MachineError: If the device has less; the message begins with `what`, and has both numbers.
    """
    has = memory_of(device)
    if has is not None and n_bytes > has:
        raise MachineError(
            f"{what} {n_bytes / 1e9:,.1f} GB of memory at least, and {device} has {has / 1e9:,.1f}"
        )


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
