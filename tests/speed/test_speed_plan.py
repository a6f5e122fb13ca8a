from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calm_bench.errors import BenchError, InputError
from calm_bench.speed.timetable import Request, SpeedPlan, expand, load_spec, plan_lines, sessions

Expand = Callable[..., SpeedPlan]


def steps(plan: SpeedPlan) -> list[tuple[str, str | None, str | None]]:
    return [(str(cell.model), cell.mode, cell.precision) for cell in plan.rows]


def test_plain_is_one_row_and_every_other_mode_one_for_each_precision(expanded: Expand) -> None:
    plan = expanded(modes=("plain", "eager"), precisions=("fp32", "int8"))
    assert steps(plan)[:3] == [
        ("rq-debug", "plain", "fp32"),
        ("rq-debug", "eager", "fp32"),
        ("rq-debug", "eager", "int8"),
    ]
    assert len({cell.cell_id for cell in plan.rows}) == 6
    assert plan.rows[2].label == "RQ, eager int8"
    assert [cell.mode for cell in plan.growth_rows] == ["eager", "eager"]


def test_on_a_gpu_the_plain_step_is_timed_in_bf16_too() -> None:
    asked = {"part": "speech", "scale": "paper", "device": "cuda"}
    assert {(c.mode, c.precision) for c in expand(Request(**asked)).rows} == {
        ("plain", "bf16"),
        ("eager", "bf16"),
        ("graph", "bf16"),
    }
    both = expand(Request(**asked, modes=("plain", "eager"), precisions=("bf16", "fp32")))
    assert [(c.mode, c.precision) for c in both.rows][:3] == [
        ("plain", "fp32"),
        ("plain", "bf16"),
        ("eager", "bf16"),
    ]
    assert expand(Request(**asked, modes=("plain",), precisions=("bf16",))).rows[0].mode == "plain"


def test_head_steps_are_rows_of_the_systems_that_take_any_number(expanded: Expand) -> None:
    plan = expanded(head_steps=(1, 4))
    assert [(cell.label, cell.head_steps) for cell in plan.rows] == [
        ("RQ", 3),
        ("CALM, 1 step", 1),
        ("CALM, 4 steps", 4),
    ]
    assert len({cell.cell_id for cell in plan.rows}) == 3


def test_batch_one_is_always_timed_and_sizes_are_in_order(expanded: Expand) -> None:
    assert expanded(batch=(16, 4)).setting.batch == (1, 4, 16)


def test_frames_a_call_of_the_codec_are_rows_beside_those_of_one(expanded: Expand) -> None:
    plan = expanded(modes=("plain", "eager"), codec_frames=(4, 2), generation=True)
    assert plan.setting.codec_frames == (1, 2, 4)
    assert [row.codec_frames for row in plan.rows] == [1, 2, 4] * 4
    assert plan.rows[2].label == "RQ, plain fp32, 4 frames a call"
    assert len({row.cell_id for row in plan.rows}) == 12
    assert [row.codec_frames for row in plan.growth_rows] == [1, 1]
    assert plan.run_id != expanded(modes=("plain", "eager"), generation=True).run_id
    assert any("a call: the codec decodes the first alone" in note for note in plan.notes)
    once = expanded(codec_frames=(1,))
    assert [row.cell_id for row in once.rows] == [row.cell_id for row in expanded().rows]
    assert once.run_id == expanded().run_id


def test_what_decides_the_numbers_decides_the_runs_name(expanded: Expand) -> None:
    names = {
        expanded(**changes).run_id
        for changes in (
            {},
            {"clock": "cpu", "threads": 1},
            {"frames": 5},
            {"rounds": 3},
            {"threads": 1},
            {"growth": False},
        )
    }
    assert len(names) == 6
    assert expanded().run_id == expanded().run_id
    assert expanded().run_id.startswith("speed-toys-tiny-")


def test_systems_that_do_not_fit_together_meet_the_baseline_of_their_own_step(
    expanded: Expand,
) -> None:
    together = expanded(modes=("plain", "eager"))
    assert sessions(together) == [together.rows]
    apart = expanded(modes=("plain", "eager"), setting={"together": False})
    found = [[(c.model, c.mode) for c in cells] for cells in sessions(apart)]
    assert found == [
        [("rq-debug", "eager"), ("calm-debug", "eager")],
        [("rq-debug", "plain"), ("calm-debug", "plain")],
    ]


def test_random_weights_and_few_rounds_are_said(expanded: Expand) -> None:
    lines = "\n".join(plan_lines(expanded()))
    assert "random weights: all systems" in lines
    assert "2 rounds: the intervals are as good as none" in lines


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": "toy"}, "unknown part of the speed benchmark 'toy'; did you mean toys?"),
        ({"scale": "paper"}, "names no systems of toys at scale paper"),
        ({"clock": "cpu"}, "it needs --device cpu --threads 1"),
    ],
)
def test_what_cannot_be_timed_is_refused(
    expanded: Expand, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BenchError) as caught:
        expanded(**changes)
    assert message in str(caught.value)


def test_the_shipped_list_names_systems_that_exist_at_both_scales() -> None:
    for part in load_spec(None).parts:
        for scale in ("tiny", "paper"):
            plan = expand(Request(part=part, scale=scale))
            assert sum(cell.baseline for cell in plan.rows) == len(plan.setting.precisions) * len(
                plan.setting.modes
            )
            assert plan.random == (scale == "paper")


def test_a_wrong_list_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("name: speed\nversion: 1\ndescription: x\nparts: {}\nprobes: 3\n")
    with pytest.raises(InputError, match="unknown field"):
        load_spec(path)
