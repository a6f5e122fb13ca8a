"""The flat decoder and the modules it stands for: in parts, whole, and where a stream begins."""

import pytest
import torch

from calm_bench.codecs.autoencoder import FlatUpsample, Taps
from calm_bench.codecs.blocks import CausalConv, Stream, Upsample
from calm_bench.codecs.checkpoints import load_codec


@pytest.mark.parametrize("name", ["vae-debug", "rvq-debug"])
@pytest.mark.parametrize("at_once", [1, 1 << 12, 1 << 20])
@torch.inference_mode()
def test_whole_clips_are_those_of_the_modules(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calm_bench.codecs.autoencoder.AT_ONCE", at_once)
    codec = load_codec(name)
    wave = torch.randn(3, 40 * codec.hop_length, generator=torch.Generator().manual_seed(0))
    frames = codec.encode(wave * 0.1)
    plain = codec.decode(frames)
    codec.prepare()
    assert plain.abs().max() > 0.01
    torch.testing.assert_close(codec.decode(frames), plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("wide", "width", "kernel"), [(12, 5, 3), (12, 1, 3), (5, 12, 4), (6, 6, 1)]
)
@torch.inference_mode()
def test_taps_are_a_convolution(batch: int, wide: int, width: int, kernel: int) -> None:
    torch.manual_seed(0)
    module = CausalConv(wide, width, kernel)
    taps = Taps(module.conv.weight.permute(2, 0, 1), module.conv.bias)
    assert (taps.windows is None) == (width < wide)
    x, stream = torch.randn(batch, 9, wide), Stream()
    parts = [taps(part, stream) for part in x.split([1, 5, 2, 1], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), module(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
@torch.inference_mode()
def test_no_frame_before_the_first_adds_its_bias(batch: int) -> None:
    torch.manual_seed(0)
    module = Upsample(6, 4, 3)
    flat, x, stream = FlatUpsample(module), torch.randn(batch, 7, 6), Stream()
    parts = [flat(part, stream) for part in x.split([2, 1, 4], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), module(x), atol=1e-5, rtol=1e-4)
