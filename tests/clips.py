"""Clips and folders of recordings as tests make them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import ArrayLike

from calm_bench.types import Clip

Files = Mapping[str, str | float]
"""Files by name: a text, or the seconds of a sound."""


def contents(root: Path) -> dict[str, bytes]:
    """What each file below a folder holds."""
    found = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def clip_of(
    wave: ArrayLike, name: str = "a", rate: int = 16_000, *, prompt: str = "", **known: Any
) -> Clip:
    """A clip of these samples, of the prompt of its own name or of another."""
    return Clip(
        clip_id=name,
        prompt_id=prompt or name,
        seed_index=0,
        wave=np.asarray(wave, dtype=np.float32).reshape(-1),
        sample_rate=rate,
        **known,
    )


def lay(root: Path, files: Files | Iterable[str], rate: int = 8000) -> Path:
    """Write files: texts, and sounds of noise of their own, by their seconds or of one second."""
    contents: Files = files if isinstance(files, Mapping) else dict.fromkeys(files, 1.0)
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_bytes(content.encode())
            continue
        rng = np.random.default_rng(list(name.encode()))
        wave = 0.1 * rng.standard_normal(round(content * rate))
        form = "NIST" if path.suffix.isupper() else path.suffix[1:]
        soundfile.write(path, wave, rate, format=form)
    return root
