"""Convolutions over time as products of packed weights, few frames at a time or many.

B batch, T frames, D width of the input, O width of the output, K taps.
"""

import torch
from torch import Tensor

from calm_bench.nn.causal import Stream, history
from calm_bench.nn.product import Product, pack


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
