"""What the benchmarks music and ablations say, and what the options make of a benchmark."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calm_bench.cli.doctor import listing
from calm_bench.config import Models, load_benchmark, load_model_config, model_dir, training_step_of
from calm_bench.core import paths
from calm_bench.errors import InputError, WeightsError
from calm_bench.numbers.pairs import compared_rows
from calm_bench.plan.overrides import Overrides
from calm_bench.plan.plan import Plan, expand, lacking, plan_lines

Planner = Callable[..., Plan]


@pytest.fixture
def plan(twin: Path) -> Planner:
    def planned(**overrides: Any) -> Plan:
        return expand(str(twin), Overrides(**overrides))

    return planned


def system_ids(found: Plan) -> list[str]:
    return [cell.cell_id for cell in found.rows if cell.kind == "system"]


def test_music_has_the_papers_six_rows_and_its_floors_and_ceilings() -> None:
    spec = load_benchmark("music")
    rows = [(row.model, steps) for row in spec.systems for steps in row.head_steps]
    assert rows == [
        ("rq32-music-tiny", 32),
        ("rq16-music-tiny", 16),
        ("trigflow-music-tiny", 100),
        ("calm-music-tiny", 4),
        ("calm-music-tiny", 1),
        ("musicgen-music-tiny", 1),
    ]
    assert [row.model for row in spec.systems if row.baseline] == ["rq32-music-tiny"]
    trips = {name: (row.model, row.levels) for name, row in spec.codecs.items()}
    assert trips == {
        "vae": ("vae-music-tiny", None),
        "rvq32": ("rvq-music-tiny", None),
        "rvq16": ("rvq-music-tiny", 16),
        "rvq4": ("rvq4-music-tiny", None),
    }
    named = {name.removesuffix("_round_trip") for name in spec.references}
    assert named == {"reference", "noise", "silence", *trips}
    assert spec.temperatures == (0.6, 0.8, 1.0)
    assert spec.embedding_if_usable == ("musicnn", "notes", "notes-drift", "vggish")


def test_ablations_are_five_rows_of_four_steps_against_ours() -> None:
    spec = load_benchmark("ablations")
    assert len(spec.systems) == 5
    assert {row.head_steps for row in spec.systems} == {(4,)}
    assert [row.label for row in spec.systems if row.baseline] == ["Ours"]
    assert (spec.prompts, spec.seconds) == (load_benchmark("music").prompts, 12)


def test_what_a_benchmark_lacks_is_one_line_and_no_crash(tmp_path: Path) -> None:
    spec = load_benchmark("music").model_copy(update={"prompts": "nowhere.jsonl"})
    row = spec.systems[0].model_copy(update={"model": "nobody"})
    missing = lacking(spec.model_copy(update={"systems": (row,), "codecs": {}}), Models())
    assert missing == "lacks models nobody; nowhere.jsonl"
    assert lacking(load_benchmark("smoke"), Models()) is None
    assert {"music", "ablations"} <= listing()["benchmarks"].keys()
    text = (paths.benchmarks_dir() / "smoke.yaml").read_text()
    for name in ("rq-debug", "vae-debug"):
        text = text.replace(name, f"no-{name}")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match="smoke cannot run here: it lacks models no-rq-debug, no-"):
        expand(str(tmp_path / "mine.yaml"), Overrides())


def test_head_steps_sweep_the_heads_that_take_any_number(plan: Planner) -> None:
    found = plan(head_steps=(1, 10, 1))
    assert system_ids(found) == ["rq-debug-t1", "calm-debug-t1-s1", "calm-debug-t1-s10"]
    assert compared_rows(found.rows) == [
        ("calm-debug-t1-s1", "rq-debug-t1"),
        ("calm-debug-t1-s10", "rq-debug-t1"),
        ("calm-debug-t1-s10", "calm-debug-t1-s1"),
    ]
    assert any("CALM, 10 steps, temp 1.0: calm-debug" in line for line in plan_lines(found))
    with pytest.raises(InputError, match="no system here has a head with a number of steps"):
        plan(systems=("rq",), head_steps=(2,))


def test_a_baseline_of_several_steps_is_compared_step_by_step(plan: Planner) -> None:
    cells = [c for c in plan(head_steps=(1, 4)).rows if c.model == "calm-debug"]
    ours = [c.model_copy(update={"baseline": True}) for c in cells]
    changed = {"model": "x", "label": "x"}
    other = [c.model_copy(update={"cell_id": f"x{c.head_steps}", **changed}) for c in cells]
    pairs = compared_rows([*ours, *other])
    assert pairs[:2] == [("x1", "calm-debug-t1-s1"), ("x4", "calm-debug-t1-s4")]
    swept = [("calm-debug-t1-s4", "calm-debug-t1-s1"), ("x4", "x1")]
    assert [pair for pair in pairs if pair in swept] == swept
    assert compared_rows([*cells, *other]) == pairs  # without a baseline the first system is one


@pytest.mark.parametrize(
    ("levels", "model", "message"),
    [
        (9, "rvq-debug", "rvq-debug has 3: its first 9 cannot be taken"),
        (2, "vae-debug", "vae-debug has no codebooks"),
    ],
)
def test_levels_that_a_codec_does_not_have_are_refused(
    twin: Path, levels: int, model: str, message: str
) -> None:
    text = twin.read_text().replace("levels: 2", f"levels: {levels}")
    path = twin.with_name(f"levels-{levels}.yaml")
    path.write_text(text.replace("model: rvq-debug", f"model: {model}"))
    with pytest.raises(InputError, match=message):
        expand(str(path), Overrides())


def test_longer_clips_keep_the_recordings_for_as_long_as_they_last(plan: Planner) -> None:
    found = plan(seconds=13.04)
    early = "recordings end before the clips' 13.04 s"
    assert any(early in note and "after 7.04 s" in note for note in found.notes)
    assert "reference" in {cell.cell_id for cell in found.rows}
    for seconds in (7.04, 4.0):
        assert not any("recordings end" in note for note in plan(seconds=seconds).notes)
    with pytest.raises(InputError, match="no room after the prompt"):
        plan(seconds=1.0)


def test_checkpoints_become_rows_by_training_step(plan: Planner, calm_bench_home: Path) -> None:
    with pytest.raises(InputError, match="no checkpoints were kept of"):
        plan(checkpoints=True)
    kept = calm_bench_home / "training" / "calm-debug" / "kept"
    source = model_dir("calm-debug") / "config.yaml"
    try:
        for step in (2000, 500):
            folder = kept / f"calm-debug-{step:07d}"
            folder.mkdir(parents=True)
            shutil.copy(source, folder)
        found = plan(checkpoints=True)
        assert system_ids(found) == [
            "calm-debug-step500-t1-s4", "calm-debug-step500-t1-s1",
            "calm-debug-step2000-t1-s4", "calm-debug-step2000-t1-s1",
        ]  # fmt: skip
        assert [c.training_step for c in found.rows] == [None, 500, 500, 2000, 2000]
        assert found.spec.latency is None
        assert found.spec.references == ("reference",)
        assert any("no checkpoints were kept of rq-debug" in note for note in found.notes)
        assert model_dir("calm-debug@500") == kept / "calm-debug-0000500"
        with pytest.raises(WeightsError, match=r"kept no checkpoint of step 7 in .*keep_every"):
            load_model_config("calm-debug@7")
    finally:
        shutil.rmtree(kept.parent)


def test_a_step_is_part_of_a_name_only_after_an_at() -> None:
    assert training_step_of("calm-music-tiny@2000") == ("calm-music-tiny", 2000)
    assert training_step_of("calm-music-tiny") == ("calm-music-tiny", None)
    assert training_step_of("me@home") == ("me@home", None)
