"""The depth transformer of the RQ-Transformer: the K codes of one frame, one after another.

N frames, K codebooks, V codebook size, D backbone width, W depth width, H heads, L layers.
Mechanics are Moshi's ("depformer"; Defossez et al. 2024, Lee et al. 2022): position k sees its own
projection of the backbone's context plus the embedding of the code before it (the text token at
k = 0); attention, MLP, input and output differ per codebook, or are shared between codebooks by a
schedule; no positions, no final norm.

In training all K positions run as one batched matrix product per weight; sampling is a loop over K
because each code needs the one before it, on a preallocated key-value cache. `FlatDepth` is that
loop at inference, on packed weights:

    x_k = P_k z + E_{k-1}[code_{k-1}]         all P_k z by one product, before the loop
    for each layer of the level's weight set:
        q, keys[k], values[k] = W_qkv norm(x);   x += W_out attention(q, keys[:k+1], values[:k+1])
        x += W_down (silu(gate) * up),   gate, up = W_up norm(x)
    code_k ~ softmax(O_k x / temperature), the top_k most probable

Tables of a low rank are multiplied out, since a level reads one row of them. O_k of a low rank is
two products: they read less, and a frame's codes take 4 to 6 % less time, at batch 1 and at 16.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.nn.kernels import LayerProducts, pack
from calm_bench.nn.product import discard, set_aside
from calm_bench.nn.transformer import (
    Dropout,
    RmsNorm,
    RmsNormModule,
    check_heads,
    plain_attention,
)
from calm_bench.types import Count, Precision, Shape, Size


class DepthConfig(Shape):
    """Shape of the depth transformer; `schedule` maps each codebook to one of the weight sets.

    `dropout` acts in training on the input and on what every residual branch adds.

    Attributes:
        shared_inputs: One projection of the context per weight set, not per codebook.
        table_rank: Rank of each codebook's input and output tables; None: full. With many codebooks
            of few entries the tables would outweigh everything else.
    """

    dim: Size
    layers: Count
    heads: Count
    mlp_dim: Size
    schedule: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1, max_length=256)
    shared_inputs: bool = False
    table_rank: Size | None = None
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _sets_are_dense(self) -> "DepthConfig":
        if max(self.schedule) + 1 != len(set(self.schedule)):
            raise ValueError("the schedule must use every weight set from 0 up")
        check_heads(self.dim, self.heads)
        return self

    @property
    def n_sets(self) -> int:
        """How many sets of layer weights there are."""
        return max(self.schedule) + 1

    @property
    def own_numbers(self) -> int:
        return self.n_sets * self.layers * self.dim * (4 * self.dim + 2 * self.mlp_dim)


class SetLinear(nn.Module):
    """One matrix per set, without bias: rows of set s are multiplied by matrix s."""

    def __init__(self, sets: int, dim_in: int, dim_out: int, gain: float = 1.0) -> None:
        """Weights [sets, out, in], drawn N(0, gain^2 / in)."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(sets, dim_out, dim_in) * gain * dim_in**-0.5)

    def forward(self, x: Tensor, sets: Tensor) -> Tensor:
        """Map x [K, N, in] with one set per k: [K, N, out]."""
        return torch.bmm(x, self.weight[sets].transpose(1, 2))

    def one(self, x: Tensor, index: int) -> Tensor:
        """Map x [N, in] through one set: [N, out]."""
        return F.linear(x, self.weight[index])


