"""Letting go of a module's weights where a flat step has packed them: half the memory."""

import torch
from torch import nn


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
