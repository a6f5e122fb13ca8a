"""MusicGen: all codebooks of a step in parallel, each one frame behind the one before.

B batch, T frames, S steps, K codebooks, V codebook size, D width (Copet et al. 2023). The backbone
reads the sum of K embeddings and K linear heads draw K codes at once, so there is no depth
transformer; the price is a codec of twice the frame rate and the delay pattern (`nn/delay.py`).

What that means for the five methods. A frame is one codec frame, 20 ms at 50 Hz, and costs one
`backbone_step` and one `head_step`: a second of audio takes twice the steps of a system at 25 Hz,
and times per frame compare only per second of audio. T frames take T + K - 1 steps. The first K - 1
of them are taken in `start`, like the text steps of a system with an inner monologue, and count
towards the first audio; from then on each step completes one frame, so audio streams frame by
frame. The last K - 1 steps draw no more than what completes their frame: the places beyond the
last frame hold SPECIAL, as in training.
"""

from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from calm_bench.codecs.base import Codec
from calm_bench.errors import InputError
from calm_bench.nn.delay import DelayPattern
from calm_bench.nn.depth import Chooser
from calm_bench.nn.kernels import pack
from calm_bench.nn.product import discard
from calm_bench.nn.transformer import TransformerConfig
from calm_bench.systems.streaming import CodeSystem, FlatCodes, Head, StreamState, chooser, float32
from calm_bench.types import Precision, SamplingParams, Shape, Size, StrictModel


class FlatMusicGen(FlatCodes):
    """MusicGen: all K codes of a step from one product."""

    def __init__(self, system: "MusicGenSystem", precision: Precision, release: bool) -> None:
        super().__init__(system, precision, release)
        self.heads = pack(system.code_heads.flatten(0, 1), None, precision)
        if release:
            discard(system, "code_heads")

    def new_head(self, sampling: SamplingParams, batch_size: int, like: Tensor) -> Head:
        choose = chooser(sampling)

        def head(z: Tensor, draws: Tensor, text: Tensor | None) -> Tensor:
            codes = choose(self.heads(z).view(draws.numel(), -1), draws.reshape(-1, 1))
            return codes.view(draws.shape)

        return head

    def head_bytes(self, steps: int) -> int:
        return self.heads.nbytes


class MusicGenConfig(Shape):
    """Backbone and delays, one per codebook; codebooks must be the codec's."""

    backbone: TransformerConfig
    delays: tuple[Annotated[int, Field(ge=0, le=1000)], ...] = Field(
        default=(0, 1, 2, 3), min_length=1, max_length=256
    )
    codebook_size: Size

    @property
    def own_numbers(self) -> int:
        return 2 * len(self.delays) * self.codebook_size * self.backbone.dim


