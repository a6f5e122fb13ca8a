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
from calm_bench.systems.released import ReleasedSystem, Row, fetched
from calm_bench.types import SamplingParams, StrictModel, TemperatureKind

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

    Architecture: ClassVar[type[StrictModel]] = ReleasedMusicGenConfig
    continuous: ClassVar[bool] = False
    model: Any

    def __init__(self, model: Any, n_codebooks: int) -> None:
        """Wrap the package's audio encoder."""
        super().__init__()
        self.model, self.n_codebooks = model, n_codebooks
        self.codebook_size = int(model.config.codebook_size)
        self.sample_rate = int(model.config.sampling_rate)
        self.hop_length = int(torch.tensor(model.config.upsampling_ratios).prod())

    def encode(self, wave: Tensor) -> Tensor:
        """Audio [B, S] to codes [B, K, T]."""
        lack = -wave.shape[-1] % self.hop_length
        wave = torch.nn.functional.pad(wave, (0, lack))
        if wave.shape[-1] == 0:
            return wave.new_zeros(len(wave), self.n_codebooks, 0, dtype=torch.long)
        codes: Tensor = self.model.encode(wave[:, None]).audio_codes[0]
        return codes[:, : self.n_codebooks]

    def decode(self, frames: Tensor) -> Tensor:
        """Codes [B, K, T] to audio [B, S]."""
        wave: Tensor = self.model.decode(frames[None], [None]).audio_values
        return wave[:, 0, : frames.shape[2] * self.hop_length]

    def start_decoding(self, batch_size: int) -> list[Tensor]:
        """The last frames; none so far."""
        return []

    def decode_step(self, frame: Tensor, state: list[Tensor]) -> Tensor:
        """The last hop of the window's audio, [B, hop_length]."""
        state.append(frame)
        del state[:-WINDOW]
        return self.decode(torch.stack(state, dim=2))[:, -self.hop_length :]


class ReleasedMusicGen(ReleasedSystem):
    """Meta's released MusicGen, continuing audio without a description (extra `llm`)."""

    Architecture: ClassVar[type[StrictModel]] = ReleasedMusicGenConfig
    temperature_kind: ClassVar[TemperatureKind] = "softmax_divisor"
    model: Any

    def __init__(
        self,
        config: ReleasedMusicGenConfig,
        folder: Path | None = None,
        release: str | None = None,
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
        self.lead, self.special = self.pattern.extra, self.model.decoder.config.vocab_size

    def nfe(self, sampling: SamplingParams) -> int:
        """One: all codebooks are drawn at once."""
        return 1

    def draw(self, n_frames: int, sampling: SamplingParams, generator: torch.Generator) -> Tensor:
        """Uniform numbers [S, K]."""
        shape = (n_frames + self.lead, self.lead + 1)
        return torch.rand(shape, generator=generator, device=generator.device)

    def open_row(self, row: Row, prompt: Prompt, n_frames: int) -> None:
        """Lay the prompt out as a stream, read it, and take the steps before the first frame."""
        from transformers import DynamicCache, EncoderDecoderCache

        P, total = len(row.given), len(row.given) + n_frames
        known = row.given.new_full((1, total, self.lead + 1), self.special)
        known[0, :P] = row.given
        D = self.model.decoder.config.hidden_size
        row.memory = {
            "stream": self.pattern.apply(known, self.special)[0],
            "free": self.pattern.table(total, self.device) >= P,
            "cache": EncoderDecoderCache(DynamicCache(), DynamicCache()),
            "text": torch.zeros(1, 1, D, device=self.device),
            "mask": torch.zeros(1, 1, dtype=torch.long, device=self.device),
            "prompt": P,
            "at": 0,
        }
        if P:
            self._read(row, P)
        for _ in range(self.lead):
            self._codes(row, self.advance_row(row))

    def _read(self, row: Row, last: int) -> Tensor:
        """Steps up to `last` that have not been taken: what the decoder makes of the last one."""
        memory = row.memory
        stream = memory["stream"]
        start = torch.full_like(stream[:1], self.special)
        inputs = torch.cat([start, stream])[memory["at"] : last]  # [N, K]
        found = self.model.decoder.model.decoder(
            input_ids=inputs.T,
            encoder_hidden_states=memory["text"],
            encoder_attention_mask=memory["mask"],
            past_key_values=memory["cache"],
            use_cache=True,
        )
        memory["at"] = last
        z: Tensor = found.last_hidden_state[0, -1]
        return z

    def advance_row(self, row: Row) -> Tensor:
        """One step of the decoder: the context [D]."""
        return self._read(row, row.memory["at"] + 1)

    def draw_row(self, row: Row, z: Tensor) -> Tensor:
        """Draw the step's codes; the frame [K] that they complete."""
        self._codes(row, z)
        memory = row.memory
        return self.pattern.frame(memory["stream"][None], memory["at"] - 1 - self.lead)[0]

    def _codes(self, row: Row, z: Tensor) -> None:
        memory = row.memory
        i = memory["at"] - 1
        choose = Chooser(row.sampling.temperature, row.sampling.top_k)
        logits = torch.stack([head(z) for head in self.model.decoder.lm_heads])  # [K, V]
        drawn = choose(logits, row.draws[i - memory["prompt"]])
        stream = memory["stream"]
        stream[i] = torch.where(memory["free"][i], drawn, stream[i])


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
