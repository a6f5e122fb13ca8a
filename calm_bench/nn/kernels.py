"""Which product a matrix takes, at how many rows: by constants, or as measured on this machine.

M rows, I and O widths. The constants (`fixed`) were measured on one AMD EPYC. They make the same
clips wherever the same libraries run, and elsewhere cost up to twice the time. `measure` times all
kernels of a precision on weights that come from memory rather than from the nearest caches, and
takes another than the usual one only where it is faster by more than the usual one differs from
itself. A precision admits every kernel whose error is at most its own: at int8 a small matrix may
stay float32, so that fewer bits are never slower.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from calm_bench.errors import InputError
from calm_bench.nn.product import (
    Dense,
    Half,
    Packed,
    Product,
    Quantised,
    QuantisedRows,
    Split,
    has_fbgemm,
)
from calm_bench.types import Precision

FROM_FBGEMM, FROM_ONEDNN, FROM_SPLIT = 1 << 15, 1 << 16, 1 << 17
"""Weights from which on a call of each library costs less than it gains, and from which on float32
is split."""

Choice = tuple[tuple[int, str], ...]
"""From how many rows on which kernel is taken, from 1 row on."""


class Kernel(NamedTuple):
    """One of the products.

    Attributes:
        make: It, of weights [O, I], a bias [O], and whether rows are looked at elsewhere.
        nbytes: Of a weight.
        error: Of an output on random weights and rows, both as root mean squares, at most.
    """

    make: Callable[[Tensor, Tensor | None, bool], Product]
    nbytes: int
    error: float


KERNELS: dict[str, Kernel] = {  # what comes earlier keeps more of the weights
    "dense": Kernel(lambda w, b, _: Dense(w.float(), b), 4, 3e-6),
    "across": Kernel(lambda w, b, _: Dense(w.float(), b, across=True), 4, 3e-6),
    "split": Kernel(lambda w, b, _: Split(w.float(), b), 4, 3e-6),
    "half": Kernel(lambda w, b, _: Half(w, b), 2, 5e-4),
    "packed": Kernel(lambda w, b, _: Packed(w.float(), b), 4, 3e-6),
    "bfloat16": Kernel(lambda w, b, _: Packed(w.bfloat16(), b), 2, 5e-3),
    "int8": Kernel(Quantised, 1, 0.025),
    "int8 by rows": Kernel(lambda w, b, _: QuantisedRows(w, b), 1, 0.025),
}
ERROR: dict[Precision, float] = {
    "fp32": KERNELS["dense"].error,
    "fp16": KERNELS["half"].error,
    "bf16": KERNELS["bfloat16"].error,
    "int8": KERNELS["int8"].error,
}
OF_FLOAT16 = {"split", "half"}
"""Kernels that no weight beyond float16's range may go into."""


class Shape(NamedTuple):
    """What a choice depends on, beside the machine and its threads."""

    outputs: int
    inputs: int
    precision: Precision
    inner: bool

    @property
    def size(self) -> int:
        """How many weights."""
        return self.outputs * self.inputs

    def __str__(self) -> str:
        looks = ", looked at" if self.precision == "int8" and not self.inner else ""
        return f"{self.outputs} x {self.inputs} {self.precision}{looks}"


def fixed(shape: Shape, in_range: bool = True) -> Choice:
    """The constants' choice; `in_range` says whether float16 holds the weights.

    fp32, up to three rows: the split product, or the plain one where weights are few, the longer
    side contiguous. From there on (three rows of few weights) oneDNN's packed one. 1024 x 4096 on
    one thread of an EPYC: the plain product takes 1.5 times as long as the split one at M = 1, 2.9
    times at M = 2, and 2.3 times as long as the packed one at M = 8. bf16, packed, is 4.8 times
    faster than the plain one at M = 8. One or two rows take fbgemm's float16 product instead, which
    holds the same rounded weights: 8192 x 2560 at M = 1 are read at 28 GB/s on one thread and 31 on
    two, packed at 16 and 24, where memory gives 32 and 34. int8 is 8.4, 21 and 10 times faster than
    the plain one at M = 1, 2 and 8; fp16 2.6 times at M = 1, while at M = 8 bf16 has overtaken it.
    Small matrices stay plain fp32 at every precision: a call of the others costs more than they
    gain.
    """
    size, precision = shape.size, shape.precision
    if size >= FROM_FBGEMM and precision == "fp16":
        return ((1, "half"),)
    if size >= FROM_FBGEMM and precision == "int8":
        return ((1, "int8" if has_qint8() else "int8 by rows"),)
    in_range = in_range and has_fbgemm()
    if size >= FROM_ONEDNN and precision == "bf16":
        return ((1, "half"), (3, "bfloat16")) if in_range else ((1, "bfloat16"),)
    if size < FROM_ONEDNN or not has_onednn():
        return ((1, "dense"),)
    if size >= FROM_SPLIT and in_range:
        return ((1, "split"), (4, "packed"))
    return ((1, "dense"), (2 if size >= 1 << 20 else 3, "packed"))


