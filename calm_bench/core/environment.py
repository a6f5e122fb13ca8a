"""Where a run runs: the device that was asked for, and what the manifest says of machine and code.

Code is told by concern: what clips, times and scores are made by has a hash each, so that a change
keeps apart only the numbers that it can touch.
"""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from calm_bench import __version__, registry
from calm_bench.core import paths
from calm_bench.core.code import HOME, SILENT, code_hash
from calm_bench.errors import InputError, MachineError

_MODELS = registry.SYSTEMS | registry.CODECS
_MEASURES = registry.METRICS | registry.EMBEDDINGS

CONCERNS = {
    "clips": ("generate.clips", "score.held_out", *_MODELS.values()),
    "times": (
        "speed.in_run",
        "speed.measure",
        "speed.peak_worker",
        "speed.tidy",
        *_MODELS.values(),
    ),
    "scores": ("score.scorer", "score.summary", *_MEASURES.values()),
}
"""By concern, what it is made by. The loss on held-out text is a model's own, as its clips are."""

BORDERS = {
    "clips": ("metrics.fidelity", "score.clips", "score.scorer"),
    "times": (),
    "scores": ("numbers.speed",),
}
"""Where the walk from one concern would come into another: a table's column, a scores' type."""

PACKAGES = ("numpy", "scipy", "soxr", "faster-whisper", "ctranslate2", "jiwer")


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


def describe_environment(device: str) -> dict[str, Any]:
    """Versions, machine and code; device type and torch version decide a run's clips."""
    return {
        "device": device.partition(":")[0],
        "device_name": device_name(device),
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": os.cpu_count(),
        "calm_bench": __version__,
        "commit": _commit(),
        "code": code_hashes(),
        **{name: _version(name) for name in PACKAGES},
    }


@cache
def code_hashes() -> dict[str, str]:
    """By concern, a hash of the code of this package that decides it."""
    return {name: hash_of(name) for name in CONCERNS}


def hash_of(concern: str) -> str:
    """The hash of the code of one concern as it lies on disk."""
    roots = (_module(name) for name in CONCERNS[concern])
    idle = {_module(name) for name in (*BORDERS[concern], "core.code", "core.environment")}
    return code_hash(*roots, without=SILENT | idle)


def _module(name: str) -> str:
    return f"{HOME}.{name.partition(':')[0].removeprefix(f'{HOME}.')}"


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


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, marked where files differ from it; None for an installed package."""
    root = paths.package_dir().parent
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
