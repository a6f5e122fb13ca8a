from dataclasses import replace
from pathlib import Path

import numpy as np

from calm_bench.core.audio import AudioFacts, audio_hash
from calm_bench.score.clips import StoredClip
from calm_bench.types import Clip, Wave

RATE = 100
SOUND = AudioFacts(
    sample_rate=RATE, channels=1, n_samples=3 * RATE, audio_id="abc", level_dbfs=None, remarks=()
)
ABOUT = {"clip_id": "trial", "prompt_id": "p", "seed_index": 0}
SPAN = {"prompt_seconds": 1.0, "end_seconds": 2.5}


def test_a_stored_clip_is_read_only_when_its_samples_are_looked_at() -> None:
    reads = []

    def read(clip: StoredClip) -> Wave:
        reads.append(clip.path)
        return np.arange(clip.n_samples, dtype=np.float32)

    clip = StoredClip(**ABOUT, **SPAN, path=Path("a.flac"), sound=SOUND, reader=read)
    cut = clip.within(0.5, None)
    assert (clip.seconds, clip.continuation_seconds, clip.n_samples) == (3.0, 1.5, 300)
    assert (cut.continuation_seconds, cut.span, cut.audio_id) == (2.5, (0.5,), "abc")
    assert replace(clip, words=()).sample_rate == RATE
    assert "a.flac" in repr(clip)
    assert reads == []
    assert cut.continuation[0] == 50
    assert clip.continuation.tolist() == list(range(100, 250))
    assert len(reads) == 2


def test_a_clip_of_samples_has_their_length_and_identity() -> None:
    wave = np.ones(RATE, np.float32)
    clip = Clip(**ABOUT, **SPAN, wave=wave, sample_rate=RATE)
    assert clip.wave is wave
    assert clip.audio_id == audio_hash(wave, RATE)
    assert (clip.seconds, clip.continuation_seconds) == (1.0, 0.0)
    longer = replace(clip, wave=np.ones(2 * RATE, np.float32))
    assert (longer.seconds, longer.clip_id) == (2.0, "trial")
    assert longer.audio_id != clip.audio_id
