"""musicnn: its checkpoint as it lies in the package, its mel, its patches, and what it hears."""

import struct
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from calm_bench.embeddings import packaged
from calm_bench.embeddings.musicnn import WEIGHTS, MusicnnEmbedding, log_mel, slaney_filters
from calm_bench.embeddings.packaged import PackagedWeights
from calm_bench.embeddings.tensor_bundle import read_floats
from calm_bench.errors import BenchError, WeightsError
from calm_bench.types import Wave

needs_package = pytest.mark.skipif(
    find_spec("musicnn") is None, reason=f"needs what is not installed: {WEIGHTS.install}"
)
RATE = 16_000


def varint(value: int) -> bytes:
    head = bytes([value & 127])
    return head if value < 128 else bytes([head[0] | 128]) + varint(value >> 7)


def message(*fields: tuple[int, int | bytes]) -> bytes:
    def one(number: int, value: int | bytes) -> bytes:
        if isinstance(value, int):
            return varint(number << 3) + varint(value)
        return varint(number << 3 | 2) + varint(len(value)) + value

    return b"".join(one(*field) for field in fields)


def block(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A table's block whose keys leave out what they share with the one before."""
    found, before = b"", b""
    for key, value in entries:
        n = sum(key.startswith(before[:i]) for i in range(1, len(before) + 1))
        found += varint(n) + varint(len(key) - n) + varint(len(value)) + key[n:] + value
        before = key
    return found + struct.pack("<II", 0, 1)


def test_a_checkpoint_is_read_by_name_shape_and_place(tmp_path: Path) -> None:
    first, second = np.arange(600, dtype=np.float32).reshape(2, 300), np.float32([7])
    shape = message((2, message((1, 2))), (2, message((1, 300))))
    entries = [
        (b"", message((1, 1))),
        (b"dense/bias", message((1, 1), (2, message((2, message((1, 1))))), (4, 2400), (5, 4))),
        (b"dense/kernel", message((1, 1), (2, shape), (5, 2400))),
        (b"dense/steps", message((1, 9), (2, b""), (4, 2404), (5, 8))),
    ]
    body = block(entries)
    listing = block([(b"z", varint(0) + varint(len(body)))])
    handle = varint(0) + varint(0) + varint(len(body)) + varint(len(listing))
    (tmp_path / "index").write_bytes(body + listing + handle.ljust(48, b"\0"))
    (tmp_path / "data").write_bytes(first.tobytes() + second.tobytes() + bytes(8))
    found = read_floats(tmp_path / "index", tmp_path / "data")
    assert set(found) == {"dense/bias", "dense/kernel"}
    np.testing.assert_array_equal(found["dense/kernel"], first)
    np.testing.assert_array_equal(found["dense/bias"], second)


def test_a_package_that_is_missing_or_other_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    line = r"^the embedding musicnn .* not installed: pip install --no-deps musicnn==0\.1\.0$"
    with pytest.raises(BenchError, match=line):
        dict(MusicnnEmbedding().recipe)
    monkeypatch.undo()
    (tmp_path / "earlike").mkdir()
    (tmp_path / "earlike" / "net").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    other = PackagedWeights(embedding="e", package="p==1", module="earlike", files={"net": "0"})
    with pytest.raises(WeightsError, match=r"net is not the one of p==1"):
        other.find()


def test_mel_filters_have_equal_areas_and_slaneys_centres() -> None:
    filters = slaney_filters()
    bins = np.fft.rfftfreq(512, 1 / RATE)
    # 96 bands to 8 kHz: 45.245 mel in 97 steps, linear up to 15 mel.
    step = (15 + 27 * np.log(8) / np.log(6.4)) / 97
    centres = (filters * bins).sum(1) / filters.sum(1)
    assert centres[20] == pytest.approx(21 * step * 200 / 3, abs=16)
    assert centres[80] == pytest.approx(1000 * 6.4 ** ((81 * step - 15) / 27), rel=0.01)
    np.testing.assert_allclose(filters[60:].sum(1) * bins[1], 1, rtol=0.05)


def test_no_level_of_16_bit_audio_is_infinite() -> None:
    loud = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)
    frames = log_mel(loud)
    assert frames.shape == (63, 96)
    assert torch.isfinite(frames).all()
    assert not log_mel(loud * 0 + np.float32(0.5)).any()


@pytest.fixture(scope="module")
def ear() -> MusicnnEmbedding:
    return MusicnnEmbedding()


def tone(seconds: float, partials: Sequence[float], decay: float = 0.0) -> Wave:
    """Notes of a scale, each 0.4 s, of sines at multiples of its frequency."""
    t = np.arange(round(0.4 * RATE)) / RATE
    notes = [
        sum(
            a * np.sin(2 * np.pi * 261.6 * 2 ** (k / 12) * (i + 1) * t)
            for i, a in enumerate(partials)
        )
        * np.minimum(1, t / 0.01)
        * np.exp(-decay * t)
        for k in (0, 2, 4, 5, 7, 9, 11, 12)
    ]
    wave = np.tile(np.concatenate(notes), 9)[: round(seconds * RATE)]
    return (0.1 * wave / np.abs(wave).max()).astype(np.float32)


@needs_package
def test_patches_begin_every_half_second_and_know_nothing_of_each_other(
    ear: MusicnnEmbedding,
) -> None:
    wave = tone(9, [1, 0.5, 0.3])
    (found,) = ear.embed([wave])
    assert found.shape == (13, 200)
    hop, patch = 31 * 256, 186 * 256
    # Frames of a patch in the middle look at 256 samples on either side of it.
    (alone,) = ear.embed([wave[hop * 4 - 256 * 31 : hop * 4 + patch + 256 * 31]])
    np.testing.assert_allclose(alone[1], found[4], atol=2e-3)
    assert ear.embed([wave[: round(ear.min_seconds * RATE)]])[0].shape == (1, 200)


@needs_package
def test_it_hears_what_plays(ear: MusicnnEmbedding) -> None:
    def tags(wave: Wave) -> np.ndarray:
        """The probabilities of the 50 tags, by the network's last layer."""
        (vectors,) = ear.embed([wave])
        return ear._network._dense(1, torch.from_numpy(vectors)).sigmoid().numpy().mean(axis=0)

    flute = tags(tone(6, [1, 0.1]))
    rng = np.random.default_rng(0)
    beats = np.exp(-np.arange(RATE // 4) / 400) * rng.standard_normal(RATE // 4)
    drums = tags((0.1 * np.tile(beats, 24)).astype(np.float32))
    drums_tag, flute_tag = 5, 25  # among the 50 in the order of MagnaTagATune
    assert drums[drums_tag] > 3 * flute[drums_tag]
    assert flute[flute_tag] > 3 * drums[flute_tag]
