"""Flag shares: what rang, how often, and over which clips."""

import dataclasses

import pytest
from clips import spoken

from calm_bench.core import stats
from calm_bench.metrics.asr_health import AsrHealth
from calm_bench.types import Transcript


def test_shares_of_flagged_and_empty_transcripts() -> None:
    clips = [spoken("a b c", "a b c", name=f"p{i}") for i in range(4)]
    silent = Transcript(text="", flags=("silent",))
    noisy = dataclasses.replace(clips[1].transcript, flags=("compression", "loop"))
    clips[0] = dataclasses.replace(clips[0], transcript=silent)
    clips[1] = dataclasses.replace(clips[1], transcript=noisy)
    clips.append(spoken("a b c", None, name="p4"))
    metric = AsrHealth()
    result = metric.score(clips, [])
    assert result.counts == {"n_flagged": 2, "n_empty": 1}
    assert result.notes == {"id-p4": "no transcript"}
    pairs = {clip.pair_key: result.clips[clip.clip_id] for clip in clips}
    found = {c.name: stats.summarise(c, pairs, 0) for c in metric.columns}
    assert found["flagged"].value == pytest.approx(50.0)
    assert found["flagged"].n == 4
    assert found["empty"].value == found["flag_silent"].value == pytest.approx(25.0)
    assert found["flag_loop"].value == pytest.approx(25.0)
    assert found["flag_fast"].value == 0.0
