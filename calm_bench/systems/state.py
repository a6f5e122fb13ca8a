"""What a generating system keeps between steps, and the shape of its text stream.

B batch, T frames, C latent channels, K codebooks.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from calm_bench.config import StrictModel
from calm_bench.nn.depth import Chooser
from calm_bench.nn.transformer import KvCache
from calm_bench.types import SamplingParams

TEXT_TOP_K = 25  # Moshi's default for the text stream


class TextConfig(StrictModel):
    """The inner monologue: size of its vocabulary, frames it leads by, and its tokenizer file."""

    vocab_size: int
    lead: int = 2
    tokenizer: str | None = None


@dataclass
class StreamState:
    """A batch of clips being generated; buffers hold prompt and continuation, right-aligned.

    Attributes:
        frames: Latents [B, T, C] or codes [B, T, K], filled up to the frame last pushed.
        given_text: Tokens the prompt decides [B, T + lead], FREE elsewhere; None without text.
        text: Tokens [B, T + lead], filled up to the step just taken.
        given_until: From this step on no prompt decides any text.
        step: The stream step that comes next.
        lacking: How many frames each row was padded by on the left.
        audio_draws: All randomness of the head, [B, new frames, ...].
        scratch: What a head keeps from frame to frame.
        window: The short context's last inputs [B, K, W], if the system has one.
        stream: Codes in the order of the steps [B, S, K], if codebooks are delayed; entries that
            `free` [S, K] marks are drawn, the others known from the start.
    """

    cache: KvCache
    frames: Tensor
    text: Tensor | None
    given_text: Tensor | None
    text_draws: Tensor | None
    audio_draws: Tensor
    sampling: SamplingParams
    choose_text: Chooser
    lacking: list[int]
    prompt_frames: list[int]
    given_until: int = 0
    step: int = 0
    scratch: Any = None
    window: Tensor | None = None
    stream: Tensor | None = None
    free: Tensor | None = None

    @property
    def prompt_end(self) -> int:
        """Buffer index of the first new frame."""
        return max(self.prompt_frames)
