"""The flat steps of each system: how it reads a frame and how it draws one.

B batch, D width, C latent channels, K codebooks, V codebook size, W short-context width. Everything
here agrees with the modules it stands for; see `systems/steps.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from calm_bench.nn.flat import FlatTransformer
from calm_bench.nn.flat_depth import DepthCache, FlatDepth, draw_tokens
from calm_bench.nn.flat_head import FlatHead, Path, consistency_path, rotation_path
from calm_bench.nn.product import Product, pack
from calm_bench.nn.release import discard
from calm_bench.nn.transformer import KvCache
from calm_bench.systems.state import StreamState
from calm_bench.systems.steps import FlatSteps, float32
from calm_bench.types import Precision, SamplingParams

if TYPE_CHECKING:
    from calm_bench.systems.calm import CalmSystem
    from calm_bench.systems.musicgen import MusicGenSystem
    from calm_bench.systems.rq import RqSystem


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

    def draw_frame(
        self,
        sampling: SamplingParams,
        z: Tensor,
        draws: Tensor,
        text: Tensor | None,
        scratch: None,
    ) -> Tensor:
        """One latent [B, C] per row."""
        return self.mlp.sample(z, draws, self.path(sampling.head_steps))

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
        x = float32(F.embedding_bag(frame + self.offsets, self.table, mode="sum"))
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

    def head_text(self, state: StreamState) -> Tensor | None:
        """The frame's text tokens."""
        return None if state.text is None else state.text[:, state.step - 1]

    def new_scratch(self, z: Tensor) -> DepthCache:
        """The depth transformer's cache."""
        return self.depth.new_cache(len(z), z)

    def draw_frame(
        self,
        sampling: SamplingParams,
        z: Tensor,
        draws: Tensor,
        text: Tensor | None,
        scratch: DepthCache,
    ) -> Tensor:
        """Codes [B, K] of one frame."""
        return self.depth.sample(z, text, draws, scratch, chooser(sampling))

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

    def draw_frame(
        self,
        sampling: SamplingParams,
        z: Tensor,
        draws: Tensor,
        text: Tensor | None,
        scratch: None,
    ) -> Tensor:
        """Codes [B, K] of one step."""
        B, K = draws.shape
        codes = chooser(sampling)(self.heads(z).view(B * K, -1), draws.reshape(-1, 1))
        return codes.view(B, K)

    def head_bytes(self, steps: int) -> int:
        """Of the K heads."""
        return self.heads.nbytes


def chooser(sampling: SamplingParams) -> Callable[[Tensor, Tensor], Tensor]:
    """`draw_tokens` at the sampling's temperature and top-k."""
    return partial(draw_tokens, temperature=sampling.temperature, top_k=sampling.top_k)
