"""Where a continuation goes in loudness and bandwidth, and how many fade out or blow up.

"Diverges" and "fades away", as numbers per clip:

* Loudness of a segment: ITU-R BS.1770-4, gated, over one segment (3 s, the short-term window of EBU
  Tech 3341); nothing above the standard's absolute gate counts as that gate, -70 LUFS.
* Bandwidth of a segment: the frequency below which 95 % of its power lies.
* Drift: the clip's last whole segment against its first, in LU and in octaves, sign kept.
* Fades out: the last segment is more than 10 LU quieter than the prompt. Ten LU less is about half
  as loud to the ear, and beyond what a segment of steady music strays from its mean.
* Blows up: the last segment is more than 10 LU louder than the prompt, or more than 1 % of its
  samples stand at full scale. A clip with samples that are not finite is a failed trial already.

* Offset: how far the continuation's mean is from zero. All of the above is without it: it cannot be
  heard, but a level, a spectrum and a predicted opinion score move with it.

Real music has both kinds of ending, too: the reference row says how often. Without a prompt the
first segment takes its place.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calm_bench.core.waves import centred, integrated_loudness, mean_power
from calm_bench.metrics.base import Fields, Metric, each_clip, too_little
from calm_bench.metrics.fad import Segments, cut
from calm_bench.types import Clip, Column, MetricResult, Wave

GATE_LUFS = -70.0
FAR_LU = 10.0
FULL_SCALE = 0.999
CLIPPED_SHARE = 0.01
ROLL_OFF = 0.95

_WHOLE = (
    Column.of("fades_out", "Fades out", "%", better=False, aggregate="share"),
    Column.of("blows_up", "Blows up", "%", better=False, aggregate="share"),
    Column.of("loudness_drift", "Loudness drift", "LU", near_normal=True),
    Column.of("bandwidth_drift", "Bandwidth drift", "octaves", near_normal=True),
    Column.of("offset", "Offset", "%"),
)
_LOUDNESS = Column.of("segment_loudness", "Loudness", "LUFS", near_normal=True)
_BANDWIDTH = Column.of("bandwidth", "Bandwidth", "Hz", near_normal=True)


class DriftMetric(Metric):
    """Loudness and bandwidth from segment to segment; shares of clips that fade out or blow up."""

    name = "drift"
    scope = "clip"
    columns = (*_WHOLE, *Segments().columns(_LOUDNESS), *Segments().columns(_BANDWIDTH))

    def __init__(self, segments: Segments | None = None) -> None:
        self.segments = segments or Segments()

    @property
    def own_columns(self) -> tuple[Column, ...]:
        over_time = (self.segments.columns(column) for column in (_LOUDNESS, _BANDWIDTH))
        return (*_WHOLE, *(column for columns in over_time for column in columns))

    @property
    def recipe(self) -> Mapping[str, Any]:
        return {
            "metric": "drift",
            "version": 2,
            "segment_seconds": self.segments.seconds,
            "loudness": f"ITU-R BS.1770-4 of a segment, at least {GATE_LUFS:g} LUFS",
            "bandwidth": f"{ROLL_OFF:.0%} of the power lies below",
            "offset": "|mean| of the continuation in % of full scale, taken out of all else",
            "drift": "last whole segment against the first",
            "fades_out": f"last segment {FAR_LU:g} LU below the prompt",
            "blows_up": f"{FAR_LU:g} LU above, or {CLIPPED_SHARE:.0%} of samples at full scale",
        }

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        return each_clip(clips, self._fields)

    def _fields(self, clip: Clip) -> tuple[Fields, str | None]:
        rate = clip.sample_rate
        fields: dict[str, float | None] = {column.name: None for column in self.own_columns}
        if len(clip.continuation):
            fields["offset"] = abs(float(clip.continuation.mean(dtype=np.float64)))
        levels, widths, wave = [], [], clip.wave[:0]
        for span in self.segments.spans:
            for part in cut([clip], span):
                wave = part.continuation
                levels.append(segment_loudness(wave, rate))
                widths.append(bandwidth(wave, rate))
                fields[self.segments.name(_LOUDNESS.name, span)] = levels[-1]
                fields[self.segments.name(_BANDWIDTH.name, span)] = widths[-1]
        if levels:
            prompt = clip.wave[: round(clip.prompt_seconds * rate)]
            fields |= _ends(segment_loudness(prompt, rate), levels, widths, clipped_share(wave))
        return fields, too_little(fields)


def _ends(
    prompt: float | None,
    levels: Sequence[float | None],
    widths: Sequence[float | None],
    clipped: float,
) -> Fields:
    """How a clip ends: by the level of its prompt, its first segment and its last.

    A segment alone has not drifted from anything, and without a prompt says nothing of an end.
    """
    if len(levels) == 1:
        levels, widths = [None, *levels], [None, *widths]
    first, last = levels[0], levels[-1]
    before = first if prompt is None else prompt
    fields: dict[str, float | None] = {}
    if first is not None and last is not None:
        fields["loudness_drift"] = last - first
    if last is not None and before is not None:
        fields["fades_out"] = float(last < before - FAR_LU)
        fields["blows_up"] = float(last > before + FAR_LU or clipped > CLIPPED_SHARE)
    if widths[0] and widths[-1]:
        fields["bandwidth_drift"] = math.log2(widths[-1] / widths[0])
    return fields


def segment_loudness(wave: Wave, sample_rate: int) -> float | None:
    """Loudness in LUFS, at least -70; None for less than the 0.4 s that the standard needs."""
    found = integrated_loudness(wave, sample_rate)
    if found is None and len(wave) >= round(0.4 * sample_rate):
        return GATE_LUFS
    return found


def bandwidth(wave: Wave, sample_rate: int) -> float | None:
    """The frequency in Hz below which 95 % of the power lies; None for silence."""
    power = mean_power(centred(wave), 1024)  # [513]
    total = power.sum()
    if total <= 0.0:
        return None
    at = int(np.searchsorted(np.cumsum(power), ROLL_OFF * total))
    return max(at, 1) * sample_rate / 1024


def clipped_share(wave: Wave) -> float:
    """The share of samples at full scale, 0 to 1."""
    return float(np.mean(np.abs(wave) >= FULL_SCALE)) if len(wave) else 0.0
