"""Seeds and content hashes: draws and identities come from what was asked, not from when."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def content_hash(*parts: Any, length: int = 16) -> str:
    """A short sha256 of JSON-like parts (or raw bytes), equal for equal content on any machine."""
    digest = hashlib.sha256()
    for part in parts:
        if not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True, ensure_ascii=False, default=str).encode()
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:length]


def file_hash(path: Path) -> str:
    """The full sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class SamplesHash:
    """The content hash of float32 samples and their rate, however they are cut into blocks."""

    def __init__(self, sample_rate: int) -> None:
        """Nothing is heard yet."""
        self._digest = hashlib.sha256(f"float32 {sample_rate} ".encode())

    def add(self, samples: "NDArray[np.float32]") -> None:
        """Go on with these samples."""
        for start in range(0, len(samples), 1 << 20):
            block = samples[start : start + (1 << 20)].astype("<f4")
            self._digest.update((block + 0.0).data)  # -0.0 is no other sound than 0.0

    @property
    def value(self) -> str:
        """The hash of what was added so far."""
        return self._digest.hexdigest()[:16]


def samples_hash(samples: "NDArray[np.float32]", sample_rate: int) -> str:
    """The content hash of float32 samples and their rate."""
    digest = SamplesHash(sample_rate)
    digest.add(samples)
    return digest.value


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed from what is drawn.

    A trial's seed is derived from benchmark, version, prompt and seed index, and not from system or
    temperature: sweeps use common random numbers, and adding a system changes nobody's clips.
    """
    return int(content_hash(*parts), 16) >> 1
