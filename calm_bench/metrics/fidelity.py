"""How much of a recording survives a codec: the round-trip rows against what went in.

Every value compares two waves sample by sample or frame by frame, so it means something for round
trips alone: a model's own continuation is another recording, however good. The continuation is
compared, at the reference's rate and without its mean, over the longer of the two: what one of
them lacks is silence there, so that a clip that ends early is no good copy. Of a difference in
length, the last 0.1 s are forgiven, because codecs end where their frame ends.

SI-SDR and PESQ punish a codec that invents plausible detail (any codec with an adversarial or a
generative decoder does); STOI and the log-mel distance care less about phase. Read them together
with the WER of the same row.
"""

import importlib
import importlib.metadata
import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from calm_bench.core.audio import RESAMPLER, resample
from calm_bench.core.paths import installed
from calm_bench.core.waves import centred, mel_power
from calm_bench.metrics.base import Fields, Metric, Need, each_clip
from calm_bench.types import Clip, Column, Estimate, MetricResult, Wave

_RESOLUTIONS = ((256, 20), (512, 40), (1024, 80), (2048, 80))  # window in samples, mel bands
_FLOOR = 1e-8
_FRAME_SECONDS = 0.1  # a little more than the longest frame of a codec in use, 80 ms
_PESQ_RATE = 16_000
# The measure is made for single sentences, and the package does not survive all longer audio.
_PESQ_SECONDS = 20

BITS_PER_SECOND = Column.of("bits_per_second", "bit/s", "bit/s", aggregate="set")
"""The rate of a codec's code stream: a property of the codec, which no clip can tell."""


def bit_rate(bits_per_second: float | None) -> Estimate:
    """The value of `bits_per_second` in a codec's row."""
    if bits_per_second is None:
        return Estimate(value=None, reason="continuous latents have no bit rate")
    return Estimate(value=bits_per_second)


class _RoundTripMetric(Metric):
    """A clip metric of a wave against the reference of the same prompt."""

    scope = "clip"
    needs: ClassVar[frozenset[Need]] = frozenset({"paired_reference"})

    @abstractmethod
    def compare(self, wave: Wave, original: Wave, sample_rate: int) -> Mapping[str, float | str]:
        """Each field's value, or why it has none, of two waves of equal length."""

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        # Each prompt has one original; draws of it are versions of the same.
        originals = {clip.prompt_id: clip for clip in reference}
        found = each_clip(clips, lambda c: self._fields(c, originals.get(c.prompt_id)))
        return replace(found, counts={"n_undefined": len(found.notes)})

    def _fields(self, clip: Clip, original: Clip | None) -> tuple[Fields, str | None]:
        names = [name for column in self.columns for name in column.fields]
        if original is None:
            return dict.fromkeys(names), "no reference of the same prompt"
        rate, target = original.sample_rate, centred(original.continuation)
        if not np.any(target):
            return dict.fromkeys(names), "the reference is silent or empty"
        wave = centred(resample(clip.continuation, clip.sample_rate, rate))
        covered = min(1.0, len(wave) / len(target))
        found = {"coverage": covered, **self.compare(*_aligned(wave, target, rate), rate)}
        reasons = {value for value in found.values() if isinstance(value, str)}
        fields = {n: None if isinstance(found[n], str) else float(found[n]) for n in names}
        return fields, "; ".join(sorted(reasons))


def _aligned(wave: Wave, target: Wave, sample_rate: int) -> tuple[Wave, Wave]:
    """Both at the length of the longer, less a codec's frame of what only one of them has, [S]."""
    shorter, longer = sorted((len(wave), len(target)))
    length = max(shorter, longer - round(_FRAME_SECONDS * sample_rate))
    ours, theirs = (np.pad(w[:length], (0, max(0, length - len(w)))) for w in (wave, target))
    return ours, theirs


def _recipe(metric: str, **own: Any) -> dict[str, Any]:
    """What all round-trip metrics do to the two waves before they compare them, and one's own."""
    return {
        "metric": metric,
        "version": 2,
        "scope": "continuation",
        "resampler": RESAMPLER,
        "lengths": f"the longer of the two less {_FRAME_SECONDS:g} s, silence where one has ended",
        "offset": "taken out",
        **own,
    }


