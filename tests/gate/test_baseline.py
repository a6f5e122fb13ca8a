import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from calm_bench import config
from calm_bench.errors import InputError
from calm_bench.gate import baseline as baselines
from calm_bench.gate.baseline import (
    Baseline,
    Machine,
    Reference,
    counted_systems,
    default_path,
    differences,
    read_baseline,
    stored,
    torch_key,
    write_baseline,
)
from calm_bench.speed.counts import StageCounts
from calm_bench.store.records import Stage

COUNTS = StageCounts(calls=1, operators=50, flops=1000, parameters=40, bytes_read=160)


def found(**changes: int) -> dict[str, dict[Stage, StageCounts]]:
    return {"calm-debug": {"head": replace(COUNTS, **changes), "codec": COUNTS}}


STORED = stored(found(), Baseline())


def test_equal_counts_pass() -> None:
    counted = differences(found(), STORED)
    assert (counted.grown, counted.fallen, counted.notes) == ((), (), ())
    assert counted.compared == 10


@pytest.mark.parametrize("count", ["calls", "operators", "flops", "parameters", "bytes_read"])
def test_a_count_that_grows_by_one_is_found_in_its_stage(count: str) -> None:
    counted = differences(found(**{count: getattr(COUNTS, count) + 1}), STORED)
    assert counted.fallen == ()
    (change,) = counted.grown
    assert (change.system, change.stage, change.count) == ("calm-debug", "head", count)
    assert change.difference.startswith("+1 (")


def test_a_count_that_falls_is_no_regression() -> None:
    counted = differences(found(operators=40), STORED)
    assert counted.grown == ()
    assert str(counted.fallen[0]) == "calm-debug head: operators 50 → 40"
    assert counted.fallen[0].difference == "-10 (-20.0 %)"


def test_under_another_torch_operators_are_not_gated_and_the_rest_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines.metadata, "version", lambda package: "9.9.1+cpu")
    assert torch_key() == f"torch 9.9 {platform.machine().lower()}"
    counted = differences(found(operators=99, flops=9999, bytes_read=161), STORED)
    assert [change.count for change in counted.grown] == ["bytes_read"]
    assert "none are stored for torch 9.9" in counted.notes[0]


def test_updating_under_another_torch_keeps_what_was_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines.metadata, "version", lambda package: "9.9.1")
    both = stored(found(operators=60), STORED)
    assert len(both.dispatched) == 2
    monkeypatch.undo()
    assert differences(found(), both).grown == ()


def test_a_system_that_was_stored_under_another_torch_alone_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two = {name: found()["calm-debug"] for name in ("calm-debug", "rq-debug")}
    monkeypatch.setattr(baselines.metadata, "version", lambda package: "9.9.1")
    both = stored(two, STORED)
    monkeypatch.undo()
    two["rq-debug"] = found(operators=99, calls=2)["calm-debug"]
    counted = differences(two, both)
    assert [(change.system, change.count) for change in counted.grown] == [("rq-debug", "calls")]
    (note,) = counted.notes
    assert note.startswith("operators and FLOPs are not gated: none of rq-debug are stored for")


def test_systems_that_come_and_go_are_said() -> None:
    new = {"rq-debug": found()["calm-debug"]}
    counted = differences(new, STORED)
    assert counted.compared == 0
    assert [note.split()[0] for note in counted.notes] == ["rq-debug", "calm-debug"]


def test_the_file_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    machine = Machine(torch="2.13.0", references={"head_speedup": Reference(value=3.2, slack=0.2)})
    whole = STORED.model_copy(update={"ratios": {"A Processor": machine}})
    write_baseline(path, whole)
    assert read_baseline(path) == whole
    # A line per stage, so that a diff names what changed.
    assert "    head: {calls: 1, parameters: 40, bytes_read: 160}\n" in path.read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"version": 2}, "version"),
        ({"version": 1, "counst": {}}, "did you mean counts"),
        ({"ratios": {"x": {"torch": "2.13", "references": {"a": {"value": -1}}}}}, "greater than"),
    ],
)
def test_a_file_that_says_something_else_is_refused(
    content: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=message):
        read_baseline(path)


RATIOS = {
    "Slow 1": Machine(torch="2.13.0", references={"head": Reference(value=3.0, slack=0.1)}),
    "Fast 2": Machine(torch="2.11.0", references={"head": Reference(value=2.5, slack=0.05)}),
}


@pytest.mark.parametrize(
    ("processor", "wanted", "said"),
    [
        ("Slow 1", RATIOS["Slow 1"].references, ()),
        ("Fast 2", RATIOS["Fast 2"].references, ("ratios stored with torch 2.11.0, now 2.13.7",)),
        ("Other 3", {"head": Reference(value=2.5, slack=0.30)}, ("Other 3", "30 % slack")),
    ],
)
def test_a_processor_has_its_own_references_or_the_lowest_with_much_slack(
    processor: str, wanted: Any, said: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "device_name", lambda device: processor)
    monkeypatch.setattr(baselines.metadata, "version", lambda package: "2.13.7")
    references, note = Baseline(ratios=RATIOS).references()
    assert references == wanted
    assert (note is None) == (not said)
    assert all(words in str(note) for words in said)


def test_the_shipped_file_knows_every_small_system_and_is_no_benchmark() -> None:
    shipped = read_baseline(default_path())
    assert set(shipped.counts) == {folder.name for folder in counted_systems()}
    assert "speed_baseline" not in config.benchmark_names()
