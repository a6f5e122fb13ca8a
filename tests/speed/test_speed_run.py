"""The command as a user types it, on debug systems."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import call, refused

from calm_bench.speed.footprint import measure_peaks
from calm_bench.speed.timetable import SpeedPlan
from calm_bench.store.records import (
    BandwidthRecord,
    FootprintRecord,
    GenerationRecord,
    GrowthRecord,
    LatencyRecord,
)
from calm_bench.store.results import Results
from calm_bench.store.run_store import RunStore
from calm_bench.systems.calm import CalmSystem

Listed = Callable[..., Path]


@pytest.mark.slow
def test_a_run_measures_reports_and_goes_on_where_it_stopped(
    listed: Listed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    spec = listed(generation={"batch": 2, "repeats": 2})
    command = ("speed", "all", "--spec", str(spec), "--out", str(out), "--threads", "1",
               "--clock", "cpu", "--generation", "--kernels", "fixed")  # fmt: skip
    # A machine that runs the tests as well is no place to judge its own fitness.
    monkeypatch.setattr(Results, "is_unfit", False)
    # Slow, and tested apart.
    monkeypatch.setattr(
        "calm_bench.speed.timing.measure_peaks",
        lambda plan, *_: {batch: {"peak_bytes": 10**6} for batch in plan.setting.batch},
    )
    assert "Speed: toys, tiny scale" in call(*command).out
    store = RunStore(out)
    # Two systems at two batch sizes and the control, twice.
    assert len(store.read(LatencyRecord)) == 2 * 5
    assert len(store.read(BandwidthRecord)) == 2
    assert len(store.read(FootprintRecord)) == 4
    made = store.read(GenerationRecord)
    assert [(r.repeat, r.batch, r.seconds) for r in made] == [
        (repeat, 2, pytest.approx(0.72)) for repeat in (0, 0, 1, 1)
    ]
    assert min(r.taken_ns for r in made) > 0
    assert {(r.cell_id, r.seconds) for r in store.read(GrowthRecord)} == {
        (f"{name}-plain-fp32", seconds) for name in ("rq-debug", "calm-debug")
        for seconds in (0.08, 0.32)
    }  # fmt: skip
    for found in store.read(FootprintRecord):
        assert found.state_bytes
        if found.batch == 1:
            parts = [found.read_bytes[stage] for stage in ("backbone", "head", "codec")]
            assert found.read_bytes["total"] == sum(parts)
            assert min(parts) > 0
            assert found.operators
    rows = {(row.cell_id, row.metric): row for row in store.read_results().rows}
    assert rows["rq-debug-plain-fp32", "peak_mb"].value
    assert rows["calm-debug-plain-fp32", "overall_speedup"].value
    call("report", out, "--json")

    # Killed within the second round and repeat: these alone are measured again.
    generations = out / "generations.jsonl"
    first_three = "".join(generations.read_text().splitlines(keepends=True)[:3])
    generations.write_text(first_three)
    path = out / "latency.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:8]))
    assert call(*command, "--json").json["run_id"].startswith("speed-toys-tiny-")
    kept = path.read_text().splitlines(keepends=True)
    assert kept[:8] == lines[:8]
    assert [json.loads(line)["round"] for line in kept[8:]] == [1] * 5
    assert generations.read_text().startswith(first_three)
    assert [json.loads(line)["repeat"] for line in generations.read_text().splitlines()] == [
        0,
        0,
        1,
        1,
        1,
    ]

    other = call(*command, "--frames", "5", code=2)
    assert "it was planned with other options" in other.err


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_of_its_own(expanded: Callable[..., SpeedPlan]) -> None:
    plan = expanded(threads=1)
    peaks = measure_peaks(plan, plan.rows[1].cell_id, 4)
    assert set(peaks) == {1, 2}
    for peak in peaks.values():
        # A toy model and its activations: something, and far less than torch itself.
        assert peak["peak_reason"] is None
        assert 0 < peak["peak_bytes"] < 100e6
    peak = measure_peaks(plan, "lost", 4)[1]
    assert peak["peak_bytes"] is None
    assert peak["peak_reason"].startswith("its process failed")


def test_an_unfit_machine_is_another_exit_code(
    listed: Listed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calm_bench.run.measure_plan", lambda *_: None)
    monkeypatch.setattr(Results, "is_unfit", True)
    done = call("speed", "all", "--spec", listed(), "--out", tmp_path / "out", code=3)
    assert "unfit" in done.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--mode", "plan"], "'plan' is no mode: did you mean plain?"),
        (["--precision", "fp64"], "'fp64' is no precision"),
        (["--batch", "1", "0"], "'0' is no batch size"),
        (["--codec-frames", "2", "x"], "'x' is no number of frames"),
        (["--scale", "small"], "'small' is no scale"),
        (["--mode", "plain", "--precision", "int8"], "the plain step is always fp32"),
        (["--spec", "lost.yaml"], "cannot read lost.yaml"),
    ],
)
def test_what_cannot_be_done_is_one_line(args: list[str], message: str) -> None:
    assert message in call("speed", "speech", "--device", "cpu", *args, code=2).err


def test_a_system_that_decodes_in_its_own_way_decodes_one_frame_a_call(
    listed: Listed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CalmSystem, "decode_step", lambda self, frame, decoder: frame)
    words = ("--spec", listed(), "--out", tmp_path / "out", "--device", "cpu")
    line = refused("speed", "all", *words, "--kernels", "fixed", "--codec-frames", "2")
    assert "CALM, plain fp32 decodes one frame a call: leave --codec-frames out, or it" in line


def test_a_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    args = ("--device", "cpu", "--mode", "plain", "eager", "--batch", "1,4", "--dry-run", "--json")
    plan = call("speed", "speech", *args).json
    assert plan["setting"]["batch"] == [1, 4]
    assert len(plan["cells"]) == 4
    assert not list(tmp_path.iterdir())
