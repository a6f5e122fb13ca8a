"""Rows of a run whose times are known beforehand."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from rows import one_round

from calm_bench.report.build import build_report
from calm_bench.report.columns import shown_columns
from calm_bench.report.paper.claims import Selector
from calm_bench.report.paper.measure import find_rows
from calm_bench.report.paper.runs import StoredRun
from calm_bench.report.tables import main_tables
from calm_bench.speed.tidy import tidy
from calm_bench.speed.timetable import SpeedPlan
from calm_bench.store.records import (
    BandwidthRecord,
    FootprintRecord,
    GenerationRecord,
    GrowthRecord,
    LatencyRecord,
    Row,
)
from calm_bench.store.results import Results, Value
from calm_bench.store.run_store import RunStore

# Milliseconds of backbone, head and codec, by model and mode.
TIMES = {
    ("rq-debug", "plain"): (6.0, 12.0, 2.0),
    ("rq-debug", "eager"): (3.0, 6.0, 1.0),
    ("calm-debug", "plain"): (6.0, 1.0, 3.0),
    ("calm-debug", "eager"): (3.0, 0.5, 1.5),
}
Expand = Callable[..., SpeedPlan]


def record(
    cell: Row,
    number: int,
    batch: int = 1,
    *,
    control: bool = False,
    slower: float = 1.0,
    frames: int = 4,
) -> LatencyRecord:
    # A busy round is slower for all alike, which ratios must not see.
    scale = (1 + 0.5 * (number % 3)) * slower * (1 if batch == 1 else 2)
    parts = [round(1e6 * ms * scale) for ms in TIMES[str(cell.model), str(cell.mode)]]
    about = {"control": control, "batch": batch, "mode": cell.mode or "plain"}
    return one_round(
        number, cell.cell_id, *parts, frames=frames, first_audio_ns=50_000_000, **about
    )


def footprints(cell: Row) -> tuple[FootprintRecord, FootprintRecord]:
    stages = {"backbone": 30_000_000, "head": 10_000_000, "codec": 0, "total": 40_000_000}
    return (
        FootprintRecord(cell_id=cell.cell_id, batch=1, peak_bytes=5_000_000, state_bytes=100,
                        read_bytes=stages, operators={"total": 77}),
        FootprintRecord(cell_id=cell.cell_id, batch=2, peak_reason="not looked at",
                        state_bytes=200),
    )  # fmt: skip


def tidied(plan: SpeedPlan, folder: Path, slower: float = 1.0, frames: int = 4) -> Results:
    store = RunStore(folder)
    for number in range(6):
        for cell in plan.rows:
            batches = plan.setting.batch
            store.append(*(record(cell, number, b, frames=frames) for b in batches))
        store.append(
            record(plan.rows[0], number, control=True, slower=slower, frames=frames),
            # 10 GB/s, less where the round is slower.
            BandwidthRecord(
                round=number, n_bytes=10**9, threads=1,
                read_ns=(round(1e8 * (1 + 0.5 * (number % 3))),) * 3,
            ),
        )  # fmt: skip
    for cell in plan.rows:
        frame = sum(TIMES[str(cell.model), str(cell.mode)])
        store.append(
            *footprints(cell),
            *(
                GenerationRecord(cell_id=cell.cell_id, repeat=i, batch=4, seconds=8.0,
                                 taken_ns=round(1e8 * frame * (1 + i)))
                for i in range(3)
            )
        )  # fmt: skip
    return tidy(plan, plan.rows, store)


@pytest.fixture
def results(expanded: Expand, tmp_path: Path) -> Results:
    return tidied(expanded(modes=("plain", "eager")), tmp_path / "run")


def rows_of(results: Results, cell_id: str) -> Mapping[str, Value]:
    return {row.metric: row for row in results.rows if row.cell_id == cell_id}


def test_every_row_meets_the_baseline_of_its_own_step(results: Results) -> None:
    eager = rows_of(results, "calm-debug-eager-fp32")
    assert eager["overall_speedup"].value == pytest.approx(10 / 5)
    assert eager["head_speedup"].value == pytest.approx(12)
    assert eager["head_share"].value == pytest.approx(10)
    assert rows_of(results, "rq-debug-eager-fp32")["overall_speedup"].value == 1
    assert eager["vs_plain"].value == pytest.approx(2)
    assert (eager["vs_plain"].low, eager["vs_plain"].high) == pytest.approx((2, 2))


def test_a_step_of_several_clips_meets_the_plain_step_of_as_many(results: Results) -> None:
    assert rows_of(results, "calm-debug-eager-fp32")["vs_plain@b2"].value == pytest.approx(2)
    assert rows_of(results, "calm-debug-plain-fp32")["vs_plain@b2"].value == 1


def test_whole_generations_are_compared_repeat_by_repeat(expanded: Expand, tmp_path: Path) -> None:
    plan = expanded(modes=("plain", "eager"), generation=True)
    results = tidied(plan, tmp_path / "whole")
    row = rows_of(results, "calm-debug-eager-fp32")
    assert row["generation_s"].value == pytest.approx(2 * 0.5)  # the middle repeat of 5 ms frames
    assert row["generation_clip_s"].value == pytest.approx(1 / 4)
    assert row["generation_speedup"].value == pytest.approx(10 / 5)
    assert row["generation_vs_plain"].value == pytest.approx(2)
    assert rows_of(results, "rq-debug-plain-fp32")["generation_speedup"].value == 1
    assert "Whole generations of 16 clips: toys, tiny scale" in results.tables


def test_frames_a_call_say_what_they_bring_and_what_they_make_frames_wait(
    expanded: Expand, tmp_path: Path
) -> None:
    plan, store = expanded(batch=(1,), codec_frames=(2,)), RunStore(tmp_path / "groups")
    one, two = plan.rows[:2]
    head, calls = 12_000_000, {1: (8_000_000,) * 6, 2: (8_000_000, 0, 9_000_000, 0, 9_000_000, 9)}
    for number in range(3):
        for row in (one, two):
            own = calls[row.codec_frames]
            stages = {"backbone": (0,) * 6, "head": (head,) * 6, "codec": own}
            total = tuple(head + codec for codec in own)
            times = record(row, number).model_copy(
                update={"stage_ns": {**stages, "total": total}, "frame_ns": 15_000_000}
            )
            store.append(times, *footprints(row))
    results = tidy(plan, (one, two), store)
    assert "Frames a call of the codec: toys, tiny scale" in results.tables
    alone, pairs = rows_of(results, one.cell_id), rows_of(results, two.cell_id)
    assert (alone["codec_frames"].value, pairs["codec_frames"].value) == (1, 2)
    assert alone["codec_speedup"].value == 1
    assert pairs["codec_speedup"].value == pytest.approx(48 / 26.000009)
    assert pairs["overall_speedup"].value == 1  # against the baseline that decodes as many
    assert pairs["rtf"].value == pytest.approx((6 * 12 + 26.000009) / (6 * 15))
    assert (alone["live_wait_ms"].value, pairs["live_wait_ms"].value) == (0, 15)
    assert alone["frame_p50_ms"].value is not None
    assert pairs["frame_p50_ms"].reason == "most frames wait to be decoded"


def test_what_a_whole_generation_lacks_is_said(expanded: Expand, tmp_path: Path) -> None:
    plan = expanded(modes=("eager",), generation=True)
    row = rows_of(tidied(plan, tmp_path / "whole"), "calm-debug-eager-fp32")
    assert "add --mode plain" in str(row["generation_vs_plain"].reason)
    cells = tuple(cell.model_copy(update={"baseline": False}) for cell in plan.rows)
    row = rows_of(tidy(plan, cells, RunStore(tmp_path / "whole")), "calm-debug-eager-fp32")
    assert "the baseline was not timed" in str(row["generation_speedup"].reason)


def test_a_run_that_was_not_asked_for_whole_generations_has_no_such_columns(
    results: Results,
) -> None:
    assert not any(row.metric.startswith("generation") for row in results.rows)


def test_stages_imply_the_overall_speed_up_and_the_residual_says_how_well(
    results: Results,
) -> None:
    row = rows_of(results, "calm-debug-plain-fp32")
    # p = 12/20, s = 12, b = 9/8
    assert row["rest_ratio"].value == pytest.approx(9 / 8)
    assert row["implied_speedup"].value == pytest.approx(1 / (0.4 * 9 / 8 + 0.6 / 12))
    assert row["identity_residual"].value == pytest.approx(0, abs=1e-9)


def test_the_limit_is_bytes_over_the_bandwidth_of_the_same_round(results: Results) -> None:
    row = rows_of(results, "calm-debug-plain-fp32")
    assert row["read_mb"].value == 40
    assert row["limit_ratio"].value == pytest.approx(10 / 4)
    assert row["backbone_limit_ratio"].value == pytest.approx(6 / 3)
    assert row["head_limit_ratio"].value == pytest.approx(1 / 1)
    assert row["codec_limit_ratio"].value is None
    assert row["codec_limit_ratio"].reason == "this stage reads no weights"


def test_half_a_minute_is_measured_or_said_not_to_be(results: Results, expanded: Expand) -> None:
    row = rows_of(results, "calm-debug-plain-fp32")
    assert row["thirty_s"].value is None
    assert "a generation lasts 0.32 s here; --frames 375 measures it" in str(row["thirty_s"].reason)
    assert row["thirty_s_at_frame"].value == pytest.approx(375 * 0.015)  # the middle round's frame


def test_a_generation_of_half_a_minute_measures_it(expanded: Expand, tmp_path: Path) -> None:
    plan = expanded(frames=375)
    row = rows_of(tidied(plan, tmp_path / "long", frames=375), "calm-debug-plain-fp32")
    # The first frame is heard with the first audio; rounds are 1, 1.5 and 2 times as slow.
    assert row["thirty_s"].value == pytest.approx(0.05 + 374 * 0.015)


def timed_as(
    plan: SpeedPlan, folder: Path, row: Row, frames: int, **changes: object
) -> Mapping[str, Value]:
    """A row that was timed over three rounds, with what other records hold."""
    store = RunStore(folder)
    store.append(*(record(row, i, frames=frames).model_copy(update=changes) for i in range(3)))
    store.append(*footprints(row))
    return rows_of(tidy(plan, (row,), store), row.cell_id)


def test_half_a_minute_ends_with_the_call_that_decodes_its_last_frame(
    expanded: Expand, tmp_path: Path
) -> None:
    plan = expanded(batch=(1,), frames=400, codec_frames=(4,))
    one, four = plan.rows[:2]
    assert (one.codec_frames, four.codec_frames) == (1, 4)
    # After the first, every fourth frame waits for a call: 374 = 93 * 4 + 2, and the last is
    # in the 94th.
    frame, call = 1_000_000, 50_000_000
    total = (frame, *(frame + call * (i % 4 == 0) for i in range(1, 400)))
    nothing = (0,) * 400
    stages = {"backbone": total, "head": nothing, "codec": nothing, "total": total}
    row = timed_as(plan, tmp_path / "four", four, 400, stage_ns=stages)
    assert row["thirty_s"].value == pytest.approx(0.05 + 94 * 4 * 0.001 + 94 * 0.05)
    cut = {name: times[:375] for name, times in stages.items()}
    cut["total"] = (*cut["total"][:-1], frame + call)  # what is left is decoded at the end
    row = timed_as(plan, tmp_path / "cut", four, 375, stage_ns=cut)
    assert row["thirty_s"].value == pytest.approx(0.05 + 374 * 0.001 + 94 * 0.05)


def test_a_batch_has_columns_of_its_own(results: Results) -> None:
    row = rows_of(results, "calm-debug-plain-fp32")
    assert row["step_ms@b2"].value == pytest.approx(2 * row["step_ms@b1"].value)
    assert row["rows_per_s@b2"].value == pytest.approx(row["rows_per_s@b1"].value)
    assert row["overall_speedup@b2"].value == pytest.approx(2)
    assert row["peak_mb@b2"].reason == "not looked at"


def test_a_baseline_that_differs_from_itself_makes_the_machine_unfit(
    results: Results, expanded: Expand, tmp_path: Path
) -> None:
    assert results.fit
    assert rows_of(results, "rq-debug-plain-fp32")["aa_ratio"].value == pytest.approx(1)
    assert tidied(expanded(), tmp_path / "slightly", slower=1.015).fit
    unfit = tidied(expanded(), tmp_path / "unfit", slower=1.1)
    assert unfit.fit is False
    assert unfit.is_unfit


def test_rows_of_all_modes_share_a_column_and_keep_their_recipe(results: Results) -> None:
    assert len(results.recipes) == 2
    names = [shown.column.name for shown in shown_columns(results, everything=True)]
    assert len(names) == len(set(names))
    for table in main_tables(results):
        assert len(table.rows) == 4
        assert {len(row) for row in table.rows} == {len(table.headings)}
    assert "random weights" in " ".join(main_tables(results)[-1].notes)


def test_the_ledger_takes_each_step_for_a_run_of_its_own(results: Results) -> None:
    steps = StoredRun(name="run", results=results, manifest=None).by_step()
    assert {step: [cell.model for cell in run.results.cells] for step, run in steps.items()} == {
        "plain fp32": ["rq-debug", "calm-debug"],
        "eager fp32": ["rq-debug", "calm-debug"],
    }
    selector = Selector(metric="overall_speedup", model="calm", temp=0.8, steps=1)
    for step, value in (("plain fp32", 2.0), ("eager fp32", 2.0)):
        found = find_rows(selector, steps[step], None)
        (number,) = found.values()
        (row,) = (r for r in steps[step].results.cells if r.cell_id == number.cell_id)
        assert f"{row.mode} {row.precision}" == step
        assert number.value == pytest.approx(value)


@pytest.mark.usefixtures("drawn")
def test_growth_is_drawn_along_the_clip(results: Results, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    for cell in results.rows:
        store.append(*(
            GrowthRecord(cell_id=cell.cell_id, repeat=0, seconds=seconds, state_bytes=10**6,
                         stage_ns=dict.fromkeys(("backbone", "head", "codec", "total"), (10**6,)))
            for seconds in (1.0, 60.0)
        ))  # fmt: skip
    store.write_results(results)
    build_report(store.root)
    found = {path.name for path in (store.root / "plots").iterdir()}
    assert {"growth_position.png", "growth_position.svg"} <= found
    assert sorted(path.name for path in (store.root / "tables").iterdir()) == [
        "speed.csv", "speed.md", "speed.tex",
    ]  # fmt: skip
    assert not (store.root / "page").exists()
