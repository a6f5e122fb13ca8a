"""The figures' numbers, and that a figure without data is not drawn."""

from dataclasses import replace

import pytest
from rows import system, with_values
from stored_runs import CALM, RQ32, around, make_results, make_run, speed_of, stored

from calm_bench.report.paper.figures import (
    FIGURES,
    convergence,
    draw_figures,
    fad_over_time,
    head_steps,
    latency_position,
    latency_split,
    quality_speed,
    temperature_sweep,
)
from calm_bench.report.paper.runs import StoredRun
from calm_bench.store.records import GrowthRecord


def test_a_sweep_is_one_line_per_head_and_instrument(music: StoredRun) -> None:
    panels = list(head_steps(music))
    assert [panel.title for panel in panels] == ["music: FAD ↓, mel", "music: FAD ↓, whisper v1"]
    lines = {line.label: line.dots for line in panels[0].lines}
    assert [dot.x for dot in lines["CALM consistency"]] == [1, 4, 10, 25, 50, 100]
    assert lines["CALM TrigFlow"][-1].y == 5.2
    assert panels[0].levels == {"RQ-Transformer 32 RVQ": 9.2}
    assert "n = 64 clips" in panels[0].caption


def test_two_step_numbers_are_no_sweep() -> None:
    cells = [CALM[1], CALM[4]]
    numbers = [(cell, {"fad": around(5.0)}) for cell in cells]
    assert list(head_steps(make_run(numbers))) == []


def test_a_line_over_steps_is_of_one_temperature() -> None:
    cells = [
        system("calm-music-tiny", "CALM", temp=temp, steps=steps)
        for temp in (0.8, 1.0)
        for steps in (1, 4, 10)
    ]
    numbers = [(cell, {"fad": around(float(i))}) for i, cell in enumerate(cells, 1)]
    (panel,) = head_steps(make_run(numbers))
    assert [(dot.x, dot.y) for dot in panel.lines[0].dots] == [(1, 4.0), (4, 5.0), (10, 6.0)]


def test_quality_stands_against_the_measured_speed(music: StoredRun) -> None:
    first = next(iter(quality_speed(music)))
    lines = {line.label: line.dots for line in first.lines}
    assert lines["RQ-Transformer 32 RVQ"][0].x == 1.0
    assert lines["RQ-Transformer 32 RVQ"][0].x_interval is None
    assert [dot.note for dot in lines["CALM consistency"]] == ["1", "4", "10", "25", "50", "100"]
    assert "12 rounds" in first.caption


def test_where_temperatures_and_steps_vary_a_line_is_of_one_number_of_steps() -> None:
    cells = [
        system("calm-music-tiny", "CALM", temp=temp, steps=steps)
        for temp in (0.8, 1.0)
        for steps in (1, 4)
    ]
    numbers = [(cell, {"fad": around(5.0), "overall_speedup": around(2.0)}) for cell in cells]
    (panel,) = quality_speed(make_run(numbers))
    found = {line.label: [dot.note for dot in line.dots] for line in panel.lines}
    assert found == {"CALM, 1 step": ["0.8", "1.0"], "CALM, 4 steps": ["0.8", "1.0"]}


def test_temperatures_are_swept_where_there_are_two(music: StoredRun) -> None:
    assert list(temperature_sweep(music)) == []
    cells = [system("calm-speech-tiny", "CALM", temp=t) for t in (1.0, 0.8)]
    numbers = [(cell, {"wer": around(20.0 * (i + 1))}) for i, cell in enumerate(cells)]
    (panel,) = temperature_sweep(make_run(numbers, benchmark="speech"))
    assert [(dot.x, dot.y) for dot in panel.lines[0].dots] == [(0.8, 40.0), (1.0, 20.0)]


def test_segments_stand_at_their_middle(ablations: StoredRun) -> None:
    (panel,) = fad_over_time(ablations)
    lines = {line.label: line.dots for line in panel.lines}
    assert len(lines) == 5
    assert [(dot.x, dot.y) for dot in lines["None of the three"]] == [
        (1.5, 8.0),
        (4.5, 29.0),
        (7.5, 80.0),
    ]


def test_checkpoints_stand_at_their_steps(ablations: StoredRun) -> None:
    (panel,) = convergence(ablations)
    lines = {line.label: line.dots for line in panel.lines}
    assert [(dot.x, dot.y) for dot in lines["No head-batch multiplier"]] == [
        (500, 30),
        (1000, 21),
        (2000, 13),
    ]


def test_what_the_stages_do_not_explain_is_other(music: StoredRun) -> None:
    (panel,) = latency_split([music])
    parts = panel.stages["RQ-Transformer 32 RVQ"]
    assert parts["head"] == pytest.approx(25 * 6.0)
    assert parts["other"] == pytest.approx(25 * 0.1)
    assert "second of audio" in panel.x_label
    low, high = panel.ends["RQ-Transformer 32 RVQ"] or (0.0, 0.0)
    assert low < sum(parts.values()) < high


