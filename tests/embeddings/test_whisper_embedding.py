"""The Whisper embedding: how many vectors, of which audio, and what they can tell apart."""

import numpy as np
import pytest

from calm_bench.asr.faster_whisper import PINNED_SHA256
from calm_bench.core.waves import centred
from calm_bench.embeddings.whisper import WhisperEmbedding
from calm_bench.errors import InputError

pytestmark = pytest.mark.extra("offline")

RATE = WhisperEmbedding.sample_rate


@pytest.fixture(scope="module")
def embedding() -> WhisperEmbedding:
    return WhisperEmbedding()


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    voice = sum(np.sin(2 * np.pi * 130 * k * t) / k for k in range(1, 9))
    wave = 0.05 * voice * (np.sin(2 * np.pi * 3 * t) > 0) + 0.002 * rng.standard_normal(len(t))
    return wave.astype(np.float32)


@pytest.mark.parametrize(
    ("seconds", "n"), [(8.96, 45), (9.0, 45), (2.0, 10), (2.08, 10), (2.1, 11)]
)
def test_five_vectors_a_second_of_audio_and_none_of_padding(
    embedding: WhisperEmbedding, seconds: float, n: int
) -> None:
    (vectors,) = embedding.embed([sound(seconds)])
    assert vectors.shape == (n, embedding.dim)
    assert vectors.dtype == np.float32


def test_vectors_are_means_of_the_encoder_s_frames(embedding: WhisperEmbedding) -> None:
    wave = sound(2.1)
    frames = embedding._recognizer.encode(centred(wave))
    assert len(frames) == 105
    (vectors,) = embedding.embed([wave])
    np.testing.assert_allclose(vectors[3], frames[30:40].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(vectors[-1], frames[100:].mean(axis=0), atol=1e-5)


def test_waves_do_not_depend_on_their_neighbours(embedding: WhisperEmbedding) -> None:
    waves = [sound(1.5, seed) for seed in range(3)]
    together = embedding.embed(waves)
    for wave, vectors in zip(waves, together, strict=True):
        np.testing.assert_array_equal(embedding.embed([wave])[0], vectors)


def test_more_noise_lies_further_away(embedding: WhisperEmbedding) -> None:
    clean = sound(3.0)
    noise = np.random.default_rng(1).standard_normal(len(clean)).astype(np.float32)
    base, *noisy = (
        v.mean(axis=0) for v in embedding.embed([clean, *(clean + s * noise for s in (0.01, 0.05))])
    )
    near, far = (float(np.linalg.norm(vector - base)) for vector in noisy)
    assert 0 < near < far


def test_limits_and_recipe(embedding: WhisperEmbedding) -> None:
    with pytest.raises(InputError, match="at most 30 s"):
        embedding.embed([np.zeros(31 * RATE, np.float32)])
    assert embedding.recipe["weights_sha256"] == PINNED_SHA256
