"""Systems of any size with random weights, straight in the precision they will run at.

Time does not depend on the values of weights, so a paper-scale model needs none to be timed. Its
shapes are built without memory (on the meta device), then filled: the 2.2B speech model never
exists in float32.
"""

import torch
from torch import Tensor, nn

from calm_bench.types import Precision

BLOCK = 4_194_301
"""Numbers drawn, and repeated over all matrices: drawing billions would take minutes. A prime, so
that no two rows of a matrix are the same."""


def fill_at_random(
    module: nn.Module, seed: int, device: str, precision: Precision, exact: tuple[str, ...]
) -> None:
    """Give every parameter that has none its values, drawn from the seed.

    Args:
        module: With parameters on the meta device.
        seed: Decides the values.
        device: Where they go.
        precision: Matrices are made in bfloat16 if they will be packed for fewer than 32 bits.
        exact: Beginnings of the names of matrices that are float32 at every precision.
    """
    generator = torch.Generator(device).manual_seed(seed)
    narrow = torch.float32 if precision == "fp32" else torch.bfloat16
    block = torch.randn(BLOCK, generator=generator, device=device)
    used = 0
    for prefix, part in module.named_modules():
        for name, parameter in list(part.named_parameters(prefix, recurse=False)):
            if not parameter.is_meta:
                continue
            wide = parameter.ndim < 2 or name.startswith(exact)
            dtype = torch.float32 if wide else narrow
            if parameter.ndim < 2:
                values = torch.zeros if name.endswith("bias") else torch.ones
                filled = values(parameter.shape, dtype=dtype, device=device)
            else:
                scaled = (block.roll(-used) * parameter.shape[-1] ** -0.5).to(dtype)
                filled = _repeated(scaled, parameter.shape)
                used = (used + parameter.numel()) % BLOCK
            own = name.removeprefix(prefix).removeprefix(".")
            setattr(part, own, nn.Parameter(filled, requires_grad=False))


def _repeated(block: Tensor, shape: torch.Size) -> Tensor:
    """A tensor of this shape that holds the block again and again."""
    filled = block.new_empty(shape)
    flat = filled.view(-1)
    for start in range(0, len(flat), len(block)):
        part = flat[start : start + len(block)]
        part.copy_(block[: len(part)])
    return filled