class FidelityMetric(_RoundTripMetric):
    """SI-SDR and multi-resolution log-mel distance of a round trip, and how much of it is there."""

    name = "fidelity"
    columns = (
        Column.of("si_sdr", "SI-SDR", "dB", better=True, near_normal=True),
        Column.of("mel_distance", "Mel distance", "dB", better=False, near_normal=True),
        Column.of("coverage", "Coverage", "%", better=True),
    )

    @property
    def recipe(self) -> Mapping[str, Any]:
        mel_distance = f"mean |dB| over windows and bands {_RESOLUTIONS}"
        return _recipe("fidelity", si_sdr="zero mean", mel_distance=mel_distance)

    def compare(self, wave: Wave, original: Wave, sample_rate: int) -> Mapping[str, float | str]:
        return {
            "si_sdr": si_sdr(wave, original),
            "mel_distance": log_mel_distance(wave, original, sample_rate),
        }


class StoiMetric(_RoundTripMetric):
    """Short-time objective intelligibility of a round trip, 0 to 1, by pystoi."""

    name = "stoi"
    columns = (Column.of("stoi", "STOI", "", better=True, near_normal=True),)

    @property
    def recipe(self) -> Mapping[str, Any]:
        return _recipe("stoi", extended=False, pystoi=_version("STOI", "offline", "pystoi"))

    def compare(self, wave: Wave, original: Wave, sample_rate: int) -> Mapping[str, float | str]:
        pystoi = _optional("STOI", "offline", "pystoi")
        # Where less than 0.4 s of the reference is not silent, pystoi warns and answers 1e-5, and
        # where it is less than a frame, it has no frames to index.
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            try:
                value = pystoi.stoi(original, wave, sample_rate, extended=False)
            except (RuntimeWarning, np.exceptions.AxisError):
                return {"stoi": "less than 0.4 s of speech for STOI"}
        return {"stoi": float(value)}


class PesqMetric(_RoundTripMetric):
    """Wide-band PESQ of a round trip (mean opinion score, 1 to 4.6), by the package pesq."""

    name = "pesq"
    columns = (Column.of("pesq", "PESQ", "MOS", better=True, near_normal=True),)

    @property
    def recipe(self) -> Mapping[str, Any]:
        return _recipe(
            "pesq",
            mode="wb",
            pesq=_version("PESQ", "pesq", "pesq"),
            sample_rate=_PESQ_RATE,
            longer_clips=f"mean of equal windows of at most {_PESQ_SECONDS} s",
        )

    def compare(self, wave: Wave, original: Wave, sample_rate: int) -> Mapping[str, float | str]:
        pesq = _optional("PESQ", "pesq", "pesq")
        ours, theirs = (resample(w, sample_rate, _PESQ_RATE) for w in (wave, original))
        n_windows = max(1, -(-len(theirs) // (_PESQ_SECONDS * _PESQ_RATE)))
        windows = [np.array_split(w, n_windows) for w in (theirs, ours)]
        try:
            with np.errstate(invalid="ignore"):
                found = [pesq.pesq(_PESQ_RATE, *pair, "wb") for pair in zip(*windows, strict=True)]
        except pesq.PesqError as error:
            return {"pesq": f"PESQ finds no speech to compare ({type(error).__name__})"}
        except ValueError:  # the package meets NaN where it brings silence to speech level
            return {"pesq": "PESQ of silence is not defined"}
        return {"pesq": float(np.mean(found))}


def si_sdr(wave: Wave, original: Wave) -> float | str:
    """Scale-invariant signal-to-distortion ratio in dB, or why it is not finite."""
    target = original.astype(np.float64) - original.mean(dtype=np.float64)
    estimate = wave.astype(np.float64) - wave.mean(dtype=np.float64)
    energy = float(target @ target)
    if energy == 0.0 or not np.any(estimate):
        return "SI-SDR of silence is not defined"
    projection = (float(estimate @ target) / energy) * target
    signal = float(projection @ projection)
    distortion = float(np.sum((estimate - projection) ** 2))
    if distortion <= 1e-14 * signal:
        return "SI-SDR of a perfect copy has no bound"
    if signal == 0.0:
        return "SI-SDR of an orthogonal wave has no bound"
    return 10.0 * math.log10(signal / distortion)


def log_mel_distance(wave: Wave, original: Wave, sample_rate: int) -> float:
    """Mean absolute difference of log mel spectra in dB, averaged over four window lengths."""
    distances = []
    for n_fft, n_mels in _RESOLUTIONS:
        ours, theirs = (
            10.0 * np.log10(np.maximum(mel_power(w, sample_rate, n_fft, n_mels), _FLOOR))
            for w in (wave, original)
        )
        distances.append(np.abs(ours - theirs).mean())
    return float(np.mean(distances))


def _version(feature: str, extra: str, package: str) -> str:
    installed(package, feature, extra, package)
    return importlib.metadata.version(package)


def _optional(feature: str, extra: str, package: str) -> Any:
    installed(package, feature, extra, package)
    return importlib.import_module(package)
