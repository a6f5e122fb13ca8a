"""The flat step with fixed shapes, for CUDA graphs and torch.compile.

One captured function for the backbone step with its text token, one for the short context, one for
the whole head (all depth levels or all sampler steps, sampling included) and one for the codec's
step. Between them run the few operators that look frames up and write them down. Prompts are read
eagerly, into the memory that the captured steps work on. What a captured function returns is valid
until it is called again, one frame later.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from calm_bench.codecs.captured import CapturedCodec
from calm_bench.nn.capture import Lanes, Runner
from calm_bench.nn.transformer import KvCache
from calm_bench.systems.steps import FlatSteps
from calm_bench.systems.streaming import StreamState


class CapturedSteps:
    """Runs a system's flat steps through a `Runner`, each set of shapes and settings apart."""

    def __init__(self, steps: FlatSteps, runner: Runner) -> None:
        """`runner` captures or compiles a function, given what it changes in place."""
        self.flat, self.runner = steps, runner
        self.replaces = (*steps.replaces, "allocate", "start_decoding", "decode_step")
        self.device = steps.owner.device
        narrow = steps.precision == "bf16" and self.device.type == "cuda"
        like = torch.empty(0, device=self.device, dtype=torch.bfloat16 if narrow else torch.float32)
        self.lanes = Lanes(steps.backbone.config, like)
        self.codec = CapturedCodec(steps.owner.codec, runner)
        self._captured: dict[Hashable, Callable[..., Any]] = {}

    def allocate(self, batch_size: int, capacity: int) -> KvCache:
        """A cache on memory that captured steps know."""
        return self.lanes.cache(batch_size, capacity)

    def read(self, x: Tensor, cache: KvCache) -> None:
        """Take inputs [B, P, D] into the cache."""
        self.flat.read(x, cache)

    def advance(self, state: StreamState) -> Tensor:
        """One step of the backbone and the text stream: contexts [B, D]."""
        flat, cache, choose = self.flat, state.cache, state.choose_text
        lane = cache.lane
        lane.aim(cache, flat.backbone.config.context)
        flat.backbone.turns(cache.position, 1, self.device)  # grows the table outside the capture

        def step(x: Tensor, draws: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
            z = flat.backbone.run(x[:, None], flat.backbone.fixed(lane))
            return z, flat.tokens(choose, z, draws)

        key = (lane.bucket, choose.temperature, choose.top_k, len(flat.backbone.table))
        if key not in lane.captured:
            lane.captured[key] = self.runner(step, [lane.buffer])
        draws = flat.text_draws(state)
        x = flat.step_input(state)
        z, tokens = lane.captured[key](x) if draws is None else lane.captured[key](x, draws)
        cache.length += 1
        cache.position += 1
        return flat.settle(state, z, tokens)

    def read_window(self, window: Tensor) -> Tensor:
        """The short context's part of Z, [B, D], from its window [B, K, W]."""
        read: Callable[[Tensor], Tensor] = self.flat.read_window  # type: ignore[attr-defined]
        key = ("window", len(window))
        if key not in self._captured:
            self._captured[key] = self.runner(read, [])
        z: Tensor = self._captured[key](window)
        return z

    def head(self, state: StreamState, z: Tensor, draws: Tensor) -> Tensor:
        """The next frame from contexts [B, D] and its draws, all levels or steps at once."""
        flat, sampling = self.flat, state.sampling
        key = ("head", len(z), sampling.temperature, sampling.top_k, sampling.head_steps)
        text = flat.head_text(state)
        if key not in self._captured:
            scratch = flat.new_scratch(z)
            self._captured[key] = self.runner(
                lambda z, draws, text=None: flat.draw_frame(sampling, z, draws, text, scratch), []
            )
        frame: Tensor = self._captured[key](*((z, draws) if text is None else (z, draws, text)))
        return frame

    def start_decoding(self, batch_size: int) -> Any:
        """A stream of the codec on memory that its captured step knows."""
        frame = torch.zeros(
            batch_size,
            self.flat.owner.frame_shape(),
            dtype=self.flat.owner.frame_dtype(),
            device=self.device,
        )
        return self.codec.start(frame)

    def decode_step(self, frame: Tensor, decoder_state: Any) -> Tensor:
        """Audio [B, hop_length] of one frame, streamed."""
        return self.codec.step(frame, decoder_state)
