from dataclasses import replace

import numpy as np

from calm_bench.core.audio import audio_hash
from calm_bench.types import Clip, Wave

RATE = 100


class Stored:
    """Audio that counts how often it is read."""

    audio_id, n_samples = "abc", 3 * RATE

    def __init__(self) -> None:
        self.reads = 0

    def read(self) -> Wave:
        self.reads += 1
        return np.arange(self.n_samples, dtype=np.float32)


def clip_of(wave: object) -> Clip:
    return Clip(
        clip_id="trial",
        prompt_id="p",
        seed_index=0,
        wave=wave,  # type: ignore[arg-type]
        sample_rate=RATE,
        prompt_seconds=1.0,
        end_seconds=2.5,
    )


def test_a_stored_clip_is_read_only_when_its_samples_are_looked_at() -> None:
    stored = Stored()
    clip = clip_of(stored)
    cut = clip.within(0.5, None)
    assert (clip.seconds, clip.continuation_seconds, clip.n_samples) == (3.0, 1.5, 300)
    assert (cut.continuation_seconds, cut.span, cut.audio_id) == (2.5, (0.5,), "abc")
    assert stored.reads == 0
    assert cut.continuation[0] == 50
    assert clip.continuation.tolist() == list(range(100, 250))
    assert stored.reads == 2


def test_a_clip_of_samples_has_their_length_and_identity() -> None:
    wave = np.ones(RATE, np.float32)
    clip = clip_of(wave)
    assert clip.wave is wave
    assert clip.audio_id == audio_hash(wave, RATE)
    assert (clip.seconds, clip.continuation_seconds) == (1.0, 0.0)
    longer = replace(clip, wave=np.ones(2 * RATE, np.float32))
    assert (longer.seconds, longer.clip_id) == (2.0, "trial")
    assert longer.audio_id != clip.audio_id
    assert replace(clip_of(Stored()), words=()).seconds == 3.0
