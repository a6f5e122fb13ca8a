"""MusicGen as Meta released it, through transformers (extra `llm`).

T frames, S steps, K codebooks, D width. What differs from our retrained MusicGen:

* It was trained to follow a description. Here it continues audio without one, by its own
  unconditional input: a single masked text state. Guidance, which needs a description, is off.
* Its codec, EnCodec at 32 kHz and 50 Hz, is not causal: what a stream hears of a frame is the end
  of a window of WINDOW frames and not quite what the whole clip will say.
* Batch 1; a batch here is a loop.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from calm_bench.codecs.base import Codec
from calm_bench.errors import MissingExtraError
from calm_bench.nn.delay import DelayPattern
from calm_bench.nn.depth import Chooser
from calm_bench.systems.base import Prompt
from calm_bench.systems.released import DelayedSystem, RowState, fetched
from calm_bench.types import SamplingParams, StrictModel

WINDOW = 50  # frames


class ReleasedMusicGenConfig(StrictModel):
    """Shapes of decoder, codec and text encoder, as transformers names them; random weights only.

    `text_encoder` is never run; transformers wants one to be described.
    """

    decoder: dict[str, Any] = Field(default_factory=dict)
    codec: dict[str, Any] = Field(default_factory=dict)
    text_encoder: dict[str, Any] = Field(default_factory=dict)


class EncodecCodec(Codec):
    """EnCodec inside of MusicGen: codes of a residual quantiser at 50 Hz."""

    continuous: ClassVar[bool] = False

    def __init__(self, model: Any, n_codebooks: int) -> None:
        super().__init__()
        self.model, self.n_codebooks = model, n_codebooks
        self.codebook_size = int(model.config.codebook_size)
        self.sample_rate = int(model.config.sampling_rate)
        self.hop_length = int(torch.tensor(model.config.upsampling_ratios).prod())

    def encode(self, wave: Tensor) -> Tensor:
        lack = -wave.shape[-1] % self.hop_length
        wave = torch.nn.functional.pad(wave, (0, lack))
        if wave.shape[-1] == 0:
            return wave.new_zeros(len(wave), self.n_codebooks, 0, dtype=torch.long)
        codes: Tensor = self.model.encode(wave[:, None]).audio_codes[0]
        return codes[:, : self.n_codebooks]

    def decode(self, frames: Tensor) -> Tensor:
        wave: Tensor = self.model.decode(frames[None], [None]).audio_values
        return wave[:, 0, : frames.shape[2] * self.hop_length]

    def start_decoding(self, batch_size: int) -> list[Tensor]:
        return []

    def decode_step(self, frame: Tensor, state: list[Tensor]) -> Tensor:
        """The last hop of the window's audio, [B, hop_length]."""
        state.append(frame)
        del state[:-WINDOW]
        return self.decode(torch.stack(state, dim=2))[:, -self.hop_length :]


class ReleasedMusicGen(DelayedSystem):
    """Meta's released MusicGen, continuing audio without a description (extra `llm`)."""

    Architecture: ClassVar[type[StrictModel]] = ReleasedMusicGenConfig

    def __init__(
        self, config: ReleasedMusicGenConfig, folder: Path | None = None, release: str | None = None
    ) -> None:
        """Load the released weights of a hub repository; without a release, random ones.

        Raises:
            MissingExtraError: If the package is not installed.
            WeightsError: If the weights cannot be had.
        """
        super().__init__()
        model = _load(config, release).requires_grad_(False).eval()
        K = model.decoder.config.num_codebooks
        self.codec = EncodecCodec(model.audio_encoder, K)
        self.model = model
        self.pattern = DelayPattern(range(K))
        self.special, self.draws_per_step = model.decoder.config.vocab_size, K

    def nfe(self, sampling: SamplingParams) -> int:
        return 1

    def keep(self, row: RowState, prompt: Prompt, steps: int) -> dict[str, Any]:
        """The package's cache, and its single masked text state."""
        from transformers import DynamicCache, EncoderDecoderCache

        D = self.model.decoder.config.hidden_size
        return {
            "past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache()),
            "encoder_hidden_states": torch.zeros(1, 1, D, device=self.device),
            "encoder_attention_mask": torch.zeros(1, 1, dtype=torch.long, device=self.device),
        }

    def read(self, row: RowState, last: int) -> Tensor:
        codes = row.memory.codes
        start = torch.full_like(codes[:1], self.special)
        inputs = torch.cat([start, codes])[row.memory.at : last]  # [N, K]
        decoder = self.model.decoder.model.decoder
        found = decoder(input_ids=inputs.T, use_cache=True, **row.memory.kept)
        z: Tensor = found.last_hidden_state[0, -1]
        return z

    def draw_codes(self, row: RowState, z: Tensor, step: int) -> None:
        choose = Chooser(row.sampling.temperature, row.sampling.top_k)
        logits = torch.stack([head(z) for head in self.model.decoder.lm_heads])  # [K, V]
        drawn = choose(logits, row.draws[step - len(row.given)])
        codes, free = row.memory.codes, row.memory.free
        codes[step] = torch.where(free[step], drawn, codes[step])


def _load(config: ReleasedMusicGenConfig, release: str | None) -> Any:
    try:
        from transformers import MusicgenConfig, MusicgenForConditionalGeneration
    except ModuleNotFoundError as error:
        raise MissingExtraError("MusicGen", "llm", "transformers") from error
    if release is not None:
        return fetched(release, lambda: MusicgenForConditionalGeneration.from_pretrained(release))
    special = config.decoder["vocab_size"]
    shape = MusicgenConfig(
        text_encoder=config.text_encoder | {"model_type": "t5"},
        audio_encoder=config.codec | {"model_type": "encodec"},
        decoder=config.decoder | {"pad_token_id": special, "bos_token_id": special},
    )
    model = MusicgenForConditionalGeneration(shape)
    for layer in model.audio_encoder.quantizer.layers:
        layer.codebook.embed.normal_()  # codebooks are zero at first
    return model
