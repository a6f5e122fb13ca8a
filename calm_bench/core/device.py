"""The device that was asked for, and what it is called."""

import os
import platform
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from calm_bench.core.progress import waiting
from calm_bench.errors import InputError, MachineError


def resolve_device(name: str) -> str:
    """The device to use: `auto` is a GPU if there is one, else the processor.

    Raises:
        InputError: If the name means no device.
        MachineError: If this machine has no such device.
    """
    with waiting("loading torch"):
        import torch

        has_gpu = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if has_gpu else "cpu"
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


GPU_STATE = {
    "sm_mhz": "clocks.sm",
    "sm_mhz_most": "clocks.max.sm",
    "memory_mhz": "clocks.mem",
    "watts": "power.draw",
    "watts_most": "power.limit",
    "celsius": "temperature.gpu",
    "throttled": "clocks_event_reasons.active",
    "driver": "driver_version",
}
"""What nvidia-smi is asked of a GPU; `throttled` is a mask in hexadecimals, 0x1 being idleness."""


def gpu_state(device: str) -> dict[str, str | None] | None:
    """Clocks, power, heat and throttling of a GPU now; None where unknown, and for a processor."""
    if not device.startswith("cuda"):
        return None
    import torch

    name = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    for event in ("clocks_event_reasons", "clocks_throttle_reasons"):  # before driver 535
        query = ",".join(GPU_STATE.values()).replace("clocks_event_reasons", event)
        command = ["nvidia-smi", f"--id=GPU-{name}", f"--query-gpu={query}"]
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                [*command, "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
            found = [value.strip() for value in done.stdout.split(",")]
            told = [None if value.startswith("[") else value for value in found]
            return dict(zip(GPU_STATE, told, strict=True))
    return dict.fromkeys(GPU_STATE)


def describe_gpu(device: str) -> dict[str, object] | None:
    """A GPU's state, its libraries, and whether float32 is rounded to TF32; None elsewhere."""
    state = gpu_state(device)
    if state is None:
        return None
    import torch

    return {
        **state,
        "cuda": torch.version.cuda,
        "tf32_products": torch.backends.cuda.matmul.allow_tf32,
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
    }


CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def cache_of(device: str) -> int | None:
    """Bytes of the largest cache of a GPU, or of the processor; None where nothing tells."""
    if device.startswith("cuda"):
        import torch

        return getattr(torch.cuda.get_device_properties(device), "L2_cache_size", None)
    sizes = []
    for path in CACHES.glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 0)
        if unit and text[:-1].isdecimal():
            sizes.append(int(text[:-1]) * unit)
    return max(sizes, default=None)


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine() or sys.platform)
