"""A small finished run to listen to, with a prompt that one row failed at."""

from pathlib import Path

import numpy as np
import pytest
from records import failed, keep_clip, manifest, results

from calm_bench.listening.session import ClipFiles, Session, Wanted, plan_session
from calm_bench.store.records import Row
from calm_bench.store.run_store import RunStore

CELLS = (
    Row(cell_id="reference", label="Reference", kind="reference"),
    Row(cell_id="vae_round_trip", label="VAE round trip", kind="round_trip", model="vae"),
    Row(cell_id="rq-t0.8", label="RQ-Transformer", kind="system", temperature=0.8),
    Row(cell_id="calm-t0.8", label="CALM", kind="system", temperature=0.8),
)


@pytest.fixture
def run_store(tmp_path: Path) -> RunStore:
    store, rng = RunStore(tmp_path / "speech-0123abcd"), np.random.default_rng(0)
    store.begin(manifest())
    store.write_results(results(cells=CELLS))
    for cell in CELLS:
        for prompt in ("dog", "cat", "owl", "fox"):
            wave = 0.05 * rng.standard_normal(8000).astype(np.float32)
            if (cell.cell_id, prompt) == ("rq-t0.8", "owl"):
                store.append(failed(cell.cell_id, prompt, "out of memory"))
            else:
                keep_clip(store, wave, cell.cell_id, prompt, prompt_seconds=0.1)
    return store


@pytest.fixture
def planned(run_store: RunStore) -> tuple[Session, ClipFiles]:
    return plan_session(run_store, Wanted())
