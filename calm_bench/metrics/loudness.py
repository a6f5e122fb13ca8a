"""How loud a continuation is, how much of it is silence, and how far a clip's spectrum wanders.

None of these is a quality score. They catch what quality scores average away: a model that fades
out, that fills its time with silence, or whose timbre drifts off from the prompt's.
A constant offset is taken out first: it is neither loud nor a timbre.

* Loudness after ITU-R BS.1770-4: K-weighted, gated, so pauses do not count; LUFS.
* Silence share: 20 ms frames below -50 dBFS.
* Spectral drift: root mean square difference, over 40 mel bands, between the mean spectra (dB) of
  the clip's first and last quarter, prompt included. Level counts: fading out is drift. Real speech
  is not at zero; the reference row says where it is.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calm_bench.core.waves import SAMPLES_AT_ONCE, centred, integrated_loudness, mel_power
from calm_bench.metrics.base import Fields, Metric, each_clip, too_little
from calm_bench.types import Clip, Column, MetricResult, Wave

_SILENT_DB = -50.0
_FRAME_SECONDS = 0.02
_FLOOR = 1e-8  # power of a mel band that counts as nothing, -80 dBFS
_N_MELS = 40


class LoudnessMetric(Metric):
    """Loudness and silence of the continuation, spectral drift of the whole clip."""

    name = "loudness"
    scope = "clip"
    columns = (
        Column.of("loudness", "Loudness", "LUFS", near_normal=True),
        Column.of("silence_share", "Silence", "%"),
        Column.of("spectral_drift", "Drift", "dB", better=False),
    )

    @property
    def recipe(self) -> Mapping[str, Any]:
        return {
            "metric": "loudness",
            "version": 2,
            "offset": "taken out",
            "loudness": "ITU-R BS.1770-4, integrated, mono, continuation",
            "silence": f"{_FRAME_SECONDS:g} s frames below {_SILENT_DB:g} dBFS, continuation",
            "drift": f"first and last quarter of the clip, {_N_MELS} mel bands",
        }

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        return each_clip(clips, _fields)


def _fields(clip: Clip) -> tuple[Fields, str | None]:
    wave, rate = clip.continuation, clip.sample_rate
    found = {
        "loudness": integrated_loudness(wave, rate),
        "silence_share": silence_share(wave, rate),
        "spectral_drift": spectral_drift(clip.wave, rate),
    }
    return found, too_little(found)


def silence_share(wave: Wave, sample_rate: int) -> float | None:
    """The share of 20 ms frames below -50 dBFS, 0 to 1; None below one frame."""
    frame = round(_FRAME_SECONDS * sample_rate)
    n_frames = len(wave) // frame
    if n_frames == 0:
        return None
    frames = centred(wave[: n_frames * frame]).reshape(n_frames, frame)
    pieces = np.array_split(frames, 1 + frames.size // SAMPLES_AT_ONCE)
    power = np.concatenate([np.mean(piece.astype(np.float64) ** 2, axis=1) for piece in pieces])
    return float(np.mean(power < 10.0 ** (_SILENT_DB / 10.0)))


def spectral_drift(wave: Wave, sample_rate: int) -> float | None:
    """How far the last quarter's mean spectrum is from the first's, in dB; None for silence."""
    n_fft = 2 ** round(math.log2(0.032 * sample_rate))
    quarter = len(wave) // 4
    wave = centred(wave)
    if quarter < n_fft or not np.any(wave):
        return None
    first, last = (
        10.0 * np.log10(np.maximum(mel_power(part, sample_rate, n_fft, _N_MELS).mean(0), _FLOOR))
        for part in (wave[:quarter], wave[-quarter:])
    )
    return float(np.sqrt(np.mean((last - first) ** 2)))
