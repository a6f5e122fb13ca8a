"""Crops as recordings differ: other speeds, bands, levels, noise and offsets.

A codec that has only heard one clean voice at one level gives back little else. What is done to a
crop is drawn per step, and the codec is asked for what it hears, band limits and noise included;
all but an offset, which no ear hears.

B batch, S samples, F frequency bins.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from calm_bench.types import Floats, StrictModel

PEAK = 0.99
_SLOPE = 0.1  # of a cut-off frequency, in which a band ends
_NOISE_FROM = 20.0  # Hz: pink and brown noise would put all of their power below

Array = NDArray[np.float32]


def _ordered(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] > span[1]:
        raise ValueError(f"the least, {span[0]:g}, is more than the greatest, {span[1]:g}")
    return span


Speed = Annotated[float, Field(ge=0.1, le=10)]
Hertz = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Decibels = Annotated[float, Field(ge=-120, le=120)]
Speeds = Annotated[tuple[Speed, Speed], AfterValidator(_ordered)]
Band = Annotated[tuple[Hertz, Hertz], AfterValidator(_ordered)]
Levels = Annotated[tuple[Decibels, Decibels], AfterValidator(_ordered)]


class Augment(StrictModel):
    """How crops differ; ranges from which values are drawn, per crop and kind.

    Attributes:
        clean: Share of crops that stay as they are.
        share: How likely each kind of change is in any other crop.
        speed: Factors of speed and pitch together, as of a tape.
        low_pass: Hz above which nothing is left, alike per octave.
        high_pass: Hz below which nothing is left, alike per octave.
        gain: Decibels; less where a crop would clip.
        snr: Decibels by which a crop is louder than white, pink or brown noise.
        offset: The largest constant added to what the codec hears, of full scale.
    """

    clean: float = Field(default=0.3, ge=0, le=1)
    share: float = Field(default=0.5, ge=0, le=1)
    speed: Speeds = (0.8, 1.25)
    low_pass: Band = (2500.0, 8000.0)
    high_pass: Band = (50.0, 400.0)
    gain: Levels = (-30.0, 9.0)
    snr: Levels = (15.0, 45.0)
    offset: float = Field(default=0.01, ge=0, le=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is done to each crop of a batch, [B] each; neutral values where nothing is done."""

    speed: Array
    low_pass: Array
    high_pass: Array
    gain: Array
    snr: Array
    colour: Array
    offset: Array


def draw_changes(config: Augment, size: int, rng: np.random.Generator) -> Changes:
    """Draw the changes of a batch of `size` crops."""
    changed = rng.random(size) >= config.clean

    def some(neutral: float, values: Floats) -> Array:
        chosen = changed & (rng.random(size) < config.share)
        return np.where(chosen, values, neutral).astype(np.float32)

    def octaves(span: tuple[float, float]) -> Floats:
        low, high = map(math.log, span)
        return np.exp(rng.uniform(low, high, size))

    return Changes(
        speed=some(1.0, octaves(config.speed)),
        low_pass=some(np.inf, octaves(config.low_pass)),
        high_pass=some(0.0, octaves(config.high_pass)),
        gain=some(0.0, rng.uniform(*config.gain, size)),
        snr=some(np.inf, rng.uniform(*config.snr, size)),
        colour=rng.integers(0, 3, size).astype(np.float32),
        offset=some(0.0, rng.uniform(-config.offset, config.offset, size)),
    )


def change_crops(
    waves: Array, changes: Changes, sample_rate: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Crops [B, S], already at their speeds, as the codec hears them and as it is to return them.

    A crop of silence stays silent: noise follows its level.
    """
    power = np.mean(np.square(waves), axis=1)  # [B]
    noise_power = power * 10.0 ** (-changes.snr / 10.0)
    spectra = np.fft.rfft(waves)  # [B, F]
    frequencies = np.arange(spectra.shape[1]) * (sample_rate / waves.shape[1])  # [F]
    spectra += _noise(spectra.shape, noise_power, changes.colour, frequencies, rng)
    spectra *= _band(frequencies, changes)
    found = np.fft.irfft(spectra, waves.shape[1])
    found *= 10.0 ** (changes.gain[:, None] / 20.0)
    found /= np.maximum(1.0, np.abs(found).max(axis=1, keepdims=True) / PEAK)
    same = (changes.low_pass == np.inf) & (changes.high_pass == 0) & (changes.snr == np.inf)
    same &= changes.gain == 0
    target = np.where(same[:, None], waves, found).astype(np.float32)
    return target + changes.offset[:, None], target


def _noise(
    shape: tuple[int, ...],
    power: Array,
    colour: Array,
    frequencies: Floats,
    rng: np.random.Generator,
) -> NDArray[np.complex128]:
    """Spectra [B, F] of noise of the given mean squares; its power falls as f ** -colour."""
    real, imaginary = rng.standard_normal((2, *shape))
    audible = frequencies >= _NOISE_FROM
    slopes = np.maximum(frequencies, _NOISE_FROM) ** (-colour[:, None] / 2.0)
    spectra = (real + 1j * imaginary) * np.where(audible, slopes, 0.0)
    n = 2 * (shape[1] - 1)
    found = 2.0 * np.square(np.abs(spectra)).sum(axis=1, keepdims=True) / n**2
    scaled: NDArray[np.complex128] = spectra * np.sqrt(power[:, None] / found)
    return scaled


def _band(frequencies: Floats, changes: Changes) -> Floats:
    low, high = changes.low_pass[:, None], changes.high_pass[:, None]
    limit = np.minimum(low, 4 * frequencies[-1])  # neutral, and finite
    below = np.clip((limit - frequencies) / (_SLOPE * limit), 0, 1)
    above = np.clip((frequencies - high) / np.maximum(_SLOPE * high, 1e-3), 0, 1)
    gains: Floats = below * np.where(high > 0, above, 1.0)
    return gains
