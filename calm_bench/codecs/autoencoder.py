"""What VAE and RVQ codecs share: the trunk, framing, and decoding from packed weights.

B batch, S samples, T frames at a stage's rate, C latent channels, D width, O width of an output,
K taps. At one frame per call a stage of the decoder sees 1 to 16 frames, so it is bound by its
weights, as a language model is. `FlatDecoder` packs them (`nn/product.py`), and a convolution,
transposed or not, is one product of the last frames laid side by side. At many frames moving them
takes as long as multiplying, so no stage keeps more than a cache holds, and light taps move
nothing. What passes from call to call is in the `Stream`, bounded by kernels and the Transformer's
context. Always float32: fewer bits are heard in the phase.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.codecs.base import Codec
from calm_bench.codecs.blocks import (
    CausalConv,
    ConvNextBlock,
    DepthwiseUpsample,
    InverseStft,
    SeanetBlock,
    Stream,
    Upsample,
    history,
)
from calm_bench.codecs.trunk import Bottleneck, Decoder, Encoder, TrunkConfig
from calm_bench.nn.kernels import pack
from calm_bench.nn.product import Product, foreign, say_once
from calm_bench.nn.transformer import FlatTransformer, KvCache


def rows(product: Product, x: Tensor) -> Tensor:
    """A product of x [B, T, D]: [B, T, O]."""
    B, T, D = x.shape
    return product(x.reshape(B * T, D)).view(B, T, -1)


class Taps:
    """A causal convolution of stride 1: y[t] is the sum over k of W[k] x[t - K + 1 + k], plus b.

    Heavy taps are bound by their weights: windows are laid side by side for one product. Light taps
    that make fewer channels of many are bound by what is moved: each multiplies the frames where
    they lie, onto what the taps before it gave.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """`weight` [K, O, D]."""
        self.count, self.width, wide = weight.shape
        self.windows: Product | None = None
        if self.width < wide and weight[0].numel() < 1 << 16:
            self.each = weight.transpose(1, 2).contiguous().unbind(0)
            self.bias = weight.new_zeros(self.width) if bias is None else bias
            self.nbytes = 4 * (weight.numel() + self.width)
        else:
            self.windows = pack(weight.transpose(0, 1).flatten(1), bias, "fp32")
            self.nbytes = self.windows.nbytes

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        x = history(self, x, self.count - 1, stream)
        if self.windows is not None:
            return rows(self.windows, x.unfold(1, self.count, 1).transpose(2, 3).flatten(2))
        B, P, D = x.shape
        frames = x.view(B * P, D)  # clips end to end: what lies across two is cut off
        n = B * P - self.count + 1
        y = x.new_empty(B * P, self.width)
        torch.addmm(self.bias, frames[:n], self.each[0], out=y[:n])
        for k in range(1, self.count):
            y[:n].addmm_(frames[k : k + n], self.each[k])
        return y.view(B, P, -1)[:, : P - self.count + 1]


FEW_FRAMES = 128
"""From so many on, depthwise taps are a convolution's, to which each call costs more."""

AT_ONCE = 1 << 20
"""Numbers of the widest tensor when a whole clip is decoded: 4 MB stay in a processor's cache."""


