"""One causal, streamable autoencoder trunk: waveform to bottleneck vectors and back.

B batch, S samples, T frames, D width.

The encoder goes from a front end through stages of falling rate to a Transformer at the frame rate;
the decoder mirrors it. Three front ends: `mel`, log-mel frames in and inverse STFT out, cheap
enough for two CPU cores; `stft`, the same with complex spectra beside the log-mel frames, so that
phase is heard; `waveform`, strided convolutions on samples, the SEANet shape of the paper (section
2.1 of our facts; Mimi). Stages are listed from fast to slow, as the encoder meets them.
"""

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.codecs.blocks import (
    LOG_FLOOR,
    CausalConv,
    ComplexMel,
    ConvNextBlock,
    DepthwiseUpsample,
    InverseStft,
    LogMel,
    SeanetBlock,
    Stream,
    Upsample,
)
from calm_bench.nn.transformer import KvCache, Transformer, TransformerConfig
from calm_bench.types import Count, Shape, Size

Blocks = Annotated[int, Field(ge=0, le=1000)]


class TrunkConfig(Shape):
    """Shape of the trunk.

    Attributes:
        hop: Samples per front-end frame: 1 for `waveform`, else the STFT hop.
        phase: What the decoder's phases are relative to: `frame`, each frame by itself, under which
            a steady tone comes out at multiples of the frame rate; `running`, see `running_phases`.
        floor: The least magnitude that the front end tells from silence.
        ratios: Down-sampling between neighbouring stages; hop * prod(ratios) samples make a frame.
        encoder_dims: Widths of the stages, one more than there are ratios; likewise decoder_dims.
        encoder_blocks: Residual blocks per stage; likewise decoder_blocks.
        resample: Positions of the Transformer per frame, which learnt convolutions make of one
            another; Mimi has 2, the VAE of Pocket TTS 16.
        join_kernel: Kernel of a convolution between the Transformer, whose width is then its own,
            and the slowest stage of the decoder, as in SEANet; None for none.
        end_kernel: Kernel of the convolution that ends encoder and decoder, where it is not
            `kernel`.
    """

    sample_rate: int = Field(ge=1000, le=1_000_000)
    front_end: Literal["mel", "stft", "waveform"]
    hop: int = Field(default=1, ge=1, le=1 << 16)
    n_fft: int = Field(default=1024, ge=2, le=1 << 16)
    n_mels: int = Field(default=80, ge=1, le=1024)
    phase: Literal["frame", "running"] = "frame"
    floor: float = Field(default=LOG_FLOOR, gt=0, allow_inf_nan=False)
    ratios: tuple[Count, ...] = Field(max_length=12)
    encoder_dims: tuple[Size, ...]
    encoder_blocks: tuple[Blocks, ...]
    decoder_dims: tuple[Size, ...]
    decoder_blocks: tuple[Blocks, ...]
    expansion: float = Field(default=3.0, ge=1, le=64)
    kernel: Count = 7
    transformer: TransformerConfig | None = None
    resample: Count = 1
    join_kernel: Count | None = None
    end_kernel: Count | None = None

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        n = len(self.ratios) + 1
        for name in ("encoder_dims", "encoder_blocks", "decoder_dims", "decoder_blocks"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} must have {n} entries, one more than there are ratios")
        if self.spectral and self.n_fft % self.hop:
            raise ValueError(f"n_fft {self.n_fft} is no multiple of hop {self.hop}")
        if self.phase == "running" and not self.spectral:
            raise ValueError("phase: running is of spectra; front_end: waveform has none")
        return self

    @property
    def own_numbers(self) -> int:
        sides = (self.encoder_dims, self.encoder_blocks), (self.decoder_dims, self.decoder_blocks)
        stages = (stage for side in sides for stage in zip(*side, strict=True))
        wide = int(2 * self.expansion) if self.spectral else 1
        return sum(wide * blocks * dim**2 for dim, blocks in stages)

    def width(self, dims: tuple[int, ...]) -> int:
        """Channels at the frame rate, given the widths of the encoder's or decoder's stages."""
        if self.join_kernel is None or self.transformer is None:
            return dims[-1]
        return self.transformer.dim

    @property
    def spectral(self) -> bool:
        """Whether frames of a spectrum, not samples, enter and leave."""
        return self.front_end != "waveform"

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.hop * self.resample * math.prod(self.ratios)


def _stage(config: TrunkConfig, dim: int, blocks: int) -> nn.ModuleList:
    about = (config.expansion, config.kernel)
    return nn.ModuleList(
        ConvNextBlock(dim, *about) if config.spectral else SeanetBlock(dim) for _ in range(blocks)
    )