class DepthLayer(nn.Module):
    """Causal attention over the codebooks and a gated MLP, with weights per set."""

    def __init__(self, config: DepthConfig) -> None:
        """Residual outputs start scaled down by depth."""
        super().__init__()
        W, S = config.dim, config.n_sets
        gain = (2 * config.layers) ** -0.5
        self.heads = config.heads
        self.dropout = Dropout(config.dropout)
        self.norm_attention = RmsNormModule(W, eps=1e-6)
        self.norm_mlp = RmsNormModule(W, eps=1e-6)
        self.qkv = SetLinear(S, W, 3 * W)
        self.out = SetLinear(S, W, W, gain)
        self.up = SetLinear(S, W, 2 * config.mlp_dim)
        self.down = SetLinear(S, config.mlp_dim, W, gain)

    def forward(self, x: Tensor, sets: Tensor) -> Tensor:
        """All positions at once: x [K, N, W]."""
        K, N, W = x.shape
        qkv = self.qkv(self.norm_attention(x), sets).view(K, N, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 1, 3, 0, 4)  # [N, H, K, W / H]
        y = plain_attention(q, k, v)  # K is small: fused kernels are made for long sequences
        x = x + self.dropout(self.out(y.permute(2, 0, 1, 3).reshape(K, N, W), sets))
        gate, h = self.up(self.norm_mlp(x), sets).chunk(2, dim=-1)
        out: Tensor = x + self.dropout(self.down(F.silu(gate) * h, sets))
        return out

    def step(self, x: Tensor, position: int, index: int, cache: Tensor) -> Tensor:
        """One position of one set: x [N, W]; cache [2, N, H, K, W / H] is written at `position`."""
        N, W = x.shape
        q, k, v = (
            self.qkv.one(self.norm_attention(x), index).view(N, 3, self.heads, 1, -1).unbind(1)
        )
        cache[0, :, :, position], cache[1, :, :, position] = k[:, :, 0], v[:, :, 0]
        keys, values = cache[:, :, :, : position + 1]
        y = F.scaled_dot_product_attention(q, keys, values)
        x = x + self.out.one(y.reshape(N, W), index)
        gate, h = self.up.one(self.norm_mlp(x), index).chunk(2, dim=-1)
        return x + self.down.one(F.silu(gate) * h, index)


class DepthTransformer(nn.Module):
    """Codes of a frame from its context, with teacher forcing or by sampling."""

    schedule: Tensor

    def __init__(
        self, config: DepthConfig, context: int, codebook_size: int, text_size: int | None
    ) -> None:
        """Build for contexts of width `context`; `text_size` is None without a text stream."""
        super().__init__()
        self.config = config
        K, W, V = len(config.schedule), config.dim, codebook_size
        R = config.table_rank or W
        inputs = config.n_sets if config.shared_inputs else K
        self.inputs = nn.Parameter(torch.randn(inputs, W, context) * context**-0.5)
        self.text = None if text_size is None else nn.Embedding(text_size, W)
        self.tables = nn.Parameter(torch.randn(K, V + 1, R) * 0.3)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList([DepthLayer(config) for _ in range(config.layers)])
        self.outputs = nn.Parameter(torch.randn(K, V, R) * R**-0.5)
        low = config.table_rank is not None
        self.table_maps = nn.Parameter(torch.randn(K, R, W) * R**-0.5) if low else None
        self.output_maps = nn.Parameter(torch.randn(K, W, R) * W**-0.5) if low else None
        schedule = torch.tensor(config.schedule, device="cpu")  # never left without values
        self.register_buffer("schedule", schedule, persistent=False)
        if self.text is not None:
            nn.init.normal_(self.text.weight, std=0.3)

    def forward(self, z: Tensor, codes: Tensor, text: Tensor | None) -> Tensor:
        """Logits [N, K, V] of every code given the ones before it.

        Args:
            z: Contexts [N, D].
            codes: True codes [N, K].
            text: Text tokens [N] of the step, if there is a text stream.
        """
        N, K = codes.shape
        assert len(self.config.schedule) == K
        x = torch.einsum("nd,kwd->knw", z, self.inputs)
        if self.config.shared_inputs:
            x = x[self.schedule]
        levels = torch.arange(K - 1, device=codes.device)[:, None]
        previous = self.tables[levels, codes[:, :-1].T]  # [K - 1, N, R]
        if self.table_maps is not None:
            previous = torch.bmm(previous, self.table_maps[:-1])
        first = (
            x.new_zeros(1, N, x.shape[2])
            if self.text is None or text is None
            else self.text(text)[None]
        )
        x = self.dropout(x + torch.cat([first.to(x.dtype), previous.to(x.dtype)]))
        for layer in self.layers:
            x = layer(x, self.schedule)
        if self.output_maps is not None:
            x = torch.bmm(x, self.output_maps)
        return torch.bmm(x, self.outputs.transpose(1, 2)).transpose(0, 1)

    def new_cache(self, batch_size: int, like: Tensor) -> Tensor:
        """A cache for `sample`, to be used again for every frame: [L, 2, N, H, K, W / H]."""
        config = self.config
        K, H = len(config.schedule), config.heads
        return like.new_zeros(config.layers, 2, batch_size, H, K, config.dim // H)

    def sample(
        self, z: Tensor, text: Tensor | None, draws: Tensor, cache: Tensor, choose: "Chooser"
    ) -> Tensor:
        """Draw the codes [N, K] of one frame.

        Args:
            z: Contexts [N, D].
            text: Text tokens [N] or None.
            draws: Uniform numbers [N, K], one per code.
            cache: From `new_cache`.
            choose: Logits [N, V] and uniform numbers [N] to codes [N].
        """
        x_all = torch.einsum("nd,kwd->knw", z, self.inputs)
        codes: list[Tensor] = []
        for k, index in enumerate(self.config.schedule):
            x = x_all[index if self.config.shared_inputs else k]
            if k > 0:
                rows = self.tables[k - 1][codes[-1]]
                x = x + (rows if self.table_maps is None else rows @ self.table_maps[k - 1])
            elif self.text is not None and text is not None:
                x = x + self.text(text)
            for layer, layer_cache in zip(self.layers, cache, strict=True):
                x = layer.step(x, k, index, layer_cache)  # type: ignore[operator]
            if self.output_maps is not None:
                x = x @ self.output_maps[k]
            codes.append(choose(F.linear(x, self.outputs[k]), draws[:, k]))
        return torch.stack(codes, dim=1)


@dataclass(frozen=True)
class Chooser:
    """Softmax temperature and top-k, then inverse transform sampling; argmax at temperature 0.

    `top_k` 0 keeps all.
    """

    temperature: float
    top_k: int = 0

    def __call__(self, logits: Tensor, draws: Tensor) -> Tensor:
        """Tokens [N] for logits [N, V] and uniform numbers [N] in [0, 1).

        Where logits are NaN the token is V, which no codebook has, except at temperature 0.
        """
        if self.temperature == 0:
            return logits.argmax(-1)
        probabilities = (logits.float() / self.temperature).softmax(-1)
        if 0 < self.top_k < logits.shape[-1]:
            floor = probabilities.topk(self.top_k, dim=-1).values[:, -1:]
            probabilities = probabilities * (probabilities >= floor)
        edges = probabilities.cumsum(-1)
        token = torch.searchsorted(edges, draws[:, None] * edges[:, -1:], right=True)
        return token.squeeze(-1)


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
                DepthView(rows[k], q[:, :, k : k + 1], keys[:, :, : k + 1], values[:, :, : k + 1])
                for rows, (q, keys, values) in zip(buffer, heads, strict=True)
            ]
            for k in range(K)
        ]


