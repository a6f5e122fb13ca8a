"""What the systems share: text and audio streams through one causal backbone.

B batch, T frames, D width, C latent channels, K codebooks. A system is `StreamingSystem` plus a
head.

Streams: step i reads text y[i-1] and audio x[i-1-lead], and predicts y[i] and
x[i-lead]. So text leads audio by `lead` frames, and T frames take T + lead steps. Before its first
frame a stream reads its learned BOS. Without a text stream lead is 0.

`FlatSteps` is a frame's arithmetic on packed weights. Streams, delays and all bookkeeping stay with
the systems; `systems/engine.py` puts in the place of the modules' own

    read         prompt inputs into the key-value cache
    frame_input  a frame to what the backbone reads
    step         the backbone, and the text token
    new_head     what takes contexts to the next frame

and for music `read_window`, the short context. Each agrees with the module's, within 1e-4 at fp32.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.codecs.base import Codec
from calm_bench.core.paths import FileName
from calm_bench.errors import InputError
from calm_bench.nn.depth import Chooser, draw_tokens
from calm_bench.nn.kernels import pack
from calm_bench.nn.product import Product, discard
from calm_bench.nn.transformer import FlatTransformer, KvCache, Transformer, TransformerConfig
from calm_bench.systems.base import Generation, Prompt, System
from calm_bench.systems.monologue import FREE, SPECIALS, TextStream
from calm_bench.types import Precision, SamplingParams, StrictModel, TemperatureKind, TimedWord

Head = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Contexts [B, D], a frame's random numbers and text tokens [B] to the frame, [B, C] or [B, K]."""

TEXT_TOP_K = 25  # Moshi's default for the text stream


def text_top_k(sampling: SamplingParams) -> int:
    """The text stream's top-k; off where that of the audio is."""
    return TEXT_TOP_K if sampling.top_k else 0


class Vocabulary(StrictModel):
    """The size of a vocabulary, PAD and EPAD counted, and its tokenizer file."""

    vocab_size: Annotated[int, Field(ge=len(SPECIALS) + 1, le=1 << 24)]
    tokenizer: FileName | None = None


class TextConfig(Vocabulary):
    """The inner monologue: its vocabulary, and frames it leads by."""

    lead: int = Field(default=2, ge=0, le=1000)


def text_numbers(text: Vocabulary | None, backbone: TransformerConfig) -> int:
    """How many numbers a text stream's table and head have."""
    return 0 if text is None else 2 * text.vocab_size * backbone.dim


def text_layers(size: int, width: int) -> tuple[nn.Embedding, nn.Linear]:
    """The table [V + 1, D] of text tokens, whose last row is BOS, and the head [V, D]."""
    table, head = nn.Embedding(size + 1, width), nn.Linear(width, size, bias=False)
    nn.init.normal_(table.weight, std=0.3)
    nn.init.normal_(head.weight, std=width**-0.5)
    return table, head


@dataclass
class StreamState:
    """A batch of clips being generated; buffers hold prompt and continuation, right-aligned.

    Attributes:
        frames: Latents [B, T, C] or codes [B, T, K], filled up to the frame last pushed.
        given_text: Tokens the prompt decides [B, T + lead], FREE elsewhere; None without text.
        text: Tokens [B, T + lead], filled up to the step just taken.
        given_until: From this step on no prompt decides any text.
        step: The stream step that comes next.
        lacking: How many frames each row was padded by on the left.
        audio_draws: All randomness of the head, [B, new frames, ...].
        draw: The head.
        window: The short context's last inputs [B, K, W], if the system has one.
        stream: Codes in the order of the steps [B, S, K], if codebooks are delayed; entries that
            `free` [S, K] marks are drawn, the others known from the start.
    """

    cache: KvCache
    frames: Tensor
    text: Tensor | None
    given_text: Tensor | None
    text_draws: Tensor | None
    audio_draws: Tensor
    draw: Head
    sampling: SamplingParams
    lacking: list[int]
    prompt_frames: list[int]
    given_until: int = 0
    step: int = 0
    window: Tensor | None = None
    stream: Tensor = None  # type: ignore[assignment]
    free: Tensor = None  # type: ignore[assignment]

    @property
    def prompt_end(self) -> int:
        """Buffer index of the first new frame."""
        return max(self.prompt_frames)


