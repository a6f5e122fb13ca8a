"""`run music` on its debug twin: rows, floors, two embeddings, positions, times, and memory."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calm_bench.core.audio import read_audio
from calm_bench.core.waves import integrated_loudness, mean_power
from calm_bench.plan.overrides import Overrides
from calm_bench.plan.plan import expand
from calm_bench.report.columns import shown_columns
from calm_bench.report.formats import to_csv
from calm_bench.report.plots import against_training, by_row, by_stage, over_time
from calm_bench.report.tables import main_table
from calm_bench.score.summary import Outcome
from calm_bench.speed.timing import _run_arms, _with_control, control_of, timed_rows
from calm_bench.store.records import LatencyRecord, TrialRecord
from calm_bench.store.results import Value
from calm_bench.store.run_store import RunStore
from calm_bench.systems.loading import OpenModels


def rows_of(outcome: Outcome, metric: str) -> dict[str, Value]:
    return {row.cell_id: row for row in outcome.results.rows if row.metric == metric}


def waves(store: RunStore, cell_id: str) -> list[np.ndarray]:
    records = [r for r in store.read(TrialRecord) if r.cell_id == cell_id]
    return [read_audio(store.root / str(r.clip))[0] for r in records]


def test_rows_are_references_then_systems_at_each_step_count(outcome: Outcome) -> None:
    assert [cell.cell_id for cell in outcome.results.cells] == [
        "reference", "rvq3_round_trip", "rvq2_round_trip", "vae-debug_round_trip", "noise",
        "silence", "rq-debug-t1", "calm-debug-t1-s4", "calm-debug-t1-s1",
    ]  # fmt: skip
    assert outcome.n_failed == 0


def test_a_round_trip_of_fewer_levels_has_its_own_bit_rate_and_sound(store: RunStore) -> None:
    rates = {t.cell_id: t.bit_rate.value for t in store.read(TrialRecord) if t.bit_rate}
    continuous = {"vae-debug_round_trip": None}  # of CALM's own codec
    assert rates == {"rvq3_round_trip": 12.5 * 3 * 4, "rvq2_round_trip": 12.5 * 2 * 4, **continuous}
    all_levels, two = waves(store, "rvq3_round_trip")[0], waves(store, "rvq2_round_trip")[0]
    assert all_levels.shape == two.shape
    assert not np.array_equal(all_levels, two)


def test_noise_keeps_prompt_spectrum_and_loudness_and_nothing_else(store: RunStore) -> None:
    start = round(1.04 * 1600)
    for real, noise in zip(waves(store, "reference"), waves(store, "noise"), strict=True):
        assert len(real) == len(noise)
        np.testing.assert_array_equal(real[:start], noise[:start])
        a, b = real[start:], noise[start:]
        assert integrated_loudness(b, 1600) == pytest.approx(integrated_loudness(a, 1600), abs=0.1)
        ours, theirs = (mean_power(x, 256)[2:-2] for x in (b, a))
        assert np.corrcoef(np.log(ours), np.log(theirs))[0, 1] > 0.9
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.1
    draws = waves(store, "noise")
    assert not np.array_equal(draws[0][start:], draws[1][start:])


@pytest.mark.parametrize("metric", ["fad", "fad_inf", "kad"])
def test_set_metrics_have_intervals_and_paired_differences(outcome: Outcome, metric: str) -> None:
    rows = rows_of(outcome, metric)
    assert rows["reference"].reason == "this row is the reference"
    for cell_id, row in rows.items():
        if cell_id != "reference":
            assert None not in (row.value, row.low, row.high), row
            assert row.n == 16
    pairs = {
        (d.cell_id, d.baseline_cell_id)
        for d in outcome.results.differences
        if d.metric == metric and d.value is not None
    }
    rows_above = {("calm-debug-t1-s1", "calm-debug-t1-s4")}
    assert pairs - rows_above == {(f"calm-debug-t1-s{n}", "rq-debug-t1") for n in (1, 4)}
    assert rows_above < pairs


def test_silence_is_further_from_the_reference_than_its_round_trip(outcome: Outcome) -> None:
    found = {cell: row.value for cell, row in rows_of(outcome, "fad").items()}
    assert found["silence"] > found["noise"] > 0  # type: ignore[operator]


def test_columns_over_time_carry_their_span_and_stay_out_of_the_table(outcome: Outcome) -> None:
    spans = {c.name: c.span for c in outcome.results.columns if c.name.startswith("fad@")}
    assert spans == {"fad@0-3s": (0.0, 3.0), "fad@3-6s": (3.0, 6.0)}
    assert all(
        row.value is not None
        for n in spans
        for c, row in rows_of(outcome, n).items()
        if c != "reference"
    )
    headings = [text.text for text in main_table(outcome.results).headings]
    assert not [text for text in headings if "0–3" in text]


def test_silence_fades_out_and_the_reference_does_not(outcome: Outcome) -> None:
    fades = {cell: row.value for cell, row in rows_of(outcome, "fades_out").items()}
    assert (fades["silence"], fades["reference"], fades["noise"]) == (100.0, 0.0, 0.0)
    assert set(rows_of(outcome, "segment_loudness@3-6s")) == set(fades)


def test_rows_of_one_system_share_a_model_and_interleave(twin: Path, store: RunStore) -> None:
    plan = expand(str(twin), Overrides())
    arms = _run_arms(plan, OpenModels(plan.models, "cpu"))
    arms = _with_control(arms, control_of(timed_rows(plan.rows)))
    assert [arm.cell_id for arm in arms] == [
        "rq-debug-t1", "calm-debug-t1-s4", "calm-debug-t1-s1", "rq-debug-t1",
    ]  # fmt: skip
    assert arms[1].system is arms[2].system
    assert [arm.sampling.head_steps for arm in arms] == [3, 4, 1, 3]
    records = store.read(LatencyRecord)
    for number in range(5):
        assert sorted(r.order for r in records if r.round == number) == [0, 1, 2, 3]


def test_the_run_has_the_figures_of_its_one_temperature_and_two_step_counts(
    outcome: Outcome, store: RunStore
) -> None:
    results = outcome.results
    assert by_row(results)[0].names[-3:] == ["RQ", "CALM, 4 steps", "CALM, 1 step"]
    titles = [panel.title for panel in over_time(results)]
    assert titles == ["FAD ↓", "Loudness (LUFS)", "Bandwidth (Hz)"]
    assert against_training(results) == []
    (times,) = by_stage(results)
    assert list(times.stages) == ["RQ", "CALM, 4 steps", "CALM, 1 step"]


def test_tables_keep_every_number_and_show_the_benchmarks(outcome: Outcome) -> None:
    table = main_table(outcome.results)
    assert [text.text for text in table.headings] == [
        "System", "temp", "temp is", "text temp", "head steps", "overall × ↑", "head × ↑",
        "time in head (%)", "RTF ↓", "head per second of audio (ms) ↓", "FAD ↓", "KAD ↓", "n",
    ]  # fmt: skip
    found = list(csv.DictReader(io.StringIO(to_csv(outcome.results))))
    assert len(found) == 9
    fad = rows_of(outcome, "fad@3-6s")["noise"]
    assert float(found[4]["fad@3-6s"]) == fad.value
    assert (found[4]["fad@3-6s_n"], found[4]["head_steps"]) == ("16", "")


def test_two_embeddings_are_two_columns_that_name_them(outcome: Outcome) -> None:
    results = outcome.results
    mel = next(key for key, recipe in results.recipes.items() if recipe.get("metric") == "fad")
    other = {**results.recipes[mel], "embedding": "other"}
    more = [
        row.model_copy(update={"recipe_id": "other", "value": None if row.value is None else 1.0})
        for row in results.rows
        if row.metric == "fad"
    ]
    both = results.model_copy(
        update={"rows": (*results.rows, *more), "recipes": {**results.recipes, "other": other}}
    )
    shown = [s for s in shown_columns(both) if s.column.name == "fad"]
    assert [s.heading for s in shown] == ["FAD, mel ↓", "FAD, other ↓"]
    assert [s.key for s in shown] == ["fad[mel]", "fad[other]"]
    for table, keys in (
        (("fad[other]", "kad"), ["fad[other]"]),
        (("fad[absent]",), ["fad[mel]", "fad[other]"]),
    ):
        named = both.model_copy(update={"table": table})
        assert [s.key for s in shown_columns(named) if s.column.name == "fad"] == keys
        every = [s.key for s in shown_columns(named, everything=True) if s.column.name == "fad"]
        assert every == ["fad[mel]", "fad[other]"]
    alone: Any = [s.heading for s in shown_columns(results) if s.column.name == "fad"]
    assert alone == ["FAD ↓"]
