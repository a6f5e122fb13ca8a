"""Sharded training (`--strategy fsdp`): parameters, gradients and optimiser state split over ranks.

PyTorch's fully_shard (FSDP2) through Fabric, one group per Transformer layer and one for the rest.
State files hold whole tensors, so a run may go on with another number of ranks or with none.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from calm_bench.nn.transformer import Layer


def sharded_strategy(ranks: int) -> Any:
    """Fabric's strategy that shards a module over all ranks."""
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
    from torch.distributed.fsdp import fully_shard

    def shard(module: nn.Module, mesh: Any) -> nn.Module:
        for part in module.modules():
            if isinstance(part, Layer):
                fully_shard(part, mesh=mesh["data_parallel"])
        fully_shard(module, mesh=mesh["data_parallel"])
        return module

    return ModelParallelStrategy(shard, data_parallel_size=ranks, tensor_parallel_size=1)


def whole(tree: Any) -> Any:
    """The tree with every sharded tensor gathered; all ranks must call it."""
    return tree_map(lambda x: x.full_tensor() if isinstance(x, DTensor) else x, tree)


def _as(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor split as `like` is, or itself if `like` is not split."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def load_module(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a module that may be sharded."""
    own = module.state_dict()
    module.load_state_dict({key: _as(value, own[key]) for key, value in state.items()})


def load_optimizer(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Load whole tensors into an optimiser whose parameters may be sharded."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    split = {
        index: {
            key: _as(value, parameters[index]) if value.ndim > 0 else value
            for key, value in entries.items()
        }
        for index, entries in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": split})


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Hold a module's parameters whole for a while, for calls that only some ranks make."""
    from torch.distributed.fsdp import FSDPModule

    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def clone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a state, split as it is."""
    return {key: value.detach().clone() for key, value in state.items()}
