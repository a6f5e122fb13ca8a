import math
from typing import Any

import pytest
from rows import one_round, system

from calm_bench.numbers.speed import SPEED_COLUMNS, Sums, predicted_speedup, speed_rows
from calm_bench.store.records import LatencyRecord, Row
from calm_bench.store.results import Value


def sums(backbone: float, head: float, codec: float = 0.0) -> Sums:
    parts = [round(1e9 * value) for value in (backbone, head, codec)]
    return Sums(
        backbone=parts[0], head=parts[1], codec=parts[2], total=sum(parts), audio=1, frames=1
    )


# The paper's tables: share of the baseline's time in the sampler, sampler speed-up, overall.
@pytest.mark.parametrize(
    ("share", "head", "overall", "own_share"),
    [
        (0.267, 12.3, 1.325, 0.029),
        (0.577, 19.3, 2.208, 0.066),
        (0.577, 5.4, 1.887, 0.202),
        (0.577, 0.211, 0.317, 0.866),
    ],
)
def test_the_identity_reproduces_the_papers_rows(
    share: float, head: float, overall: float, own_share: float
) -> None:
    baseline, own = sums(1 - share, share), sums(1 - share, share / head)
    assert predicted_speedup(baseline, own) == pytest.approx(overall, abs=5e-4)
    assert own.head / own.total == pytest.approx(own_share, abs=6e-4)


def test_the_identity_allows_for_another_backbone() -> None:
    # Four more layers on 48 turn the paper's x2.21 into x2.05.
    baseline, own = sums(0.423, 0.577), sums(0.423 * 52 / 48, 0.577 / 19.3)
    assert predicted_speedup(baseline, own) == pytest.approx(2.05, abs=5e-3)


def test_the_identity_is_exact_for_sums_whatever_the_stages_took() -> None:
    baseline, own = sums(0.3, 0.5, 0.2), sums(0.41, 0.04, 0.17)
    assert predicted_speedup(baseline, own) == pytest.approx(baseline.total / own.total, rel=1e-9)


def test_the_identity_holds_of_a_baseline_that_is_all_head() -> None:
    assert predicted_speedup(sums(0.0, 2.0), sums(0.5, 0.5)) == pytest.approx(2.0)


def cell(name: str, temperature: float, **changes: Any) -> Row:
    return system(name, name, temperature, cell_id=f"{name}-t{temperature:g}", **changes)


CELLS = (
    Row(cell_id="reference", label="Reference", kind="reference"),
    cell("rq", 0.8, baseline=True),
    cell("rq", 1.0, baseline=True),
    cell("calm", 0.8),
    cell("calm", 1.0),
)


def rounds(drift: float = 0.0, control: float = 1.0, lost: int = 0) -> list[LatencyRecord]:
    found = []
    for i in range(6):
        f = 1e6 * (1 + drift * i)
        again = f * control
        found += [
            one_round(i, "rq-t0.8", int(3 * f), int(4 * f), int(f)),
            one_round(i, "rq-t0.8", int(3 * again), int(4 * again), int(again), control=True),
            one_round(i, "calm-t0.8", int(3 * f), int(0.5 * f), int(0.5 * f), lost=lost),
        ]
    return found


def by_cell(rows: tuple[Value, ...], cell_id: str) -> dict[str, Value]:
    return {row.metric: row for row in rows if row.cell_id == cell_id}


def test_every_speed_column_of_a_known_machine() -> None:
    found = by_cell(speed_rows(CELLS, rounds()).values, "calm-t0.8")
    values = {name: row.value for name, row in found.items() if row.value is not None}
    wanted = {"overall_speedup": 2.0, "head_speedup": 8.0, "head_share": 12.5, "rtf": 4 / 80}
    wanted |= {"backbone_ms": 3.0, "head_ms": 0.5, "codec_ms": 0.5, "first_audio_ms": 8.0}
    wanted |= dict.fromkeys(("frame_ms", "frame_p50_ms", "frame_max_ms"), 4.0)
    assert values == pytest.approx(wanted | {"second_ms": 50.0, "head_second_ms": 6.25})
    assert found["peak_mb"].value is None
    assert "GPUs only" in str(found["peak_mb"].reason)


def test_no_share_of_the_time_is_more_than_all_of_it() -> None:
    uneven = [one_round(i, "rq-t0.8", 10, head, 0) for i, head in enumerate((1, 90))]
    share = by_cell(speed_rows(CELLS, uneven).values, "rq-t0.8")["head_share"]
    assert (share.low, share.high) == (0.0, 100.0)


def test_a_system_is_timed_once_for_all_its_temperatures() -> None:
    rows = speed_rows(CELLS, rounds()).values
    assert {row.cell_id for row in rows} == {c.cell_id for c in CELLS if c.kind == "system"}
    for name in ("calm", "rq"):
        first, second = by_cell(rows, f"{name}-t0.8"), by_cell(rows, f"{name}-t1")
        assert {m: r.value for m, r in first.items()} == {m: r.value for m, r in second.items()}


