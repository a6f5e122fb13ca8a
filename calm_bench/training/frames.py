"""A corpus as frames of a codec: computed once per codec and kept, cropped on demand.

B batch, T frames, C latent channels, K codebooks.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calm_bench.codecs.checkpoints import codec_key, load_codec
from calm_bench.data.packed import PackedArrays
from calm_bench.data.shards import Shards, prepare, write_frames
from calm_bench.systems.monologue import PAD
from calm_bench.systems.streaming import StreamingSystem


class FrameSplit:
    """One split's frames and text tokens, cropped on demand."""

    def __init__(self, shards: Shards, frames: PackedArrays, system: StreamingSystem) -> None:
        """Lay out the text stream of every recording once."""
        self.shards, self.frames, self.lead = shards, frames, system.lead
        self.width = system.frame_shape()  # C, or the first levels K that the system uses
        self.lengths = np.diff(np.asarray(frames.edges))
        self.samples = np.array([item.samples for item in shards.items])
        self.text: list[NDArray[np.int64]] | None = None
        if system.text_stream is not None:
            stream = system.text_stream
            self.text = [
                stream.encode(item.words or (), int(length) + self.lead)
                for item, length in zip(shards.items, self.lengths, strict=True)
            ]

    def crops(self, picks: NDArray[Any], starts: NDArray[Any], length: int) -> dict[str, Tensor]:
        """Frames [B, T, ...], text [B, T + lead] and the mask of real frames [B, T]."""
        first = self.frames[0]
        dtype = np.float32 if np.issubdtype(first.dtype, np.floating) else np.int64
        frames = np.zeros((len(picks), length, self.width), dtype)
        text = np.full((len(picks), length + self.lead), PAD, np.int64)
        mask = np.zeros((len(picks), length), bool)
        for row, (pick, start) in enumerate(zip(picks, starts, strict=True)):
            piece = self.frames[int(pick)][start : start + length, : self.width]
            frames[row, : len(piece)] = piece
            mask[row, : len(piece)] = True
            if self.text is not None:
                tokens = self.text[int(pick)][start : start + length + self.lead]
                text[row, : len(tokens)] = tokens
        arrays = {
            "frames": frames,
            "mask": mask,
            **({"text": text} if self.text is not None else {}),
        }
        return {key: torch.from_numpy(value) for key, value in arrays.items()}


def frame_split(
    corpus: Path, split: Literal["train", "validation"], codec_name: str, system: StreamingSystem
) -> FrameSplit:
    """One split of a corpus in the frames of a codec, with all its levels."""
    codec = load_codec(codec_name)  # the system's own may have been told to use fewer levels
    shards = prepare(corpus, codec.sample_rate, split)

    @torch.inference_mode()
    def encode(wave: NDArray[np.float32]) -> NDArray[Any]:
        frames = codec.encode(torch.from_numpy(wave)[None])
        frames = frames if codec.continuous else frames.transpose(1, 2)
        return np.asarray(frames[0].numpy())

    return FrameSplit(shards, write_frames(shards, codec_key(codec), encode), system)