class FlatConvNext:
    """Depthwise taps, norm, two products; the residual is added in the second."""

    def __init__(self, module: ConvNextBlock) -> None:
        self.kernel, norm = module.kernel, module.norm
        self.norm = (norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        self.taps = module.depthwise.weight[:, 0].t().contiguous()  # [kernel, D]
        self.images = module.depthwise.weight[:, :, None]
        assert module.depthwise.bias is not None
        self.bias: Tensor = module.depthwise.bias
        scale = module.scale
        self.up = pack(module.up.weight, module.up.bias, "fp32")
        self.down = pack(module.down.weight * scale[:, None], module.down.bias * scale, "fp32")
        self.nbytes = self.up.nbytes + self.down.nbytes + 4 * (self.taps.numel() + len(scale))

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        B, T, D = x.shape
        h = self.depthwise(history(self, x, self.kernel - 1, stream)).view(B * T, D)
        h = self.up.gelu(torch.layer_norm(h, *self.norm))
        return self.down.onto(x.reshape(B * T, D), h).view(B, T, D)

    def depthwise(self, x: Tensor) -> Tensor:
        """Every channel's taps: [B, kernel - 1 + T, D] to [B, T, D]."""
        B, P, D = x.shape
        if B * P < FEW_FRAMES:
            return (x.unfold(1, self.kernel, 1).transpose(2, 3) * self.taps).sum(2).add_(self.bias)
        # As images of height 1 whose channels come last: 16 x 48 frames of 224 take 0.11 ms, by the
        # line above 0.71, as sequences 0.48.
        image = F.conv2d(x.transpose(1, 2)[:, :, None], self.images, self.bias, groups=D)
        return image[:, :, 0].transpose(1, 2).contiguous()


class FlatSeanet:
    """Two convolutions behind ELUs, the second pointwise and onto the residual."""

    def __init__(self, module: SeanetBlock) -> None:
        self.conv = _taps(module.conv)
        self.pointwise = pack(module.pointwise.weight, module.pointwise.bias, "fp32")
        self.nbytes = self.conv.nbytes + self.pointwise.nbytes

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        B, T, D = x.shape
        h = F.elu_(self.conv(F.elu(x), stream)).reshape(B * T, -1)
        return self.pointwise.onto(x.reshape(B * T, D), h).view(B, T, D)


class FlatUpsample:
    """A transposed convolution of kernel 2 * ratio: taps on this frame and the one before it."""

    def __init__(self, module: Upsample) -> None:
        self.ratio = module.ratio
        now, later = module.linear.weight.chunk(2)
        bias, late = module.linear.bias.chunk(2)
        self.taps = Taps(torch.stack([later, now]), bias + late)
        self.nbytes = self.taps.nbytes
        self.late_bias = late if bool(late.any()) else None
        self.heard = torch.ones((), device=late.device)

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        B, T, _ = x.shape
        y = self.taps(x, stream)
        if self.late_bias is not None:  # before the first frame there was none, and no bias of one
            heard = stream.get(self)
            if heard is None:
                y[:, 0] -= self.late_bias
            elif heard is not self.heard:  # a captured step finds 0 at the beginning, later 1
                y[:, 0] += (heard - 1) * self.late_bias
            stream[self] = self.heard
        return y.reshape(B, T * self.ratio, -1)


class FlatInverseStft:
    """Magnitudes and phases by one product, then inverse FFTs added up."""

    def __init__(self, module: InverseStft) -> None:
        self.module = module
        self.product = pack(module.linear.weight, module.linear.bias, "fp32")
        self.nbytes = self.product.nbytes

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        pieces = self.module.frames(rows(self.product, x), (self, "running"), stream)
        B, T, parts, hop = pieces.shape
        pieces = history(self, pieces, parts - 1, stream)
        # Samples of hop t are the sum over j of part parts - 1 - j of frame t + j: diagonals.
        of_batch, of_frame, of_part, _ = pieces.stride()
        diagonals = pieces.as_strided(
            (B, T, parts, hop),
            (of_batch, of_frame, of_frame - of_part, 1),
            pieces.storage_offset() + (parts - 1) * of_part,
        )
        return diagonals.sum(2).reshape(B, T * hop)


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
            return self.transformer.run(x, cache.lane.place(self.transformer), every=True)
        return self.transformer(x, cache, every=True)


class FlatDecoder:
    """The same function of the same weights as `from_latent` and a `Decoder`, streamed."""

    def __init__(self, from_latent: nn.Linear, decoder: Decoder) -> None:
        self.first = pack(from_latent.weight, from_latent.bias, "fp32")
        self.layers = [
            (before, FLAT[type(stage)](stage)) for before, stage in decoder.stages_in_order()
        ]
        bottleneck = decoder.bottleneck
        self.unbounded = bottleneck is not None and bottleneck.transformer.config.context is None
        self.nbytes = self.first.nbytes + sum(layer.nbytes for _, layer in self.layers)
        self.positions = 1 if decoder.resample is None else decoder.resample.ratio
        head: Any = decoder.head
        ups: Any = decoder.ups
        width = head.conv.in_channels if isinstance(head, CausalConv) else head.linear.out_features
        self.widest = int(self.positions * math.prod(up.ratio for up in ups) * width)

    def whole(self, latents: Tensor) -> Tensor:
        """All of a clip, streamed through the stages in parts that a processor's cache can hold."""
        B, T, _ = latents.shape
        at_once = max(1, AT_ONCE // (B * self.widest))
        if self.unbounded:
            at_once = T
        stream: Stream = {}
        return torch.cat([self(part, stream) for part in torch.split(latents, at_once, 1)], dim=1)

    def __call__(self, latents: Tensor, stream: Stream) -> Tensor:
        x = rows(self.first, latents)
        for before, layer in self.layers:
            x = layer(x if before is None else before(x), stream)
        return x.flatten(1)

    def kv_bytes(self, position: int) -> int:
        """Bytes of keys and values that one frame of one row reads at a position of its stream."""
        held = self.positions * (1 if self.unbounded else position + 1)
        bottlenecks = (layer for _, layer in self.layers if isinstance(layer, FlatBottleneck))
        return sum(layer.transformer.kv_bytes(held) for layer in bottlenecks)


def _taps(module: CausalConv) -> Taps:
    return Taps(module.conv.weight.permute(2, 0, 1), module.conv.bias)


FLAT: dict[type[nn.Module], Callable[[Any], Any]] = {  # a stage's module to its flat form:
    # frames [B, T, D] and a stream to [B, T', D'], and `nbytes`, what it reads of weights
    Bottleneck: FlatBottleneck,
    CausalConv: _taps,
    ConvNextBlock: FlatConvNext,
    DepthwiseUpsample: lambda module: module,
    InverseStft: FlatInverseStft,
    SeanetBlock: FlatSeanet,
    Upsample: FlatUpsample,
}


class Autoencoder(Codec):
    """Encoder, bottleneck and decoder; subclasses say what a frame is."""

    def __init__(self, trunk: TrunkConfig, latent_in: int, latent_out: int) -> None:
        """`latent_in` channels leave the encoder, `latent_out` enter the decoder."""
        super().__init__()
        self.sample_rate = trunk.sample_rate
        self.hop_length = trunk.hop_length
        self.encoder = Encoder(trunk)
        self.to_latent = nn.Linear(trunk.width(trunk.encoder_dims), latent_in)
        self.from_latent = nn.Linear(latent_out, trunk.width(trunk.decoder_dims))
        self.decoder = Decoder(trunk)
        self.flat: FlatDecoder | None = None

    def prepare(self) -> None:
        """Pack the decoder; modules that its flat form does not stand for run as they are."""
        if foreign(self.from_latent) or foreign(self.decoder):
            say_once(f"{type(self).__name__} has a decoder of its own: it runs as it is written")
        else:
            self.flat = FlatDecoder(self.from_latent, self.decoder)

    def weight_bytes(self) -> int:
        return 0 if self.flat is None else self.flat.nbytes

    def kv_bytes(self, position: int) -> int:
        return 0 if self.flat is None else self.flat.kv_bytes(position)

    def pad(self, wave: Tensor) -> Tensor:
        """Append zeros up to a whole number of frames."""
        return F.pad(wave, (0, -wave.shape[-1] % self.hop_length))

    @abstractmethod
    def dequantise(self, frames: Tensor) -> Tensor:
        """Frames of a clip to the vectors [B, T, C] that the decoder takes."""

    def decode_latents(self, latents: Tensor, stream: Stream | None = None) -> Tensor:
        """Vectors [B, T, C] as they left the bottleneck to audio [B, T * hop_length]."""
        if self.flat is not None and stream is not None:
            return self.flat(latents, stream)
        if self.flat is not None and latents.is_cpu:
            return self.flat.whole(latents)
        wave: Tensor = self.decoder(self.from_latent(latents), stream)
        return wave

    def decode(self, frames: Tensor) -> Tensor:
        return self.decode_latents(self.dequantise(frames))

    def start_decoding(self, batch_size: int) -> Stream:
        """An empty stream: the clip begins after silence."""
        return {}

    def decode_step(self, frame: Tensor, state: Stream) -> Tensor:
        return self.decode_steps(frame[:, None], state)

    def decode_steps(self, frames: Tensor, state: Stream) -> Tensor:
        frames = frames if self.continuous else frames.transpose(1, 2)
        return self.decode_latents(self.dequantise(frames), state)
