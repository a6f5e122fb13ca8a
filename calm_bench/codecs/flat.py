"""A codec's decoder for streaming: the stages of `codecs/trunk.py`, few frames at a time.

B batch, T frames at a stage's rate, D width. At one frame per call a stage sees 1 to 16 frames, so
it is bound by its weights, as a language model is. Here they are packed (`nn/product.py`), and a
convolution is one product of the last frames laid side by side; transposed convolutions already
are one product and one addition. What passes from call to call is in the `Stream`, bounded by
kernels and the Transformer's context. Always float32: fewer bits are heard in the phase.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.codecs.spectral import InverseStft
from calm_bench.codecs.trunk import Bottleneck, Decoder
from calm_bench.nn.causal import (
    CausalConv,
    ConvNextBlock,
    DepthwiseUpsample,
    SeanetBlock,
    Stream,
    Upsample,
    history,
)
from calm_bench.nn.flat import FlatTransformer
from calm_bench.nn.product import Product, pack
from calm_bench.nn.transformer import KvCache

__all__ = ["FlatDecoder"]


class Layer(Protocol):
    """One stage of a decoder.

    Attributes:
        nbytes: Bytes of weights that a call reads.
    """

    nbytes: int

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        """Frames [B, T, D] to [B, T', D']; what the next call needs goes into the stream."""


def rows(product: Product, x: Tensor) -> Tensor:
    """A product of x [B, T, D]: [B, T, O]."""
    B, T, D = x.shape
    return product(x.reshape(B * T, D)).view(B, T, -1)


class FlatConv:
    """A causal convolution of stride 1 as a product with its windows."""

    def __init__(self, module: CausalConv) -> None:
        self.kernel, self.lookback = module.conv.kernel_size[0], module.lookback
        self.product = pack(module.conv.weight.flatten(1), module.conv.bias, "fp32")
        self.nbytes = self.product.nbytes

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        x = history(self, x, self.lookback, stream)
        return rows(self.product, x.unfold(1, self.kernel, 1).flatten(2))  # [B, T, D * kernel]


class FlatConvNext:
    """Depthwise taps, norm, two products; the residual is added in the second."""

    def __init__(self, module: ConvNextBlock) -> None:
        self.kernel, self.norm = module.kernel, module.norm
        self.taps = module.depthwise.weight[:, 0].t().contiguous()  # [kernel, D]
        assert module.depthwise.bias is not None
        self.bias: Tensor = module.depthwise.bias
        root = 0.5**0.5  # GELU's constants, as in nn/flat.py
        self.up = pack(module.up.weight * root, module.up.bias * root, "fp32")
        scale = module.scale
        self.down = pack(
            module.down.weight * (scale * root)[:, None], module.down.bias * scale, "fp32"
        )
        self.nbytes = self.up.nbytes + self.down.nbytes + 4 * (self.taps.numel() + len(scale))

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        B, T, D = x.shape
        h = history(self, x, self.kernel - 1, stream)
        h = (h.unfold(1, self.kernel, 1).transpose(2, 3) * self.taps).sum(2) + self.bias
        r = self.up(self.norm(h.view(B * T, D)))
        return self.down.onto(x.reshape(B * T, D), torch.addcmul(r, r, r.erf())).view(B, T, D)


class FlatSeanet:
    """Two convolutions behind ELUs, the second pointwise and onto the residual."""

    def __init__(self, module: SeanetBlock) -> None:
        self.conv = FlatConv(module.conv)
        self.pointwise = pack(module.pointwise.weight, module.pointwise.bias, "fp32")
        self.nbytes = self.conv.nbytes + self.pointwise.nbytes

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        B, T, D = x.shape
        h = F.elu_(self.conv(F.elu(x), stream)).view(B * T, -1)
        return self.pointwise.onto(x.reshape(B * T, D), h).view(B, T, D)


class FlatUpsample:
    """A transposed convolution of kernel 2 * ratio: a product and an overlap."""

    def __init__(self, module: Upsample) -> None:
        self.ratio = module.ratio
        self.product = pack(module.linear.weight, module.linear.bias, "fp32")
        self.nbytes = self.product.nbytes

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        B, T, _ = x.shape
        now, later = rows(self.product, x).view(B, T, 2, -1).unbind(2)
        tail = history(self, later, 1, stream)[:, :-1]
        return (now + tail).reshape(B, T * self.ratio, -1)


class FlatDepthwise:
    """A transposed convolution of every channel by itself: nothing to pack."""

    def __init__(self, module: DepthwiseUpsample) -> None:
        self.module = module
        self.nbytes = 4 * module.weight.numel()

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        y: Tensor = self.module(x, stream)
        return y


class FlatInverseStft:
    """Magnitudes and phases by one product, then inverse FFTs added up."""

    def __init__(self, module: InverseStft) -> None:
        self.n_fft, self.hop, self.window = module.n_fft, module.hop, module.window
        self.product = pack(module.linear.weight, module.linear.bias, "fp32")
        self.nbytes = self.product.nbytes

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        B, T, _ = x.shape
        log_magnitude, phase = rows(self.product, x).chunk(2, dim=-1)  # [B, T, N / 2 + 1]
        spectrum = torch.polar(log_magnitude.clamp_max(6.0).exp_(), phase)
        frames = torch.fft.irfft(spectrum, n=self.n_fft).mul_(self.window)
        parts = self.n_fft // self.hop
        pieces = history(self, frames.view(B, T, parts, self.hop), parts - 1, stream)
        # Samples of hop t are the sum over j of part parts - 1 - j of frame t + j: diagonals.
        of_batch, of_frame, of_part, _ = pieces.stride()
        diagonals = pieces.as_strided(
            (B, T, parts, self.hop),
            (of_batch, of_frame, of_frame - of_part, 1),
            pieces.storage_offset() + (parts - 1) * of_part,
        )
        return diagonals.sum(2).reshape(B, T * self.hop)


class FlatBottleneck:
    """The Transformer with a cache of its context and no more."""

    def __init__(self, module: Bottleneck) -> None:
        self.transformer = FlatTransformer(module.transformer, "fp32")
        self.nbytes = self.transformer.weight_bytes()

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        config = self.transformer.config
        B, T, _ = x.shape
        if config.context is None:  # then it sees one call's frames, as the module does
            return self.transformer(x, KvCache(config, B, T, x), every=True)
        cache = stream.get(self)
        if cache is None:
            cache = stream[self] = KvCache(config, B, 2 * config.context + T, x)
        if cache.lane is not None:
            return self.transformer.run(x, self.transformer.fixed(cache.lane), every=True)
        return self.transformer(x, cache, every=True)


class FlatAfter:
    """A layer behind something pointwise."""

    def __init__(self, first: Callable[[Tensor], Tensor], layer: Layer) -> None:
        self.first, self.layer, self.nbytes = first, layer, layer.nbytes

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        return self.layer(self.first(x), stream)


class FlatDecoder:
    """The same function of the same weights as `from_latent` and a `Decoder`, streamed."""

    def __init__(self, from_latent: nn.Linear, decoder: Decoder) -> None:
        """Pack the weights; the modules are left as they are."""
        self.first = pack(from_latent.weight, from_latent.bias, "fp32")
        self.layers: list[Layer] = []
        self.positions = 1 if decoder.resample is None else decoder.resample.ratio
        before = (decoder.resample, decoder.bottleneck, decoder.join)
        self.layers += [_flatten(module) for module in before if module is not None]
        for i in reversed(range(len(decoder.stages))):
            stage = decoder.stages[i]
            assert isinstance(stage, nn.ModuleList)
            self.layers += [_flatten(block) for block in stage]
            if i > 0:
                up = _flatten(decoder.ups[i - 1])
                self.layers.append(up if decoder.spectral else FlatAfter(F.elu, up))
        last = decoder.norm if decoder.spectral else F.elu
        self.layers.append(FlatAfter(last, _flatten(decoder.head)))
        self.nbytes = self.first.nbytes + sum(layer.nbytes for layer in self.layers)

    def __call__(self, latents: Tensor, stream: Stream) -> Tensor:
        """Vectors [B, T, C] to audio [B, T * hop_length]."""
        x = rows(self.first, latents)
        for layer in self.layers:
            x = layer(x, stream)
        return x.flatten(1)

    def kv_bytes(self, position: int) -> int:
        """Bytes of keys and values that one frame of one row reads at a position of its stream."""
        total = 0
        for layer in self.layers:
            if isinstance(layer, FlatBottleneck):
                config = layer.transformer.config
                held = min(self.positions * (position + 1), config.context or self.positions)
                total += 2 * config.layers * config.dim * held * 4
        return total


FLAT: dict[type[nn.Module], Callable[[Any], Layer]] = {
    Bottleneck: FlatBottleneck,
    CausalConv: FlatConv,
    ConvNextBlock: FlatConvNext,
    DepthwiseUpsample: FlatDepthwise,
    InverseStft: FlatInverseStft,
    SeanetBlock: FlatSeanet,
    Upsample: FlatUpsample,
}


def _flatten(module: nn.Module) -> Layer:
    return FLAT[type(module)](module)
