"""Stored runs get today's intervals from their records, and nothing else of them changes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from calm_bench.numbers.stored import read_current, refresh
from calm_bench.store.results import Results, Value
from calm_bench.store.run_store import RunStore

KEPT = Path(__file__).resolve().parents[2] / "results" / "speech-tiny"


def aged(results: Results) -> Results:
    """The same as an earlier version wrote it: other intervals, and no word of how they came."""
    clips = {column.name for column in results.columns if column.aggregate != "set"}

    def number(found: Any) -> Any:
        if found.low is None or found.metric not in clips:
            return found
        changes = {"low": found.value - 1.0, "high": found.value + 1.0}
        return found.model_copy(update=changes | {"method": None, "marked": False})

    columns = [
        column.model_copy(update={"aggregate": "mean", "near_normal": False})
        if column.aggregate in ("share", "mean")
        else column.model_copy(update={"near_normal": False})
        for column in results.columns
    ]
    return results.model_copy(
        update={
            "columns": tuple(column.model_copy(update={"note": None}) for column in columns),
            "rows": tuple(map(number, results.rows)),
            "differences": tuple(map(number, results.differences)),
        }
    )


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    for name in ("manifest.json", "trials.jsonl", "scores.jsonl"):
        shutil.copy(KEPT / name, tmp_path / name)
    store = RunStore(tmp_path)
    store.write_results(aged(RunStore(KEPT).read_json(Results, "results.json")))
    return store


def test_earlier_intervals_become_the_committed_ones(store: RunStore) -> None:
    kept, before = RunStore(KEPT).read_results(), store.path("results.json").read_bytes()
    assert read_current(store) == kept
    assert store.path("results.json").read_bytes() == before
    assert refresh(store) == kept
    assert store.read_results() == kept
    written = store.path("results.json").stat()
    assert refresh(store) == kept
    assert store.path("results.json").stat() == written


def test_a_share_gets_the_interval_of_its_count(store: RunStore) -> None:
    rows = [value for value in read_current(store).rows if value.metric == "flagged"]
    assert len(rows) >= 5
    for row in rows:
        count = round(row.value * row.n / 100)
        exact = scipy.stats.binomtest(count, row.n).proportion_ci(method="exact")
        assert (row.low, row.high) == pytest.approx((100 * exact.low, 100 * exact.high))


def test_what_the_records_do_not_give_keeps_its_interval(store: RunStore) -> None:
    results = store.read_results()
    (index,) = [
        i for i, v in enumerate(results.rows) if (v.metric, v.cell_id) == ("wer", "reference")
    ]
    rows: list[Value] = list(results.rows)
    rows[index] = rows[index].model_copy(update={"value": 99.0})
    store.write_results(results.model_copy(update={"rows": tuple(rows)}))
    assert read_current(store).rows[index] == rows[index]
    store.path("scores.jsonl").unlink()
    assert read_current(store).rows == tuple(rows)