def test_frames_of_other_lengths_are_compared_by_the_second() -> None:
    def times(rate: float) -> dict[str, tuple[float, float, float]]:
        ms = {"frame_ms": 4.0, "backbone_ms": 2.0, "head_ms": 1.0, "codec_ms": 1.0}
        return {k: around(v) for k, v in (ms | {"rtf": 4.0 * rate / 1000}).items()}

    numbers = [(RQ32, times(25.0)), (CALM[1], times(50.0))]
    (panel,) = latency_split([make_run(numbers)])
    assert panel.stages["RQ-Transformer 32 RVQ"]["head"] == pytest.approx(25.0)
    assert panel.stages["CALM consistency"]["head"] == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("modes", "shown", "head"),
    [
        (("plain fp32", "eager int8", "eager fp32"), "eager fp32", 3.0),
        (("eager bf16", "graph bf16"), "eager bf16", 1.0),
    ],
)
def test_of_several_modes_the_engine_in_float32_is_shown_and_named(
    modes: tuple[str, ...], shown: str, head: float
) -> None:
    numbers = []
    for index, name in enumerate(modes):
        mode, precision = name.split()
        update = {"cell_id": f"calm-{name}", "label": f"CALM, {name}", "mode": mode}
        cell = CALM[1].model_copy(update=update | {"precision": precision})
        times = speed_of(1.0, 1.0, (2.0, index + 1.0, 1.0))
        numbers.append((cell, times))
    results = make_results("s", "speed", numbers)
    recipes = {name: {"metric": "latency", "mode": name.split()[0]} for name in modes}
    rows = [row.model_copy(update={"recipe_id": row.cell_id[5:]}) for row in results.rows]
    results = results.model_copy(update={"recipes": recipes, "rows": tuple(rows)})
    (panel,) = latency_split([stored(results)])
    assert panel.stages["CALM"]["head"] == pytest.approx(25 * head)
    assert list(panel.stages) == ["CALM"]
    assert panel.title.endswith(f", {shown}")
    assert panel.caption.endswith("; eager")


def test_position_is_where_speed_looked(music: StoredRun) -> None:
    times = {"total": tuple(int(1e6 * ms) for ms in (3, 5, 4, 9))}
    growth = [
        GrowthRecord(cell_id=RQ32.cell_id, repeat=0, seconds=seconds, stage_ns=times)
        for seconds in (120.0, 1.0)
    ]
    assert list(latency_position(music)) == []
    (panel,) = latency_position(replace(music, growth=tuple(growth)))
    (line,) = (line for line in panel.lines if line.label == RQ32.label)
    assert [(dot.x, dot.y, dot.y_interval) for dot in line.dots] == [
        (1.0, 100.0, (75.0, 112.5)), (120.0, 100.0, (75.0, 112.5)),
    ]  # fmt: skip


def test_times_are_those_of_speed_alone_where_it_has_timed(music: StoredRun) -> None:
    timed = music.results.model_copy(update={"benchmark": "speed", "run_id": "speed-music-tiny-1"})
    (panel,) = latency_split([music, replace(music, results=timed)])
    assert panel.title == "music-tiny"


def test_points_stand_where_they_are_and_have_both_intervals() -> None:
    rq, calm = ([system(name, name, temp=t) for t in (0.8, 1.0)] for name in ("rq", "calm"))
    numbers = [(row, {"ppx_geo": around(80.0), "overall_speedup": 1.0}) for row in rq]
    fast = {"ppx_geo": around(70.0), "overall_speedup": around(1.5)}
    numbers += [(row, fast) for row in calm]
    (panel,) = quality_speed(make_run(numbers, benchmark="speech"))
    assert not panel.shared_x
    of_rq, of_calm = panel.lines
    assert [(dot.x, dot.note) for dot in of_rq.dots] == [(1.0, "0.8"), (1.0, "1.0")]
    assert [dot.x for dot in of_calm.dots] == [1.5, 1.5]
    assert all(dot.x_interval and dot.y_interval for dot in of_calm.dots)


@pytest.mark.usefixtures("drawn")
def test_figures_are_drawn_twice_alike_and_never_empty(
    music: StoredRun, ablations: StoredRun
) -> None:
    drawn = draw_figures([ablations])
    names = {spec.name for spec in FIGURES} & {"fad_over_time", "convergence", "training_music"}
    assert set(drawn) == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert drawn == draw_figures([ablations])
    for name, data in drawn.items():
        assert data.startswith(b"\x89PNG") == name.endswith(".png")
        assert b"<dc:date>" not in data
        assert len(data) > 5000


def test_a_system_without_numbers_over_time_is_named_below(ablations: StoredRun) -> None:
    lost = {"value": None, "low": None, "high": None, "reason": "too short"}
    results = with_values(ablations.results, lambda value: "no-noise" in value.cell_id, **lost)
    (panel,) = fad_over_time(replace(ablations, results=results))
    assert "not drawn for want of a value: No noise injection" in panel.caption
    (panel,) = fad_over_time(ablations)
    assert "not drawn" not in panel.caption
