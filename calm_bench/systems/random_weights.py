"""Systems of any size with random weights, straight in the precision they will run at.

Time does not depend on the values of weights, so a paper-scale model needs none to be timed. Its
shapes are built without memory (on the meta device), then filled: the 2.2B speech model never
exists in float32.
"""

import torch
from torch import nn

from calm_bench.types import Precision

__all__ = ["fill_at_random"]


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
    for prefix, part in module.named_modules():
        for name, parameter in list(part.named_parameters(prefix, recurse=False)):
            if not parameter.is_meta:
                continue
            wide = parameter.ndim < 2 or name.startswith(exact)
            dtype = torch.float32 if wide else narrow
            values = torch.empty(parameter.shape, dtype=dtype, device=device)
            if parameter.ndim < 2:
                values.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                values.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
            own = name.removeprefix(prefix).removeprefix(".")
            setattr(part, own, nn.Parameter(values, requires_grad=False))