class Bottleneck(nn.Module):
    """The Transformer at the frame rate, with a cache of its context when streamed."""

    def __init__(self, config: TransformerConfig) -> None:
        """A context is needed: a stream must not grow with the clip."""
        super().__init__()
        self.transformer = Transformer(config)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        context = self.transformer.config.context
        if stream is None or context is None:
            return self.transformer(x)  # type: ignore[no-any-return]
        cache = stream.get(self)
        if cache is None:
            capacity = 2 * context + x.shape[1]
            cache = stream[self] = KvCache(self.transformer.config, x.shape[0], capacity, x)
        assert isinstance(cache, KvCache)
        return self.transformer(x, cache)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Audio [B, S] to bottleneck vectors [B, T, D] of the last encoder width."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        dims = config.encoder_dims
        self.config = config
        self.front: LogMel | None = None
        if config.spectral:
            front = LogMel if config.front_end == "mel" else ComplexMel
            self.front = front(
                config.sample_rate, config.n_fft, config.hop, config.n_mels, config.floor
            )
            self.stem = CausalConv(self.front.channels, dims[0], 3)
        else:
            self.stem = CausalConv(1, dims[0], config.kernel)
        self.stages = nn.ModuleList(
            [_stage(config, d, n) for d, n in zip(dims, config.encoder_blocks, strict=True)]
        )
        kernels = [r if config.spectral else 2 * r for r in config.ratios]
        self.downs = nn.ModuleList(
            [CausalConv(dims[i], dims[i + 1], k, config.ratios[i]) for i, k in enumerate(kernels)]
        )
        D = config.width(dims)
        end = config.end_kernel or config.kernel
        self.join = None if config.join_kernel is None else CausalConv(dims[-1], D, end)
        self.bottleneck = None if config.transformer is None else Bottleneck(config.transformer)
        ratio = config.resample
        self.resample = CausalConv(D, D, 2 * ratio, ratio) if ratio > 1 else None
        self.norm = nn.LayerNorm(D)

    def forward(self, wave: Tensor, stream: Stream | None = None) -> Tensor:
        """Encode whole frames: S must be a multiple of the hop length."""
        x = wave[..., None] if self.front is None else self.front(wave, stream)
        x = self.stem(x, stream)
        for i, stage in enumerate(self.stages):
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, stream)
            if i < len(self.downs):
                x = self.downs[i](x if self.front is not None else F.elu(x), stream)
        if self.join is not None:
            x = self.join(F.elu(x), stream)
        if self.bottleneck is not None:
            x = self.bottleneck(x, stream)
        if self.resample is not None:
            x = self.resample(x, stream)
        y: Tensor = self.norm(x)
        return y


class Decoder(nn.Module):
    """Bottleneck vectors [B, T, D] of the last decoder width to audio [B, S]."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        dims, D = config.decoder_dims, config.width(config.decoder_dims)
        self.resample = DepthwiseUpsample(D, config.resample) if config.resample > 1 else None
        self.bottleneck = None if config.transformer is None else Bottleneck(config.transformer)
        kernel = config.join_kernel
        self.join = None if kernel is None else CausalConv(D, dims[-1], kernel)
        self.stages = nn.ModuleList(
            [_stage(config, d, n) for d, n in zip(dims, config.decoder_blocks, strict=True)]
        )
        self.ups = nn.ModuleList(
            [Upsample(dims[i + 1], dims[i], ratio) for i, ratio in enumerate(config.ratios)]
        )
        self.spectral = config.spectral
        self.norm = nn.LayerNorm(dims[0]) if self.spectral else nn.Identity()
        self.head: nn.Module = (
            InverseStft(dims[0], config.n_fft, config.hop, config.phase == "running")
            if self.spectral
            else CausalConv(dims[0], 1, config.end_kernel or config.kernel)
        )

    def stages_in_order(self) -> Iterator[tuple[Callable[[Tensor], Tensor] | None, nn.Module]]:
        """Every stage, and what comes pointwise before it."""
        for module in (self.resample, self.bottleneck, self.join):
            if module is not None:
                yield None, module
        for i in reversed(range(len(self.stages))):
            for block in self.stages[i]:  # type: ignore[attr-defined]
                yield None, block
            if i > 0:
                yield None if self.spectral else F.elu, self.ups[i - 1]
        yield self.norm if self.spectral else F.elu, self.head

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Decode whole frames."""
        for before, stage in self.stages_in_order():
            x = stage(x if before is None else before(x), stream)
        return x if self.spectral else x.squeeze(-1)