class Kernels:
    """What each shape took so far, and who is asked for the others.

    Attributes:
        taken: By shape, its choice.
    """

    def __init__(
        self, find: Callable[[Shape], Choice] = fixed, told: Mapping[str, Any] | None = None
    ) -> None:
        """`told` are choices that hold whatever `find` would say."""
        self.find = find
        self.taken = {shape: as_choice(choice) for shape, choice in (told or {}).items()}

    def __call__(self, shape: Shape) -> Choice:
        """The choice of a shape."""
        if (name := str(shape)) not in self.taken:
            self.taken[name] = self.find(shape)
        return self.taken[name]

    @contextmanager
    def choosing(self) -> Iterator[Self]:
        """Whatever is packed in here takes these kernels."""
        global _choose
        before, _choose = _choose, self
        try:
            yield self
        finally:
            _choose = before


_choose: Callable[[Shape], Choice] = fixed


def as_choice(value: Any) -> Choice:
    """A choice that was written down.

    Raises:
        InputError: If it is none of these kernels.
    """
    try:
        choice = tuple((rows, name) for rows, name in value if name in KERNELS)
        starts = [rows for rows, _ in choice]
        if len(choice) == len(value) and starts[0] == 1 and starts == sorted(set(starts)):
            return choice
    except (TypeError, ValueError, LookupError):
        pass
    raise InputError(f"no choice of kernels: {value}")


def pack(weight: Tensor, bias: Tensor | None, precision: Precision, inner: bool = False) -> Product:
    """The product that weights [O, I] and a bias [O] take at a precision, on their device.

    On a GPU it is the library's own, on a CPU what `fixed` or the `Kernels` in charge say.

    Args:
        weight: [O, I].
        bias: [O].
        precision: What weights are multiplied in.
        inner: Whether rows come from inside a stack that has looked at them (see `Quantised`).

    Raises:
        InputError: For fp16 where nothing multiplies it.
    """
    bias = None if bias is None else bias.float()
    if weight.is_cuda:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return Dense(weight.to(dtype), None if bias is None else bias.to(dtype))
    if precision == "fp16" and not has_fbgemm():
        raise InputError("precision fp16 needs fbgemm, which this processor has not: use bf16")
    outputs, inputs = weight.shape
    shape = Shape(outputs, inputs, precision, inner)
    choice = _choose(shape)
    names = {name for _, name in choice}
    if precision == "bf16" and any(KERNELS[name].nbytes < 4 for name in names):
        weight = weight.bfloat16()
    # What is asked for as fp16 is cut off at its range, and nothing else.
    if precision != "fp16" and names & OF_FLOAT16 and not bool((weight.abs() <= 65504).all()):
        choice = fixed(shape, in_range=False)
    if len(choice) == 1:
        return KERNELS[choice[0][1]].make(weight, bias, inner)
    return ByRows(choice, weight, bias, inner)


class ByRows(Product):
    """Kernels by the number of rows, each packed when it is first needed (CPU).

    The one that keeps most of the weights is packed at once, and the others from it.
    """

    def __init__(
        self, choice: Choice, weight: Tensor, bias: Tensor | None, inner: bool = False
    ) -> None:
        """Pack `weight` [O, I] for one row."""
        self.bias, self.inner = bias, inner
        names = {name for _, name in choice}
        source = next(name for name in KERNELS if name in names)
        self.source = KERNELS[source].make(weight, bias, inner)
        self.packed = {source: self.source}
        starts = [rows for rows, _ in choice]
        self.names = [choice[sum(s <= m for s in starts[1:])][1] for m in range(starts[-1] + 1)]
        self.last = starts[-1]
        self.by_rows: list[Product | None] = [self.packed.get(name) for name in self.names]
        self.nbytes = self._at(1).nbytes

    def __call__(self, x: Tensor) -> Tensor:
        return self._at(len(x))(x)

    def onto(self, base: Tensor, x: Tensor) -> Tensor:
        return self._at(len(x)).onto(base, x)

    def gelu(self, x: Tensor) -> Tensor:
        return self._at(len(x)).gelu(x)

    def into(self, out: Tensor, x: Tensor) -> None:
        self._at(len(x)).into(out, x)

    def whole(self) -> Tensor:
        return self.source.whole()

    def _at(self, rows: int) -> Product:
        product = self.by_rows[min(rows, self.last)]
        return self._add(self.names[min(rows, self.last)]) if product is None else product

    def _add(self, name: str) -> Product:
        product = KERNELS[name].make(self.source.whole(), self.bias, self.inner)
        self.packed[name] = product
        self.by_rows = [self.packed.get(known) for known in self.names]
        return product


class LayerProducts(NamedTuple):
    """The four products of a Transformer's layer; norm weights and layer scales are in them."""

    qkv: Product
    out: Product
    up: Product
    down: Product

    @classmethod
    def packed(cls, precision: Precision, *weights: Tensor) -> Self:
        """Of the four matrices, in this order."""
        return cls(*(pack(weight, None, precision, inner=True) for weight in weights))

    @property
    def nbytes(self) -> int:
        """Bytes of weights that one evaluation of each reads."""
        return sum(product.nbytes for product in self)


