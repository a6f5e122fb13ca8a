"""The short context sees exactly its window, and noise injection keeps the variance."""

import pytest
import torch

from calm_bench.nn.transformer import TransformerConfig
from calm_bench.systems.calm import ShortContext, ShortContextConfig, inject_noise

WINDOW = 10
SHAPE = ShortContextConfig(
    window=WINDOW, transformer=TransformerConfig(dim=16, layers=4, heads=2, mlp_dim=32)
)


def build(context: int = 24) -> ShortContext:
    torch.manual_seed(0)
    return ShortContext(SHAPE, channels=6, context=context)


@pytest.mark.parametrize("s", [0, 1, 4, 9, 10, 25, 39])
def test_the_gradient_reaches_exactly_the_window(s: int) -> None:
    short, x = build(), torch.randn(1, 40, 6, requires_grad=True)
    short(x, torch.tensor([s])).sum().backward()
    assert x.grad is not None
    reached = (x.grad[0].abs().sum(-1) > 0).nonzero().flatten().tolist()
    assert reached == list(range(max(0, s - WINDOW), s))


@torch.inference_mode()
def test_steps_equal_the_whole_from_the_first_frame_on() -> None:
    short, x = build(), torch.randn(2, 25, 6)
    whole = short(x, torch.arange(50)).view(2, 25, -1)
    window = short.filled(x[:, :0], torch.tensor([0, 0]))
    for s in range(25):
        torch.testing.assert_close(short.read(window), whole[:, s], atol=1e-5, rtol=0)
        short.shift(window, x[:, s])


@torch.inference_mode()
def test_padding_on_the_left_is_no_frame() -> None:
    short, x = build(), torch.randn(1, 14, 6)
    padded = torch.cat([torch.randn(1, 5, 6), x], dim=1)
    window = short.filled(torch.cat([padded, padded]), torch.tensor([5, 12]))
    alone = torch.cat(
        [short.filled(x, torch.tensor([0])), short.filled(x[:, 7:], torch.tensor([0]))]
    )
    torch.testing.assert_close(window, alone)


def test_widths_may_differ_or_agree() -> None:
    assert build(24)(torch.randn(2, 3, 6), torch.tensor([5, 0])).shape == (2, 24)
    assert build(16).output is None


def test_noise_keeps_unit_variance_and_mixes_by_frame() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 10, 64, generator=generator)
    noisy = inject_noise(x, generator)
    assert noisy.var().item() == pytest.approx(1.0, abs=0.01)
    # Per frame the squared correlation with x is 1 - k, so it spreads over (0, 1).
    correlation = (noisy * x).mean(-1) / (noisy.square().mean(-1) * x.square().mean(-1)).sqrt()
    share = 1 - correlation.square()
    assert share.mean().item() == pytest.approx(0.5, abs=0.02)
    assert share.quantile(0.1).item() < 0.2
    assert share.quantile(0.9).item() > 0.8
