"""Products with weights that never change: packed once, at a precision, for few rows at a time.

M rows, I and O widths. At inference a linear map is read far more often than it is used for
arithmetic: at M = 1 its time is the time to read its weights. So weights are laid out beforehand
the way the kernel wants them (oneDNN's blocks; fbgemm's int8), and at lower precision there is
less to read. Which of these products a matrix takes is `nn/kernels.py`'s to say.
"""

import logging
import warnings
from abc import ABC, abstractmethod
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn import functional as F

logger = logging.getLogger(__name__)


_said: set[str] = set()


def say_once(line: str) -> None:
    """Warn, and not again in this process."""
    if line not in _said:
        _said.add(line)
        logger.warning(line)


def is_ours(cls: type) -> bool:
    """Whether a class is of this package."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def foreign(module: nn.Module) -> bool:
    """Whether a part of a module does not do what its class here or in torch does.

    It is of a class of elsewhere, or hooks or another `forward` were hung on it. Packed weights
    would compute something else.
    """
    for part in module.modules():
        known = is_ours(type(part)) or type(part).__module__.startswith("torch.nn.")
        hung = part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
        if hung or not known:
            return True
    return False


def discard(module: nn.Module, *names: str) -> None:
    """Let go of the matrices of a module that are packed elsewhere now.

    Their shapes stay known, on the meta device. Without names, all of the module and its parts.
    """
    for prefix, part in module.named_modules():
        for name, parameter in part.named_parameters(recurse=False):
            packed = parameter.ndim >= 2 if not names else not prefix and name in names
            if packed:
                empty = torch.empty_like(parameter, device="meta")
                setattr(part, name, nn.Parameter(empty, requires_grad=False))


PACKED_FOR = 8
"""Rows that oneDNN lays weights out for: this layout serves 1 and 32 rows as well as their own."""


class Product(ABC):
    """x W^T + b for rows x [M, I], at one precision; float32 in, float32 out.

    Attributes:
        nbytes: Bytes of weights that one evaluation reads.
    """

    nbytes: int

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Rows [M, O]."""

    @abstractmethod
    def whole(self) -> Tensor:
        """The weights [O, I] as they are multiplied."""

    def onto(self, base: Tensor, x: Tensor) -> Tensor:
        """`base` [M, O] plus the product: rows [M, O]."""
        return base + self(x)

    def gelu(self, x: Tensor) -> Tensor:
        """The exact GELU of the product: rows [M, O]."""
        return F.gelu(self(x))

    def into(self, out: Tensor, x: Tensor) -> None:
        """Write the product to `out` [M, O]."""
        out.copy_(self(x))


