"""Moshi and Mimi, the released RQ-Transformer for speech, through the package moshi.

T frames, S steps, K codebooks, V codebook size, D width. What differs from our RQ-Transformer:

* Moshi is duplex: it reads a second speaker's codes beside its own. Here nobody else speaks: that
  stream is Mimi's codes of silence, and only its own stream is continued and heard.
* Its text is padded by tokens of its own (3, and 0 before a word) and leads by no frame: the token
  of a step is drawn before the step's codes and decides them. Words of the prompt stand at their
  onsets, as in its training.
* All levels but the first come one step later (`nn/delay.py`): one step is taken in `start`.
* It was trained on dialogue, so continuing a story is not what it does best.

The package pins torch < 2.10 and is no extra: benchmarks/peers.sh prepares an environment with it.
"""

import os
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from calm_bench.codecs.base import Codec
from calm_bench.errors import BenchError
from calm_bench.nn.delay import DelayPattern
from calm_bench.nn.depth import Chooser
from calm_bench.systems.base import Prompt
from calm_bench.systems.released import ReleasedSystem, Row, fetched
from calm_bench.systems.streaming import TEXT_TOP_K
from calm_bench.types import SamplingParams, StrictModel, TemperatureKind, TimedWord


class MoshiConfig(StrictModel):
    """Shapes of language model and codec, as the package names them; for random weights only."""

    lm: dict[str, Any] = Field(default_factory=dict)
    mimi: dict[str, Any] = Field(default_factory=dict)


class MimiCodec(Codec):
    """Mimi: codes of a split residual quantiser at 12.5 Hz."""

    Architecture: ClassVar[type[StrictModel]] = MoshiConfig
    continuous: ClassVar[bool] = False
    mimi: Any

    def __init__(self, mimi: Any) -> None:
        """Wrap the package's model."""
        super().__init__()
        self.mimi = mimi
        self.sample_rate, self.hop_length = int(mimi.sample_rate), int(mimi.frame_size)
        self.n_codebooks, self.codebook_size = mimi.num_codebooks, mimi.cardinality

    def encode(self, wave: Tensor) -> Tensor:
        """Audio [B, S] to codes [B, K, T]."""
        if wave.shape[-1] == 0:
            return wave.new_zeros(len(wave), self.n_codebooks, 0, dtype=torch.long)
        codes: Tensor = self.mimi.encode(wave[:, None])
        return codes

    def decode(self, frames: Tensor) -> Tensor:
        """Codes [B, K, T] to audio [B, S]."""
        wave: Tensor = self.mimi.decode(frames)
        return wave[:, 0]

    def start_decoding(self, batch_size: int) -> Any:
        """A streaming state of the package's, taken out of its modules."""
        with self.mimi.streaming(batch_size):
            return self.mimi.get_streaming_state()

    def decode_step(self, frame: Tensor, state: Any) -> Tensor:
        """One frame [B, K] to audio [B, hop_length]."""
        with self.mimi.streaming(len(frame)):
            self.mimi.set_streaming_state(state)
            wave: Tensor = self.mimi.decode(frame[..., None])
        return wave[:, 0]


