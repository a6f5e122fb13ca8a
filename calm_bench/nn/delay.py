"""MusicGen's delay pattern as data: which frame each codebook shows at each step of the stream.

B batch, T frames, S steps, K codebooks, D_k delay of codebook k. Codebook k lags D_k steps behind,
so a step holds codes of K different frames, and T frames take S = T + max D_k steps (Copet et al.
2023). Places of the pattern that hold no code hold SPECIAL, which is the entry after the last of
every codebook.

    y[k, i] = q[k, i - D_k] where 0 <= i - D_k < T, else SPECIAL;   q[k, t] = y[k, t + D_k]

Here time comes first: codes are [B, T, K], streams [B, S, K].
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class DelayPattern:
    """Delays of K codebooks, and the layouts that follow from them."""

    def __init__(self, delays: Sequence[int]) -> None:
        """`delays` in steps, none negative; MusicGen's are 0, 1, 2, 3."""
        self.delays = tuple(delays)
        self.extra = max(self.delays)  # steps more than frames

    def table(self, n_frames: int, device: torch.device | None = None) -> Tensor:
        """The frame at every place [S, K] of the stream of `n_frames` frames; -1 where none is."""
        steps = torch.arange(n_frames + self.extra, device=device)[:, None]
        frames = steps - torch.tensor(self.delays, device=device)
        return torch.where((frames >= 0) & (frames < n_frames), frames, -1)

    def apply(self, codes: Tensor, special: int) -> Tensor:
        """Codes [B, T, K] laid out as a stream [B, S, K]."""
        table = self.table(codes.shape[1], codes.device)
        stream = codes.gather(1, table.clamp_min(0).expand(len(codes), -1, -1))
        return torch.where(table >= 0, stream, special)

    def undo(self, stream: Tensor) -> Tensor:
        """The whole frames [B, T, K] of a stream [B, S, K], or of its first steps."""
        n_frames = max(0, stream.shape[1] - self.extra)
        columns = [stream[:, d : d + n_frames, k] for k, d in enumerate(self.delays)]
        return torch.stack(columns, dim=-1)

    def frame(self, stream: Tensor, index: int) -> Tensor:
        """One frame [B, K] of a stream; it is complete after step index + max D_k."""
        return torch.stack([stream[:, index + d, k] for k, d in enumerate(self.delays)], dim=-1)

    def inputs(self, stream: Tensor, special: int) -> Tensor:
        """What each step reads, [B, S, K]: the step before it; SPECIAL before the first."""
        return torch.cat([torch.full_like(stream[:, :1], special), stream[:, :-1]], dim=1)
