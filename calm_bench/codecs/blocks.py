"""What a codec's trunk is made of, whole or streamed with the same code.

B batch, T frames, D width, S samples, N FFT size, M mel bands. Tensors are [B, T, D]: linears need
no transposes. The ends of a trunk at a spectral rate are log-mel or complex spectra in and inverse
STFT out.

Every module looks back a fixed number of frames. `history` supplies them: zeros at the start of a
clip, or what the `Stream` kept of the previous chunk. So a clip and its chunks take the same path,
and whole and streamed outputs differ by rounding only.
"""

import math
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.core.waves import mel_filters

Stream = dict[Hashable, Any]
"""What a streaming pass remembers, by module (or any key a module chooses)."""


def history(key: Hashable, x: Tensor, frames: int, stream: Stream | None) -> Tensor:
    """Put the `frames` previous frames in front of x [B, T, ...] and remember its last ones."""
    if frames == 0:
        return x
    past = None if stream is None else stream.get(key)
    if past is None:
        past = x.new_zeros(x.shape[0], frames, *x.shape[2:])
    x = torch.cat([past, x], dim=1)  # [B, frames + T, ...]
    if stream is not None:
        stream[key] = x[:, -frames:]
    return x


class CausalConv(nn.Module):
    """A convolution over time that sees no future: [B, T, D] to [B, T / stride, D']."""

    def __init__(self, dim_in: int, dim_out: int, kernel: int, stride: int = 1) -> None:
        """Kernel and stride in frames; the kernel must not be shorter than the stride."""
        super().__init__()
        self.stride = stride
        self.lookback = kernel - stride
        self.conv = nn.Conv1d(dim_in, dim_out, kernel, stride=stride)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Convolve; T must be a multiple of the stride."""
        x = history(self, x, self.lookback, stream)
        y: Tensor = self.conv(x.transpose(1, 2))
        return y.transpose(1, 2)


class Upsample(nn.Module):
    """A causal transposed convolution of kernel 2 * ratio: one matrix product, one addition."""

    def __init__(self, dim_in: int, dim_out: int, ratio: int) -> None:
        """Each input frame writes 2 * ratio output frames, the second half onto its successor's."""
        super().__init__()
        self.ratio = ratio
        self.linear = nn.Linear(dim_in, 2 * ratio * dim_out)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """[B, T, D] to [B, T * ratio, D']."""
        B, T, _ = x.shape
        now, later = self.linear(x).view(B, T, 2, -1).unbind(2)  # [B, T, ratio * D'] each
        tail = history(self, later, 1, stream)[:, :-1]
        out: Tensor = (now + tail).reshape(B, T * self.ratio, -1)
        return out


class DepthwiseUpsample(nn.Module):
    """A causal transposed convolution of kernel 2 * ratio on every channel by itself (Mimi)."""

    def __init__(self, dim: int, ratio: int) -> None:
        """Each frame writes 2 * ratio frames, the second half onto its successor's; no bias."""
        super().__init__()
        self.ratio = ratio
        self.weight = nn.Parameter(torch.randn(2 * ratio, dim) * 2**-0.5)
        self.nbytes = 4 * self.weight.numel()  # nothing to pack: the module is its flat form

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """[B, T, D] to [B, T * ratio, D]."""
        B, T, D = x.shape
        now, later = self.weight.view(2, self.ratio, D).unbind(0)
        both = history(self, x, 1, stream)  # [B, 1 + T, D]
        out = both[:, 1:, None] * now + both[:, :-1, None] * later  # [B, T, ratio, D]
        return out.reshape(B, T * self.ratio, D)


