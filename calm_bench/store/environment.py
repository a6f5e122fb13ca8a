"""What a manifest says of the machine and the code that a run was made by.

Code is told by concern: what clips, times and scores are made by has a hash each, so that a change
keeps apart only the numbers that it can touch.
"""

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from typing import Any

from calm_bench import __version__, registry
from calm_bench.core import paths
from calm_bench.core.code import HOME, LIBRARIES, SILENT, code_hash, version_of
from calm_bench.core.device import describe_gpu, device_name

_MODELS = registry.SYSTEMS | registry.CODECS
_MEASURES = registry.METRICS | registry.EMBEDDINGS

ROOTS = {
    "clips": ("generate.clips", "score.held_out", *_MODELS.values()),
    "times": ("speed.timing", "speed.peak_worker", "speed.tidy", *_MODELS.values()),
    "scores": ("score.scorer", "score.summary", *_MEASURES.values()),
}
"""By concern, what it is made by. The loss on held-out text is a model's own, as its clips are."""

BORDERS = {
    "clips": ("metrics.fidelity", "score.clips", "score.scorer"),
    "times": (),
    "scores": ("numbers.speed",),
}
"""Where the walk from one concern would come into another: a table's column, a scores' type."""


def describe_environment(device: str) -> dict[str, Any]:
    """Versions, machine and code; device type and torch version decide a run's clips."""
    return {
        "device": device.partition(":")[0],
        "device_name": device_name(device),
        "gpu": describe_gpu(device),
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": os.cpu_count(),
        "calm_bench": __version__,
        "commit": _commit(),
        "code": code_hashes(),
        **{name: version_of(name) for name in LIBRARIES},
    }


@cache
def code_hashes() -> dict[str, str]:
    """By concern, a hash of the code of this package that decides it."""
    return {name: hash_of(name) for name in ROOTS}


def hash_of(concern: str) -> str:
    """The hash of the code of one concern as it lies on disk."""
    roots = (_module(name) for name in ROOTS[concern])
    told = ("core.code", "core.device", "store.environment")
    idle = {_module(name) for name in (*BORDERS[concern], *told)}
    return code_hash(*roots, without=SILENT | idle)


def _module(name: str) -> str:
    return f"{HOME}.{name.partition(':')[0].removeprefix(f'{HOME}.')}"


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
