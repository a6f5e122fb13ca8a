"""What a codec is: waveform to frames and back, whole or one frame at a time.

B batch, S samples, T frames, C latent channels, K codebooks.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from calm_bench.types import StrictModel


class Codec(nn.Module, ABC):
    """A causal codec between mono audio [B, S] and frames: latents [B, T, C] or codes [B, K, T].

    `encode` and `decode` work on whole clips; `decode_step` gives the same audio frame by frame.
    The waveform of T frames has exactly T * hop_length samples; `encode` pads the last frame with
    zeros.
    """

    Architecture: ClassVar[type[StrictModel]]
    continuous: ClassVar[bool]
    sample_rate: int
    hop_length: int
    n_codebooks: int  # this and the next of codes only
    codebook_size: int

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def bits_per_second(self) -> float | None:
        """Bit rate of the code stream; None for continuous latents, which have none."""
        if self.continuous:
            return None
        return self.n_codebooks * math.log2(self.codebook_size) * self.frame_rate

    @abstractmethod
    def encode(self, wave: Tensor) -> Tensor:
        """Audio [B, S] to normalised latents [B, T, C] or codes [B, K, T], T = ceil(S / hop)."""

    def draw(self, wave: Tensor, generator: torch.Generator) -> Tensor:
        """Frames of a recording for training: as encoded, or drawn where they are draws."""
        return self.encode(wave)

    @abstractmethod
    def decode(self, frames: Tensor) -> Tensor:
        """All frames of a clip to audio [B, T * hop_length]."""

    @abstractmethod
    def start_decoding(self, batch_size: int) -> Any:
        """The state with which `decode_step` begins a clip."""

    @abstractmethod
    def decode_step(self, frame: Tensor, state: Any) -> Tensor:
        """One frame, [B, C] or [B, K], to its audio [B, hop_length]; updates `state` in place."""

    def decode_steps(self, frames: Tensor, state: Any) -> Tensor:
        """T frames, [B, T, C] or [B, T, K], to the audio [B, T * hop_length] of `decode_step`.

        Weights are read once for all of them, where a codec can do so.
        """
        return torch.cat([self.decode_step(frame, state) for frame in frames.unbind(1)], dim=1)

    def prepare(self) -> None:
        """Make decoding fast, in place; nothing where a codec has no faster way."""

    def weight_bytes(self) -> int:
        """Bytes of weights that `decode_step` reads; 0 where a codec was not prepared."""
        return 0

    def kv_bytes(self, position: int) -> int:
        """Bytes of keys and values that it reads for one row after `position` frames."""
        return 0