class ConvNextBlock(nn.Module):
    """Depthwise causal convolution, norm, two linears, scaled residual (Liu et al. 2022)."""

    def __init__(self, dim: int, expansion: float, kernel: int) -> None:
        """`expansion` is the hidden width of the linears over `dim`."""
        super().__init__()
        hidden = int(dim * expansion)
        self.kernel = kernel
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.1))

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        h = history(self, x, self.kernel - 1, stream)
        h = self.depthwise(h.transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.scale * self.down(F.gelu(self.up(self.norm(h))))
        return out


class SeanetBlock(nn.Module):
    """Mimi's residual unit: ELU, convolution to half the width, ELU, pointwise convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = CausalConv(dim, dim // 2, 3)
        self.pointwise = nn.Linear(dim // 2, dim)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        out: Tensor = x + self.pointwise(F.elu(self.conv(F.elu(x), stream)))
        return out


LOG_FLOOR = 1e-5


def mel_filterbank(n_mels: int, n_fft: int, sample_rate: int) -> Tensor:
    """Triangular filters [M, N / 2 + 1], evenly spaced on the HTK mel scale, peak 1."""
    return torch.from_numpy(mel_filters(sample_rate, n_fft, n_mels, filled=False)).float()


class LogMel(nn.Module):
    """Log-mel frames whose windows end where their hop ends: no frame hears the future."""

    window: Tensor
    bank: Tensor

    def __init__(
        self, sample_rate: int, n_fft: int, hop: int, n_mels: int, floor: float = LOG_FLOOR
    ) -> None:
        """The FFT size must be a multiple of the hop; magnitudes below the floor are equal."""
        super().__init__()
        self.n_fft, self.hop, self.floor = n_fft, hop, floor
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        bank = mel_filterbank(n_mels, n_fft, sample_rate)
        self.register_buffer("bank", bank.T.contiguous(), persistent=False)

    @property
    def channels(self) -> int:
        """Numbers that make a frame."""
        return self.bank.shape[1]

    def spectrum(self, wave: Tensor, stream: Stream | None) -> Tensor:
        """Complex frames [B, T, N / 2 + 1] of audio [B, T * hop]."""
        x = history(self, wave, self.n_fft - self.hop, stream)
        spectrum: Tensor = torch.fft.rfft(x.unfold(1, self.n_fft, self.hop) * self.window)
        return spectrum

    def log_mel(self, magnitude: Tensor) -> Tensor:
        """[B, T, N / 2 + 1] to [B, T, M], about zero mean and unit scale for speech."""
        mel: Tensor = (magnitude @ self.bank).clamp_min(self.floor).log()
        return mel * 0.25 + 0.5

    def forward(self, wave: Tensor, stream: Stream | None = None) -> Tensor:
        """Audio [B, T * hop] to log-mel [B, T, M]."""
        return self.log_mel(self.spectrum(wave, stream).abs())


POWER = 0.3
"""What magnitudes of complex spectra are raised to where a network reads them."""


class ComplexMel(LogMel):
    """Log-mel frames and, of the same windows, complex spectra of magnitude |X|^POWER.

    From complex spectra alone a network is long in learning what log-mel tells it; they add the
    phase. The power brings quiet partials near the loud ones.
    """

    @property
    def channels(self) -> int:
        return super().channels + self.n_fft + 2

    def forward(self, wave: Tensor, stream: Stream | None = None) -> Tensor:
        """Audio [B, T * hop] to [B, T, M + N + 2]: log-mel, real and imaginary parts."""
        spectrum = self.spectrum(wave, stream)
        magnitude = spectrum.abs()
        compressed = spectrum * magnitude.clamp_min(self.floor).pow(POWER - 1)
        return torch.cat([self.log_mel(magnitude), compressed.real, compressed.imag], dim=-1)


@torch.no_grad()
def running_phases(key: Hashable, magnitude: Tensor, hop: int, stream: Stream | None) -> Tensor:
    """Phases [B, T, N / 2 + 1] in turns, which a spectrum's peaks carry on from frame to frame.

    A decoder is a function of a few frames and knows no time: alone, it writes a steady tone anew
    every frame, at multiples of the frame rate. Here every peak of the magnitudes [B, T, N / 2 + 1]
    turns on at its own frequency, which lies where a parabola through the logarithms of three bins
    has its top, and all bins follow their nearest peak (phase locking: Laroche and Dolson 1999).
    Phases of the decoder are then relative to these. A bin that grows by some 17 dB from frame to
    frame begins anew, at 0, as attacks do.
    """
    bins = magnitude.shape[2]
    level = magnitude.clamp_min(1e-9).log()
    left, middle, right = level[..., :-2], level[..., 1:-1], level[..., 2:]
    is_peak = F.pad((middle >= left) & (middle > right), (1, 1))
    curve = (left - 2 * middle + right).clamp_max(-1e-4)
    away = F.pad((0.5 * (left - right) / curve).clamp(-0.5, 0.5), (1, 1))  # of a bin
    number = torch.arange(bins, device=magnitude.device)
    below = torch.where(is_peak, number, 0).cummax(-1).values
    above = torch.where(is_peak, number, bins - 1).flip(-1).cummin(-1).values.flip(-1)
    nearest = torch.where(number - below <= above - number, below, above)
    advance = ((number + away) * (hop / (2 * bins - 2))).gather(-1, nearest)
    past = None if stream is None else stream.get(key)
    if past is None:
        past = magnitude.new_zeros(2, len(magnitude), bins)
    turns, before = past.unbind(0)
    found = []
    for now, ahead, peak in zip(
        magnitude.unbind(1), advance.unbind(1), nearest.unbind(1), strict=True
    ):
        turns = torch.where(now > 7.4 * before, 0.0, turns + ahead).gather(1, peak).frac()
        before = now
        found.append(turns)
    if stream is not None:
        stream[key] = torch.stack([turns, before])
    return torch.stack(found, 1)


class InverseStft(nn.Module):
    """Magnitude and phase by a linear map, then inverse FFTs added up (Vocos, Siuzdak 2023).

    Frame t writes samples t * hop to t * hop + N, so the hop of frame t is complete once frame
    t is known.
    """

    window: Tensor

    def __init__(self, dim: int, n_fft: int, hop: int, running: bool = False) -> None:
        """The FFT size must be a multiple of the hop; phases may be relative to running ones."""
        super().__init__()
        self.n_fft, self.hop, self.running = n_fft, hop, running
        self.linear = nn.Linear(dim, n_fft + 2)
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window * (2 * hop / n_fft), persistent=False)

    def frames(self, x: Tensor, key: Hashable, stream: Stream | None) -> Tensor:
        """Windowed frames [B, T, N / hop, hop] of log-magnitudes and phases [B, T, N + 2]."""
        log_magnitude, phase = x.chunk(2, dim=-1)  # [B, T, N / 2 + 1]
        magnitude = log_magnitude.clamp_max(6.0).exp_()
        if self.running:
            phase = phase + math.tau * running_phases(key, magnitude, self.hop, stream)
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        frames: Tensor = torch.fft.irfft(spectrum, n=self.n_fft).mul_(self.window)
        return frames.view(*x.shape[:2], self.n_fft // self.hop, self.hop)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """[B, T, D] to audio [B, T * hop]."""
        B, T, _ = x.shape
        pieces = self.frames(self.linear(x).float(), (self, "running"), stream)
        parts = pieces.shape[2]
        pieces = history(self, pieces, parts - 1, stream)  # [B, parts - 1 + T, parts, hop]
        shifted = [pieces[:, parts - 1 - j : parts - 1 - j + T, j] for j in range(parts)]
        return torch.stack(shifted).sum(0).reshape(B, T * self.hop)
