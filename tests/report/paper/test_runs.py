"""Which stored runs may stand in one ledger."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calm_bench.errors import InputError, UnknownNameError
from calm_bench.report.paper.names import ModelName
from calm_bench.report.paper.runs import StoredRun, check_one_build, find_stored, read_stored
from calm_bench.store.run_store import RunStore


def other(make: SimpleNamespace, **changes: Any) -> StoredRun:
    results = make.music().model_copy(update={"run_id": "music-2"})
    found: StoredRun = make.stored(results, **changes)
    return found


def test_the_same_weights_and_code_go_together(make: SimpleNamespace, music: StoredRun) -> None:
    check_one_build([music, other(make)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {"calm-music-tiny": "1" * 64}}, "calm-music-tiny has other weights in each"),
        ({"weights": {"calm-music-tiny": None}}, r"\(000000000000, random\)"),
        ({"environment": {"commit": "def"}}, "code of commit abc and of commit def"),
        ({"environment": {"calm_bench": "0.2"}}, "code of version 0.1 and of version 0.2"),
    ],
)
def test_other_weights_or_code_are_refused(
    make: SimpleNamespace, music: StoredRun, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_one_build([music, other(make, **changes)])
    assert "\n" not in str(caught.value)


def test_the_same_sources_go_together_whatever_the_commit(make: SimpleNamespace) -> None:
    before = other(make, environment={"code": "1234", "commit": "abc"})
    after = replace(other(make, environment={"code": "1234", "commit": "def"}), name="music-3")
    check_one_build([before, after])
    later = replace(other(make, environment={"code": "5678", "commit": "abc"}), name="music-3")
    with pytest.raises(InputError, match="code of sources 1234 and of sources 5678"):
        check_one_build([before, later])


def test_runs_of_other_models_may_differ_in_everything(
    make: SimpleNamespace, music: StoredRun
) -> None:
    cell = make.system("calm-speech-tiny", "CALM")
    speech = make.results("speech-1", "speech", [(cell, {"wer": make.around(20.0)})])
    check_one_build([music, make.stored(speech, environment={"commit": "def"})])


def test_without_a_manifest_nothing_says_that_two_runs_agree(
    make: SimpleNamespace, music: StoredRun
) -> None:
    bare = StoredRun(name="music-2", results=other(make).results, manifest=None)
    with pytest.raises(InputError, match=r"music-2 has no manifest\.json"):
        check_one_build([music, bare])


def test_one_run_twice_is_refused(music: StoredRun) -> None:
    with pytest.raises(InputError, match="two folders hold the run music-1"):
        check_one_build([music, music])


def test_debug_models_make_no_ledger(
    make: SimpleNamespace, save: Callable[[StoredRun], Path]
) -> None:
    cell = make.system("calm-debug", "CALM")
    run = make.stored(make.results("smoke-1", "smoke", [(cell, {"wer": make.around(20.0)})]))
    with pytest.raises(InputError, match="random weights are for tests"):
        read_stored([save(run)])


def test_kept_runs_are_found_and_names_teach(
    save: Callable[[StoredRun], Path], music: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(music)
    monkeypatch.chdir(folder.parent.parent)
    assert find_stored([]) == [folder]
    assert find_stored(["music-1"]) == [folder]
    with pytest.raises(UnknownNameError, match="did you mean music-1"):
        find_stored(["musik-1"])


def test_nothing_kept_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="holds no stored run"):
        find_stored([])


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("calm-music-tiny", ("calm-music", "tiny", None)),
        ("calm-music-tiny@2000", ("calm-music", "tiny", 2000)),
        ("models/rq-speech-paper", ("rq-speech", "paper", None)),
        ("pocket-tts", ("pocket-tts", None, None)),
    ],
)
def test_a_models_name_has_parts(model: str, parts: tuple[str, str | None, int | None]) -> None:
    found = ModelName.of(model)
    assert (found.base, found.scale, found.step) == parts


def test_rows_that_compare_precisions_answer_no_claim(
    make: SimpleNamespace, tmp_path: Path
) -> None:
    results = make.music()
    last = results.cells[-1].model_copy(update={"precision": "int8"})
    rough = last.model_copy(update={"mode": "eager", "cell_id": "timed"})
    cells = (*results.cells[:-1], last, rough)
    RunStore(tmp_path).write_results(results.model_copy(update={"cells": cells}))
    (run,) = read_stored([tmp_path])
    assert run.results.cells == (*results.cells[:-1], rough)
