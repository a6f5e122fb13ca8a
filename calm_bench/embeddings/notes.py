"""What is played: the notes that a transcription network hears, and how they change over a clip.

basic-pitch (Bittner et al., arXiv 2203.09893) was trained to say which of the 88 keys of a piano
sound and where notes begin, whatever plays them. Its network is the ONNX file in the package
`basic-pitch` 0.4.0 (Apache 2.0), which is never imported: it asks for TensorFlow.

The network normalises each window of 2 s that it is given, so the dither of a silent recording is
music to it: stretches that are quieter than -80 dBFS, or 50 dB quieter than the whole, have no
notes. It hears octaves that nobody plays, the more the lower the gain: every clip is brought to one
loudness, keys are folded to pitch classes, and octaves that begin together count as one onset.
Windows overlap, and of each only frames are kept that lie 15 and more from its ends.

Two embeddings are made of notes, of few dimensions, so that few clips fill them. `notes`: pitch
classes and the density of onsets in 3 s. `notes-drift`: how far both are at a clip's end from what
they were at its beginning. Neither knows timbre, and level only by the notes that it hides.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calm_bench.core.cache import MemoryCache
from calm_bench.core.waves import centred, integrated_loudness
from calm_bench.embeddings.base import Embedding
from calm_bench.embeddings.packaged import PackagedWeights
from calm_bench.seeds import content_hash
from calm_bench.types import Wave

WEIGHTS = PackagedWeights(
    embedding="notes",
    package="basic-pitch==0.4.0",
    module="basic_pitch",
    files={
        "saved_models/icassp_2022/nmp.onnx": (
            "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec"
        )
    },
)
LOWEST_PITCH = 21  # MIDI's number of the lowest key of a piano, an A
FRAME = 256  # samples
_RATE = 22_050
_WINDOW = 43_844  # samples, of which the network makes 172 frames
_MARGIN = 15  # frames at either end that another window hears better
_KEPT = 141  # frames of a window: where the next one's begin
_SOUNDS, _BEGINS = 0.3, 0.5  # activations from which the package speaks of a note, and of an onset
_GATE_DB, _BELOW_DB = -80.0, 50.0
_LEVEL_SAMPLES = 2048  # in which the level of a frame is measured
_LOUDNESS_LUFS = -20.0
_SECONDS, _HOP_SECONDS = 3.0, 1.0
_CLASSES = 12
_TOGETHER = 4  # frames, 46 ms, in which octaves begin together

_known = MemoryCache(2**26)
"""Pitch classes and onsets of waves: both embeddings look at the same clips, of which it holds five
thousand of 12 s."""


def pitch_classes(wave: Wave) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """How many keys of a pitch class (0 is C) sound in a frame of 11.6 ms, and whether one begins.

    Of a wave [S] at 22,050 Hz, both [T, 12].
    """
    keys_sound, keys_begin = _keys(wave)
    octaves = [slice((c - LOWEST_PITCH) % _CLASSES, None, _CLASSES) for c in range(_CLASSES)]
    sounding = np.stack([keys_sound[:, keys].sum(axis=1) for keys in octaves], axis=1)
    begins = np.stack([keys_begin[:, keys].any(axis=1) for keys in octaves], axis=1)
    before = np.pad(begins, ((_TOGETHER, 0), (0, 0)))[:-1]
    recent = np.lib.stride_tricks.sliding_window_view(before, _TOGETHER, axis=0).any(axis=-1)
    return sounding, begins & ~recent


def _keys(wave: Wave) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which keys sound in a frame and which begin, [T, 88] each; none where it is too quiet."""
    wave, n_frames = centred(wave), len(wave) // FRAME
    loudness = integrated_loudness(wave, _RATE)
    if loudness is None or not n_frames:
        nothing = np.zeros((n_frames, 88), dtype=np.bool_)
        return nothing, nothing
    loud = wave * np.float32(10 ** ((_LOUDNESS_LUFS - loudness) / 20))
    onsets, notes = _activations(loud, n_frames)
    audible = _levels(wave, n_frames) > max(_GATE_DB, loudness - _BELOW_DB)  # [T]
    around = np.pad(onsets, ((1, 1), (0, 0)))
    peaks = (onsets > around[:-2]) & (onsets >= around[2:]) & (onsets >= _BEGINS)
    keep = audible[:, None]
    return (notes >= _SOUNDS) & keep, peaks & keep