class MusicGenSystem(CodeSystem):
    """Delayed codes of a residual quantiser; temperature divides the logits."""

    Architecture: ClassVar[type[StrictModel]] = MusicGenConfig
    flat_for: ClassVar[tuple[str, ...]] = (*CodeSystem.flat_for, "logits")

    def __init__(self, config: MusicGenConfig, codec: Codec, folder: Path | None = None) -> None:
        """Build backbone, tables and heads around an RVQ codec.

        Raises:
            InputError: If delays or codebook size are not for this codec.
        """
        K, V, D = len(config.delays), config.codebook_size, config.backbone.dim
        super().__init__(config.backbone, None, codec, folder, K)
        self.register_parameter("audio_start", None)  # streams begin with SPECIAL
        shape = (getattr(codec, "n_codebooks", None), getattr(codec, "codebook_size", None))
        if shape != (K, V):
            raise InputError(
                f"{K} delays and codebooks of {V} entries do not fit the codec, which has "
                f"{shape[0]} codebooks of {shape[1]}"
            )
        self.pattern = DelayPattern(config.delays)
        self.lead = self.pattern.extra
        self.special = V
        self.code_maps = None
        self.code_tables = nn.Parameter(torch.randn(K, V + 1, D) * 0.3 * K**-0.5)
        self.code_heads = nn.Parameter(torch.randn(K, V, D) * D**-0.5)

    def flat(self, precision: Precision, release: bool) -> FlatMusicGen:
        return FlatMusicGen(self, precision, release)

    def nfe(self, sampling: SamplingParams) -> int:
        return 1  # all codebooks are drawn at once

    def logits(self, z: Tensor) -> Tensor:
        """Contexts [..., D] to logits [..., K, V]."""
        return torch.einsum("...d,kvd->...kv", z, self.code_heads)

    def contexts(self, frames: Tensor, text: Tensor | None, seen: Tensor | None = None) -> Tensor:
        """What the backbone makes of true codes [B, T, K] at every step: [B, S, D].

        Codes of frames that are not `seen` enter as SPECIAL; there is no text stream.
        """
        assert text is None
        if seen is not None:
            frames = torch.where(seen[..., None], frames, self.special)
        stream = self.pattern.apply(frames, self.special)
        x = self.embed_frames(self.pattern.inputs(stream, self.special))
        z: Tensor = self.backbone(x)
        return z

    def prefill(self, state: StreamState) -> None:
        """Lay the prompts out as a stream, read it, and take the steps before the first frame."""
        P, n_frames = state.prompt_end, state.frames.shape[1]
        place = torch.arange(n_frames, device=self.device)
        lacking = torch.tensor(state.lacking, device=self.device)
        given = (place >= lacking[:, None]) & (place < P)  # [B, T]
        known = torch.where(given[..., None], state.frames, self.special)
        state.stream = self.pattern.apply(known, self.special)
        state.free = self.pattern.table(n_frames, self.device) >= P
        super().prefill(state)

    def inputs(self, state: StreamState, first: int, last: int) -> Tensor:
        if first > 0:
            return self.embed_frames(state.stream[:, first - 1 : last - 1])
        return self.embed_frames(self.pattern.inputs(state.stream[:, :last], self.special))

    def step_input(self, state: StreamState) -> Tensor:
        """The step before, or SPECIAL before the first: [B, D]."""
        if state.step == 0:
            return float32(self.inputs(state, 0, 1)[:, 0])
        return self.frame_input(state.stream[:, state.step - 1], None)

    def lead_step(self, state: StreamState) -> None:
        """A step before the first new frame is whole: its codes are drawn all the same."""
        self._draw_step(state, self.backbone_step(state))

    def _draw_step(self, state: StreamState, z: Tensor) -> None:
        i = state.step - 1
        codes = self.head(state, z, i - state.prompt_end)
        state.stream[:, i] = torch.where(state.free[i], codes, state.stream[:, i])

    def draw(self, n_frames: int, sampling: SamplingParams, generator: torch.Generator) -> Tensor:
        """Uniform numbers [n_frames + K - 1, K]: one per step and codebook."""
        shape = (n_frames + self.lead, self.frame_width)
        return torch.rand(shape, generator=generator, device=generator.device)

    def new_head(self, sampling: SamplingParams, batch_size: int, like: Tensor) -> Head:
        """Codes [B, K] of one step; they belong to K different frames."""
        choose = Chooser(sampling.temperature, sampling.top_k)

        def head(z: Tensor, draws: Tensor, text: Tensor | None) -> Tensor:
            return choose(self.logits(z).flatten(0, 1), draws.flatten()).view(draws.shape)

        return head

    def head_step(self, state: StreamState, z: Tensor) -> Tensor:
        """Draw a step's codes; return the frame [B, K] that they complete."""
        self._draw_step(state, z)
        return self.pattern.frame(state.stream, state.step - 1 - self.lead)

    def push(self, state: StreamState, frame: Tensor) -> None:
        """Nothing: a step's codes enter the stream as they are drawn, most for later frames."""

    def made(self, state: StreamState) -> Tensor:
        """The whole frames so far [B, T, K]; zeros where a row is padded.

        SPECIAL in a new frame was drawn, where logits were not finite: it stays, and is no code.
        """
        codes = self.pattern.undo(state.stream[:, : state.step])
        new = torch.arange(codes.shape[1], device=codes.device) >= state.prompt_end
        return codes.where((codes < self.special) | new[:, None], 0)