class StreamingSystem(System):
    """Backbone with text and audio streams; subclasses embed frames and draw them from contexts."""

    flat_for: ClassVar[tuple[str, ...]] = (
        "read",
        "embed_frames",
        "frame_input",
        "step",
        "new_head",
    )

    def __init__(
        self,
        backbone: TransformerConfig,
        text: TextConfig | None,
        codec: Codec,
        folder: Path | None,
        frame_width: int,
    ) -> None:
        """Build the backbone and, if configured, the text stream; a frame is C or K numbers.

        The tokenizer file lies in the model's `folder`; None builds the shapes without it.
        """
        super().__init__()
        self.codec, self.frame_width = codec, frame_width
        self.backbone = Transformer(backbone)
        self.lead = 0 if text is None else text.lead
        self.audio_start = nn.Parameter(torch.randn(backbone.dim) * 0.02)
        self.text_stream: TextStream | None = None
        self.text_size: int | None = None
        if text is not None:
            self.text_size = text.vocab_size
            self.text_table, self.text_head = text_layers(text.vocab_size, backbone.dim)
            if folder is not None:
                path = None if text.tokenizer is None else folder / text.tokenizer
                self.text_stream = TextStream.load(path, codec.frame_rate)
                tokens = self.text_stream.tokenizer.get_vocab_size()
                if tokens > text.vocab_size:
                    raise InputError(
                        f"{path or 'a tokenizer of bytes'} has {tokens} tokens, more than the "
                        f"vocab_size {text.vocab_size}"
                    )

    @abstractmethod
    def embed_frames(self, frames: Tensor) -> Tensor:
        """Frames [B, T, C] or [B, T, K] to backbone inputs [B, T, D]."""

    @abstractmethod
    def draw(self, n_frames: int, sampling: SamplingParams, generator: torch.Generator) -> Tensor:
        """All random numbers of one clip's head, [n_frames, ...]."""

    @abstractmethod
    def new_head(self, sampling: SamplingParams, batch_size: int, like: Tensor) -> Head:
        """What draws the frames of a batch of clips, with all that it keeps from frame to frame."""

    def head_text(self, state: StreamState) -> Tensor | None:
        """The text tokens [B] that the head sees, if it sees any."""
        return None

    def contexts(self, frames: Tensor, text: Tensor | None, seen: Tensor | None = None) -> Tensor:
        """What the backbone makes of true streams at every step: [B, T + lead, D].

        Args:
            frames: Latents [B, T, C] or codes [B, T, K].
            text: Tokens [B, T + lead].
            seen: Which frames [B, T] later steps may read; the others enter as zeros. None: all.
        """
        B, T = frames.shape[:2]
        start = self.audio_start.expand(B, self.lead + 1, -1)
        past = self.embed_frames(frames[:, : T - 1])
        if seen is not None:
            past = past * seen[:, : T - 1, None]
        x = torch.cat([start.to(frames.device), past], dim=1)
        if text is not None:
            bos = text.new_full((B, 1), self.text_table.num_embeddings - 1)
            x = x + self.text_table(torch.cat([bos, text[:, :-1]], dim=1))
        z: Tensor = self.backbone(x)
        return z

    def frame_contexts(self, z: Tensor, frames: Tensor, chosen: Tensor) -> Tensor:
        """What heads see when `contexts` gave z [B, T + lead, D] for frames [B, T, ...]: [R, D].

        A subclass may add what it knows of the true frames before each. `chosen` [R] are their flat
        numbers b T + t.
        """
        return z[:, self.lead :].flatten(0, 1)[chosen]

    def _encode_prompts(
        self, prompts: Sequence[Prompt], device: torch.device
    ) -> tuple[list[int], list[Tensor]]:
        hop = self.codec.hop_length
        counts = [-(-len(prompt.wave) // hop) for prompt in prompts]
        waves = torch.zeros(len(prompts), max(counts) * hop, device=device)
        for row, prompt in enumerate(prompts):
            waves[row, : len(prompt.wave)] = prompt.wave.to(device)
        if max(counts) == 0:
            return counts, []
        frames = self.codec.encode(waves)
        frames = frames if self.codec.continuous else frames.transpose(1, 2)  # [B, T, C | K]
        return counts, [frames[row, :count] for row, count in enumerate(counts)]

    def start(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        generators: Sequence[torch.Generator],
        n_frames: int,
    ) -> StreamState:
        device = self.device
        counts, encoded = self._encode_prompts(prompts, device)
        B, P = len(prompts), max(counts)
        new = n_frames + self.lead  # steps
        frames = self.blank(B, P + n_frames)
        for row, known in enumerate(encoded):
            frames[row, P - counts[row] : P] = known
        given, given_until, text_draws = None, 0, None
        if self.text_size is not None:
            assert self.text_stream is not None
            tokens = self.text_stream.given([prompt.words for prompt in prompts], counts, P + new)
            given = torch.from_numpy(tokens).to(device)
            given_until = int((tokens != FREE).any(0).nonzero()[0].max(initial=-1)) + 1
            uniform = [torch.rand(new, generator=g, device=g.device) for g in generators]
            text_draws = torch.stack(uniform).to(device)
        draws = torch.stack([self.draw(n_frames, sampling, g) for g in generators])
        lacking = [P - count for count in counts]
        cache = self._new_cache(lacking, P, P + new)
        state = StreamState(
            cache=cache,
            frames=frames,
            text=None if given is None else given.clamp_min(0),
            given_text=given,
            text_draws=text_draws,
            audio_draws=draws.to(device),
            sampling=sampling,
            lacking=lacking,
            prompt_frames=counts,
            given_until=given_until,
            draw=self.new_head(sampling, B, cache.buffer),
        )
        self.prefill(state)
        return state

    def blank(self, *shape: int) -> Tensor:
        """Frames of zeros, [..., C] or [..., K]."""
        dtype = torch.float32 if self.codec.continuous else torch.long
        return torch.zeros(*shape, self.frame_width, dtype=dtype, device=self.device)

    def prefill(self, state: StreamState) -> None:
        """Read the prompts into the cache and take the steps that lead the first new frame."""
        P = state.prompt_end
        if P > 0:
            self.read(self.inputs(state, 0, P), state.cache)
            state.step = P
        for _ in range(self.lead):
            self.lead_step(state)

    def read(self, x: Tensor, cache: KvCache) -> None:
        """Take inputs [B, P, D] into the cache."""
        self.backbone(x, cache)

    def lead_step(self, state: StreamState) -> None:
        """One of the steps by which a stream leads the frames: text only."""
        self.backbone_step(state)

    def _new_cache(self, lacking: list[int], prompt: int, steps: int) -> KvCache:
        """An empty cache that hides the padding of ragged rows."""
        capacity, context = steps, self.backbone.config.context
        if context is not None:  # what has left the window need not be kept
            capacity = min(steps, max(prompt, context) + context)
        cache = self.allocate(len(lacking), capacity)
        if any(lacking):
            index = torch.arange(cache.buffer.shape[4], device=self.device)
            cache.key_mask = index >= torch.tensor(lacking, device=self.device)[:, None]
        return cache

    def allocate(self, batch_size: int, capacity: int) -> KvCache:
        """An empty cache of at least this capacity."""
        like = next(self.backbone.parameters())
        return KvCache(self.backbone.config, batch_size, capacity, like)

    def inputs(self, state: StreamState, first: int, last: int) -> Tensor:
        """Backbone inputs of steps first..last-1: [B, last - first, D]."""
        steps = torch.arange(first, last, device=self.device)
        local = steps - torch.tensor(state.lacking, device=self.device)[:, None]  # [B, N]
        at = steps - 1 - self.lead
        x = self.embed_frames(state.frames[:, at.clamp_min(0)])
        x = torch.where((local <= self.lead)[..., None], self.audio_start.to(x.dtype), x)
        if state.text is not None:
            tokens = state.text[:, (steps - 1).clamp_min(0)]
            tokens = torch.where(local <= 0, self.text_table.num_embeddings - 1, tokens)
            x = x + self.text_table(tokens)
        return x

    def backbone_step(self, state: StreamState) -> Tensor:
        i, draws = state.step, None
        if state.text_draws is not None:
            at = i - state.prompt_end
            draws = state.text_draws[:, at : at + 1]
        z, tokens = self.step(self.step_input(state), state.cache, state.sampling, draws)
        if state.text is not None and tokens is not None:
            if i < state.given_until:
                assert state.given_text is not None
                given = state.given_text[:, i]
                tokens = torch.where(given == FREE, tokens, given)
            state.text[:, i] = tokens
        state.step = i + 1
        return z

    def step(
        self, x: Tensor, cache: KvCache, sampling: SamplingParams, draws: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Contexts [B, D] of inputs x [B, D], and text tokens [B] by uniform draws [B, 1]."""
        z: Tensor = self.backbone(x[:, None].to(cache.buffer.dtype), cache)[:, 0]
        if draws is None:
            return z, None
        choose = Chooser(sampling.text_temperature, text_top_k(sampling))
        return z, choose(self.text_head(z), draws[:, 0])

    def step_input(self, state: StreamState) -> Tensor:
        """What the backbone reads at the step that comes next: [B, D]."""
        i = state.step
        if i <= self.lead + max(state.lacking):  # a BOS is due in some row
            return float32(self.inputs(state, i, i + 1)[:, 0])
        text = None
        if state.text is not None:
            text = float32(F.embedding(state.text[:, i - 1], self.text_table.weight))
        return self.frame_input(state.frames[:, i - 1 - self.lead], text)

    def frame_input(self, frame: Tensor, text: Tensor | None) -> Tensor:
        """Backbone input [B, D] of a frame [B, C] or [B, K] and the text's embedding [B, D]."""
        x = self.embed_frames(frame[:, None])[:, 0]
        return x if text is None else x + text

    def head_step(self, state: StreamState, z: Tensor) -> Tensor:
        return self.head(state, z, state.step - 1 - self.lead - state.prompt_end)

    def head(self, state: StreamState, z: Tensor, at: int) -> Tensor:
        """What the head draws from contexts [B, D] by the random numbers of new frame `at`."""
        return state.draw(z, state.audio_draws[:, at], self.head_text(state))

    def push(self, state: StreamState, frame: Tensor) -> None:
        state.frames[:, state.step - 1 - self.lead] = frame

    def finish(self, state: StreamState) -> Generation:
        """Decode whole; rows padded on the left are decoded from their own first frame."""
        frames = self.made(state)
        rolled = self._roll(frames, [-lack for lack in state.lacking])
        wave = self.codec.decode(rolled if self.codec.continuous else rolled.transpose(1, 2))
        hop = self.codec.hop_length
        wave = self._roll(wave, [lack * hop for lack in state.lacking])
        return Generation(
            frames=frames if self.codec.continuous else frames.transpose(1, 2),
            wave=wave,
            prompt_frames=tuple(state.prompt_frames),
            words=self._monologue(state, frames.shape[1]),
        )

    def made(self, state: StreamState) -> Tensor:
        """The frames so far, prompt included: [B, T, C] or [B, T, K]."""
        return state.frames[:, : max(0, state.step - self.lead)]

    def _monologue(
        self, state: StreamState, frames: int
    ) -> tuple[tuple[TimedWord, ...], ...] | None:
        if state.text is None or self.text_stream is None:
            return None
        rows = [
            tokens[lack:frames].tolist()
            for tokens, lack in zip(state.text, state.lacking, strict=True)
        ]
        return tuple(self.text_stream.decode(row) for row in rows)

    @staticmethod
    def _roll(x: Tensor, shifts: list[int]) -> Tensor:
        if not any(shifts):
            return x
        return torch.stack([row.roll(shift, 0) for row, shift in zip(x, shifts, strict=True)])


class CodeSystem(StreamingSystem):
    """Frames of K codes: the backbone reads the sum of K rows, of K tables; softmax temperature.

    Attributes:
        code_maps: Of tables of a low rank R, what leads from it to D, [K, R, D].
    """

    temperature_kind: ClassVar[TemperatureKind] = "softmax_divisor"
    code_tables: Tensor
    code_maps: Tensor | None

    def embed_frames(self, frames: Tensor) -> Tensor:
        """The sum of K embeddings: codes [B, T, K] to [B, T, D]."""
        K = frames.shape[-1]
        rows = self.code_tables[torch.arange(K, device=frames.device), frames]  # [B, T, K, R | D]
        if self.code_maps is None:
            return rows.sum(2)
        return rows.flatten(2) @ self.code_maps.flatten(0, 1)


def chooser(sampling: SamplingParams) -> Callable[[Tensor, Tensor], Tensor]:
    """`draw_tokens` at the sampling's temperature and top-k."""
    return partial(draw_tokens, temperature=sampling.temperature, top_k=sampling.top_k)


class FlatSteps(ABC):
    """Backbone and text stream; a subclass adds how frames are read and drawn."""

    replaces: tuple[str, ...] = ("read", "frame_input", "step", "new_head")

    def __init__(self, system: StreamingSystem, precision: Precision, release: bool) -> None:
        self.owner = system
        self.precision: Precision = precision
        self.backbone = FlatTransformer(system.backbone, precision, release)
        self.text_head: Product | None = None
        if system.text_size is not None:
            self.text_head = pack(system.text_head.weight, None, precision)
            if release:
                discard(system.text_head)

    @abstractmethod
    def frame_input(self, frame: Tensor, text: Tensor | None) -> Tensor:
        """Backbone input [B, D] of a frame [B, C] or [B, K] and the text's embedding [B, D]."""

    @abstractmethod
    def new_head(self, sampling: SamplingParams, batch_size: int, like: Tensor) -> Head:
        """As the system's."""

    @abstractmethod
    def head_bytes(self, steps: int) -> int:
        """Bytes of weights that the head reads for one frame."""

    def read(self, x: Tensor, cache: KvCache) -> None:
        """Take inputs [B, P, D] into the cache."""
        self.backbone(x.float(), cache)

    def step(
        self, x: Tensor, cache: KvCache, sampling: SamplingParams, draws: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Contexts [B, D] of inputs x [B, D], and text tokens [B] by uniform draws [B, 1]."""
        z = self.backbone(x[:, None], cache)
        return z, self.tokens(z, sampling, draws)

    def tokens(self, z: Tensor, sampling: SamplingParams, draws: Tensor | None) -> Tensor | None:
        """Text tokens [B] drawn from contexts [B, D]."""
        if self.text_head is None or draws is None:
            return None
        top_k = text_top_k(sampling)
        return draw_tokens(self.text_head(z), draws, sampling.text_temperature, top_k)

    def weight_bytes(self, steps: int) -> dict[str, int]:
        """Bytes of weights that one frame reads, by stage; the head takes so many steps."""
        backbone = self.backbone.weight_bytes() + self.input_bytes()
        if self.text_head is not None:
            backbone += self.text_head.nbytes + self.owner.text_table.weight[0].nbytes
        return {"backbone": backbone, "head": self.head_bytes(steps)}

    def input_bytes(self) -> int:
        """Bytes of what turns one frame into an input; rows of tables, not tables."""
        return 0

    def kv_bytes(self, position: int) -> dict[str, int]:
        """Bytes of keys and values that one frame of a row reads after `position` steps."""
        return {"backbone": self.backbone.kv_bytes(position + 1), "head": 0}


class FlatCodes(FlatSteps):
    """Codes in: the sum of K rows of one table."""

    def __init__(self, system: CodeSystem, precision: Precision, release: bool) -> None:
        """Lay the K tables one below the other; tables of a low rank are multiplied out."""
        super().__init__(system, precision, release)
        tables = system.code_tables
        if system.code_maps is not None:
            tables = torch.bmm(tables, system.code_maps)
        K, rows, _ = tables.shape
        self.table = tables.flatten(0, 1)
        self.offsets = torch.arange(K, device=tables.device) * rows

    def frame_input(self, frame: Tensor, text: Tensor | None) -> Tensor:
        x = float32(F.embedding_bag(frame + self.offsets, self.table, mode="sum"))
        return x if text is None else x + text

    def input_bytes(self) -> int:
        return len(self.offsets) * self.table.shape[1] * self.table.element_size()


def float32(x: Tensor) -> Tensor:
    """The tensor as float32; asking costs nothing where it is."""
    return x if x.dtype == torch.float32 else x.float()
