"""What VAE and RVQ codecs share: the trunk, framing, and streaming decoding.

B batch, S samples, T frames, C latent channels.
"""

from abc import abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.codecs.base import Codec
from calm_bench.codecs.flat import FlatDecoder
from calm_bench.codecs.trunk import Decoder, Encoder, TrunkConfig
from calm_bench.nn.causal import Stream


class Autoencoder(Codec):
    """Encoder, bottleneck and decoder; subclasses say what a frame is."""

    def __init__(self, trunk: TrunkConfig, latent_in: int, latent_out: int) -> None:
        """`latent_in` channels leave the encoder, `latent_out` enter the decoder."""
        super().__init__()
        self.sample_rate = trunk.sample_rate
        self.hop_length = trunk.hop_length
        self.encoder = Encoder(trunk)
        self.to_latent = nn.Linear(trunk.width(trunk.encoder_dims), latent_in)
        self.from_latent = nn.Linear(latent_out, trunk.width(trunk.decoder_dims))
        self.decoder = Decoder(trunk)
        self.flat: FlatDecoder | None = None

    def prepare(self) -> None:
        """Pack the decoder's weights."""
        self.flat = FlatDecoder(self.from_latent, self.decoder)

    def weight_bytes(self) -> int:
        return 0 if self.flat is None else self.flat.nbytes

    def kv_bytes(self, position: int) -> int:
        return 0 if self.flat is None else self.flat.kv_bytes(position)

    def pad(self, wave: Tensor) -> Tensor:
        """Append zeros up to a whole number of frames."""
        return F.pad(wave, (0, -wave.shape[-1] % self.hop_length))

    @abstractmethod
    def dequantise(self, frames: Tensor) -> Tensor:
        """Frames of a clip to the vectors [B, T, C] that the decoder takes."""

    def decode_latents(self, latents: Tensor, stream: Stream | None = None) -> Tensor:
        """Vectors [B, T, C] as they left the bottleneck to audio [B, T * hop_length]."""
        if self.flat is not None and stream is not None:
            return self.flat(latents, stream)
        if self.flat is not None and latents.is_cpu:
            return self.flat.whole(latents)
        wave: Tensor = self.decoder(self.from_latent(latents), stream)
        return wave

    def decode(self, frames: Tensor) -> Tensor:
        """All frames of a clip to audio [B, T * hop_length]."""
        return self.decode_latents(self.dequantise(frames))

    def start_decoding(self, batch_size: int) -> Stream:
        """An empty stream: the clip begins after silence."""
        return {}

    def decode_step(self, frame: Tensor, state: Stream) -> Tensor:
        """One frame, [B, C] or [B, K], to audio [B, hop_length]."""
        return self.decode_steps(frame[:, None], state)

    def decode_steps(self, frames: Tensor, state: Stream) -> Tensor:
        """T frames, [B, T, C] or [B, T, K], to audio [B, T * hop_length]."""
        frames = frames if self.continuous else frames.transpose(1, 2)
        return self.decode_latents(self.dequantise(frames), state)
