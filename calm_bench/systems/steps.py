"""The flat decode step of each system: what a frame costs when weights are packed for it.

B batch, D width, C latent channels, K codebooks, V codebook size, W short-context width. The
streams, their delays and all bookkeeping stay with the systems (`systems/streaming.py`); here is
only the arithmetic between them, put in the place of the modules' by `systems/engine.py`:

    read     prompt inputs into the key-value cache
    advance  the backbone and the text stream by one step
    head     contexts to the next frame

and for music `read_window`, the short context. Every function agrees with the module's, which the
tests hold it to: within 1e-4 at fp32.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from calm_bench.nn.flat import FlatTransformer
from calm_bench.nn.flat_depth import FlatDepth, draw_tokens
from calm_bench.nn.flat_head import FlatHead, Path, consistency_path, rotation_path
from calm_bench.nn.product import Product, discard, pack
from calm_bench.nn.transformer import KvCache
from calm_bench.systems.state import StreamState
from calm_bench.systems.text import FREE
from calm_bench.types import Precision

if TYPE_CHECKING:
    from calm_bench.systems.calm import CalmSystem
    from calm_bench.systems.musicgen import MusicGenSystem
    from calm_bench.systems.rq import RqSystem
    from calm_bench.systems.streaming import StreamingSystem

__all__ = ["FlatCalm", "FlatMusicGen", "FlatRq", "FlatSteps"]


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
    def head(self, state: StreamState, z: Tensor, draws: Tensor) -> Tensor:
        """The next frame from contexts [B, D] and its draws."""

    @abstractmethod
    def head_bytes(self, steps: int) -> int:
        """Bytes of weights that the head reads for one frame."""

    def read(self, x: Tensor, cache: KvCache) -> None:
        """Take inputs [B, P, D] into the cache."""
        self.backbone(x.float(), cache)

    def advance(self, state: StreamState) -> Tensor:
        """One step of the backbone and the text stream: contexts [B, D]."""
        i = state.step
        z = self.backbone(self.step_input(state)[:, None], state.cache)
        if self.text_head is not None and state.text is not None:
            self._say(state, i, self.text_head(z))
        state.step = i + 1
        return z

    def _say(self, state: StreamState, i: int, logits: Tensor) -> None:
        """Draw step i's tokens, except where the prompt decides them."""
        assert state.text is not None
        assert state.text_draws is not None
        at = i - state.prompt_end
        choose = state.choose_text
        draws = state.text_draws[:, at : at + 1]
        tokens = draw_tokens(logits, draws, choose.temperature, choose.top_k)
        if i < state.given_until:
            assert state.given_text is not None
            given = state.given_text[:, i]
            tokens = torch.where(given == FREE, tokens, given)
        state.text[:, i] = tokens

    def step_input(self, state: StreamState) -> Tensor:
        """What the backbone reads at the step that comes next: [B, D]."""
        i, lead = state.step, self.owner.lead
        if i <= lead + max(state.lacking):  # a BOS is due in some row
            return self.owner.inputs(state, i, i + 1)[:, 0].float()
        text = None
        if state.text is not None:
            text = F.embedding(state.text[:, i - 1], self.text_table).float()
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


