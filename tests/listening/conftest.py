"""A small finished run to listen to, with a prompt that one row failed at."""

from pathlib import Path

import numpy as np
import pytest
from records import keep_clip, manifest, results

from calm_bench.listening.session import ClipFiles, Session, Wanted, plan_session
from calm_bench.listening.votes import Vote, VoteBook
from calm_bench.store.records import Row
from calm_bench.store.run_store import RunStore

RATE = 16000
PROMPTS = ("dog", "cat", "owl", "fox")
SECRETS = ("reference", "vae_round_trip", "calm-t0.8", "rq-t0.8", "CALM", "RQ-Transformer")


def make_cells() -> tuple[Row, ...]:
    return (
        Row(cell_id="reference", label="Reference", kind="reference"),
        Row(cell_id="vae_round_trip", label="VAE round trip", kind="round_trip", model="vae"),
        Row(cell_id="rq-t0.8", label="RQ-Transformer", kind="system", temperature=0.8),
        Row(cell_id="calm-t0.8", label="CALM", kind="system", temperature=0.8),
    )


def make_run(root: Path, seconds: float = 0.5) -> RunStore:
    store, cells = RunStore(root), make_cells()
    store.begin(manifest())
    store.write_results(results(cells=cells))
    rng = np.random.default_rng(0)
    for cell in cells:
        for prompt in PROMPTS:
            wave = 0.05 * rng.standard_normal(round(seconds * RATE)).astype(np.float32)
            failed = (cell.cell_id, prompt) == ("rq-t0.8", "owl")
            sound = None if failed else wave
            keep_clip(store, cell.cell_id, prompt, sound, RATE, prompt_seconds=0.1)
    return store


@pytest.fixture
def run_store(tmp_path: Path) -> RunStore:
    return make_run(tmp_path / "speech-0123abcd")


@pytest.fixture
def planned(run_store: RunStore) -> tuple[Session, ClipFiles]:
    return plan_session(run_store, Wanted())


def fill(book: VoteBook, raters: int, seed: int = 0) -> None:
    """Votes of listeners who prefer the reference, then CALM, with some noise."""
    rng, rank = np.random.default_rng(seed), {"reference": 2.0, "calm-t0.8": 0.5}
    for number in range(raters):
        name = f"listener {number}"
        book.welcome(name)
        while (asked := book.pending(name)) is not None:
            liking = [rank.get(cell, 0.0) + rng.normal() for cell in asked.rows]
            if book.session.paired:
                gap = liking[0] - liking[1]
                answer = "tie" if abs(gap) < 0.3 else "first" if gap > 0 else "second"
            else:
                answer = int(np.clip(round(3 + liking[0]), 1, 5))
            prompt_id, seed_index = book.session.items[asked.item]
            book.add(
                Vote(
                    rater=name,
                    number=len(book.votes[name]),
                    cells=asked.rows,
                    prompt_id=prompt_id,
                    seed_index=seed_index,
                    answer=answer,
                    heard=(1.0,) * len(asked.rows),
                    seconds=5.0,
                    at="2026-11-22T12:00:00+00:00",
                )
            )


@pytest.fixture(name="fill")
def fill_fixture() -> object:
    return fill
