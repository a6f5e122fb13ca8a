"""DNSMOS: what listeners would say of a clip's acoustic quality, predicted from 16 kHz audio.

A proxy, trained on noise-suppressed telephone speech: good for telling buzz and noise from clean
speech within one table, no substitute for listeners, and deaf to what is said. The network takes
9.01 s; it hears the continuation in consecutive windows of that length, as many as fit best, the
last one padded with zeros at its end (the reference code repeats short audio instead, which adds a
seam). A 12 s clip with a 3 s prompt is one window.

The ONNX file comes from the package speechmos, which is found and not imported: its import drags in
librosa, and its first call compiles for half a minute.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from calm_bench.audio import RESAMPLER, resample
from calm_bench.errors import MissingExtraError
from calm_bench.metrics.base import Metric
from calm_bench.seeds import file_hash
from calm_bench.types import Clip, Column, MetricResult, Wave

__all__ = ["DnsmosMetric"]

_RATE = 16_000
_WINDOW = 144_160  # samples; 9.01 s
_MIN_SECONDS = 1.0
_FIELDS = ("dnsmos_sig", "dnsmos_bak", "dnsmos")
# From the network's outputs (signal, background, overall) to opinion scores: highest power first.
_POLYNOMIALS = (
    (-0.08397278, 1.22083953, 0.0052439),
    (-0.13166888, 1.60915514, -0.39604546),
    (-0.06766283, 1.11546468, 0.04602535),
)


def _mos(name: str, label: str) -> Column:
    return Column(
        name=name, label=label, unit="MOS", higher_is_better=True, aggregate="mean", fields=(name,)
    )


class DnsmosMetric(Metric):
    """Predicted opinion scores of the continuation: overall, signal and background, 1 to 5."""

    name: ClassVar[str] = "dnsmos"
    scope: ClassVar[Literal["clip", "set"]] = "clip"
    columns: ClassVar[tuple[Column, ...]] = (
        _mos("dnsmos", "DNSMOS"),
        _mos("dnsmos_sig", "DNSMOS signal"),
        _mos("dnsmos_bak", "DNSMOS background"),
    )

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The network's hash and how audio is cut and padded for it."""
        return {
            "metric": "dnsmos",
            "version": 1,
            "model_sha256": self._model_hash,
            "sample_rate": _RATE,
            "resampler": RESAMPLER,
            "scope": "continuation",
            "window_samples": _WINDOW,
            "padding": "zeros at the end",
        }

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        values: dict[str, dict[str, float | None]] = {}
        notes: dict[str, str] = {}
        for clip in clips:
            seconds = clip.continuation_seconds
            if seconds < _MIN_SECONDS:
                values[clip.clip_id] = dict.fromkeys(_FIELDS)
                notes[clip.clip_id] = f"{seconds:.2f} s are too short for DNSMOS"
            else:
                wave = resample(clip.continuation, clip.sample_rate, _RATE)
                values[clip.clip_id] = self._opinions(wave)
        return MetricResult(clips=values, notes=notes, counts={"n_too_short": len(notes)})

    def _opinions(self, wave: Wave) -> dict[str, float | None]:
        """The scores of one wave at 16 kHz, averaged over its windows."""
        n_windows = max(1, round(len(wave) / _WINDOW))
        windows = np.zeros(n_windows * _WINDOW, dtype=np.float32)
        kept = np.clip(wave[: len(windows)], -1.0, 1.0)
        windows[: len(kept)] = kept
        raw = self._session.run(None, {"input_1": windows.reshape(n_windows, _WINDOW)})[0]  # [n, 3]
        return {
            name: float(np.polyval(polynomial, outputs.astype(np.float64)).mean())
            for name, polynomial, outputs in zip(_FIELDS, _POLYNOMIALS, raw.T, strict=True)
        }

    @cached_property
    def _model(self) -> Path:
        spec = importlib.util.find_spec("speechmos")  # does not run the package
        for folder in (spec.submodule_search_locations or []) if spec else []:
            path = Path(folder) / "dnsmos_models" / "sig_bak_ovr.onnx"
            if path.is_file():
                return path
        raise MissingExtraError("DNSMOS", "offline", "speechmos")

    @cached_property
    def _model_hash(self) -> str:
        return file_hash(self._model)

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        return onnxruntime.InferenceSession(self._model, providers=["CPUExecutionProvider"])
