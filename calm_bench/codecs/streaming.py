"""Decoding beside the language model: a thread that turns queued frames into audio.

The language model is bound by its weights and the decoder by its own, so on two cores they hardly
slow each other, and a frame costs the longer of the two and not their sum. Whatever has queued up
is decoded in one call, in which weights are read once. Set `torch.set_num_threads(1)`: products of
one row do not gain from a second thread, which the decoder can use.
"""

import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue

import torch
from torch import Tensor

from calm_bench.codecs.base import Codec


class StreamingDecoder:
    """Frames in at one end, audio out at the other, in order and with `decode_step`'s values.

    with StreamingDecoder(codec) as decoder:
        for ...: decoder.put(frame)
        decoder.close()
        for wave in decoder: ...

    `put` and iterating may happen in different threads.
    """

    def __init__(self, codec: Codec, batch_size: int = 1, at_most: int = 16) -> None:
        """Start the thread.

        Args:
            codec: Its `prepare` makes this faster.
            batch_size: Rows of every frame.
            at_most: Frames decoded in one call, which bounds the wait for the first of them.
        """
        self._codec, self._at_most = codec, at_most
        self._state = codec.start_decoding(batch_size)
        self._frames: SimpleQueue[Tensor | None] = SimpleQueue()
        self._waves: SimpleQueue[Tensor | Exception | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)
        self._thread.start()

    def put(self, frame: Tensor) -> None:
        """Queue a frame, [B, C] or [B, K]; it must not be changed afterwards."""
        self._frames.put(frame)

    def close(self) -> None:
        """No more frames will come: iterating ends when the last has been decoded."""
        self._frames.put(None)

    def __iter__(self) -> Iterator[Tensor]:
        """Audio [B, n * hop_length] of one or more frames, as it is ready.

        Raises:
            Exception: What decoding raised.
        """
        while (wave := self._waves.get()) is not None:
            if isinstance(wave, Exception):
                raise wave
            yield wave

    def __enter__(self) -> "StreamingDecoder":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            with torch.inference_mode():  # it is a thread's own
                while batch := self._next():
                    wave = self._codec.decode_steps(torch.stack(batch, dim=1), self._state)
                    self._waves.put(wave)
        except Exception as error:  # whoever listens shall know
            self._waves.put(error)
        self._waves.put(None)

    def _next(self) -> list[Tensor]:
        """All that is queued, at least one frame; none at the end."""
        frames: list[Tensor] = []
        frame = self._frames.get()
        try:
            while frame is not None:
                frames.append(frame)
                if len(frames) == self._at_most:
                    return frames
                frame = self._frames.get_nowait()
        except Empty:
            return frames
        if frames:
            self._frames.put(None)  # these first, then the end
        return frames
