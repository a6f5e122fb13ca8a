"""Shapes of other packages: the flat step gives what the module gives."""

from typing import Any

import pytest
import torch

from calm_bench.codecs.blocks import DepthwiseUpsample
from calm_bench.codecs.vae import VaeCodec, VaeConfig
from calm_bench.nn.transformer import (
    FlatTransformer,
    KvCache,
    PositionTable,
    Transformer,
    TransformerConfig,
)

SHAPE: dict[str, Any] = {"dim": 16, "layers": 2, "heads": 2, "mlp_dim": 24, "norm": "layer"}


@pytest.mark.parametrize(
    "change",
    [{"gelu": "tanh"}, {"positions": "sinusoidal"}, {"final_norm": False}],
)
@torch.inference_mode()
def test_step_by_step(change: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = TransformerConfig(**SHAPE | change)
    module = Transformer(config)
    flat = FlatTransformer(module, "fp32")
    x = torch.randn(2, 6, 16)
    whole = module(x)
    assert not torch.allclose(whole, Transformer(TransformerConfig(**SHAPE))(x))
    cache = KvCache(config, 2, 6, x)
    torch.testing.assert_close(flat(x[:, :3], cache), whole[:, 2], atol=1e-5, rtol=1e-4)
    for at in range(3, 6):
        torch.testing.assert_close(
            flat(x[:, at : at + 1], cache), whole[:, at], atol=1e-5, rtol=1e-4
        )


def test_sines_are_those_of_the_closed_form() -> None:
    config = TransformerConfig(**SHAPE | {"dim": 8, "positions": "sinusoidal"})
    rows = PositionTable(config).rows(5, 2, torch.zeros(1))
    angle = 6 * 10_000.0 ** (-torch.arange(4).double() / 3)
    expected = torch.cat([angle.cos(), angle.sin()]).float()
    torch.testing.assert_close(rows[1], expected)


def test_depthwise_upsampling_is_a_transposed_convolution() -> None:
    torch.manual_seed(0)
    module = DepthwiseUpsample(3, 4)
    conv = torch.nn.ConvTranspose1d(3, 3, 8, stride=4, groups=3, bias=False)
    x = torch.randn(2, 5, 3)
    with torch.no_grad():
        conv.weight.copy_(module.weight.T[:, None])
        expected = conv(x.transpose(1, 2))[..., :20].transpose(1, 2)
        torch.testing.assert_close(module(x), expected)
        stream: dict[Any, Any] = {}
        parts = [module(x[:, :2], stream), module(x[:, 2:], stream)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected)


@torch.inference_mode()
def test_a_mimi_shaped_codec() -> None:
    torch.manual_seed(0)
    transformer = SHAPE | {"context": 10, "layer_scale": 0.5, "final_norm": False}
    trunk = {
        "sample_rate": 2400, "front_end": "waveform", "ratios": [2, 3], "encoder_dims": [4, 8, 12],
        "encoder_blocks": [1, 1, 0], "decoder_dims": [4, 8, 12], "decoder_blocks": [1, 1, 0],
        "transformer": transformer, "resample": 4, "join_kernel": 7, "end_kernel": 3,
    }  # fmt: skip
    codec = VaeCodec(VaeConfig.model_validate({"trunk": trunk, "latent_channels": 3})).eval()
    assert codec.hop_length == 24
    wave = torch.randn(1, 24 * 7)
    latents = codec.encode(wave)
    assert latents.shape == (1, 7, 3)
    changed = wave.clone()
    changed[:, 24 * 5 :] = 0
    torch.testing.assert_close(codec.encode(changed)[:, :5], latents[:, :5])
    whole = codec.decode(latents)
    assert whole.shape == wave.shape
    for fast in (False, True):
        if fast:
            codec.prepare()
        state = codec.start_decoding(1)
        parts = [codec.decode_steps(latents[:, a:b], state) for a, b in ((0, 3), (3, 4), (4, 7))]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-4)
    assert codec.kv_bytes(0) == 2 * 2 * 16 * 4 * 4
    assert codec.kv_bytes(50) == 2 * 2 * 16 * 10 * 4
