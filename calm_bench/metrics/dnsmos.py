"""DNSMOS: what listeners would say of a clip's acoustic quality, predicted from 16 kHz audio.

A proxy, trained on noise-suppressed telephone speech: good for telling buzz and noise from clean
speech within one table, no substitute for listeners, and deaf to what is said.

The network takes 9.01 s. As in the reference code (dnsmos_local.py of the DNS Challenge) it hears a
continuation in windows that begin every second, as many as its whole seconds have room for, and
their scores are averaged; shorter audio is repeated. Three things are not as there. The mean is
taken out first: an offset of 0.01, which nobody hears, costs clean speech 0.2. Audio is repeated to
one window and not to up to nine turns of the same, which cost nine times the time and differ by
0.02. And no window is lost: the reference computes the window's end in floating point, finds the
windows that begin 7 to 23 s into a clip one sample short, and skips them.

The ONNX file comes from the package speechmos, which is found and not imported: its import drags in
librosa, and its first call compiles for half a minute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from calm_bench.core.audio import RESAMPLER, resample
from calm_bench.core.paths import installed
from calm_bench.core.progress import ordered_map
from calm_bench.core.waves import centred
from calm_bench.metrics.base import Fields, Metric, each_clip
from calm_bench.seeds import file_hash
from calm_bench.types import Clip, Column, MetricResult, Wave, samples_hash

_RATE = 16_000
_WINDOW = 144_160  # samples; 9.01 s
_MIN_SECONDS = 1.0
_BATCH = 16  # windows that the network is given at once
_FIELDS = ("dnsmos_sig", "dnsmos_bak", "dnsmos")
# From the network's outputs (signal, background, overall) to opinion scores: highest power first.
_POLYNOMIALS = (
    (-0.08397278, 1.22083953, 0.0052439),
    (-0.13166888, 1.60915514, -0.39604546),
    (-0.06766283, 1.11546468, 0.04602535),
)


class DnsmosMetric(Metric):
    """Predicted opinion scores of the continuation: overall, signal and background, 1 to 5."""

    name = "dnsmos"
    scope = "clip"
    columns = (
        Column.of("dnsmos", "DNSMOS", "MOS", better=True, near_normal=True),
        Column.of("dnsmos_sig", "DNSMOS signal", "MOS", better=True, near_normal=True),
        Column.of("dnsmos_bak", "DNSMOS background", "MOS", better=True, near_normal=True),
    )

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        return {
            "metric": "dnsmos",
            "version": 2,
            "model_sha256": file_hash(self._model),
            "sample_rate": _RATE,
            "resampler": RESAMPLER,
            "scope": "continuation",
            "window_samples": _WINDOW,
            "hop_samples": _RATE,
            "short": "repeated to one window",
            "offset": "taken out",
        }

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        # Clips are read here and heard on all threads; those that sound the same (the
        # continuations of a row of silence) are heard once.
        heard = ordered_map(self._fields, map(_continuation, clips))
        found = each_clip(clips, lambda clip: next(heard))
        return replace(found, counts={"n_too_short": len(found.notes)})

    def _fields(self, given: tuple[float, Wave]) -> tuple[Fields, str | None]:
        seconds, wave = given
        if seconds < _MIN_SECONDS:
            return dict.fromkeys(_FIELDS), f"{seconds:.2f} s are too short for DNSMOS"
        key = samples_hash(wave, _RATE)
        if key not in self._known:
            self._known[key] = self._opinions(wave)
        return self._known[key], None

    @cached_property
    def _known(self) -> dict[str, Fields]:
        return {}

    def _opinions(self, wave: Wave) -> Fields:
        windows = _windows(centred(np.clip(wave, -1.0, 1.0)))  # [n, _WINDOW]
        batches = (windows[start : start + _BATCH] for start in range(0, len(windows), _BATCH))
        raw = np.concatenate(
            [self._session.run(None, {"input_1": b})[0] for b in batches]
        )  # [n, 3]
        return {
            name: float(np.polyval(polynomial, outputs.astype(np.float64)).mean())
            for name, polynomial, outputs in zip(_FIELDS, _POLYNOMIALS, raw.T, strict=True)
        }

    @cached_property
    def _model(self) -> Path:
        folder = installed("speechmos", "DNSMOS", "offline", "speechmos")
        return folder / "dnsmos_models" / "sig_bak_ovr.onnx"

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a clip a thread: threads that share one wait for it
        providers = ["CPUExecutionProvider"]
        return onnxruntime.InferenceSession(self._model, options, providers=providers)


def _continuation(clip: Clip) -> tuple[float, Wave]:
    return clip.continuation_seconds, resample(clip.continuation, clip.sample_rate, _RATE)


def _windows(wave: Wave) -> Wave:
    """A wave in windows that begin every second, [n, 144160]; a short one repeated to a window."""
    if len(wave) < _WINDOW:
        return np.resize(wave, (1, _WINDOW))
    n_windows = max(1, len(wave) // _RATE - _WINDOW // _RATE)
    return np.lib.stride_tricks.sliding_window_view(wave, _WINDOW)[::_RATE][:n_windows]
