"""Pocket TTS, Kyutai's released CALM, through the package pocket-tts (extra `kyutai`).

B batch, T frames, C latent channels, D width. What differs from our CALM:

* There is no inner monologue. Text is a prefix: the voice's latents first, then the tokens of all
  that is to be said, then latents. So it does not decide what to say: it reads the prompt's words
  and, after them, `say` of its config. Without `say` it has nothing to continue with.
* The prompt is given twice, as the voice and as the latents that the clip goes on from.
* One step of Lagrangian self-distillation (or a drifting head) in place of a consistency step;
  temperature is the noise's variance all the same. Guidance is distilled into the weights.
* It asks at every frame whether speech has ended. Clips here have a fixed length: that is ignored.
* Batch 1; a batch here is a loop.
"""

import logging
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from pydantic import Field
from torch import Tensor

from calm_bench.codecs.base import Codec
from calm_bench.errors import MissingExtraError, UnknownNameError
from calm_bench.systems.base import Prompt
from calm_bench.systems.released import ReleasedSystem, RowState, fetched, merged
from calm_bench.types import SamplingParams, StrictModel, TemperatureKind

FIRST_CAPACITY = 64  # frames of the streaming decoder's cache; it grows


class PocketConfig(StrictModel):
    """Which of the package's configurations, and what is to be said after the prompt.

    Attributes:
        shape: Changes to the configuration's sections; for random weights only.
    """

    name: str = "english"
    say: str = ""
    shape: dict[str, Any] = Field(default_factory=dict)


class PocketCodec(Codec):
    """Mimi as a VAE: normalised latents at 12.5 Hz."""

    continuous: ClassVar[bool] = True
    model: Any

    def __init__(self, model: Any) -> None:
        """Use a TTSModel's own codec; its weights stay the model's."""
        super().__init__()
        self.__dict__["model"] = model  # no submodule: the system holds it
        self.mimi = model.mimi
        self.sample_rate = int(model.mimi.sample_rate)
        self.hop_length = int(model.mimi.frame_size)
        self.positions = round(model.mimi.encoder_frame_rate / model.mimi.frame_rate)

    def encode(self, wave: Tensor) -> Tensor:
        lm = self.model.flow_lm
        if wave.shape[-1] == 0:
            return wave.new_zeros(len(wave), 0, lm.ldim)
        latents: Tensor = (self.mimi.encode_to_latent(wave[:, None]) - lm.emb_mean) / lm.emb_std
        return latents

    def decode(self, frames: Tensor) -> Tensor:
        return self._decode(frames, self._state(len(frames), frames.shape[1]))

    def start_decoding(self, batch_size: int) -> dict[str, Any]:
        state = self._state(batch_size, FIRST_CAPACITY)
        return {"state": state, "capacity": FIRST_CAPACITY, "frames": 0}

    def decode_step(self, frame: Tensor, state: dict[str, Any]) -> Tensor:
        if state["frames"] == state["capacity"]:
            state["capacity"] *= 2
            self.model._expand_kv_cache(state["state"], state["capacity"] * self.positions)
        state["frames"] += 1
        return self._decode(frame[:, None], state["state"])

    def _state(self, batch_size: int, frames: int) -> Any:
        from pocket_tts.modules.stateful_module import init_states

        return init_states(self.mimi, batch_size, max(1, frames) * self.positions)

    def _decode(self, frames: Tensor, state: Any) -> Tensor:
        from pocket_tts.modules.stateful_module import increment_steps

        lm = self.model.flow_lm
        wave: Tensor = self.mimi.decode_from_latent(frames * lm.emb_std + lm.emb_mean, state)
        increment_steps(self.mimi, state, self.positions * frames.shape[1])
        return wave[:, 0]


