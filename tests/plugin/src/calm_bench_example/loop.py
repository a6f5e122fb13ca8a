"""A system without weights: it says the prompt over and over.

B batch, T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from calm_bench.codecs.base import Codec
from calm_bench.systems.base import Generation, Prompt, System
from calm_bench.types import SamplingParams, StrictModel

__all__ = ["LoopConfig", "LoopSystem"]


class LoopConfig(StrictModel):
    """The first prompt frame that is repeated, and the chance that a frame is a random one."""

    first_frame: int = 0
    chance: float = 0.5


@dataclass(slots=True)
class LoopState:
    """The frames so far, and for each new frame which prompt frame it will be."""

    rows: list[list[Tensor]]
    choices: list[list[int]]
    prompt_frames: tuple[int, ...]
    step: int = 0


class LoopSystem(System):
    """Repeats its prompt; now and then a frame is a random one instead."""

    Architecture = LoopConfig
    temperature_kind = "none"
    weight_free = True

    def __init__(self, config: LoopConfig, codec: Codec, folder: Path | None = None) -> None:
        """Keep the codec; there is nothing to learn, and no file of the model's folder to read."""
        super().__init__()
        self.first_frame, self.chance = config.first_frame, config.chance
        self.codec = codec

    def nfe(self, sampling: SamplingParams) -> int:
        return 0

    def start(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        generators: Sequence[torch.Generator],
        n_frames: int,
    ) -> LoopState:
        rows, choices = [], []
        for prompt, generator in zip(prompts, generators, strict=True):
            frames = self.codec.encode(prompt.wave[None])[0]
            rows.append(list(frames.unbind(0 if self.codec.continuous else 1)))
            # All randomness is drawn here, from the row's own generator.
            chance, pick = torch.rand(2, n_frames, generator=generator)
            repeated = (torch.arange(n_frames) + self.first_frame) % len(rows[-1])
            random = (pick * len(rows[-1])).long()
            choices.append(torch.where(chance < self.chance, random, repeated).tolist())
        return LoopState(rows, choices, tuple(len(row) for row in rows))

    def backbone_step(self, state: LoopState) -> Tensor:
        return torch.tensor([choice[state.step] for choice in state.choices])[:, None]  # [B, 1]

    def head_step(self, state: LoopState, z: Tensor) -> Tensor:
        pairs = zip(state.rows, z[:, 0].tolist(), strict=True)
        return torch.stack([row[choice] for row, choice in pairs])

    def push(self, state: LoopState, frame: Tensor) -> None:
        for row, new in zip(state.rows, frame, strict=True):
            row.append(new)
        state.step += 1

    def finish(self, state: LoopState) -> Generation:
        longest = max(len(row) for row in state.rows)
        axis = 0 if self.codec.continuous else 1
        padded = [[torch.zeros_like(row[0])] * (longest - len(row)) + row for row in state.rows]
        frames = torch.stack([torch.stack(row, dim=axis) for row in padded])
        hop = self.codec.hop_length
        waves = torch.zeros(len(padded), longest * hop)
        for wave, row in zip(waves, state.rows, strict=True):
            whole = self.codec.decode(torch.stack(row, dim=axis)[None])[0]
            wave[len(wave) - len(whole) :] = whole
        return Generation(frames=frames, wave=waves, prompt_frames=state.prompt_frames, words=None)
