"""Clips to vectors: continuation only, resampled, cached by content, too short ones named."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from clips import clip_of

from calm_bench.core.cache import MemoryCache
from calm_bench.embeddings.base import Embedding
from calm_bench.embeddings.vectors import ClipEmbedder, shared_cache
from calm_bench.errors import BenchError
from calm_bench.types import Clip, Wave


class Means(Embedding):
    """Mean and length of a wave."""

    name, version, sample_rate, dim, min_seconds = "means", "1", 1000, 2, 0.5

    def __init__(self, window: int = "none") -> None:
        self.window = window
        self.waves = []

    @property
    def recipe(self) -> dict[str, Any]:
        return {"window": self.window}

    def embed(self, waves: Sequence[Wave]) -> list[np.ndarray]:
        self.waves += waves
        return [np.array([[wave.mean(), len(wave)]], np.float32) for wave in waves]


def steady(
    value: float,
    *,
    clip_id: str,
    seconds: float = 2.0,
    rate: int = 1000,
    prompt_seconds: float = 1.0,
) -> Clip:
    wave = np.full(round(seconds * rate), value, np.float32)
    wave[: round(prompt_seconds * rate)] = -1.0
    return clip_of(wave, clip_id, rate, prompt_seconds=prompt_seconds)


def embedded(
    embedding: Embedding, clips: Sequence[Clip], cache: MemoryCache | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The vectors of clips by their ids, and why others have none."""
    notes: dict[str, str] = {}
    found = ClipEmbedder(embedding, cache or MemoryCache()).embed(clips, notes)
    return {clip.clip_id: vectors for clip, vectors in found}, notes


def test_the_continuation_is_embedded_at_the_embeddings_rate() -> None:
    found, _ = embedded(Means(), [steady(0.5, clip_id="a"), steady(0.5, clip_id="b", rate=2000)])
    assert found["a"].tolist() == [[0.5, 1000.0]]
    mean, length = found["b"][0]
    assert length == 1000.0
    assert mean == pytest.approx(0.5, abs=0.02)


def test_too_short_clips_are_named_and_not_embedded() -> None:
    embedding = Means()
    short = steady(0.5, clip_id="short", seconds=1.4)
    found, notes = embedded(embedding, [short, steady(0.1, clip_id="ok")])
    assert set(found) == {"ok"}
    assert "0.40 s after the prompt, means needs 0.5 s" in notes["short"]
    assert len(embedding.waves) == 1


def test_vectors_are_found_by_audio_prompt_length_and_recipe() -> None:
    cache, embedding = MemoryCache(), Means()
    clips = [steady(0.1, clip_id="a"), steady(0.2, clip_id="b"), steady(0.1, clip_id="a")]
    embedded(embedding, clips, cache)
    embedded(embedding, clips, cache)
    assert len(embedding.waves) == 2
    embedded(embedding, [steady(0.1, clip_id="a", prompt_seconds=0.5)], cache)
    assert len(embedding.waves) == 3
    other = Means(window="hann")
    embedded(other, clips, cache)
    assert len(other.waves) == 2


def test_more_clips_than_a_batch_keep_their_vectors() -> None:
    clips = [steady(i / 100, clip_id=f"c{i}") for i in range(40)]
    found, _ = embedded(Means(), clips)
    assert [round(float(found[f"c{i}"][0, 0]) * 100) for i in range(40)] == list(range(40))


def test_an_embedding_that_breaks_its_promise_is_an_error() -> None:
    class Wide(Means):
        dim = 3

    with pytest.raises(BenchError, match=r"Wide gave vectors .* \[N, 3\]"):
        embedded(Wide(), [steady(0.1, clip_id="a")])


def test_the_memory_cache_forgets_what_was_used_longest_ago() -> None:
    cache = MemoryCache(max_bytes=3 * 8)
    for name in "abc":
        cache.write(name, np.zeros((1, 2), np.float32))
    cache.read("a")
    cache.write("d", np.zeros((1, 2), np.float32))
    assert cache.read("b") is None
    assert all(cache.read(name) is not None for name in "acd")
    cache.write("huge", np.zeros((100, 2), np.float32))
    assert cache.read("huge") is not None


def test_metrics_without_a_cache_of_their_own_share_one() -> None:
    assert ClipEmbedder(Means()).store is ClipEmbedder(Means()).store is shared_cache()


def test_what_is_longer_than_the_embedding_takes_is_cut_into_equal_windows() -> None:
    class Short(Means):
        max_seconds = 1.0

    embedding = Short()
    clips = [steady(0.5, clip_id=f"{n}", seconds=1.0 + n) for n in (0.6, 1.0, 1.001, 2.5)]
    found, _ = embedded(embedding, clips)
    lengths = {name: [int(length) for _, length in vectors] for name, vectors in found.items()}
    assert lengths == {"0.6": [600], "1.0": [1000], "1.001": [501, 500], "2.5": [834, 833, 833]}


def test_the_cut_is_in_the_recipe_of_embeddings_that_need_it() -> None:
    class Short(Means):
        max_seconds = 1.0

    assert "at most 1 s" in ClipEmbedder(Short(), MemoryCache()).recipe["longer_clips"]
    assert "longer_clips" not in ClipEmbedder(Means(), MemoryCache()).recipe