def test_ratios_are_taken_within_rounds_so_that_drift_cancels() -> None:
    drifting = by_cell(speed_rows(CELLS, rounds(drift=0.5)).values, "calm-t0.8")["overall_speedup"]
    assert drifting.value == pytest.approx(2.0, rel=1e-6)
    assert (drifting.low, drifting.high) == pytest.approx((2.0, 2.0), rel=1e-6)
    assert drifting.n == 6


def test_the_baseline_stands_at_one_and_shows_its_own_noise() -> None:
    found = by_cell(speed_rows(CELLS, rounds(control=1.01)).values, "rq-t0.8")
    assert found["overall_speedup"].value == 1.0
    assert found["aa_ratio"].value == pytest.approx(1.01, rel=1e-4)


@pytest.mark.parametrize(("control", "unfit"), [(1.0, False), (1.01, False), (1.05, True)])
def test_a_machine_on_which_the_baseline_differs_from_itself_is_named(
    control: float, unfit: bool
) -> None:
    found = speed_rows(CELLS, rounds(control=control))
    notes = found.notes
    assert found.fit is not unfit
    assert any("differs from itself by +5.0 %" in note for note in notes) == unfit
    assert any(note.startswith("A/A, one system timed twice: ×1.0") for note in notes) != unfit
    assert not any("restless" in note for note in notes)


def test_a_restless_machine_is_named_though_it_is_right_on_average() -> None:
    records = rounds()
    swing = [1.2, 0.8, 1.15, 0.9, 1.1, 0.85]
    shaken = [
        r.model_copy(
            update={
                "stage_ns": {
                    k: tuple(int(x * swing[r.round]) for x in v) for k, v in r.stage_ns.items()
                }
            }
        )
        if r.control
        else r
        for r in records
    ]
    (note,) = speed_rows(CELLS, shaken).notes
    assert note.startswith("A/A, one system timed twice: ×")
    assert "restless" in note


def test_without_a_baseline_another_system_stands_for_the_machine() -> None:
    only = [c for c in CELLS if c.label == "calm"]
    own = [r for r in rounds() if r.cell_id == "calm-t0.8"]
    again = [r.model_copy(update={"control": True}) for r in own]
    found = speed_rows(only, [*own, *again])
    assert found.notes == ("A/A, one system timed twice: ×1.00 [1.00, 1.00]",)
    row = by_cell(found.values, "calm-t0.8")
    assert row["aa_ratio"].value == 1.0
    assert row["aa_ratio"].n == len(own)


def test_time_that_belongs_to_no_stage_is_named() -> None:
    assert not any("no stage" in note for note in speed_rows(CELLS, rounds()).notes)
    notes = speed_rows(CELLS, rounds(lost=1_000_000)).notes
    assert any("part of the time belongs to no stage" in note for note in notes)


def test_without_a_baseline_there_is_no_ratio_but_a_reason() -> None:
    only = [c for c in CELLS if c.label == "calm"]
    found = by_cell(speed_rows(only, rounds()).values, "calm-t0.8")
    assert found["overall_speedup"].value is None
    assert found["overall_speedup"].reason == "the baseline was not timed in this run"
    assert found["frame_ms"].value == pytest.approx(4.0)


def test_peak_memory_is_the_largest_of_all_rounds() -> None:
    records = [one_round(i, "rq-t0.8", 1, 1, 1, peak_bytes=(i + 1) * 10**6) for i in range(3)]
    assert by_cell(speed_rows(CELLS, records).values, "rq-t0.8")["peak_mb"].value == 3.0


def test_rows_name_columns_and_recipes_that_exist() -> None:
    found = speed_rows(CELLS, rounds())
    assert {row.metric for row in found.values} == {column.name for column in SPEED_COLUMNS}
    assert {row.recipe_id for row in found.values} == set(found.recipes)
    assert all(row.value is None or math.isfinite(row.value) for row in found.values)
    assert not speed_rows(CELLS, []).values


def test_systems_of_different_frame_rates_compare_over_the_same_audio() -> None:
    fast = cell("musicgen", 0.8)
    records = rounds()
    for number in range(6):
        found = one_round(number, fast.cell_id, 2_900_000, 100_000, 1_000_000)
        twice = {stage: values * 2 for stage, values in found.stage_ns.items()}
        records.append(found.model_copy(update={"frame_ns": 40_000_000, "stage_ns": twice}))
    speed = speed_rows([*CELLS, fast], records)
    rows = by_cell(speed.values, fast.cell_id)
    # Half as long a frame: two frames of 4 ms against one of 8 ms are no speed-up.
    assert rows["overall_speedup"].value == pytest.approx(1.0)
    assert rows["frame_ms"].value == pytest.approx(4.0)
    assert rows["second_ms"].value == pytest.approx(100.0)
    assert rows["rtf"].value == pytest.approx(0.1)
    baseline = by_cell(speed.values, "rq-t0.8")
    assert baseline["second_ms"].value == pytest.approx(100.0)
    assert len(speed.recipes) == 1  # and the table keeps them in one column
    assert all(note.startswith("A/A") for note in speed.notes)