class Dense(Product):
    """The library's own product, in float32, or on a GPU in bfloat16.

    The longer side of the matrix lies contiguous: a product with one row then takes up to half the
    time (256 x 2816: 180 us, the other way 363).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, across: bool = False) -> None:
        """`weight` [O, I]; transposed for good where O is at least I, with `across` where not."""
        wide = (weight.shape[0] >= weight.shape[1]) != across
        self.weight = weight.t().contiguous() if wide and weight.is_cpu else weight.t()
        self.bias = bias
        self.narrow = weight.dtype != torch.float32
        self.nbytes = _bytes(weight, bias)

    def __call__(self, x: Tensor) -> Tensor:
        if self.narrow:
            return F.linear(x.to(self.weight.dtype), self.weight.t(), self.bias).float()
        if self.bias is None:
            return torch.mm(x, self.weight)
        return torch.addmm(self.bias, x, self.weight)

    def onto(self, base: Tensor, x: Tensor) -> Tensor:
        if self.narrow:
            return base + self(x)
        out = torch.addmm(base, x, self.weight)
        return out if self.bias is None else out + self.bias

    def into(self, out: Tensor, x: Tensor) -> None:
        if self.narrow:
            out.copy_(self(x))
        elif self.bias is None:
            torch.mm(x, self.weight, out=out)
        else:
            torch.addmm(self.bias, x, self.weight, out=out)

    def whole(self) -> Tensor:
        return self.weight.t()


class Packed(Product):
    """oneDNN's product on weights in its own blocks, in float32 or bfloat16 (CPU)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Reorder `weight` [O, I]; its dtype is that of the product."""
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_FOR)
        self.bias = None if bias is None else bias.to(weight.dtype)
        self.narrow = weight.dtype != torch.float32
        self.nbytes = _bytes(weight, self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        return self._run(x.to(torch.bfloat16)).float() if self.narrow else self._run(x)

    def onto(self, base: Tensor, x: Tensor) -> Tensor:
        if self.narrow:
            return base + self._run(x.to(torch.bfloat16))  # the sum is float32
        run = torch.ops.mkldnn._linear_pointwise.binary
        y: Tensor = run(x, base.expand(len(x), -1), self.weight, self.bias, "add")
        return y

    def gelu(self, x: Tensor) -> Tensor:
        return super().gelu(x) if self.narrow else self._run(x, "gelu", "none")

    def whole(self) -> Tensor:
        weight: Tensor = self.weight.to_dense()
        return weight

    def _run(self, x: Tensor, then: str = "none", how: str = "") -> Tensor:
        run = torch.ops.mkldnn._linear_pointwise.default
        y: Tensor = run(x, self.weight, self.bias, then, [], how)
        return y


class Split(Product):
    """Float32 weights as two float16 parts that fbgemm reads: high + low / 2048, 22 bits (CPU).

    The same bytes and digits as float32, and on the processors we measured its kernel reads them
    faster than any that torch has for float32: 1.5 times at one row, twice at two.
    """

    SHIFT = 2048.0

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Split `weight` [O, I]; no entry may exceed float16's range."""
        high = weight.half().float()
        zeros = None if bias is None else torch.cat([bias, torch.zeros_like(bias)])
        self.parts = Half(torch.cat([high, (weight - high) * self.SHIFT]), zeros)
        self.nbytes = _bytes(weight, bias)

    def __call__(self, x: Tensor) -> Tensor:
        return self._joined(self.parts(x), 1)

    def onto(self, base: Tensor, x: Tensor) -> Tensor:
        return self(x).add_(base)

    def into(self, out: Tensor, x: Tensor) -> None:
        self._joined(self.parts(x), 1, out)

    def whole(self) -> Tensor:
        return self._joined(self.parts.whole(), 0)

    def _joined(self, parts: Tensor, dim: int, out: Tensor | None = None) -> Tensor:
        high, low = parts.chunk(2, dim)
        return torch.add(high, low, alpha=1 / self.SHIFT, out=out)


class Half(Product):
    """Weights float16, sums and activations float32 (fbgemm, CPU).

    Half the bytes to read, and no activation loses a digit: weights alone are rounded, to 11 bits,
    and nothing depends on the batch. Entries beyond 65504 are cut off.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Round `weight` [O, I]."""
        self.weight = torch.ops.quantized.linear_prepack_fp16(weight.float().contiguous(), bias)
        self.nbytes = 2 * weight.numel() + _bytes(bias)

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.weight)
        return y

    def whole(self) -> Tensor:
        weight: Tensor = torch.ops.quantized.linear_unpack_fp16(self.weight)[0]
        return weight


