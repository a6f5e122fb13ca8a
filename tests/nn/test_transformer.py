"""The backbone: cache, context window, padding and causality."""

import warnings

import pytest
import torch

from calm_bench.nn.transformer import (
    Dropout,
    KvCache,
    RmsNormModule,
    Transformer,
    TransformerConfig,
    WideRmsNorm,
    attention,
)

SHAPE = TransformerConfig(dim=16, layers=3, heads=2, mlp_dim=32)


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("gated", [False, True])
def test_steps_with_cache_equal_the_whole(norm: str, gated: bool) -> None:
    torch.manual_seed(0)
    config = SHAPE.model_copy(update={"norm": norm, "gated": gated})
    model, x = Transformer(config), torch.randn(2, 9, 16)
    cache = KvCache(config, 2, 9, x)
    parts = [model(x[:, :4], cache)] + [model(x[:, i : i + 1], cache) for i in range(4, 9)]
    torch.testing.assert_close(torch.cat(parts, 1), model(x), atol=1e-5, rtol=0)


def test_no_position_sees_the_future() -> None:
    torch.manual_seed(0)
    model, x = Transformer(SHAPE), torch.randn(1, 8, 16, requires_grad=True)
    model(x)[0, 4].sum().backward()
    assert x.grad is not None
    reached = x.grad[0].abs().sum(-1) > 0
    assert reached.tolist() == [True] * 5 + [False] * 3


def test_stacked_windows_reach_layers_times_context_back() -> None:
    # 4 layers with a window of 10 see 37 positions in all.
    torch.manual_seed(0)
    config = SHAPE.model_copy(update={"layers": 4, "context": 10})
    model, x = Transformer(config), torch.randn(1, 60, 16, requires_grad=True)
    model(x)[0, 59].sum().backward()
    assert x.grad is not None
    assert int((x.grad[0].abs().sum(-1) > 0).sum()) == 37


