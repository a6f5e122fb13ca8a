"""How near decoded audio is to its original: spectral losses over several resolutions.

Half of a codec's training step was spent here. So a spectrum's frames lie in memory as the FFT
leaves them, nothing is differentiated that is not asked for, and two derivatives are written out.

B batch, S samples, N FFT size, T STFT frames, F frequency bins.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.codecs.blocks import LOG_FLOOR, mel_filterbank

MEL_BANDS = {8192: 80, 2048: 80, 1024: 80, 512: 64, 256: 32, 128: 16}
"""By FFT size, over how many bands the spectral loss may look."""

FftSize = Literal[8192, 2048, 1024, 512, 256, 128]
SIZES: tuple[FftSize, ...] = (2048, 1024, 512, 256, 128)

COMPLEX_SIZES = (2048, 512, 128)
"""FFT sizes at which the complex loss looks."""


class RealSpectrum(torch.autograd.Function):
    """`rfft`, whose own derivative is a complex FFT of twice the size that is needed."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor) -> Tensor:
        """Frames [B, T, N] to [B, T, F]."""
        ctx.size = frames.shape[-1]
        spectrum: Tensor = torch.fft.rfft(frames)
        return spectrum

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The real inverse counts every bin twice but the first and the last."""
        halved = gradient * 0.5
        halved[..., 0] *= 2
        halved[..., -1] *= 2
        frames: Tensor = torch.fft.irfft(halved, n=ctx.size, norm="forward")
        return frames


class Magnitude(torch.autograd.Function):
    """sqrt(|X|^2 + 1e-9), without the angle that the derivative of |X| asks for."""

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor) -> Tensor:
        """Real magnitudes of the same shape."""
        squares = torch.view_as_real(spectrum).square()
        magnitude = (squares[..., 0] + squares[..., 1]).add_(1e-9).sqrt_()
        ctx.save_for_backward(spectrum, magnitude)
        return magnitude

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """X / magnitude."""
        spectrum, magnitude = ctx.saved_tensors
        return spectrum * (gradient / magnitude)  # type: ignore[no-any-return]


def magnitude(spectrum: Tensor) -> Tensor:
    """The magnitude of a complex spectrum, kept from zero."""
    return Magnitude.apply(spectrum)  # type: ignore[no-any-return, no-untyped-call]


class SpectralLoss(nn.Module):
    """Distances between two recordings' spectra, averaged over resolutions."""

    def __init__(
        self, sample_rate: int, floor: float = LOG_FLOOR, sizes: tuple[FftSize, ...] = SIZES
    ) -> None:
        """Hops are a quarter of each FFT size; mel magnitudes below the floor are equal."""
        super().__init__()
        self.floor, self.sizes = floor, sizes
        for n_fft in sizes:
            self.register_buffer(f"window{n_fft}", torch.hann_window(n_fft), False)
            bank = mel_filterbank(MEL_BANDS[n_fft], n_fft, sample_rate).T.contiguous()
            self.register_buffer(f"bank{n_fft}", bank, False)

    def spectrum(self, wave: Tensor, n_fft: int) -> Tensor:
        """Complex STFT [B, T, F] of audio [B, S], reflected at its ends."""
        wave = F.pad(wave[:, None], (n_fft // 2, n_fft // 2), mode="reflect")[:, 0]
        frames = wave.unfold(1, n_fft, n_fft // 4) * getattr(self, f"window{n_fft}")
        return RealSpectrum.apply(frames)  # type: ignore[no-any-return, no-untyped-call]

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """L1 between log-mel spectra plus relative L1 between magnitudes: 0 for equal audio [B, S].

        Over the resolutions that fit into S; no gradient enters the target.
        """
        return self.both(output, target, weigh_phase=False)[0]

    def both(self, output: Tensor, target: Tensor, *, weigh_phase: bool) -> tuple[Tensor, Tensor]:
        """The loss of `forward`, and that of `complex_loss`, which is 0 if not asked for."""
        sizes = [n_fft for n_fft in self.sizes if n_fft // 2 < output.shape[1]]
        phased = [n_fft for n_fft in COMPLEX_SIZES if n_fft in sizes] if weigh_phase else []
        total, complex_total = output.new_zeros(()), output.new_zeros(())
        for n_fft in sizes:
            bank = getattr(self, f"bank{n_fft}")
            spectrum = self.spectrum(output, n_fft)
            with torch.no_grad():
                aim = self.spectrum(target, n_fft)
                y = magnitude(aim)
                log_y = (y @ bank).clamp_min_(self.floor).log_()
                level = y.mean().clamp_min(1e-4)
            x = magnitude(spectrum)
            log_x = (x @ bank).clamp_min(self.floor).log()
            total = total + F.l1_loss(log_x, log_y) + F.l1_loss(x, y) / level
            if n_fft in phased:
                complex_total = complex_total + magnitude(spectrum - aim).mean() / level
        return total / len(sizes), complex_total / max(1, len(phased))


def frame_locked(wave: Tensor, sample_rate: int, frame_rate: float) -> Tensor:
    """Share of the energy of audio [B, S] within 1 Hz of a multiple of the frame rate, [B].

    A decoder that knows no time writes a steady tone anew every frame, as a sum of such multiples.
    Two to three seconds or more tell a line from its neighbours; white noise has 2 / frame rate.
    """
    window = torch.hann_window(wave.shape[-1], device=wave.device)
    energy = torch.fft.rfft(wave * window).abs().square()
    frequency = torch.arange(energy.shape[-1], device=wave.device) * (sample_rate / wave.shape[-1])
    off = (frequency / frame_rate - (frequency / frame_rate).round()).abs() * frame_rate
    share: Tensor = energy[..., off < 1].sum(-1) / energy.sum(-1).clamp_min(1e-20)
    return share
