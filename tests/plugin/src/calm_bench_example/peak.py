"""How loud the loudest sample is: the smallest metric that does everything a metric must do."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calm_bench.metrics.base import Metric
from calm_bench.types import Clip, Column, MetricResult

__all__ = ["PeakMetric"]


class PeakMetric(Metric):
    """The peak of each continuation in dBFS."""

    name = "peak"
    scope = "clip"
    columns = (
        Column(
            name="peak_dbfs",
            label="Peak",
            unit="dBFS",
            higher_is_better=None,
            aggregate="mean",
            fields=("peak_dbfs",),
        ),
    )

    @property
    def recipe(self) -> Mapping[str, Any]:
        return {"metric": "peak", "version": 1}

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        values: dict[str, dict[str, float | None]] = {}
        notes: dict[str, str] = {}
        for clip in clips:
            peak = float(np.abs(clip.continuation).max(initial=0.0))
            # The logarithm of nothing is no number: say so, instead of a very low one.
            values[clip.clip_id] = {"peak_dbfs": 20 * math.log10(peak) if peak > 0 else None}
            if peak == 0:
                notes[clip.clip_id] = "the continuation is digital silence"
        return MetricResult(clips=values, notes=notes)
