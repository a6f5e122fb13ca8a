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
from calm_bench.nn.delay import DelayPattern
from calm_bench.systems.base import Generation, Prompt, System
from calm_bench.types import SamplingParams, TemperatureKind

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


def merged(old: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A nested mapping with nested changes."""
    new = dict(old)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(old.get(key), dict)
        new[key] = merged(old[key], value) if nested else value
    return new


@dataclass
class RowState:
    """One clip on its way.

    Attributes:
        given: Frames of the prompt [P, C] or [P, K].
        made: Frames after it, as they are pushed.
        draws: All random numbers of the clip, one row per step.
        memory: What the package keeps between steps.
    """

    given: Tensor
    draws: Tensor
    sampling: SamplingParams
    memory: Any = None
    made: list[Tensor] = field(default_factory=list)


class ReleasedSystem(System):
    """A package's model, driven row by row; subclasses say what a row does."""

    brings_codec: ClassVar[bool] = True

    @abstractmethod
    def draw(self, n_frames: int, sampling: SamplingParams, generator: torch.Generator) -> Tensor:
        """All random numbers of one clip, [steps, ...]."""

    @abstractmethod
    def open_row(self, row: RowState, prompt: Prompt, n_frames: int) -> None:
        """Read the prompt into the row's memory."""

    @abstractmethod
    def advance_row(self, row: RowState) -> Tensor:
        """One step of the backbone: the context [D]."""

    @abstractmethod
    def draw_row(self, row: RowState, z: Tensor) -> Tensor:
        """The next frame [C] or [K] from its context [D]."""

    def start(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        generators: Sequence[torch.Generator],
        n_frames: int,
    ) -> list[RowState]:
        rows = []
        for prompt, generator in zip(prompts, generators, strict=True):
            draws = self.draw(n_frames, sampling, generator).to(self.device)
            given = self.codec.encode(prompt.wave[None].to(self.device))[0]
            given = given if self.codec.continuous else given.transpose(0, 1)
            row = RowState(given=given, draws=draws, sampling=sampling)
            self.open_row(row, prompt, n_frames)
            rows.append(row)
        return rows

    def backbone_step(self, state: list[RowState]) -> Tensor:
        return torch.stack([self.advance_row(row) for row in state])

    def head_step(self, state: list[RowState], z: Tensor) -> Tensor:
        rows = zip(state, z, strict=True)
        return torch.stack([self.draw_row(row, context) for row, context in rows])

    def push(self, state: list[RowState], frame: Tensor) -> None:
        for row, own in zip(state, frame, strict=True):
            row.made.append(own)

    def finish(self, state: list[RowState]) -> Generation:
        """Decode the clips, each from its own first frame; rows are padded on the left."""
        clips = [torch.cat([row.given, *(frame[None] for frame in row.made)]) for row in state]
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
            prompt_frames=tuple(len(row.given) for row in state),
            words=None,
        )


@dataclass
class DelayedCodes:
    """The steps of a row whose codebooks are delayed.

    Attributes:
        codes: Known and drawn ones [S, K], in the order of the steps.
        free: Which of them are drawn, [S, K].
        kept: What the package keeps between steps.
        at: The step that comes next.
    """

    codes: Tensor
    free: Tensor
    kept: Any
    at: int = 0


class DelayedSystem(ReleasedSystem):
    """Codes of delayed codebooks (`nn/delay.py`): what a step draws completes an earlier frame."""

    temperature_kind: ClassVar[TemperatureKind] = "softmax_divisor"
    pattern: DelayPattern
    special: int
    """What stands where the stream has no code."""

    draws_per_step: int

    @property
    def lead(self) -> int:
        """Steps by which the stream leads the frames; they are taken in `start`."""
        return self.pattern.extra

    def draw(self, n_frames: int, sampling: SamplingParams, generator: torch.Generator) -> Tensor:
        """Uniform numbers [S, draws per step]."""
        shape = (n_frames + self.lead, self.draws_per_step)
        return torch.rand(shape, generator=generator, device=generator.device)

    @abstractmethod
    def keep(self, row: RowState, prompt: Prompt, steps: int) -> Any:
        """What the package keeps for a row of so many steps."""

    @abstractmethod
    def read(self, row: RowState, last: int) -> Tensor:
        """Take the steps before `last` that have not been taken: the last one's context [D]."""

    @abstractmethod
    def draw_codes(self, row: RowState, z: Tensor, step: int) -> None:
        """Draw a step's codes from its context [D] into the row's, where they are free."""

    def open_row(self, row: RowState, prompt: Prompt, n_frames: int) -> None:
        """Lay the prompt out as a stream, read it, and take the steps before the first frame."""
        P, total = len(row.given), len(row.given) + n_frames
        known = row.given.new_full((1, total, len(self.pattern.delays)), self.special)
        known[0, :P] = row.given
        codes = self.pattern.apply(known, self.special)[0]
        free = self.pattern.table(total, self.device) >= P
        row.memory = DelayedCodes(codes, free, self.keep(row, prompt, len(codes)))
        if P:
            self.read(row, P)
            row.memory.at = P
        for _ in range(self.lead):
            self.draw_codes(row, self.advance_row(row), row.memory.at - 1)

    def advance_row(self, row: RowState) -> Tensor:
        z = self.read(row, row.memory.at + 1)
        row.memory.at += 1
        return z

    def draw_row(self, row: RowState, z: Tensor) -> Tensor:
        step = row.memory.at - 1
        self.draw_codes(row, z, step)
        return self.pattern.frame(row.memory.codes[None], step - self.lead)[0]
