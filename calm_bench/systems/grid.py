"""Prompts on the frames of a codec, and what a system is given of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from calm_bench.types import TimedWord, Wave

if TYPE_CHECKING:
    from calm_bench.codecs.base import Codec
    from calm_bench.systems.base import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The frames that prompts and clips are cut to."""

    sample_rate: int
    hop_length: int

    @classmethod
    def of(cls, codec: "Codec") -> Self:
        """The frames of a codec."""
        return cls(sample_rate=codec.sample_rate, hop_length=codec.hop_length)

    def samples(self, seconds: float) -> int:
        """Samples in so many seconds, in whole frames: 3 s at 12.5 Hz are 38 frames or 3.04 s."""
        # The product is rounded first, so that 0.08 s at 16 kHz is one frame and not two.
        frames = math.ceil(round(seconds * self.sample_rate / self.hop_length, 6))
        return frames * self.hop_length

    def frames(self, seconds: float) -> int:
        """Whole frames in so many seconds, rounded up."""
        return self.samples(seconds) // self.hop_length


def system_prompt(
    wave: Wave, words: Sequence[TimedWord], grid: Grid, prompt_seconds: float, device: str
) -> "Prompt":
    """What a system is given: whole frames of audio and the words that begin in them."""
    import torch

    from calm_bench.systems.base import Prompt

    samples = grid.samples(prompt_seconds)
    seconds = samples / grid.sample_rate
    return Prompt(
        wave=torch.from_numpy(wave[:samples]).to(device),
        words=tuple(word for word in words if word.start < seconds),
    )