class Quantised(Product):
    """Weights int8 with a scale per output, activations int8 with one scale per call (fbgemm, CPU).

    All M rows of a call share that scale, so at this precision a row's last digits depend on its
    batch. To the kernel NaN is some number, and an infinity or a very large row leaves the others
    no digits. Rows that are not finite, or whose largest entries are more than ALIKE times apart,
    are therefore scaled one by one beforehand: what is broken fails alone. Looking costs a tenth of
    a small product, so those inside a stack, behind its norms, are `inner`: what enters the stack
    has been looked at (`set_aside`). Processors without VNNI add pairs in 16 bits, which may
    overflow: there activations have 7 bits, and errors are half as large again.
    """

    ALIKE = 8.0

    def __init__(self, weight: Tensor, bias: Tensor | None, inner: bool = False) -> None:
        """Quantise `weight` [O, I] by its largest entries."""
        weight = weight.float()
        scales = _scales(weight)
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():  # it will go; then `QuantisedRows` takes its place
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor")
            quantised = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self.weight, self.bias = torch.ops.quantized.linear_prepack(quantised, bias), bias
        self.inner, self.seven_bits = inner, not torch.cpu._is_vnni_supported()
        self.nbytes = weight.numel() + _bytes(scales, bias)

    def __call__(self, x: Tensor) -> Tensor:
        if not self.inner:
            peak = x.abs().amax(1, keepdim=True)  # [M, 1]
            peaks = peak.flatten().tolist()
            if not isfinite(sum(peaks)) or max(peaks) > self.ALIKE * min(peaks):
                return self._scaled(x, peak)
        return self._run(x)

    def _scaled(self, x: Tensor, peak: Tensor) -> Tensor:
        """Every row by its own largest entry; NaN where that is not finite."""
        broken = ~peak.isfinite()
        y = self._run((x / peak.clamp_min(1e-30)).masked_fill(broken, 0.0))
        y = y * peak if self.bias is None else (y - self.bias) * peak + self.bias
        return y.masked_fill(broken, torch.nan)

    def whole(self) -> Tensor:
        weight: Tensor = torch.ops.quantized.linear_unpack(self.weight)[0].dequantize()
        return weight

    def _run(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic(x, self.weight, self.seven_bits)
        return y


class QuantisedRows(Product):
    """Weights int8 with a scale per output, activations 8 bits with one per row (oneDNN, CPU).

    A row's digits depend on no other row: what is broken fails alone by itself. The error is that
    of `Quantised`, in torch's own tensors of 8 bits; the time, on an EPYC, twice as long.
    """

    ZERO = 128
    """What stands for 0: oneDNN is fast for unsigned rows and signed weights."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Quantise `weight` [O, I] by its largest entries."""
        weight = weight.float()
        self.scales, self.bias = _scales(weight), bias
        quantised = (weight / self.scales[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(quantised, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.long)
        self.middle = torch.tensor(self.ZERO + 0.5)  # what is cut off behind it is rounded
        self.nbytes = weight.numel() + _bytes(self.scales, bias)

    def __call__(self, x: Tensor) -> Tensor:
        scales = torch.linalg.vector_norm(x, torch.inf, dim=1, keepdim=True)  # [M, 1]
        scales = scales.clamp_min_(1e-30).div_(127)
        rows = torch.addcdiv(self.middle, x, scales).to(torch.uint8)
        given = (rows, 1.0, self.ZERO, self.weight, self.scales, self.zeros, None)
        run = torch.ops.onednn.qlinear_pointwise.default
        y: Tensor = run(*given, 1.0, 0, torch.float32, "none", [], "")
        return y.mul_(scales) if self.bias is None else torch.addcmul(self.bias, y, scales)

    def whole(self) -> Tensor:
        weight: Tensor = self.weight.to_dense()
        return weight.t() * self.scales[:, None]


def set_aside(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Rows x [B, ...] with zeros for those that are not finite, and which they are, [B] or None."""
    if isfinite(x.sum().item()):
        return x, None
    broken = ~x.isfinite().flatten(1).all(1)
    return x.masked_fill(broken.view(-1, *[1] * (x.ndim - 1)), 0.0), broken


def has_fbgemm() -> bool:
    """Whether this build of torch multiplies float16 weights by float32 rows."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def _scales(weight: Tensor) -> Tensor:
    """What one step of 8 bits is worth in each row of weights [O, I]: [O]."""
    return weight.abs().amax(1).clamp_min(1e-8) / 127


def _bytes(*tensors: Tensor | None) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)