def _activations(wave: Wave, n_frames: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    n_windows, hop = math.ceil(n_frames / _KEPT), _KEPT * FRAME
    padded = np.zeros((n_windows - 1) * hop + _WINDOW, np.float32)
    room = padded[_MARGIN * FRAME :]
    room[: len(wave)] = wave[: len(room)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::hop]
    found = _network().run(
        ["StatefulPartitionedCall:2", "StatefulPartitionedCall:1"],
        {"serving_default_input_2:0": np.ascontiguousarray(windows[..., None])},
    )
    kept = slice(_MARGIN, _MARGIN + _KEPT)
    onsets, notes = (out[:, kept].reshape(-1, 88)[:n_frames] for out in found)
    return onsets, notes


@cache
def _network() -> Any:
    import onnxruntime

    (model,) = WEIGHTS.find()
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


class NotesEmbedding(Embedding):
    """Notes that are heard: pitch classes and density of onsets in 3 s, every second."""

    name = "notes"
    version = "1"
    sample_rate = _RATE
    dim = _CLASSES + 1
    min_seconds = _SECONDS

    @property
    def recipe(self) -> Mapping[str, Any]:
        return {
            **_shared_recipe(),
            "window_seconds": _SECONDS,
            "hop_seconds": _HOP_SECONDS,
            "vector": "12 × the share of each pitch class in all that sounds (0 if nothing does), "
            "log2(1 + onsets a second)",
        }

    def embed(self, waves: Sequence[Wave]) -> list[NDArray[np.float32]]:
        return [self._embed(wave) for wave in waves]

    def _embed(self, wave: Wave) -> NDArray[np.float32]:
        frames = self._frames(wave)
        size = min(len(frames), _n_frames(_SECONDS))
        starts = range(0, len(frames) - size + 1, _n_frames(_HOP_SECONDS))
        return np.stack([_vector(frames[start : start + size]) for start in starts])

    def _frames(self, wave: Wave) -> NDArray[np.float32]:
        """How many keys of each pitch class sound in a frame, and how many classes begin, [T, 13].

        Kept for the other embedding, which looks at the same clips.
        """
        key = content_hash(np.ascontiguousarray(wave).tobytes())
        frames = _known.read(key)
        if frames is None:
            sounding, begins = pitch_classes(wave)
            frames = np.concatenate([sounding, begins.sum(axis=1, keepdims=True)], axis=1)
            _known.write(key, frames := frames.astype(np.uint8))
        return frames.astype(np.float32)


class NotesDriftEmbedding(NotesEmbedding):
    """Notes that are heard: how far a clip's end is from its beginning, one vector a clip."""

    name = "notes-drift"
    dim = 2

    @property
    def recipe(self) -> Mapping[str, Any]:
        return {
            **_shared_recipe(),
            "window_seconds": f"first and last {_SECONDS:g}, or halves of what is shorter than two",
            "vector": "Hellinger distance of the pitch classes, change of log2(1 + onsets a "
            "second)",
        }

    def _embed(self, wave: Wave) -> NDArray[np.float32]:
        frames = self._frames(wave)
        size = min(len(frames) // 2, _n_frames(_SECONDS))
        first, last = _vector(frames[:size]), _vector(frames[-size:])
        shares = np.sqrt(np.stack([first, last])[:, :_CLASSES] / _CLASSES)
        distance = np.linalg.norm(shares[1] - shares[0]) / math.sqrt(2)
        return np.array([[distance, last[-1] - first[-1]]], dtype=np.float32)


def _shared_recipe() -> dict[str, Any]:
    WEIGHTS.find()
    return {
        "package": WEIGHTS.package,
        "weights_sha256": list(WEIGHTS.files.values()),
        "input": f"windows of {_WINDOW} samples, {_KEPT} of their frames kept, {_MARGIN} before",
        "loudness_lufs": _LOUDNESS_LUFS,
        "gate": f"frames above {_GATE_DB:g} dBFS and {-_BELOW_DB:g} dB of the clip's loudness",
        "offset": "taken out",
        "sounds": f"note activation of {_SOUNDS:g}",
        "begins": f"peak of the onset activation of {_BEGINS:g}, octaves within {_TOGETHER} frames "
        "once",
    }


def _vector(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Frames [T, 13] to 12 × the share of each pitch class and the density of onsets, [13]."""
    classes, onsets = frames[:, :_CLASSES].sum(axis=0), float(frames[:, -1].sum())
    density = math.log2(1 + onsets / (len(frames) * FRAME / _RATE))
    shares = _CLASSES * classes / max(1.0, float(classes.sum()))
    return np.array([*shares, density], dtype=np.float32)


def _levels(wave: Wave, n_frames: int) -> NDArray[np.float64]:
    """The level of a wave around each frame in dB of full scale, [T]."""
    sums = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])
    at = np.arange(n_frames) * FRAME
    first, last = np.maximum(at - _LEVEL_SAMPLES // 2, 0), at + _LEVEL_SAMPLES // 2
    last = np.minimum(last, len(wave))
    power = np.maximum((sums[last] - sums[first]) / (last - first), 0.0)
    levels: NDArray[np.float64] = 10 * np.log10(np.maximum(power, 1e-20))
    return levels


def _n_frames(seconds: float) -> int:
    return round(seconds * _RATE / FRAME)
