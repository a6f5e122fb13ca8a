"""The flat decode step that all systems share: a frame's arithmetic on packed weights.

B batch, D width, C latent channels, K codebooks. The streams, their delays and all bookkeeping stay
with the systems (`systems/streaming.py`); here is only the arithmetic between them, which
`systems/engine.py` puts in the place of the modules':

    read         prompt inputs into the key-value cache
    frame_input  a frame to what the backbone reads
    step         the backbone, and the text token
    new_head     what takes contexts to the next frame

and for music `read_window`, the short context. What differs from system to system is in the
system's own file. Every function agrees with the module's, within 1e-4 at fp32.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from calm_bench.nn.depth import draw_tokens
from calm_bench.nn.product import Product, discard, pack
from calm_bench.nn.transformer import FlatTransformer, KvCache
from calm_bench.systems.streaming import CodeSystem, Head, StreamingSystem, float32, text_top_k
from calm_bench.types import Precision, SamplingParams


def chooser(sampling: SamplingParams) -> Callable[[Tensor, Tensor], Tensor]:
    """`draw_tokens` at the sampling's temperature and top-k."""
    return partial(draw_tokens, temperature=sampling.temperature, top_k=sampling.top_k)


class FlatSteps(ABC):
    """Backbone and text stream; a subclass adds how frames are read and drawn."""

    replaces: tuple[str, ...] = ("read", "frame_input", "step", "new_head")

    def __init__(self, system: StreamingSystem, precision: Precision, release: bool) -> None:
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
    def new_head(self, sampling: SamplingParams, batch_size: int, like: Tensor) -> Head:
        """As the system's."""

    @abstractmethod
    def head_bytes(self, steps: int) -> int:
        """Bytes of weights that the head reads for one frame."""

    def read(self, x: Tensor, cache: KvCache) -> None:
        """Take inputs [B, P, D] into the cache."""
        self.backbone(x.float(), cache)

    def step(
        self, x: Tensor, cache: KvCache, sampling: SamplingParams, draws: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Contexts [B, D] of inputs x [B, D], and text tokens [B] by uniform draws [B, 1]."""
        z = self.backbone(x[:, None], cache)
        return z, self.tokens(z, sampling, draws)

    def tokens(self, z: Tensor, sampling: SamplingParams, draws: Tensor | None) -> Tensor | None:
        """Text tokens [B] drawn from contexts [B, D]."""
        if self.text_head is None or draws is None:
            return None
        top_k = text_top_k(sampling)
        return draw_tokens(self.text_head(z), draws, sampling.text_temperature, top_k)

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
        return {"backbone": self.backbone.kv_bytes(position + 1) * batch_size, "head": 0}


class FlatCodes(FlatSteps):
    """Codes in: the sum of K rows of one table."""

    def __init__(self, system: CodeSystem, precision: Precision, release: bool) -> None:
        """Lay the K tables one below the other; tables of a low rank are multiplied out."""
        super().__init__(system, precision, release)
        tables = system.code_tables
        if system.code_maps is not None:
            tables = torch.bmm(tables, system.code_maps)
        K, rows, _ = tables.shape
        self.table = tables.flatten(0, 1)
        self.offsets = torch.arange(K, device=tables.device) * rows

    def frame_input(self, frame: Tensor, text: Tensor | None) -> Tensor:
        x = float32(F.embedding_bag(frame + self.offsets, self.table, mode="sum"))
        return x if text is None else x + text

    def input_bytes(self) -> int:
        return len(self.offsets) * self.table.shape[1] * self.table.element_size()