class FlatCalm(FlatSteps):
    """CALM: latents by the AdaLN head; for music with the short context."""

    def __init__(self, system: "CalmSystem", precision: Precision, release: bool) -> None:
        """Pack the weights."""
        super().__init__(system, precision, release)
        self.calm = system
        # 32 to 128 channels wide: nothing to be gained from fewer bits.
        self.latent_input = pack(system.latent_input.weight, None, "fp32")
        self.mlp = FlatHead(system.mlp, precision, release)
        self.short: FlatTransformer | None = None
        if system.short is not None:
            self.replaces = (*FlatSteps.replaces, "read_window")
            self.short = FlatTransformer(system.short.transformer, precision, release)
            self.output: Product | None = None
            if system.short.output is not None:
                self.output = pack(system.short.output.weight, None, precision)
        self._paths: dict[int, Path] = {}

    def frame_input(self, frame: Tensor, text: Tensor | None) -> Tensor:
        """The latent's projection on top of the text's embedding."""
        return self.latent_input(frame) if text is None else self.latent_input.onto(text, frame)

    def head(self, state: StreamState, z: Tensor, draws: Tensor) -> Tensor:
        """One latent [B, C] per row."""
        return self.mlp.sample(z, draws, self.path(state.sampling.head_steps))

    def path(self, steps: int) -> Path:
        """The sampler's steps."""
        if steps not in self._paths:
            config = self.calm.config
            trigflow = config.sampler == "trigflow"
            path = rotation_path(steps, config.grid_spread) if trigflow else consistency_path(steps)
            self._paths[steps] = path
        return self._paths[steps]

    def read_window(self, window: Tensor) -> Tensor:
        """The short context's part of Z, [B, D], of windows [B, K, W]: every frame read anew."""
        assert self.short is not None
        cache = KvCache(self.short.config, len(window), window.shape[1], window)
        z = self.short(window, cache)
        return z if self.output is None else self.output(z)

    def head_bytes(self, steps: int) -> int:
        """Of the AdaLN MLP."""
        return self.mlp.weight_bytes(steps)

    def input_bytes(self) -> int:
        """Of the latent's projection, and of the short context."""
        short = 0 if self.short is None else self.short.weight_bytes()
        if self.short is not None and self.output is not None:
            short += self.output.nbytes
        return self.latent_input.nbytes + short


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
        x = F.embedding_bag(frame + self.offsets, self.table, mode="sum").float()
        return x if text is None else x + text

    def input_bytes(self) -> int:
        """K rows."""
        return len(self.offsets) * self.table.shape[1] * self.table.element_size()


class FlatRq(FlatCodes):
    """The RQ-Transformer: K codes by the depth transformer."""

    def __init__(self, system: "RqSystem", precision: Precision, release: bool) -> None:
        """Pack the weights."""
        super().__init__(system, precision, release)
        self.depth = FlatDepth(system.depth, precision, release)

    def head(self, state: StreamState, z: Tensor, draws: Tensor) -> Tensor:
        """Codes [B, K] of one frame."""
        if state.scratch is None:
            state.scratch = self.depth.new_cache(len(z), z)
        text = None if state.text is None else state.text[:, state.step - 1]
        return self.depth.sample(z, text, draws, state.scratch, chooser(state))

    def head_bytes(self, steps: int) -> int:
        """Of the depth transformer."""
        return self.depth.weight_bytes()

    def kv_bytes(self, position: int, batch_size: int) -> dict[str, int]:
        """With the depth transformer's, which level k reads k + 1 positions of."""
        config, K = self.depth.config, len(self.depth.schedule)
        depth = 2 * config.layers * config.dim * (K * (K + 1) // 2) * batch_size * 4
        return super().kv_bytes(position, batch_size) | {"head": depth}


class FlatMusicGen(FlatCodes):
    """MusicGen: all K codes of a step from one product."""

    def __init__(self, system: "MusicGenSystem", precision: Precision, release: bool) -> None:
        """Pack the weights; the K heads are one product."""
        super().__init__(system, precision, release)
        self.heads = pack(system.code_heads.flatten(0, 1), None, precision)
        if release:
            discard(system, "code_heads")

    def step_input(self, state: StreamState) -> Tensor:
        """The step before, or SPECIAL before the first."""
        if state.step == 0 or state.stream is None:
            return self.owner.inputs(state, 0, 1)[:, 0].float()
        return self.frame_input(state.stream[:, state.step - 1], None)

    def head(self, state: StreamState, z: Tensor, draws: Tensor) -> Tensor:
        """Codes [B, K] of one step."""
        B, K = draws.shape
        codes = chooser(state)(self.heads(z).view(B * K, -1), draws.reshape(-1, 1))
        return codes.view(B, K)

    def head_bytes(self, steps: int) -> int:
        """Of the K heads."""
        return self.heads.nbytes


def chooser(state: StreamState) -> Callable[[Tensor, Tensor], Tensor]:
    """`draw_tokens` at the state's temperature and top-k."""
    sampling = state.sampling
    return partial(draw_tokens, temperature=sampling.temperature, top_k=sampling.top_k)
