"""Released checkpoints of other packages as systems: one row after another, their code inside.

B batch, T frames, C latent channels, K codebooks. The packages keep one stream at a time or have no
notion of ragged prompts, so a batch here is a loop over its rows: a row's clip never depends on the
others, and a batch saves no time. What is drawn, is drawn by us from each row's own generator.

Weights come from where the package gets them: its hub's cache, or the hub. A model without a
`release` is drawn at random in the shape that its config gives, which is how the tests run it.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from calm_bench.errors import WeightsError
from calm_bench.systems.base import Generation, Prompt, System
from calm_bench.types import SamplingParams

T = TypeVar("T")


def fetched(release: str, load: Callable[[], T]) -> T:
    """What `load` gives, which may reach for a hub.

    Raises:
        WeightsError: If the released weights cannot be had.
    """
    try:
        return load()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"the released weights of {release} cannot be had: {line[:200]}; connect to the model "
            "hub once, or point HF_HOME to a cache that holds them"
        ) from error


@dataclass
class Row:
    """One clip on its way.

    Attributes:
        given: Frames of the prompt [P, C] or [P, K].
        made: Frames after it, as they are pushed.
        draws: All random numbers of the clip, one row per step.
        memory: What the package keeps between steps.
        step: Steps taken since the prompt ended.
    """

    given: Tensor
    draws: Tensor
    sampling: SamplingParams
    memory: Any = None
    made: list[Tensor] = field(default_factory=list)
    step: int = 0


@dataclass
class RowsState:
    """The rows of a batch."""

    rows: list[Row]


class ReleasedSystem(System):
    """A package's model, driven row by row; subclasses say what a row does."""

    brings_codec: ClassVar[bool] = True

    # -- what a subclass adds ------------------------------------------------------------------

    @abstractmethod
    def draw(self, n_frames: int, sampling: SamplingParams, generator: torch.Generator) -> Tensor:
        """All random numbers of one clip, [steps, ...]."""

    @abstractmethod
    def open_row(self, row: Row, prompt: Prompt, n_frames: int) -> None:
        """Read the prompt into the row's memory."""

    @abstractmethod
    def advance_row(self, row: Row) -> Tensor:
        """One step of the backbone: the context [D]."""

    @abstractmethod
    def draw_row(self, row: Row, z: Tensor) -> Tensor:
        """The next frame [C] or [K] from its context [D]."""

    def push_row(self, row: Row, frame: Tensor) -> None:
        """Let the next step see the frame."""

    # -- the system's methods ------------------------------------------------------------------

    def start(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        generators: Sequence[torch.Generator],
        n_frames: int,
    ) -> RowsState:
        """Encode and read every prompt, and draw all noise."""
        rows = []
        for prompt, generator in zip(prompts, generators, strict=True):
            draws = self.draw(n_frames, sampling, generator).to(self.device)
            row = Row(given=self._encode(prompt), draws=draws, sampling=sampling)
            self.open_row(row, prompt, n_frames)
            rows.append(row)
        return RowsState(rows)

    def _encode(self, prompt: Prompt) -> Tensor:
        frames = self.codec.encode(prompt.wave[None].to(self.device))[0]
        return frames if self.codec.continuous else frames.transpose(0, 1)

    def backbone_step(self, state: RowsState) -> Tensor:
        """Contexts [B, D], row by row."""
        return torch.stack([self.advance_row(row) for row in state.rows])

    def head_step(self, state: RowsState, z: Tensor) -> Tensor:
        """The next frames [B, C] or [B, K], row by row."""
        rows = zip(state.rows, z, strict=True)
        return torch.stack([self.draw_row(row, context) for row, context in rows])

    def push(self, state: RowsState, frame: Tensor) -> None:
        """Append the frames."""
        for row, own in zip(state.rows, frame, strict=True):
            row.made.append(own)
            self.push_row(row, own)
            row.step += 1

    def finish(self, state: RowsState) -> Generation:
        """Decode the clips, each from its own first frame; rows are padded on the left."""
        clips = [torch.cat([row.given, *(frame[None] for frame in row.made)]) for row in state.rows]
        longest = max(len(clip) for clip in clips)
        waves, padded = [], []
        for clip in clips:
            frames = clip if self.codec.continuous else clip.transpose(0, 1)
            wave = self.codec.decode(frames[None])[0]
            lack = longest - len(clip)
            waves.append(torch.cat([wave.new_zeros(lack * self.codec.hop_length), wave]))
            padded.append(torch.cat([clip.new_zeros(lack, clip.shape[1]), clip]))
        frames = torch.stack(padded)
        return Generation(
            frames=frames if self.codec.continuous else frames.transpose(1, 2),
            wave=torch.stack(waves),
            prompt_frames=tuple(len(row.given) for row in state.rows),
            words=None,
        )
