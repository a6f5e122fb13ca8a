"""The depth transformer at inference: one flat loop over the K codes of a frame.

N frames, K codebooks, V codebook size, D backbone width, W depth width, H heads, L layers. The same
algorithm as `DepthTransformer.sample`, to be read on one page:

    x_k = P_k z + E_{k-1}[code_{k-1}]         all P_k z by one product, before the loop
    for each layer of the level's weight set:
        q, keys[k], values[k] = W_qkv norm(x);   x += W_out attention(q, keys[:k+1], values[:k+1])
        x += W_down (silu(gate) * up),   gate, up = W_up norm(x)
    code_k ~ softmax(O_k x / temperature), the top_k most probable

Tables of a low rank are multiplied out: a level reads one row of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from calm_bench.nn.depth import DepthLayer, DepthTransformer
from calm_bench.nn.flat import RmsNorm
from calm_bench.nn.product import Product, pack
from calm_bench.types import Precision

__all__ = ["DepthCache", "FlatDepth", "draw_tokens"]


class DepthCache:
    """Keys and values of one frame, and every view of them that its levels take."""

    def __init__(self, layers: int, batch: int, heads: int, K: int, like: Tensor, dim: int) -> None:
        """Allocate on the device and in the dtype of `like`; to be used again for every frame."""
        buffer = like.new_zeros(layers, batch, 2, heads, K, dim // heads)
        self.slots = [[buffer[i, ..., k : k + 1, :] for i in range(layers)] for k in range(K)]
        self.seen = [
            [buffer[i, ..., : k + 1, :].unbind(1) for i in range(layers)] for k in range(K)
        ]


class SetLayer(NamedTuple):
    """A layer's products in one weight set; norm weights are in them."""

    qkv: Product
    out: Product
    up: Product
    down: Product


class FlatDepth:
    """The same function of the same weights as a `DepthTransformer`, for sampling."""

    def __init__(self, module: DepthTransformer, precision: Precision) -> None:
        """Pack the weights; the module is left as it is."""
        config = module.config
        self.config, self.schedule = config, config.schedule
        W, V = config.dim, module.outputs.shape[1]
        self.text = None if module.text is None else module.text.weight
        self.norm = RmsNorm(W, 1e-6, module.inputs.device)
        self.inputs = pack(module.inputs.flatten(0, 1), None, precision)
        tables: Tensor = module.tables[:-1]
        outputs: Tensor = module.outputs
        if module.table_maps is not None and module.output_maps is not None:
            tables = torch.bmm(tables, module.table_maps[:-1])
            outputs = torch.bmm(outputs, module.output_maps.transpose(1, 2))
        self.tables = [table.contiguous() for table in tables]  # the last code is never read
        self.outputs = [pack(output, None, precision) for output in outputs]
        layers = [layer for layer in module.layers if isinstance(layer, DepthLayer)]
        self.sets = [
            [_pack_set(layer, index, precision) for layer in layers]
            for index in range(config.n_sets)
        ]
        self.row_bytes = W * tables.element_size()
        self.codebook_size = V

    def new_cache(self, batch_size: int, like: Tensor) -> DepthCache:
        """A cache for `sample`."""
        c = self.config
        return DepthCache(c.layers, batch_size, c.heads, len(self.schedule), like, c.dim)

    def sample(
        self,
        z: Tensor,
        text: Tensor | None,
        draws: Tensor,
        cache: DepthCache,
        choose: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Draw the codes [N, K] of frames with contexts z [N, D].

        Args:
            z: Contexts.
            text: Text tokens [N] or None.
            draws: Uniform numbers [N, K].
            cache: From `new_cache`.
            choose: Logits [N, V] and uniform numbers [N, 1] to codes [N].
        """
        N, W, H = len(z), self.config.dim, self.config.heads
        projected = self.inputs(z).view(N, -1, W).unbind(1)
        uniform = draws[..., None].unbind(1)
        codes: list[Tensor] = []
        for k, which in enumerate(self.schedule):
            x = projected[which if self.config.shared_inputs else k]
            if k > 0:
                x = x + F.embedding(codes[-1], self.tables[k - 1])
            elif self.text is not None and text is not None:
                x = x + F.embedding(text, self.text)
            for layer, slot, (keys, values) in zip(
                self.sets[which], cache.slots[k], cache.seen[k], strict=True
            ):
                heads = layer.qkv(self.norm(x)).view(N, 3, H, 1, -1)
                q, kv = heads.split_with_sizes([1, 2], dim=1)
                slot.copy_(kv)
                y = values  # of a single position, all the weight is on it
                if k > 0:
                    y = F.scaled_dot_product_attention(q.squeeze(1), keys, values)
                x = layer.out.onto(x, y.reshape(N, W))
                gate, h = layer.up(self.norm(x)).chunk(2, dim=-1)
                x = layer.down.onto(x, F.silu(gate) * h)
            codes.append(choose(self.outputs[k](x), uniform[k]))
        return torch.stack(codes, dim=1)

    def weight_bytes(self) -> int:
        """Bytes of weights that one frame reads: a weight set as often as levels use it."""
        sets = [sum(p.nbytes for layer in layers for p in layer) for layers in self.sets]
        levels = sum(sets[which] for which in self.schedule)
        levels += sum(output.nbytes for output in self.outputs)
        return self.inputs.nbytes + levels + len(self.schedule) * self.row_bytes


def _pack_set(layer: DepthLayer, index: int, precision: Precision) -> SetLayer:
    """One layer of one weight set."""
    weights = (
        layer.qkv.weight[index] * layer.norm_attention.weight,
        layer.out.weight[index],
        layer.up.weight[index] * layer.norm_mlp.weight,
        layer.down.weight[index],
    )
    return SetLayer(*(pack(weight, None, precision) for weight in weights))


def draw_tokens(logits: Tensor, draws: Tensor, temperature: float, top_k: int) -> Tensor:
    """`nn.depth.Chooser` in fewer operators: the same token for the same draw.

    Args:
        logits: [N, V].
        draws: Uniform numbers [N, 1] in [0, 1).
        temperature: Divides the logits; at 0 the best token is taken.
        top_k: How many tokens are left to draw from; 0 keeps all.

    Returns:
        Tokens [N].
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float()
    if 0 < top_k < logits.shape[-1]:
        floor = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if temperature != 1:
        logits = logits / temperature
    edges = logits.softmax(-1).cumsum(-1)
    # A draw is at most 1 - 2^-24: times the last edge it stays below it, so an edge is found.
    return torch.searchsorted(edges, draws * edges[:, -1:], right=True).squeeze(1)
