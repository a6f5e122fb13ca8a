"""The RQ-Transformer baseline: K codes per frame, drawn one after another by a depth transformer.

B batch, T frames, D width, K codebooks, V codebook size. Moshi's mechanics (Defossez et al. 2024):
K passes of the depth transformer per frame, the first fed with the frame's text token. The paper's
text describes K - 1 passes, but only this form has its 701M parameters.
"""

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from calm_bench.codecs.base import Codec
from calm_bench.codecs.rvq import RvqCodec
from calm_bench.errors import InputError
from calm_bench.nn.depth import Chooser, DepthCache, DepthConfig, DepthTransformer, FlatDepth
from calm_bench.nn.transformer import TransformerConfig
from calm_bench.systems.streaming import (
    CodeSystem,
    FlatCodes,
    Head,
    StreamState,
    TextConfig,
    chooser,
    text_numbers,
)
from calm_bench.types import Count, Precision, SamplingParams, Shape, Size, StrictModel


class FlatRq(FlatCodes):
    """The RQ-Transformer: K codes by the depth transformer."""

    def __init__(self, system: "RqSystem", precision: Precision, release: bool) -> None:
        super().__init__(system, precision, release)
        self.depth = FlatDepth(system.depth, precision, release)

    def new_head(self, sampling: SamplingParams, batch_size: int, like: Tensor) -> Head:
        cache, choose = DepthCache(self.depth.config, batch_size, like), chooser(sampling)
        return lambda z, draws, text: self.depth.sample(z, text, draws, cache, choose)

    def head_bytes(self, steps: int) -> int:
        return self.depth.weight_bytes()

    def kv_bytes(self, position: int) -> dict[str, int]:
        """With the depth transformer's, which level k reads k + 1 positions of."""
        config, K = self.depth.config, len(self.depth.schedule)
        depth = 2 * config.layers * config.dim * (K * (K + 1) // 2) * 4
        return super().kv_bytes(position) | {"head": depth}


class RqConfig(Shape):
    """Backbone, depth transformer and text stream.

    Attributes:
        codebook_size: Entries per codebook; must be the codec's.
        levels: The system speaks, hears and decodes the codec's first levels only, as many as the
            depth transformer's schedule has; None: all of them.
        table_rank: Rank of the backbone's table of each codebook; None: full.
    """

    backbone: TransformerConfig
    depth: DepthConfig
    text: TextConfig | None = None
    codebook_size: Size
    levels: Count | None = None
    table_rank: Size | None = None

    @property
    def own_numbers(self) -> int:
        width = self.table_rank or self.backbone.dim
        codes = len(self.depth.schedule) * self.codebook_size * width
        return codes + text_numbers(self.text, self.backbone)


def _fit(config: RqConfig, codec: Codec) -> None:
    K, V = len(config.depth.schedule), config.codebook_size
    if codec.continuous:
        raise InputError(
            "a codec of latents has no codes for an RQ-Transformer: name one of `type: rvq`"
        )
    if not isinstance(codec, RvqCodec):  # a codec of another package: its shapes are its own
        return
    if config.levels is not None:
        codec.use_levels(config.levels)
    if (codec.n_codebooks, codec.codebook_size) != (K, V):
        raise InputError(
            f"a depth schedule of {K} codebooks of {V} entries does not fit the codec, of which "
            f"{codec.n_codebooks} levels of {codec.codebook_size} are used; `levels` takes fewer"
        )


class RqSystem(CodeSystem):
    """Codes of a residual quantiser; temperature divides the logits."""

    Architecture: ClassVar[type[StrictModel]] = RqConfig

    def __init__(self, config: RqConfig, codec: Codec, folder: Path | None = None) -> None:
        """Build backbone and depth transformer around an RVQ codec.

        Raises:
            InputError: If schedule, levels or codebook size do not fit each other and the codec.
        """
        D, K, V = config.backbone.dim, len(config.depth.schedule), config.codebook_size
        super().__init__(config.backbone, config.text, codec, folder, K)
        _fit(config, codec)
        R = config.table_rank
        self.code_tables = nn.Parameter(torch.randn(K, V + 1, R or D) * 0.3 * K**-0.5)
        self.code_maps = None if R is None else nn.Parameter(torch.randn(K, R, D) * R**-0.5)
        text_size = None if config.text is None else config.text.vocab_size + 1
        self.depth = DepthTransformer(config.depth, D, V, text_size)

    def flat(self, precision: Precision, release: bool) -> FlatRq:
        return FlatRq(self, precision, release)

    def nfe(self, sampling: SamplingParams) -> int:
        return self.frame_width

    def draw(self, n_frames: int, sampling: SamplingParams, generator: torch.Generator) -> Tensor:
        return torch.rand(n_frames, self.frame_width, generator=generator, device=generator.device)

    def head_text(self, state: StreamState) -> Tensor | None:
        return None if state.text is None else state.text[:, state.step - 1]

    def new_head(self, sampling: SamplingParams, batch_size: int, like: Tensor) -> Head:
        """Codes [B, K] of one frame, on one cache of the depth transformer."""
        cache = self.depth.new_cache(batch_size, like)
        choose = Chooser(sampling.temperature, sampling.top_k)
        return lambda z, draws, text: self.depth.sample(z, text, draws, cache, choose)