def has_onednn() -> bool:
    """Whether this build of torch has oneDNN's products."""
    found: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return found


def has_qint8() -> bool:
    """Whether torch still has the tensors that fbgemm's int8 product takes: they are to go."""
    return hasattr(torch, "quantize_per_channel")


# -- measured on this machine ----------------------------------------------------------------

MEASURED = {1: 1, 2: 2, 3: 4, 6: 12}
"""From how many rows on a choice holds, and the rows it is measured at."""

ROUNDS = 5
SECONDS = 0.3
"""A comparison ends after so many rounds, or where it has lasted this long in three."""

COLD = 1 << 25
COPIES = 6
"""Copies that each kernel has of a matrix, and which take turns: as many as make 32 MB of all
kernels, and no more than six. Of small ones six lie in the last cache, where those of a small
model lie, and not in nearer ones."""

MANY = 1 << 21
"""Weights from which on bytes decide: only kernels that read the fewest are tried."""

LEAST = 0.03
"""What a kernel must gain, beside twice the usual one's difference from itself."""


def candidates(shape: Shape) -> list[str]:
    """The kernels that this machine has and a precision admits."""
    with_vnni = has_onednn() and torch.cpu._is_vnni_supported()
    with_bfloat16 = has_onednn() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    lacking = {
        "split": not has_fbgemm(),
        "half": not has_fbgemm(),
        "packed": not has_onednn(),
        "bfloat16": not with_bfloat16,
        "int8": not has_qint8(),
        "int8 by rows": not with_vnni,
    }
    most = ERROR[shape.precision]
    found = [n for n, k in KERNELS.items() if k.error <= most and not lacking.get(n, False)]
    if shape.size < MANY:
        return found
    fewest = min(KERNELS[name].nbytes for name in found)
    return [name for name in found if KERNELS[name].nbytes == fewest]


def measure(shape: Shape) -> Choice:
    """The fastest kernel for few and for many rows of random numbers, on the threads torch has."""
    usual, names = fixed(shape), candidates(shape)
    names += [name for _, name in usual if name not in names]
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(shape.outputs, shape.inputs, generator=draw) * shape.inputs**-0.5
    copies = min(COPIES, max(1, COLD // (shape.size * sum(KERNELS[n].nbytes for n in names))))
    bench = Bench(
        {
            name: [KERNELS[name].make(weight.clone(), None, shape.inner) for _ in range(copies)]
            for name in names
        }
    )
    choice: list[tuple[int, str]] = []
    with torch.inference_mode():
        for start, rows in MEASURED.items():
            own = next(name for least, name in reversed(usual) if least <= start)
            best = bench.fastest(torch.randn(rows, shape.inputs, generator=draw), own)
            if not choice or choice[-1][1] != best:
                choice.append((start, best))
    return tuple(choice)


class Bench:
    """Kernels that hold the same weights, copy by copy, and take turns."""

    def __init__(self, packed: Mapping[str, Sequence[Product]]) -> None:
        self.packed = packed
        one = torch.get_num_threads() == 1
        self.clock = time.thread_time_ns if one else time.perf_counter_ns
        self.turns = random.Random(0)

    def fastest(self, x: Tensor, usual: str) -> str:
        """The fastest for rows x [M, I], or the usual one where none gains more than noise.

        By their shortest rounds: what else runs on the machine makes rounds longer, never shorter.
        """
        least = {name: min(times) for name, times in self.times(x, usual).items()}
        own, again = least[usual], least[""]
        best = min((name for name in least if name), key=lambda name: least[name])
        gain = min(own, again) / least[best] - 1
        return best if gain > max(LEAST, 2 * abs(own / again - 1)) else usual

    def times(self, x: Tensor, usual: str) -> dict[str, list[int]]:
        """Nanoseconds of rounds by kernel; "" is the usual one once more.

        A kernel that takes twice as long as another is left out, from the third round on one that
        takes 1.3 times as long; where none is left beside the usual one, there is no more to time.
        """
        running = [*self.packed, ""]
        for products in self.packed.values():
            products[0](x)  # libraries make their code at first calls
        times: dict[str, list[int]] = {name: [] for name in running}
        end = time.perf_counter() + SECONDS
        for number in range(ROUNDS):
            for name in self.turns.sample(running, len(running)):
                times[name].append(self.time(name or usual, x))
            least = min(min(taken) for taken in times.values())
            most = least * (2 if number < 2 else 1.3)
            running = [n for n in running if n in ("", usual) or min(times[n]) <= most]
            if len(running) == 2 or (number >= 2 and time.perf_counter() > end):
                break
        return {name: times[name] for name in running}

    def time(self, name: str, x: Tensor) -> int:
        """Nanoseconds of all copies of a kernel, one after another, every other one onto a sum.

        Half of a network's products are added to something, which some kernels do by themselves.
        """
        products = self.packed[name]
        base = products[0](x)
        start = self.clock()
        for index, product in enumerate(products):
            if index % 2:
                product.onto(base, x)
            else:
                product(x)
        return self.clock() - start
