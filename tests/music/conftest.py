"""A twin of `run music` at debug size: synthesised prompts, random weights, two head steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from calm_bench.config import PromptSpec
from calm_bench.core.audio import write_flac
from calm_bench.plan.overrides import Overrides
from calm_bench.plan.plan import Plan, expand
from calm_bench.run import run
from calm_bench.score.summary import Outcome
from calm_bench.seeds import file_hash
from calm_bench.store.run_store import RunStore

RATE = 1600  # the debug codecs'
N_PROMPTS = 16

TWIN: dict[str, Any] = {
    "name": "twin",
    "version": 1,
    "description": "run music at debug size",
    "systems": [
        {"model": "rq-debug", "label": "RQ", "baseline": True, "head_steps": [3]},
        {"model": "calm-debug", "label": "CALM", "head_steps": [4, 1]},
    ],
    "references": ["reference", "rvq3_round_trip", "rvq2_round_trip", "noise", "silence"],
    "codecs": {
        "rvq3": {"model": "rvq-debug", "label": "RVQ 3 round trip"},
        "rvq2": {"model": "rvq-debug", "label": "RVQ 2 round trip", "levels": 2},
    },
    "temperatures": [1.0],
    "prompt_seconds": 1.04,
    "seconds": 7.04,
    "prompts": "prompts.jsonl",
    "metrics": ["fad", "kad", "fad_over_time", "drift", "loudness"],
    "embedding": "mel",
    "table": ["rtf", "head_second_ms", "fad", "kad"],
    "latency": {"frames": 4, "warmup": 1, "rounds": 5},
}


def music(seconds: float, seed: int) -> np.ndarray:
    """A few decaying notes over a little noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    wave = 0.01 * rng.standard_normal(len(time))
    for start in np.arange(0, seconds, 0.25):
        after = np.clip(time - start, 0, None)
        hertz = 110 * 2 ** (rng.integers(0, 24) / 12)
        wave += 0.1 * (time >= start) * np.exp(-4 * after) * np.sin(2 * np.pi * hertz * after)
    return wave.astype(np.float32)


def write_twin(folder: Path, seconds: float = 7.04, **changes: Any) -> Path:
    """The benchmark and its prompts in a folder; returns the path of the spec."""
    lines = []
    for index in range(N_PROMPTS):
        path = folder / f"p{index:02d}.flac"
        write_flac(path, music(seconds, index), RATE)
        spec = PromptSpec(id=path.stem, audio=path.name, sha256=file_hash(path))
        lines.append(spec.model_dump_json())
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    path = folder / "twin.yaml"
    path.write_text(yaml.safe_dump({**TWIN, **changes}))
    return path


def plan_of(path: Path, **overrides: Any) -> Plan:
    return expand(str(path), Overrides(**overrides))


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of the twin's spec."""
    return write_twin(tmp_path_factory.mktemp("twin"))


@pytest.fixture(scope="session")
def outcome(twin: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A finished run of the twin."""
    return run(plan_of(twin), out=tmp_path_factory.mktemp("runs") / "run", device="cpu")


@pytest.fixture(scope="session")
def store(outcome: Outcome) -> RunStore:
    """The finished run's records."""
    return RunStore(outcome.folder)
