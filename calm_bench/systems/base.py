"""What a system is: backbone, head and codec, driven frame by frame by the methods that are timed.

B batch, T frames, D model width, C latent channels, K codebooks, S samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from calm_bench.codecs.base import Codec
from calm_bench.types import (
    Mode,
    Precision,
    SamplingParams,
    StrictModel,
    TemperatureKind,
    TimedWord,
)

if TYPE_CHECKING:
    from calm_bench.systems.streaming import FlatSteps


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a clip starts with: audio [S] at the codec's rate and the words that begin in it."""

    wave: Tensor
    words: tuple[TimedWord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What a system made of a batch of prompts, prompt frames included.

    Attributes:
        frames: Latents [B, T, C] or codes [B, K, T], right-aligned: row b ends at T.
        wave: Audio [B, T * hop_length], decoded whole.
        prompt_frames: Frames of each row that were given.
        words: Each row's prompt words and inner monologue, timed; None for systems without
            a text stream.
    """

    frames: Tensor
    wave: Tensor
    prompt_frames: tuple[int, ...]
    words: tuple[tuple[TimedWord, ...], ...] | None


class System(nn.Module, ABC):
    """Backbone + head + codec + weights: the thing that is compared.

    One frame is `backbone_step`, `head_step`, `push`, in this order, on a state that `start` made;
    `decode_step` streams its audio. Generation for quality and for latency runs these same methods.
    All randomness is drawn in `start` from one generator per row, so a row never depends on its
    batch.
    """

    Architecture: ClassVar[type[StrictModel]]
    temperature_kind: ClassVar[TemperatureKind]
    brings_codec: ClassVar[bool] = False
    """Whether the class builds its codec itself, so that its models name none."""
    any_head_steps: ClassVar[bool] = False
    """Whether the head takes any number of steps. This, the next two and a `temperature_kind` of
    "none" are read from the class's own body: a plan must know them without importing it."""
    own_text: ClassVar[bool] = False
    """Whether it draws text of which its `architecture.text` does not tell."""
    weight_free: ClassVar[bool] = False
    """Whether it has nothing to train: it is then not said to have random weights."""
    exact: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of parameters that stay float32: no flat step packs them."""
    flat_for: ClassVar[tuple[str, ...]] = ()
    """The methods whose arithmetic `flat` repeats: a subclass that has others runs as modules."""
    codec: Codec
    precision: Precision = "fp32"
    mode: Mode = "plain"
    steps: "FlatSteps | None" = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def flat(self, precision: Precision, release: bool) -> "FlatSteps | None":
        """The flat step of this system's weights at a precision; None where there is none.

        To be called by `systems.engine.prepare`. With `release` the modules let go of every matrix
        as soon as it is packed.
        """
        return None

    def weight_bytes(self, sampling: SamplingParams | None = None) -> dict[str, int]:
        """Bytes of weights that one frame of one row reads, by stage, as they lie in memory.

        Each weight counts once per evaluation, times evaluations per frame; of a table the rows
        that are read. The head takes as many steps as `sampling` says, or the system's usual
        number. Empty for a system that was not prepared.
        """
        steps = self.default_head_steps if sampling is None else sampling.head_steps
        if self.steps is None:
            return {}
        return self.steps.weight_bytes(steps) | {"codec": self.codec.weight_bytes()}

    def kv_bytes(self, position: int) -> dict[str, int]:
        """Bytes of keys and values that one frame of a row reads after `position` steps, by stage.

        Empty for a system that was not prepared.
        """
        if self.steps is None:
            return {}
        return self.steps.kv_bytes(position) | {"codec": self.codec.kv_bytes(position)}

    @abstractmethod
    def nfe(self, sampling: SamplingParams) -> int:
        """Head evaluations per frame: head steps for CALM, codebooks for the RQ-Transformer."""

    @property
    def default_head_steps(self) -> int:
        """Head steps where the caller has no opinion; systems whose head has none say 1."""
        return 1

    @abstractmethod
    def start(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        generators: Sequence[torch.Generator],
        n_frames: int,
    ) -> Any:
        """Encode and prefill the prompts and draw all noise of `n_frames` new frames per row.

        Returns:
            The state the step methods work on, with everything preallocated.
        """

    @abstractmethod
    def backbone_step(self, state: Any) -> Tensor:
        """Advance the backbone (and the text stream) by one frame: context vectors [B, D]."""

    @abstractmethod
    def head_step(self, state: Any, z: Tensor) -> Tensor:
        """Draw the next frame from its context [B, D]: latents [B, C] or codes [B, K]."""

    @abstractmethod
    def push(self, state: Any, frame: Tensor) -> None:
        """Append the frame to the sequence, so that the next backbone step sees it."""

    @abstractmethod
    def finish(self, state: Any) -> Generation:
        """Decode the clips whole and read off the inner monologue."""

    def start_decoding(self, batch_size: int) -> Any:
        """The codec's state for streaming decoding."""
        return self.codec.start_decoding(batch_size)

    def decode_step(self, frame: Tensor, decoder_state: Any) -> Tensor:
        """Audio [B, hop_length] of one frame, streamed."""
        return self.codec.decode_step(frame, decoder_state)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        generators: Sequence[torch.Generator],
        n_frames: int,
    ) -> Generation:
        """Continue each prompt by `n_frames` frames."""
        state = self.start(prompts, sampling, generators, n_frames)
        for _ in range(n_frames):
            self.push(state, self.head_step(state, self.backbone_step(state)))
        return self.finish(state)