class PocketSystem(ReleasedSystem):
    """Pocket TTS, the released CALM: reads a text in the voice of the prompt (extra `kyutai`)."""

    Architecture: ClassVar[type[StrictModel]] = PocketConfig
    temperature_kind: ClassVar[TemperatureKind] = "noise_variance"

    def __init__(
        self, config: PocketConfig, folder: Path | None = None, release: str | None = None
    ) -> None:
        """Load the released weights; without a release, random ones.

        Raises:
            MissingExtraError: If the package is not installed.
            WeightsError: If the weights cannot be had.
        """
        super().__init__()
        self.config = config
        model = _load(config, release).requires_grad_(False).eval()
        self.codec = PocketCodec(model)
        self.model = model

    def nfe(self, sampling: SamplingParams) -> int:
        """One: the head was distilled to a single step."""
        return 1

    def draw(self, n_frames: int, sampling: SamplingParams, generator: torch.Generator) -> Tensor:
        """Noise [n_frames, C] of standard deviation sqrt(temperature)."""
        shape = (n_frames, self.model.flow_lm.ldim)
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return noise * math.sqrt(sampling.temperature)

    def open_row(self, row: RowState, prompt: Prompt, n_frames: int) -> None:
        """Voice, text, the start of the latents, and the prompt's latents but the last."""
        from pocket_tts.modules.stateful_module import init_states

        lm = self.model.flow_lm
        voice = (row.given * lm.emb_std + lm.emb_mean)[None] @ lm.speaker_proj_weight.T
        if lm.insert_bos_before_voice:
            voice = torch.cat([lm.bos_before_voice, voice], dim=1)
        text = " ".join([*(word.word for word in prompt.words), self.config.say]).strip()
        said = [lm.conditioner(lm.conditioner.prepare(text))] if text else []
        before = torch.cat([voice, *said], dim=1)
        length = before.shape[1] + 1 + len(row.given) + n_frames
        unread = torch.cat([lm.bos_emb[None], row.given])
        row.memory = {"state": init_states(lm, 1, length), "unread": unread}
        if before.shape[1]:
            self._read(row, before, before.new_empty(1, 0, lm.ldim))

    def _read(self, row: RowState, before: Tensor, latents: Tensor) -> Tensor:
        """The backbone over a prefix [1, N, D] and latents [1, T, C]; the cache moves on."""
        from pocket_tts.modules.stateful_module import increment_steps

        lm, state = self.model.flow_lm, row.memory["state"]
        z: Tensor = lm.backbone(lm.input_linear(latents), before, latents, model_state=state)
        increment_steps(lm, state, before.shape[1] + latents.shape[1])
        return z

    def advance_row(self, row: RowState) -> Tensor:
        """Read what has not been read, at least one latent: the context [D]."""
        unread = (row.made[-1][None] if row.made else row.memory["unread"])[None]
        z = self._read(row, unread.new_empty(1, 0, self.model.flow_lm.dim), unread)
        return z[0, -1]

    def draw_row(self, row: RowState, z: Tensor) -> Tensor:
        """The latent [C], by the package's own sampler from our noise."""
        from pocket_tts.models import flow_lm as package

        lm = self.model.flow_lm
        decode = {
            "lsd": package.lsd_decode,
            "drifting": package.drifting_decode,
            "pointwise": package.pointwise_decode,
            "flow_matching": package.ot_decode,
        }[lm.flow_type]
        steps = self.model.sampler_decode_steps
        frame: Tensor = decode(partial(lm.flow_net, z[None]), row.draws[len(row.made)][None], steps)
        return frame[0]


def _load(config: PocketConfig, release: str | None) -> Any:
    try:
        from pocket_tts import TTSModel
    except ModuleNotFoundError as error:
        raise MissingExtraError("Pocket TTS", "kyutai", "pocket-tts") from error
    if config.name not in (known := _shipped()):
        raise UnknownNameError("configuration of Pocket TTS", config.name, sorted(known))
    threads = torch.get_num_threads()
    try:
        if release is not None:
            return fetched(release, lambda: TTSModel.load_model(language=config.name))
        return at_random(merged(shipped_config(config.name), config.shape))
    finally:
        torch.set_num_threads(threads)  # importing the package sets one


END_THRESHOLD = 1e9  # no clip ends before its time


def _shipped() -> dict[str, Path]:
    import pocket_tts

    folder = Path(pocket_tts.__file__).parent / "config"
    return {path.stem: path for path in folder.glob("*.yaml")}


def shipped_config(name: str) -> dict[str, Any]:
    """A shipped configuration of the package without weights, tokenizer path left open."""
    config: dict[str, Any] = yaml.safe_load(_shipped()[name].read_text(encoding="utf-8"))
    config["weights_path"] = config["weights_path_without_voice_cloning"] = None
    return config


def at_random(config: dict[str, Any], *, quantize: bool = False) -> Any:
    """The package's TTSModel with random weights: no network, no files that stay.

    `quantize` asks for its own int8 mode: dynamic linears in attention and MLP of the backbone.
    """
    from pocket_tts import TTSModel

    with tempfile.TemporaryDirectory() as folder:
        table = config["flow_lm"]["lookup_table"]
        table["tokenizer"] = "tokenizers"
        table["tokenizer_path"] = _tokenizer(Path(folder) / "tokenizer.json", table["n_bins"])
        path = Path(folder) / "model.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        threads = torch.get_num_threads()
        logging.getLogger("pocket_tts").setLevel(logging.ERROR)  # random weights are on purpose
        model = TTSModel.load_model(config=path, eos_threshold=END_THRESHOLD, quantize=quantize)
        torch.set_num_threads(threads)  # importing the package sets one
    return model.requires_grad_(False).eval()


def _tokenizer(path: Path, size: int) -> str:
    """A tokenizer of letters and as many made-up words as the package's table has rows."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<unk>", *map(chr, range(32, 127))]
    words = [*words, *(f"w{i}" for i in range(size))][:size]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(path))
    return str(path)