class FlatDepth:
    """The same function of the same weights as a `DepthTransformer`, for sampling."""

    def __init__(
        self, module: DepthTransformer, precision: Precision, release: bool = False
    ) -> None:
        config = module.config
        self.config, self.schedule = config, config.schedule
        W = config.dim
        self.text = None if module.text is None else module.text.weight
        self.norm = RmsNorm(W, module.inputs.device)
        self.looks, self.codebook_size = precision == "int8", module.outputs.shape[1]
        self.inputs = pack(module.inputs.flatten(0, 1), None, precision, inner=True)
        tables: Tensor = module.tables[:-1]
        if module.table_maps is not None:
            tables = torch.bmm(tables, module.table_maps[:-1])
        self.tables = [table.contiguous() for table in tables]  # the last code is never read
        self.outputs = [
            [pack(factor, None, precision, inner=True) for factor in factors]
            for factors in _outputs(module)
        ]
        layers = [layer for layer in module.layers if isinstance(layer, DepthLayer)]
        self.sets: list[list[LayerProducts]] = [[] for _ in range(config.n_sets)]
        for layer in layers:
            for index, own in enumerate(self.sets):
                weights = (
                    layer.qkv.weight[index] * layer.norm_attention.weight,
                    layer.out.weight[index],
                    layer.up.weight[index] * layer.norm_mlp.weight,
                    layer.down.weight[index],
                )
                own.append(LayerProducts.packed(precision, *weights))
            if release:
                discard(layer)
        if release:
            discard(module, "inputs", "outputs")
        self.row_bytes = W * tables.element_size()

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
            cache: To be used again for every frame.
            choose: Logits [N, V] and uniform numbers [N, 1] to codes [N].
        """
        N, W = len(z), self.config.dim
        z, broken = set_aside(z) if self.looks else (z, None)
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
        made = torch.stack(codes, dim=1)
        return made if broken is None else made.masked_fill(broken[:, None], self.codebook_size)

    def weight_bytes(self) -> int:
        """Bytes of weights that one frame reads: a weight set as often as levels use it."""
        sets = [sum(layer.nbytes for layer in layers) for layers in self.sets]
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
