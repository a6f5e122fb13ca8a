"""Clips that outlast their recordings, weights kept in training, and the options for both."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from clips import clip_of
from commands import call
from safetensors.torch import save_file

from calm_bench.config import model_dir
from calm_bench.core.audio import read_audio
from calm_bench.embeddings.mel import MelEmbedding
from calm_bench.generate.clips import Studio
from calm_bench.metrics.fad import FadOverTime, Segments
from calm_bench.plan.overrides import Overrides
from calm_bench.plan.plan import expand
from calm_bench.run import prompts_of
from calm_bench.seeds import file_hash
from calm_bench.store.records import TrialRecord
from calm_bench.store.run_store import RunStore
from calm_bench.systems.loading import OpenModels, load_system
from calm_bench.types import Clip

RATE = 16_000


def clips(n_segments: int, growth: float, seed: int) -> list[Clip]:
    """Noise after a prompt of 1 s that gets louder by a factor per segment of 3 s."""
    found = []
    for index in range(16):
        noise = np.random.default_rng([seed, index]).standard_normal((1 + 3 * n_segments) * RATE)
        gain = growth ** np.clip((np.arange(len(noise)) / RATE - 1) // 3, 0, None)
        wave, name = 0.01 * gain * noise, f"{seed}-{index}-{growth}"
        found.append(clip_of(wave, name, RATE, prompt=f"p{index}", prompt_seconds=1.0))
    return found


def test_fad_over_time_grows_where_errors_do_and_goes_on_past_the_recordings() -> None:
    metric = FadOverTime(MelEmbedding(), segments=Segments(n=3))
    real, steady, diverging = clips(2, 1.0, 0), clips(3, 1.0, 1), clips(3, 3.0, 2)
    flat, rising = (metric.score(row, real) for row in (steady, diverging))
    names = [column.name for column in metric.own_columns]
    assert names == ["fad@0-3s", "fad@3-6s", "fad@6-9s"]
    a, b = ([found.estimates[name].value or 0.0 for name in names] for found in (flat, rising))
    assert max(a) < 2 * min(a)
    assert b[0] < 3 * a[0]
    assert b[2] > 2 * b[1] > 20 * b[0]
    assert rising.counts["n_segments_beyond_reference"] == 1
    gap = metric.difference(diverging, steady, real)["fad@6-9s"]
    assert gap.value == pytest.approx(b[2] - a[2])
    assert gap.low is not None
    assert gap.low > 0
    nothing = metric.difference(diverging, clips(2, 1.0, 3), real)["fad@6-9s"]
    assert nothing.reason == "needs 16 clips, the row has 0"


def test_long_clips_are_made_beside_short_recordings(twin: Path, tmp_path: Path) -> None:
    plan = expand(
        str(twin), Overrides(systems=("calm",), n_prompts=2, seconds=13.04, head_steps=(1,))
    )
    store = RunStore(tmp_path)
    Studio(plan, store, OpenModels(plan.models, "cpu"), prompts_of(plan)).make(plan.rows)
    seconds = {}
    for record in store.read(TrialRecord):
        wave, rate = read_audio(store.root / str(record.clip))
        seconds[record.cell_id] = len(wave) / rate
    assert seconds["calm-debug-t1"] == pytest.approx(13.04)
    assert seconds["noise"] == seconds["silence"] == pytest.approx(13.04)
    assert seconds["reference"] == seconds["rvq2_round_trip"] == pytest.approx(7.04)


def test_kept_weights_make_clips_of_their_own(
    twin: Path, tmp_path: Path, calm_bench_home: Path
) -> None:
    state = load_system("calm-debug").state_dict()
    kept = calm_bench_home / "training" / "calm-debug" / "kept"
    config = (model_dir("calm-debug") / "config.yaml").read_text()
    own = {k: v for k, v in state.items() if not k.startswith("codec.")}
    for step, factor in ((10, 1.0), (20, 0.5)):
        folder = kept / f"calm-debug-{step:07d}"
        folder.mkdir(parents=True)
        path = folder / "weights.safetensors"
        save_file({k: (factor * v).half().contiguous() for k, v in own.items()}, path)
        weights = f"weights: {{sha256: {file_hash(path)}}}\n"
        (folder / "config.yaml").write_text(config + weights)
    try:
        overrides = Overrides(checkpoints=True, n_prompts=1, head_steps=(1,))
        plan = expand(str(twin), overrides)
        store = RunStore(tmp_path)
        Studio(plan, store, OpenModels(plan.models, "cpu"), prompts_of(plan)).make(plan.rows)
    finally:
        shutil.rmtree(kept.parent)
    made = {r.cell_id: r.clip_id for r in store.read(TrialRecord)}
    assert set(made) == {"reference", "calm-debug-step10-t1", "calm-debug-step20-t1"}
    assert len(set(made.values())) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--head-steps", "0"], "is no number of head steps"),
        (["--head-steps", "1.5"], "is no number of head steps"),
        (["--seconds", "inf"], "at most 600 s"),
    ],
)
def test_options_that_cannot_be_met_are_one_line(
    twin: Path, words: list[str], message: str
) -> None:
    assert message in call("run", twin, *words, "--dry-run", code=2).text