def test_streaming_with_a_window_needs_no_more_than_its_buffer() -> None:
    torch.manual_seed(0)
    config = SHAPE.model_copy(update={"context": 5})
    model, x = Transformer(config), torch.randn(1, 40, 16)
    cache = KvCache(config, 1, 12, x)
    parts = []
    for i in range(0, 40, 2):
        parts.append(model(x[:, i : i + 2], cache))
    torch.testing.assert_close(torch.cat(parts, 1), model(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("context", [None, 3])
def test_the_last_position_alone_is_the_last_of_all(context: int | None) -> None:
    torch.manual_seed(0)
    model = Transformer(SHAPE.model_copy(update={"context": context}))
    x = torch.randn(2, 7, 16)
    torch.testing.assert_close(model(x, last=True), model(x)[:, -1:], atol=1e-6, rtol=0)
    caches = [KvCache(model.config, 2, 10, x) for _ in range(2)]
    for cache in caches:
        model(x[:, :3], cache)
    last, whole = model(x[:, 3:], caches[0], last=True), model(x[:, 3:], caches[1])
    torch.testing.assert_close(last, whole[:, -1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(caches[0].buffer, caches[1].buffer, atol=1e-6, rtol=0)


def test_bfloat16_attends_in_float32_on_the_cpu() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 40, 8)
    q, k, v = 4 * q.bfloat16(), k.bfloat16(), v.bfloat16()
    exact = attention(q.float(), k.float(), v.float(), None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention(q, k, v, None)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, exact.bfloat16(), atol=0, rtol=0)


def test_left_padding_changes_nothing_for_the_row() -> None:
    torch.manual_seed(0)
    model, x = Transformer(SHAPE), torch.randn(1, 6, 16)
    padded = torch.cat([torch.randn(1, 3, 16), x], 1)
    cache = KvCache(SHAPE, 1, 9, x)
    cache.key_mask = torch.arange(9)[None] >= 3
    torch.testing.assert_close(model(padded, cache)[:, 3:], model(x), atol=1e-5, rtol=0)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = Transformer(SHAPE.model_copy(update={"dropout": 0.5}))
    plain = Transformer(SHAPE)
    plain.load_state_dict(model.state_dict())
    x = torch.randn(1, 6, 16)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), plain(x))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_its_share_and_scales_it(p: float, dtype: torch.dtype) -> None:
    dropout, x = Dropout(p), torch.ones(999, 401, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    y = dropout(x)
    y.float().sum().backward()
    torch.manual_seed(0)
    assert torch.equal(dropout(x), y)
    assert not torch.equal(dropout(x), y)
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach()), "what is dropped gets no gradient, the rest is scaled"
    drop = round(p * 65536) / 65536
    kept = y.detach() > 0
    torch.testing.assert_close(y[kept], y.new_full((), 1 / (1 - drop)).expand(int(kept.sum())))
    error = (drop * (1 - drop) / kept.numel()) ** 0.5
    assert abs(kept.float().mean().item() - (1 - drop)) < 4 * error
    for lane in range(4):  # of the four that share a random word
        share = kept.flatten()[lane::4].float().mean().item()
        assert abs(share - (1 - drop)) < 4 * 2 * error
    assert abs((kept[1:] & kept[:-1]).float().mean().item() - (1 - drop) ** 2) < 8 * error
    assert torch.equal(dropout.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_the_norm_for_training_is_torchs_with_its_gradients(
    dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(24, dtype=torch.float64)
    x, up = (torch.randn(5, 7, 24, dtype=torch.float64) * 3 for _ in range(2))
    x[0, 0] *= 1e-4  # where eps matters
    x, up = x.to(dtype), up.to(dtype)

    def run(norm: torch.nn.Module, dtype: torch.dtype) -> list[torch.Tensor]:
        parameters = torch.float64 if dtype == torch.float64 else torch.float32
        norm.load_state_dict({"weight": weight})
        norm.to(parameters)
        rows = x.to(dtype).detach().clone().requires_grad_()
        norm(rows).backward(up.to(dtype))
        assert rows.grad is not None
        return [norm(rows).detach(), rows.grad, norm.weight.grad]

    ours = run(RmsNormModule(24, eps=1e-6), dtype)
    exact = run(torch.nn.RMSNorm(24, eps=1e-6), torch.float64)
    for one, other in zip(ours, exact, strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(one.double(), other, atol=tolerance * scale, rtol=tolerance)
    assert ours[0].dtype == dtype


def test_narrow_rows_are_normalised_as_torch_does_without_its_warning() -> None:
    x, weight = torch.randn(10, 24).bfloat16(), torch.randn(24)
    ours, torchs = WideRmsNorm(24, eps=1e-5), torch.nn.RMSNorm(24, eps=1e-5)
    for norm in (ours, torchs):
        norm.load_state_dict({"weight": weight})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torchs(x)
    assert ours(x).dtype == torch.bfloat16
    assert torch.equal(ours(x), expected)
    assert torch.equal(ours(x.float()), torchs(x.float()))


def test_attention_in_training_at_half_precision_is_that_of_float32() -> None:
    torch.manual_seed(0)
    whole = [torch.randn(2, 3, 40, 16, requires_grad=True) for _ in range(3)]
    half = [x.detach().bfloat16().requires_grad_() for x in whole]
    up = torch.randn(2, 3, 40, 16)
    exact = torch.nn.functional.scaled_dot_product_attention(*whole, is_causal=True)
    exact.backward(up)
    y = attention(*half, None)
    y.backward(up.bfloat16())
    torch.testing.assert_close(y.float(), exact, atol=0.03, rtol=0.03)
    for one, other in zip(half, whole, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        error = (one.grad.float() - other.grad).norm() / other.grad.norm()
        assert error < 0.02
    assert y.dtype == torch.bfloat16
    changed = half[1].detach().clone()
    changed[:, :, 30:] += 1
    assert torch.equal(attention(half[0], changed, half[2], None)[:, :, :30], y[:, :, :30])
