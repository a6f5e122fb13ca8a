"""The depth transformer at inference: one flat loop over the K codes of a frame.

N frames, K codebooks, V codebook size, D backbone width, W depth width, H heads, L layers. The same
algorithm as `DepthTransformer.sample`, to be read on one page:

    x_k = P_k z + E_{k-1}[code_{k-1}]         all P_k z by one product, before the loop
    for each layer of the level's weight set:
        q, keys[k], values[k] = W_qkv norm(x);   x += W_out attention(q, keys[:k+1], values[:k+1])
        x += W_down (silu(gate) * up),   gate, up = W_up norm(x)
    code_k ~ softmax(O_k x / temperature), the top_k most probable

Tables of a low rank are multiplied out, since a level reads one row of them. O_k of a low rank is
two products: they read less, and a frame's codes take 4 to 6 % less time, at batch 1 and at 16.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from calm_bench.nn.depth import DepthConfig, DepthLayer, DepthTransformer
from calm_bench.nn.flat import RmsNorm
from calm_bench.nn.product import Product, discard, pack
from calm_bench.types import Precision


class DepthView(NamedTuple):
    """A layer's part of the cache at one level, as that level uses it."""

    row: Tensor  # [N, 3 W], where its queries, keys and values are written
    query: Tensor  # [N, H, 1, Dh], the first third of the row
    keys: Tensor  # [N, H, k + 1, Dh], the second thirds of this row and those before it
    values: Tensor


class DepthCache:
    """Queries, keys and values of one frame, as products leave them: nothing is moved afterwards.

    Every view of it is made once, `views[k][layer]`; it serves frame after frame.
    """

    def __init__(self, config: DepthConfig, batch: int, like: Tensor) -> None:
        """Allocate on the device and in the dtype of `like`."""
        K, H = len(config.schedule), config.heads
        buffer = like.new_zeros(config.layers, K, batch, 3 * config.dim)
        heads = buffer.view(config.layers, K, batch, 3, H, -1).permute(0, 3, 2, 4, 1, 5)
        self.views = [
            [
                DepthView(row=rows[k], query=q[:, :, k : k + 1], keys=key, values=value)
                for rows, (q, ks, vs) in zip(buffer, heads, strict=True)
                for key, value in [(ks[:, :, : k + 1], vs[:, :, : k + 1])]
            ]
            for k in range(K)
        ]


class SetLayer(NamedTuple):
    """A layer's products in one weight set; norm weights are in them."""

    qkv: Product
    out: Product
    up: Product
    down: Product


class FlatDepth:
    """The same function of the same weights as a `DepthTransformer`, for sampling."""

    def __init__(
        self, module: DepthTransformer, precision: Precision, release: bool = False
    ) -> None:
        """Pack the weights; with `release` the module lets go of them."""
        config = module.config
        self.config, self.schedule = config, config.schedule
        W, V = config.dim, module.outputs.shape[1]
        self.text = None if module.text is None else module.text.weight
        self.norm = RmsNorm(W, 1e-6, module.inputs.device)
        self.inputs = pack(module.inputs.flatten(0, 1), None, precision)
        tables: Tensor = module.tables[:-1]
        if module.table_maps is not None:
            tables = torch.bmm(tables, module.table_maps[:-1])
        self.tables = [table.contiguous() for table in tables]  # the last code is never read
        self.outputs = [
            [pack(factor, None, precision) for factor in factors] for factors in _outputs(module)
        ]
        layers = [layer for layer in module.layers if isinstance(layer, DepthLayer)]
        self.sets: list[list[SetLayer]] = [[] for _ in range(config.n_sets)]
        for layer in layers:
            for index, own in enumerate(self.sets):
                own.append(_pack_set(layer, index, precision))
            if release:
                discard(layer)
        if release:
            discard(module, "inputs", "outputs")
        self.row_bytes = W * tables.element_size()
        self.codebook_size = V

    def new_cache(self, batch_size: int, like: Tensor) -> DepthCache:
        """A cache for `sample`."""
        return DepthCache(self.config, batch_size, like)

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
        N, W = len(z), self.config.dim
        projected = self.inputs(z).view(N, -1, W).unbind(1)
        uniform = draws[..., None].unbind(1)
        codes: list[Tensor] = []
        for k, which in enumerate(self.schedule):
            x = projected[which if self.config.shared_inputs else k]
            if k > 0:
                x = x + F.embedding(codes[-1], self.tables[k - 1])
            elif self.text is not None and text is not None:
                x = x + F.embedding(text, self.text)
            for layer, at in zip(self.sets[which], cache.views[k], strict=True):
                layer.qkv.into(at.row, self.norm(x))
                y = at.values  # all the weight is on a single position
                if k > 0:
                    y = F.scaled_dot_product_attention(at.query, at.keys, at.values)
                x = layer.out.onto(x, y.view(N, W))
                gate, h = layer.up(self.norm(x)).chunk(2, dim=-1)
                x = layer.down.onto(x, F.silu(gate) * h)
            for factor in self.outputs[k]:
                x = factor(x)
            codes.append(choose(x, uniform[k]))
        return torch.stack(codes, dim=1)

    def weight_bytes(self) -> int:
        """Bytes of weights that one frame reads: a weight set as often as levels use it."""
        sets = [sum(p.nbytes for layer in layers for p in layer) for layers in self.sets]
        levels = sum(sets[which] for which in self.schedule)
        levels += sum(factor.nbytes for factors in self.outputs for factor in factors)
        return self.inputs.nbytes + levels + len(self.schedule) * self.row_bytes


def _outputs(module: DepthTransformer) -> Iterator[list[Tensor]]:
    """Of every level, the matrices [out, in] that lead to its logits one after another."""
    if module.output_maps is None:
        yield from ([output] for output in module.outputs)
        return
    for output, to_rank in zip(module.outputs, module.output_maps, strict=True):  # [V, R], [W, R]
        factors = [to_rank.t(), output]
        both = output.shape[0] * to_rank.shape[0]
        yield factors if sum(f.numel() for f in factors) < both else [output @ to_rank.t()]


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
    if 0 < top_k < logits.shape[-1]:
        floor = logits.topk(top_k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if temperature != 1:
        logits = logits / temperature
    edges = logits.softmax(-1).cumsum(-1)
    # A draw is at most 1 - 2^-24: times the last edge it stays below it, so an edge is found.
    return torch.searchsorted(edges, draws * edges[:, -1:], right=True).squeeze(1)
