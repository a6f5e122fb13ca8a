"""The smallest codec and system that a twin needs around it and nothing times."""

from calm_bench.codecs.base import Codec
from calm_bench.codecs.rvq import RvqCodec, RvqConfig
from calm_bench.codecs.trunk import TrunkConfig
from calm_bench.nn.depth import DepthConfig
from calm_bench.nn.transformer import TransformerConfig
from calm_bench.systems.rq import RqConfig, RqSystem


def stub_codec(n_codebooks: int, codebook_size: int) -> RvqCodec:
    """A codec of so many codebooks whose frames last 80 ms and mean nothing."""
    trunk = TrunkConfig(
        sample_rate=800,
        front_end="mel",
        hop=32,
        n_fft=64,
        n_mels=8,
        ratios=(2,),
        encoder_dims=(8, 8),
        encoder_blocks=(1, 1),
        decoder_dims=(8, 8),
        decoder_blocks=(1, 1),
    )
    shape = {"n_codebooks": n_codebooks, "codebook_size": codebook_size, "code_dim": 4}
    return RvqCodec(RvqConfig(trunk=trunk, **shape)).requires_grad_(False).eval()


def stub_system(codec: Codec) -> RqSystem:
    """A system of a few weights around a codec, because systems are what is made fast."""
    K, V = getattr(codec, "n_codebooks", 1), getattr(codec, "codebook_size", 1)
    config = RqConfig(
        backbone=TransformerConfig(dim=8, layers=1, heads=1, mlp_dim=8),
        depth=DepthConfig(dim=8, layers=1, heads=1, mlp_dim=8, schedule=tuple(range(K))),
        codebook_size=V,
    )
    return RqSystem(config, codec).requires_grad_(False).eval()
