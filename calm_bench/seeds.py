"""Seeds and content hashes: draws and identities come from what was asked, not from when."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

AT_SEED = "@seed"
"""In a model's name: `calm-music-tiny@seed1` is its recipe trained from another seed."""

MAX_SEED = 2**63 - 1
"""Beyond it torch takes none."""


def training_of(model: str) -> tuple[str, int | None]:
    """A model's name and the seed that `model@seed1` asks for; None for its own weights."""
    base, at, seed = model.rpartition(AT_SEED)
    return (base, int(seed)) if at and is_number(seed) else (model, None)


def is_number(text: str) -> bool:
    """Whether a text is a whole number of the size of a seed or less, in plain digits."""
    return text.isascii() and text.isdecimal() and len(text) <= 19


def content_hash(*parts: Any, length: int = 16) -> str:
    """A short sha256 of JSON-like parts (or raw bytes), equal for equal content on any machine."""
    digest = hashlib.sha256()
    for part in parts:
        if not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True, ensure_ascii=False, default=str).encode()
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:length]


def recipe_id_of(recipe: Mapping[str, Any]) -> str:
    """The short hash that a recipe goes by in records and results."""
    return content_hash(dict(recipe), length=12)


def file_hash(path: Path) -> str:
    """The full sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed from what is drawn.

    A trial's seed is derived from benchmark, version, prompt and seed index, and not from system or
    temperature: sweeps use common random numbers, and adding a system changes nobody's clips.
    """
    return int(content_hash(*parts), 16) >> 1
