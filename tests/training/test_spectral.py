"""Losses between spectra: closed values, and agreement with the library's own derivatives."""

import math

import pytest
import torch

from calm_bench.codecs.blocks import mel_filterbank
from calm_bench.training.codec import divergence
from calm_bench.training.spectral import MEL_BANDS, SIZES, FftSize, SpectralLoss, frame_locked


def test_spectral_loss_is_zero_for_equal_audio_and_grows_with_noise() -> None:
    loss, wave = SpectralLoss(16000), torch.randn(1, 8000) * 0.1
    assert loss(wave, wave).item() == 0
    quiet, loud = (loss(wave + a * torch.randn_like(wave), wave).item() for a in (0.01, 0.1))
    assert 0 < quiet < loud


def test_below_its_floor_the_spectral_loss_compares_no_levels() -> None:
    quiet, quieter = (torch.randn(1, 8000) * level for level in (1e-6, 1e-7))
    assert SpectralLoss(16000)(quiet, quieter) > 2 * SpectralLoss(16000, 1e-2)(quiet, quieter)


def plain_spectral_loss(
    output: torch.Tensor, target: torch.Tensor, sizes: tuple[FftSize, ...]
) -> torch.Tensor:
    """The loss by the library's own STFT and derivatives."""
    total = output.new_zeros(())
    for n_fft in sizes:
        bank = mel_filterbank(MEL_BANDS[n_fft], n_fft, 16000)
        x, y = (
            torch.stft(
                wave, n_fft, n_fft // 4, window=torch.hann_window(n_fft), return_complex=True
            )
            for wave in (output, target)
        )
        x, y = ((z.real.square() + z.imag.square() + 1e-9).sqrt() for z in (x, y))
        log_x, log_y = (torch.matmul(bank, z).clamp_min(1e-5).log() for z in (x, y))
        total = total + (log_x - log_y).abs().mean() + (x - y).abs().mean() / y.mean()
    return total / len(sizes)


@pytest.mark.parametrize("sizes", [SIZES, (8192, 128)])
def test_spectral_loss_has_the_value_and_gradient_of_the_plain_formula(
    sizes: tuple[FftSize, ...],
) -> None:
    torch.manual_seed(0)
    target = torch.randn(2, 8000) * 0.1
    output = (torch.randn(2, 8000) * 0.1).requires_grad_()
    found = SpectralLoss(16000, sizes=sizes)(output, target)
    expected = plain_spectral_loss(output, target, sizes)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, output)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-3 * gradients[1].abs().max().item(), rtol=1e-3)


def test_complex_loss_rewards_phase_at_any_level() -> None:
    loss, wave = SpectralLoss(16000), torch.randn(1, 8000) * 0.1

    def phased(output: torch.Tensor, target: torch.Tensor) -> float:
        return loss.both(output, target, weigh_phase=True)[1].item()

    assert phased(wave, wave) == pytest.approx(0, abs=1e-4)
    assert phased(-wave, wave) == pytest.approx(2, rel=1e-3)
    assert loss(-wave, wave).item() == pytest.approx(0, abs=1e-5)
    assert phased(torch.zeros_like(wave), wave) == pytest.approx(1, rel=1e-3)
    other = torch.randn(1, 8000) * 0.1
    assert phased(3 * other, 3 * wave) == pytest.approx(phased(other, wave), rel=1e-3)
    assert loss.both(other, wave, weigh_phase=False)[1] == 0


def test_divergence_is_that_of_the_library() -> None:
    mean, log_variance = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    ours = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    unit = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    expected = torch.distributions.kl_divergence(ours, unit).sum(-1)
    torch.testing.assert_close(divergence(mean, log_variance), expected)


def test_frame_locked_tells_a_multiple_of_the_frame_rate_from_other_tones() -> None:
    seconds = torch.arange(4 * 16000) / 16000
    tones = torch.sin(math.tau * torch.tensor([[450.0], [437.5], [451.6]]) * seconds)
    noise = torch.randn(1, len(seconds), generator=torch.Generator().manual_seed(0))
    shares = frame_locked(torch.cat([tones, noise]), 16000, 25.0)
    expected = torch.tensor([1.0, 0.0, 0.0, 2 / 25])
    torch.testing.assert_close(shares, expected, atol=0.005, rtol=0)