class MoshiSystem(ReleasedSystem):
    """Moshi 7B with Mimi, its own stream only (package moshi, see benchmarks/peers.sh)."""

    Architecture: ClassVar[type[StrictModel]] = MoshiConfig
    temperature_kind: ClassVar[TemperatureKind] = "softmax_divisor"
    lm: Any

    def __init__(
        self, config: MoshiConfig, folder: Path | None = None, release: str | None = None
    ) -> None:
        """Load the released weights of a hub repository; without a release, random ones.

        Raises:
            BenchError: If the package is not installed.
            WeightsError: If the weights cannot be had.
        """
        super().__init__()
        lm, mimi, self.tokenizer = _load(config, release)
        self.lm = lm.requires_grad_(False).eval()
        self.codec = MimiCodec(mimi.requires_grad_(False).eval())
        self.pattern = DelayPattern(lm.delays[1 : 1 + lm.dep_q])
        self.lead = self.pattern.extra
        self.others = lm.n_q - lm.dep_q

    def nfe(self, sampling: SamplingParams) -> int:
        """One evaluation per codebook."""
        return int(self.lm.dep_q)

    def draw(self, n_frames: int, sampling: SamplingParams, generator: torch.Generator) -> Tensor:
        """Uniform numbers [S, 1 + K]: the text's first."""
        shape = (n_frames + self.lead, 1 + self.lm.dep_q)
        return torch.rand(shape, generator=generator, device=generator.device)

    # -- a row ---------------------------------------------------------------------------------

    def open_row(self, row: Row, prompt: Prompt, n_frames: int) -> None:
        """Lay out all streams, read the prompt, and take the steps that lead the first frame."""
        P, K, card = len(row.given), self.lm.dep_q, self.lm.card
        total = P + n_frames
        known = row.given.new_full((1, total, K), card)
        known[0, :P] = row.given
        stream = self.pattern.apply(known, card)[0]  # [S, K]
        table = self.pattern.table(total, self.device)
        text = torch.full((len(stream),), self.lm.text_padding_token_id, device=self.device)
        _write_words(text[:P], prompt.words, self.tokenizer, self.codec.frame_rate, self.lm)
        with self.lm.transformer.streaming(1):
            streaming = self.lm.transformer.get_streaming_state()
        row.memory = {
            "streaming": streaming,
            "stream": stream,
            "free": table >= P,
            "text": text,
            "others": self._others(len(stream)),
            "prompt": P,
            "at": 0,
        }
        if P:
            self._read(row, 0, P)
        for _ in range(self.lead):
            self._codes(row, self.advance_row(row))

    def _others(self, steps: int) -> Tensor:
        """What the second speaker says: codes of silence [S, K'], delayed as they must be."""
        silence = torch.zeros(1, self.codec.hop_length * 2, device=self.device)
        code = self.codec.encode(silence)[0, : self.others, -1:].T  # [1, K']
        return code.expand(steps, -1)

    def _read(self, row: Row, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Steps first..last-1 of the backbone: contexts [N, D] and text logits [N, V]."""
        memory = row.memory
        streams = [memory["text"][:, None], memory["stream"], memory["others"]]
        columns = torch.cat(streams, dim=1)  # [S, 1 + n_q]
        start = self.lm._get_initial_token()[0].T  # [1, 1 + n_q]
        inputs = torch.cat([start, columns])[first:last]
        with self.lm.transformer.streaming(1):
            self.lm.transformer.set_streaming_state(memory["streaming"])
            z, logits = self.lm.forward_text(inputs.T[None])
        memory["at"] = last
        return z[0], logits[0, 0]

    def advance_row(self, row: Row) -> Tensor:
        """One step of the backbone, and its text token: the context [D]."""
        memory = row.memory
        i = memory["at"]
        z, logits = self._read(row, i, i + 1)
        choose = Chooser(row.sampling.text_temperature, TEXT_TOP_K if row.sampling.top_k else 0)
        draw = row.draws[i - memory["prompt"], :1]
        memory["text"][i] = choose(logits, draw)[0]
        return z[0]

    def draw_row(self, row: Row, z: Tensor) -> Tensor:
        """Draw the step's codes; the frame [K] that they complete."""
        self._codes(row, z)
        stream, at = row.memory["stream"], row.memory["at"]
        return self.pattern.frame(stream[None], at - 1 - self.lead)[0]

    def _codes(self, row: Row, z: Tensor) -> None:
        """All levels of the step just taken, one after another; known codes stay."""
        memory, lm = row.memory, self.lm
        i = memory["at"] - 1
        choose = Chooser(row.sampling.temperature, row.sampling.top_k)
        draws = row.draws[i - memory["prompt"], 1:]
        previous = memory["text"][i]
        with lm.depformer.streaming(1):
            for level in range(lm.dep_q):
                logits = lm.forward_depformer(level, previous.view(1, 1, 1), z.view(1, 1, -1))
                drawn = choose(logits[0, 0], draws[level : level + 1])[0]
                known = memory["stream"][i, level]
                previous = torch.where(memory["free"][i, level], drawn, known)
                memory["stream"][i, level] = previous


def _write_words(
    text: Tensor, words: tuple[TimedWord, ...], tokenizer: Any, frame_rate: float, lm: Any
) -> None:
    """Words into a padded stream [P], each at its onset or after the one before."""
    free = 0
    for word in words:
        at = max(free, int(word.start * frame_rate + 1e-6))
        tokens = tokenizer(word.word)[: max(0, len(text) - at)]
        if at - 1 >= free and tokens:
            text[at - 1] = lm.end_of_text_padding_id
        text[at : at + len(tokens)] = torch.tensor(tokens, dtype=text.dtype, device=text.device)
        free = at + len(tokens)


def _load(config: MoshiConfig, release: str | None) -> tuple[Any, Any, Any]:
    """Language model, codec, and a function from a word to its tokens."""
    os.environ.setdefault("NO_TORCH_COMPILE", "1")  # on a CPU it would compile one norm
    try:
        from moshi.models import loaders
    except ModuleNotFoundError as error:
        raise BenchError(
            "Moshi needs the package moshi, which is not installed and pins torch < 2.10: "
            "benchmarks/peers.sh prepares an environment with it"
        ) from error
    if release is not None:
        info = fetched(release, lambda: loaders.CheckpointInfo.from_hf_repo(release))
        lm = fetched(release, info.get_moshi)
        pieces = info.get_text_tokenizer()
        return lm, info.get_mimi(), lambda word: pieces.encode(word, out_type=int)
    shape = dict(loaders._lm_kwargs) | config.lm
    lm = loaders.get_moshi_lm(None, lm_kwargs=shape, device="cpu", dtype=torch.float32)
    parts = {name: loaders._mimi_config[name] for name in loaders._mimi_config}
    for name, changes in config.mimi.items():
        old = parts[name]
        parts[name] = old | changes if isinstance(old, dict) else changes
    K = max(shape["dep_q"], shape["n_q"] - shape["dep_q"])
    mimi = loaders.get_mimi(None, parts, device="cpu", num_codebooks=K)
    for module in mimi.modules():
        if hasattr(module, "embedding_sum"):  # codebooks are zero at first
            module.embedding_sum.normal_()
            module.cluster_usage.fill_(1.0)
            module._initialized.fill_(1)
    return lm, mimi, lambda word: [4 + ord(letter) % (shape["text_card"] - 4) for letter in word]
