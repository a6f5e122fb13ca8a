"""Products with weights that never change: packed once, at a precision, for few rows at a time.

M rows, I and O widths. At inference a linear map is read far more often than it is used for
arithmetic: at M = 1 its time is the time to read its weights. So weights are laid out beforehand
the way the kernel wants them (oneDNN's blocks; fbgemm's int8), and at lower precision there is
less to read. What was measured, and why each size takes the kernel it takes, stands at `pack`.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.errors import InputError
from calm_bench.types import Precision

__all__ = ["Product", "discard", "pack"]

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

    def onto(self, base: Tensor, x: Tensor) -> Tensor:
        """`base` [M, O] plus the product: rows [M, O]."""
        return base + self(x)

    def into(self, out: Tensor, x: Tensor) -> None:
        """Write the product to `out` [M, O]."""
        out.copy_(self(x))


class Dense(Product):
    """The library's own product, in float32, or on a GPU in bfloat16.

    The longer side of the matrix lies contiguous: a product with one row then takes up to half the
    time (256 x 2816: 180 us, the other way 363).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """`weight` [O, I]; transposed for good where O is at least I."""
        wide = weight.shape[0] >= weight.shape[1]
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

    def _run(self, x: Tensor) -> Tensor:
        run = torch.ops.mkldnn._linear_pointwise.default
        y: Tensor = run(x, self.weight, self.bias, "none", [], "")
        return y


class ByRows(Product):
    """Dense for one row or two, packed for more; packed when first needed (float32, CPU)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Keep `weight` [O, I]."""
        self.few = Dense(weight, bias)
        self.many: Packed | None = None
        self.from_rows = 2 if weight.numel() >= 1 << 20 else 3
        self.nbytes = self.few.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        return self._of(x)(x)

    def onto(self, base: Tensor, x: Tensor) -> Tensor:
        return self._of(x).onto(base, x)

    def into(self, out: Tensor, x: Tensor) -> None:
        self._of(x).into(out, x)

    def _of(self, x: Tensor) -> Product:
        if len(x) < self.from_rows:
            return self.few
        if self.many is None:
            self.many = Packed(self.few.weight.t(), self.few.bias)
        return self.many


class Quantised(Product):
    """Weights int8 with a scale per output, activations int8 with one scale per call (fbgemm, CPU).

    All M rows of a call share that scale, so at this precision a row's last digits depend on its
    batch. Processors without VNNI add pairs in 16 bits, which may overflow: there activations have
    7 bits, and errors are half as large again.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Quantise `weight` [O, I] by its largest entries."""
        weight = weight.float()
        scales = weight.abs().amax(1).clamp_min(1e-8) / 127
        zeros = torch.zeros(len(weight), dtype=torch.long)
        quantised = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        bias = None if bias is None else bias.float()
        self.weight = torch.ops.quantized.linear_prepack(quantised, bias)
        self.seven_bits = not torch.cpu._is_vnni_supported()
        self.nbytes = weight.numel() + _bytes(scales, bias)

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic(x, self.weight, self.seven_bits)
        return y


def pack(weight: Tensor, bias: Tensor | None, precision: Precision) -> Product:
    """The fastest product found for weights [O, I] and bias [O] at a precision, on their device.

    At fp32 on a CPU that depends on M. One row: the plain product, the longer side contiguous. From
    three rows (two, if the weights lie in memory) oneDNN's packed one: 1024 x 4096 on one thread of
    an EPYC takes the plain product 2.1 times longer at M = 2 and 2.3 times at M = 8. There bf16,
    always packed, is 2.1, 4.4 and 4.8 times faster than plain fp32 at M = 1, 2 and 8; int8 8.4, 21
    and 10 times. Below 2^16 weights a call costs more than any layout gains. On a GPU it is the
    library's own product.

    Raises:
        InputError: For int8 on a GPU.
    """
    if weight.device.type != "cpu":
        if precision == "int8":
            raise InputError("precision int8 runs on the CPU only: use bf16 on a GPU")
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return Dense(weight.to(dtype), None if bias is None else bias.to(dtype))
    if precision == "int8":
        return Quantised(weight, bias)
    if precision == "bf16":
        return Packed(weight.bfloat16(), bias)
    weight, bias = weight.float(), None if bias is None else bias.float()
    if weight.numel() < 1 << 16 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return Dense(weight, bias)
    return ByRows(weight, bias)


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


def _bytes(*tensors: Tensor | None) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)
