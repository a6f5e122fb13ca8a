"""The two ends of a codec trunk at a spectral frame rate: log-mel in, inverse STFT out.

B batch, S samples, T spectral frames, N FFT size, M mel bands.
"""

import math

import torch
from torch import Tensor, nn

from calm_bench.nn.causal import Stream, history

LOG_FLOOR = 1e-5


def mel_filterbank(n_mels: int, n_fft: int, sample_rate: int) -> Tensor:
    """Triangular filters [M, N / 2 + 1], evenly spaced on the HTK mel scale, peak 1."""
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    mels = torch.linspace(0, top, n_mels + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)  # Hz
    freqs = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    rise = (freqs - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - freqs) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rise, fall).clamp_min(0).float()


class LogMel(nn.Module):
    """Log-mel frames whose windows end where their hop ends: no frame hears the future."""

    window: Tensor
    bank: Tensor

    def __init__(self, sample_rate: int, n_fft: int, hop: int, n_mels: int) -> None:
        """The FFT size must be a multiple of the hop."""
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        bank = mel_filterbank(n_mels, n_fft, sample_rate)
        self.register_buffer("bank", bank.T.contiguous(), persistent=False)

    def forward(self, wave: Tensor, stream: Stream | None = None) -> Tensor:
        """Audio [B, T * hop] to log-mel [B, T, M], about zero mean and unit scale for speech."""
        x = history(self, wave, self.n_fft - self.hop, stream)
        frames = x.unfold(1, self.n_fft, self.hop) * self.window  # [B, T, N]
        power = torch.fft.rfft(frames).abs()  # [B, T, N / 2 + 1]
        mel: Tensor = (power @ self.bank).clamp_min(LOG_FLOOR).log()
        return mel * 0.25 + 0.5


class InverseStft(nn.Module):
    """Magnitude and phase by a linear map, then inverse FFTs added up (Vocos, Siuzdak 2023).

    Frame t writes samples t * hop to t * hop + N, so the hop of frame t is complete once frame
    t is known.
    """

    window: Tensor

    def __init__(self, dim: int, n_fft: int, hop: int) -> None:
        """The FFT size must be a multiple of the hop."""
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.linear = nn.Linear(dim, n_fft + 2)
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window * (2 * hop / n_fft), persistent=False)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """[B, T, D] to audio [B, T * hop]."""
        B, T, _ = x.shape
        log_magnitude, phase = self.linear(x).float().chunk(2, dim=-1)  # [B, T, N / 2 + 1]
        magnitude = log_magnitude.clamp_max(6.0).exp()
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        frames = torch.fft.irfft(spectrum, n=self.n_fft) * self.window  # [B, T, N]
        parts = self.n_fft // self.hop
        pieces = frames.view(B, T, parts, self.hop)
        pieces = history(self, pieces, parts - 1, stream)  # [B, parts - 1 + T, parts, hop]
        shifted = [pieces[:, parts - 1 - j : parts - 1 - j + T, j] for j in range(parts)]
        return torch.stack(shifted).sum(0).reshape(B, T * self.hop)
