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

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from calm_bench.codecs.base import Codec
from calm_bench.errors import BenchError
from calm_bench.nn.delay import DelayPattern
from calm_bench.nn.depth import Chooser
from calm_bench.systems.base import Prompt
from calm_bench.systems.monologue import write_words
from calm_bench.systems.released import DelayedSystem, RowState, fetched, merged
from calm_bench.systems.streaming import text_top_k
from calm_bench.types import SamplingParams, StrictModel


class MoshiConfig(StrictModel):
    """Shapes of language model and codec, as the package names them; for random weights only."""

    lm: dict[str, Any] = Field(default_factory=dict)
    mimi: dict[str, Any] = Field(default_factory=dict)


class MimiCodec(Codec):
    """Mimi: codes of a split residual quantiser at 12.5 Hz."""

    continuous: ClassVar[bool] = False

    def __init__(self, mimi: Any) -> None:
        super().__init__()
        self.mimi = mimi
        self.sample_rate, self.hop_length = int(mimi.sample_rate), int(mimi.frame_size)
        self.n_codebooks, self.codebook_size = mimi.num_codebooks, mimi.cardinality

    def encode(self, wave: Tensor) -> Tensor:
        if wave.shape[-1] == 0:
            return wave.new_zeros(len(wave), self.n_codebooks, 0, dtype=torch.long)
        codes: Tensor = self.mimi.encode(wave[:, None])
        return codes

    def decode(self, frames: Tensor) -> Tensor:
        wave: Tensor = self.mimi.decode(frames)
        return wave[:, 0]

    def start_decoding(self, batch_size: int) -> Any:
        with self.mimi.streaming(batch_size):
            return self.mimi.get_streaming_state()

    def decode_step(self, frame: Tensor, state: Any) -> Tensor:
        with self.mimi.streaming(len(frame)):
            self.mimi.set_streaming_state(state)
            wave: Tensor = self.mimi.decode(frame[..., None])
        return wave[:, 0]


class MoshiSystem(DelayedSystem):
    """Moshi 7B with Mimi, its own stream only (package moshi, see benchmarks/peers.sh)."""

    Architecture: ClassVar[type[StrictModel]] = MoshiConfig
    own_text: ClassVar[bool] = True

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
        self.special, self.draws_per_step = lm.card, 1 + lm.dep_q  # the text's first
        self.others = lm.n_q - lm.dep_q

    def nfe(self, sampling: SamplingParams) -> int:
        return int(self.lm.dep_q)

    def keep(self, row: RowState, prompt: Prompt, steps: int) -> dict[str, Any]:
        """The streams beside the row's own codes, and the package's state."""
        text = torch.full((steps,), self.lm.text_padding_token_id, device=self.device)
        given = np.full(len(row.given), self.lm.text_padding_token_id)
        epad, rate = self.lm.end_of_text_padding_id, self.codec.frame_rate
        write_words(given, prompt.words, rate, self.tokenizer, epad)
        text[: len(given)] = torch.from_numpy(given)
        with self.lm.transformer.streaming(1):
            streaming = self.lm.transformer.get_streaming_state()
        # The second speaker says codes of silence, delayed as they must be.
        silence = torch.zeros(1, self.codec.hop_length * 2, device=self.device)
        code = self.codec.encode(silence)[0, : self.others, -1:].T  # [1, K']
        return {"streaming": streaming, "text": text, "others": code.expand(steps, -1)}

    def read(self, row: RowState, last: int) -> Tensor:
        """Read steps; the last one's text token is drawn where the prompt does not decide it."""
        kept, prompt = row.memory.kept, len(row.given)
        columns = torch.cat([kept["text"][:, None], row.memory.codes, kept["others"]], dim=1)
        start = self.lm._get_initial_token()[0].T  # [1, 1 + n_q]
        inputs = torch.cat([start, columns])[row.memory.at : last]
        with self.lm.transformer.streaming(1):
            self.lm.transformer.set_streaming_state(kept["streaming"])
            z, logits = self.lm.forward_text(inputs.T[None])
        if last > prompt:
            choose = Chooser(row.sampling.text_temperature, text_top_k(row.sampling))
            draw = row.draws[last - 1 - prompt, :1]
            kept["text"][last - 1] = choose(logits[0, 0], draw)[0]
        context: Tensor = z[0, -1]
        return context

    def draw_codes(self, row: RowState, z: Tensor, step: int) -> None:
        memory, lm = row.memory, self.lm
        choose = Chooser(row.sampling.temperature, row.sampling.top_k)
        draws = row.draws[step - len(row.given), 1:]
        previous = memory.kept["text"][step]
        with lm.depformer.streaming(1):
            for level in range(lm.dep_q):
                logits = lm.forward_depformer(level, previous.view(1, 1, 1), z.view(1, 1, -1))
                drawn = choose(logits[0, 0], draws[level : level + 1])[0]
                known = memory.codes[step, level]
                previous = torch.where(memory.free[step, level], drawn, known)
                memory.codes[step, level] = previous


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
    parts = merged(dict(loaders._mimi_config), config.mimi)
    K = max(shape["dep_q"], shape["n_q"] - shape["dep_q"])
    mimi = loaders.get_mimi(None, parts, device="cpu", num_codebooks=K)
    draw_codebooks(mimi)
    return lm, mimi, lambda word: [4 + ord(letter) % (shape["text_card"] - 4) for letter in word]


def draw_codebooks(mimi: Any) -> None:
    """Draw the codebooks of a Mimi without weights, which are zero at first."""
    for module in mimi.modules():
        if hasattr(module, "embedding_sum"):
            module.embedding_sum.normal_()
            module.cluster_usage.fill_(1.0)
            module._initialized.fill_(1)
