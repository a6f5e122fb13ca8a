"""The stored runs that most tests of the paper are about."""

from collections.abc import Callable
from pathlib import Path

import pytest
from stored_runs import ablation_results, music_results, stored

from calm_bench.report.paper.runs import StoredRun
from calm_bench.store.run_store import RunStore


@pytest.fixture
def music() -> StoredRun:
    return stored(music_results())


@pytest.fixture
def ablations() -> StoredRun:
    return stored(ablation_results())


@pytest.fixture
def save(tmp_path: Path) -> Callable[[StoredRun], Path]:
    """Write a run's folder."""

    def write(run: StoredRun, *, manifest: bool = True) -> Path:
        store = RunStore(tmp_path / "results" / run.name)
        store.write_results(run.results)
        if manifest and run.manifest is not None:
            store.write_manifest(run.manifest)
        return store.root

    return write
