"""The flat decode step that all systems share: a frame's arithmetic on packed weights.

B batch, D width, C latent channels, K codebooks. The streams, their delays and all bookkeeping stay
with the systems (`systems/streaming.py`); here is only the arithmetic between them, which
`systems/engine.py` puts in the place of the modules':

    read     prompt inputs into the key-value cache
    advance  the backbone and the text stream by one step
    head     contexts to the next frame

and for music `read_window`, the short context. What differs from system to system is in the
system's own file. Every function agrees with the module's, within 1e-4 at fp32.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from calm_bench.nn.depth import Chooser, draw_tokens
from calm_bench.nn.product import Product, discard, pack
from calm_bench.nn.transformer import FlatTransformer, KvCache
from calm_bench.systems.monologue import FREE
from calm_bench.systems.streaming import StreamState
from calm_bench.types import Precision, SamplingParams

if TYPE_CHECKING:
    from calm_bench.systems.streaming import StreamingSystem
if TYPE_CHECKING:
    from calm_bench.systems.musicgen import MusicGenSystem
    from calm_bench.systems.rq import RqSystem


def chooser(sampling: SamplingParams) -> Callable[[Tensor, Tensor], Tensor]:
    """`draw_tokens` at the sampling's temperature and top-k."""
    return partial(draw_tokens, temperature=sampling.temperature, top_k=sampling.top_k)


class FlatSteps(ABC):
    """Backbone and text stream; a subclass adds how frames are read and drawn."""

    replaces: tuple[str, ...] = ("read", "advance", "head")

    def __init__(self, system: "StreamingSystem", precision: Precision, release: bool) -> None:
        """Pack the system's weights; with `release` its modules let go of them."""
        self.owner = system
        self.precision: Precision = precision
        self.backbone = FlatTransformer(system.backbone, precision, release)
        self.text_head: Product | None = None
        if system.text_size is not None:
            self.text_table = system.text_table.weight
            self.text_head = pack(system.text_head.weight, None, precision)
            if release:
                discard(system.text_head)

    @abstractmethod
    def frame_input(self, frame: Tensor, text: Tensor | None) -> Tensor:
        """Backbone input [B, D] of a frame [B, C] or [B, K] and the text's embedding [B, D]."""

    @abstractmethod
    def draw_frame(
        self,
        sampling: SamplingParams,
        z: Tensor,
        draws: Tensor,
        text: Tensor | None,
        scratch: Any,
    ) -> Tensor:
        """The next frame from contexts [B, D].

        Args:
            sampling: Temperature, top-k, steps.
            z: Contexts.
            draws: This frame's random numbers.
            text: What `head_text` gave.
            scratch: What `new_scratch` gave.
        """

    @abstractmethod
    def head_bytes(self, steps: int) -> int:
        """Bytes of weights that the head reads for one frame."""

    def head_text(self, state: StreamState) -> Tensor | None:
        """The text tokens [B] that the head sees, if it sees any."""
        return None

    def new_scratch(self, z: Tensor) -> Any:
        """What the head keeps from frame to frame."""
        return None

    def read(self, x: Tensor, cache: KvCache) -> None:
        """Take inputs [B, P, D] into the cache."""
        self.backbone(x.float(), cache)

    def advance(self, state: StreamState) -> Tensor:
        """One step of the backbone and the text stream: contexts [B, D]."""
        z = self.backbone(self.step_input(state)[:, None], state.cache)
        return self.settle(state, z, self.tokens(state.choose_text, z, self.text_draws(state)))

    def head(self, state: StreamState, z: Tensor, draws: Tensor) -> Tensor:
        """The next frame from contexts [B, D] and its draws."""
        if state.scratch is None:
            state.scratch = self.new_scratch(z)
        return self.draw_frame(state.sampling, z, draws, self.head_text(state), state.scratch)

    def text_draws(self, state: StreamState) -> Tensor | None:
        """The uniform numbers [B, 1] of the step that comes next."""
        at = state.step - state.prompt_end
        return None if state.text_draws is None else state.text_draws[:, at : at + 1]

    def tokens(self, choose: Chooser, z: Tensor, draws: Tensor | None) -> Tensor | None:
        """Text tokens [B] drawn from contexts [B, D]."""
        if self.text_head is None or draws is None:
            return None
        return draw_tokens(self.text_head(z), draws, choose.temperature, choose.top_k)

    def settle(self, state: StreamState, z: Tensor, tokens: Tensor | None) -> Tensor:
        """Write the step's tokens down, except where the prompt decides them; go on to the next."""
        i = state.step
        if state.text is not None and tokens is not None:
            if i < state.given_until:
                assert state.given_text is not None
                given = state.given_text[:, i]
                tokens = torch.where(given == FREE, tokens, given)
            state.text[:, i] = tokens
        state.step = i + 1
        return z

    def step_input(self, state: StreamState) -> Tensor:
        """What the backbone reads at the step that comes next: [B, D]."""
        i, lead = state.step, self.owner.lead
        if i <= lead + max(state.lacking):  # a BOS is due in some row
            return self.owner.inputs(state, i, i + 1)[:, 0].float()
        text = None
        if state.text is not None:
            text = float32(F.embedding(state.text[:, i - 1], self.text_table))
        return self.frame_input(state.frames[:, i - 1 - lead], text)

    # -- what it reads -------------------------------------------------------------------------

    def weight_bytes(self, steps: int) -> dict[str, int]:
        """Bytes of weights that one frame reads, by stage; the head takes so many steps."""
        backbone = self.backbone.weight_bytes() + self.input_bytes()
        if self.text_head is not None:
            row = self.text_table.shape[1] * self.text_table.element_size()
            backbone += self.text_head.nbytes + row
        return {"backbone": backbone, "head": self.head_bytes(steps)}

    def input_bytes(self) -> int:
        """Bytes of what turns one frame into an input; rows of tables, not tables."""
        return 0

    def kv_bytes(self, position: int, batch_size: int) -> dict[str, int]:
        """Bytes of keys and values that one frame reads after `position` steps, by stage."""
        config = self.backbone.config
        held = position + 1 if config.context is None else min(position + 1, config.context)
        return {"backbone": 2 * config.layers * config.dim * held * batch_size * 4, "head": 0}


class FlatCodes(FlatSteps):
    """Codes in: the sum of K rows of one table."""

    def __init__(
        self, system: "RqSystem | MusicGenSystem", precision: Precision, release: bool
    ) -> None:
        """Lay the K tables one below the other; tables of a low rank are multiplied out."""
        super().__init__(system, precision, release)
        tables: Tensor = system.code_tables
        maps = getattr(system, "code_maps", None)
        if maps is not None:
            tables = torch.bmm(tables, maps)
        K, rows, _ = tables.shape
        self.table = tables.flatten(0, 1)
        self.offsets = torch.arange(K, device=tables.device) * rows

    def frame_input(self, frame: Tensor, text: Tensor | None) -> Tensor:
        """The sum of K code embeddings, and the text's."""
        x = float32(F.embedding_bag(frame + self.offsets, self.table, mode="sum"))
        return x if text is None else x + text

    def input_bytes(self) -> int:
        """K rows."""
        return len(self.offsets) * self.table.shape[1] * self.table.element_size()


def float32(x: Tensor) -> Tensor:
    """The tensor as float32; asking costs nothing where it is."""
    return x if x.dtype == torch.float32 else x.float()
