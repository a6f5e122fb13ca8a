"""What a codec is trained against: multi-resolution spectra and, if asked for, STFT discriminators.

B batch, S samples, F frequency bins, T STFT frames.
"""

import importlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.codecs.blocks import LOG_FLOOR, mel_filterbank
from calm_bench.errors import InputError

Teacher = Callable[[Tensor, int], Tensor]
"""Audio [B, S] and its rate to features [B, T', E], T' frames over the same time."""


def load_teacher(target: str) -> Teacher:
    """The callable behind `package.module:attribute`.

    Raises:
        InputError: If it cannot be imported or called.
    """
    module, _, attribute = target.partition(":")
    try:
        teacher = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"the teacher {target!r} cannot be loaded: {error}") from error
    if not callable(teacher):
        raise InputError(f"the teacher {target!r} is not callable")
    return teacher  # type: ignore[no-any-return]


class Distillation(nn.Module):
    """One minus the cosine between projected latents and the teacher's features."""

    def __init__(self, teacher: Teacher, sample_rate: int, channels: int) -> None:
        """Ask the teacher for its width with a tenth of a second of silence."""
        super().__init__()
        self.teacher, self.sample_rate = teacher, sample_rate
        with torch.no_grad():
            width = teacher(torch.zeros(1, sample_rate // 10), sample_rate).shape[-1]
        self.projection = nn.Linear(channels, width)

    def forward(self, latents: Tensor, wave: Tensor) -> Tensor:
        """Mean loss of latents [B, T, C] for audio [B, S], features pooled to the frame rate."""
        with torch.no_grad():
            features = self.teacher(wave, self.sample_rate).float()  # [B, T', E]
        pooled = F.adaptive_avg_pool1d(features.transpose(1, 2), latents.shape[1]).transpose(1, 2)
        return 1 - F.cosine_similarity(self.projection(latents.float()), pooled, dim=-1).mean()


class Scale(NamedTuple):
    """One STFT resolution: FFT size and mel bands."""

    n_fft: int
    n_mels: int


SCALES = (Scale(2048, 80), Scale(1024, 80), Scale(512, 64), Scale(256, 32), Scale(128, 16))


class SpectralLoss(nn.Module):
    """L1 between log-mel spectra plus relative L1 between magnitudes, averaged over resolutions."""

    def __init__(self, sample_rate: int, scales: tuple[Scale, ...] = SCALES) -> None:
        """Hops are a quarter of each FFT size."""
        super().__init__()
        self.scales = scales
        for scale in scales:
            self.register_buffer(f"window{scale.n_fft}", torch.hann_window(scale.n_fft), False)
            bank = mel_filterbank(scale.n_mels, scale.n_fft, sample_rate)
            self.register_buffer(f"bank{scale.n_fft}", bank, False)

    def magnitude(self, wave: Tensor, n_fft: int) -> Tensor:
        """Magnitude STFT [B, F, T] of audio [B, S]."""
        window = getattr(self, f"window{n_fft}")
        spectrum = torch.stft(wave, n_fft, n_fft // 4, window=window, return_complex=True)
        return torch.view_as_real(spectrum).square().sum(-1).add(1e-9).sqrt()

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean loss of output [B, S] against target [B, S] over the resolutions that fit into S."""
        total = output.new_zeros(())
        scales = [scale for scale in self.scales if scale.n_fft // 2 < output.shape[1]]
        for n_fft, _ in scales:
            bank = getattr(self, f"bank{n_fft}")
            x, y = self.magnitude(output, n_fft), self.magnitude(target, n_fft).detach()
            log_x = torch.matmul(bank, x).clamp_min(LOG_FLOOR).log()
            log_y = torch.matmul(bank, y).clamp_min(LOG_FLOOR).log()
            total = (
                total + F.l1_loss(log_x, log_y) + (x - y).abs().mean() / y.mean().clamp_min(1e-4)
            )
        return total / len(scales)


class StftDiscriminator(nn.Module):
    """A small convolutional judge of one complex STFT (EnCodec, Defossez et al. 2022)."""

    window: Tensor

    def __init__(self, n_fft: int, width: int) -> None:
        """`width` channels in every layer but the last."""
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        shapes = [(2, (1, 1), 1), (width, (2, 1), 1), (width, (2, 1), 2), (width, (2, 1), 4)]
        self.convs = nn.ModuleList(
            nn.Conv2d(c, width, (5, 3), stride=stride, dilation=(1, d), padding=(2, d))
            for c, stride, d in shapes
        )
        self.last = nn.Conv2d(width, 1, (3, 3), padding=1)

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits and the features of each layer for audio [B, S]."""
        spectrum = torch.stft(
            wave,
            self.n_fft,
            self.n_fft // 4,
            window=self.window,
            normalized=True,
            return_complex=True,
        )
        x = torch.view_as_real(spectrum).permute(0, 3, 1, 2)  # [B, 2, F, T]
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
            features.append(x)
        return self.last(x), features


class MultiScaleDiscriminator(nn.Module):
    """One STFT discriminator per resolution."""

    def __init__(self, width: int = 16, n_ffts: tuple[int, ...] = (1024, 512, 256)) -> None:
        """Resolutions in samples."""
        super().__init__()
        self.judges = nn.ModuleList(StftDiscriminator(n, width) for n in n_ffts)

    def forward(self, wave: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """Each judge's logits and features."""
        return [judge(wave) for judge in self.judges]


Verdicts = list[tuple[Tensor, list[Tensor]]]


def hinge_discriminator(real: Verdicts, fake: Verdicts) -> Tensor:
    """The judges' loss: real above 1, fake below -1."""
    losses = [
        F.relu(1 - r).mean() + F.relu(1 + f).mean()
        for (r, _), (f, _) in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()


def hinge_generator(fake: Verdicts) -> Tensor:
    """The codec's adversarial loss: its output should be taken for real."""
    return torch.stack([-logits.mean() for logits, _ in fake]).mean()


def feature_matching(real: Verdicts, fake: Verdicts) -> Tensor:
    """Relative L1 between the judges' features of real and decoded audio."""
    losses = [
        (f - r.detach()).abs().mean() / r.detach().abs().mean().clamp_min(1e-6)
        for (_, reals), (_, fakes) in zip(real, fake, strict=True)
        for r, f in zip(reals, fakes, strict=True)
    ]
    return torch.stack(losses).mean()
