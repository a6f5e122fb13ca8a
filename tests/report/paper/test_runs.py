"""Which stored runs may stand in one ledger."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rows import system, with_values
from stored_runs import around, make_results, make_run, music_results, stored

from calm_bench.errors import InputError, UnknownNameError
from calm_bench.report.paper.claims import load_claims
from calm_bench.report.paper.ledger import build_ledger
from calm_bench.report.paper.runs import (
    SPEED_METRICS,
    ModelName,
    StoredRun,
    check_names,
    find_stored,
    read_stored,
    with_oldest,
)
from calm_bench.store.results import Pooled
from calm_bench.store.run_store import RunStore


def other(**changes: Any) -> StoredRun:
    return stored(music_results("music-2"), **changes)


CODE = {"clips": "1" * 16, "times": "2" * 16, "scores": "3" * 16}


def later(run: StoredRun, day: int, **changes: Any) -> StoredRun:
    """The same run, begun later, by another name and with other things in its manifest."""
    name, manifest = f"music-{day}", run.manifest
    assert manifest is not None
    manifest = manifest.model_copy(update={"created": f"2030-01-0{day}", **changes})
    results = run.results.model_copy(update={"run_id": name})
    if "version" in changes:
        results = results.model_copy(update={"benchmark_version": changes["version"]})
    return replace(run, name=name, results=results, manifest=manifest)


def told_apart(run: StoredRun) -> dict[str, set[str]]:
    """By what keeps them from the oldest run's numbers, the models of a run's quality numbers."""
    models = {row.cell_id: row.model or row.kind for row in run.results.cells}
    found: dict[str, set[str]] = {}
    values = [value for value in run.results.rows if value.cell_id in models]
    for value in values:
        if value.metric == "fad" and value.value is not None:
            found.setdefault(run.apart(value), set()).add(models[value.cell_id])
    assert {run.apart(v) for v in values if v.metric in SPEED_METRICS} <= {""}
    return found


def test_other_weights_stand_apart_and_name_the_first_run_that_has_them(music: StoredRun) -> None:
    assert music.manifest is not None
    known = music.manifest.weights
    other = known | {"calm-music-tiny": "1" * 64}
    third = other | {"rq32-music-tiny": None}
    runs = [music, *(later(music, 2 + i, weights=w) for i, w in enumerate((other, third, known)))]
    first, second, last, again = with_oldest(runs)
    assert set(told_apart(first)) == set(told_apart(again)) == {""}
    assert told_apart(second)["weights of music-2"] == {"calm-music-tiny"}
    found = told_apart(last)
    assert found["weights of music-2"] == {"calm-music-tiny"}
    assert found["weights of music-3"] == {"rq32-music-tiny"}
    assert "calm-music-tiny" not in found[""]


def test_another_codec_makes_other_clips_of_every_system(music: StoredRun) -> None:
    assert music.manifest is not None
    with_codec = {**music.manifest.weights, "vae-music-tiny": "2" * 64}
    runs = [later(music, 2, weights=with_codec)]
    runs.append(later(music, 3, weights={**with_codec, "vae-music-tiny": "3" * 64}))
    _, after = with_oldest(runs)
    systems = {row.model for row in after.results.cells if row.kind == "system"}
    assert told_apart(after)["weights of music-3"] == systems


def test_a_training_of_replaced_weights_stands_apart_and_other_systems_do_not() -> None:
    def row(seed: int) -> Any:
        model = "calm-music-tiny" + (f"@seed{seed}" if seed else "")
        row = system(model, f"CALM, training {seed}", training=seed)
        return row.model_copy(update={"cell_id": f"calm-{seed}"})

    other = system("musicgen-music-tiny", "MusicGen")
    numbers = {"fad": around(5.0)}
    first = make_run([(row(0), numbers), (other, numbers)], name="music-1")
    rows = [(one, numbers) for one in (row(0), row(1), other)]
    second = make_run(rows, name="music-2")
    weights = {"calm-music-tiny": "1" * 64, "calm-music-tiny@seed1": "2" * 64}
    options = {"cells": [one.model_dump(mode="json") for one, _ in rows]}
    changes = {"weights": {**second.manifest.weights, **weights}, "options": options}
    _, after = with_oldest([first, later(second, 2, **changes)])
    for part in after.by_training().values():
        found = told_apart(part)
        (model,) = found["weights of music-2"]
        assert model.partition("@")[0] == "calm-music-tiny"
        assert found[""] == {"musicgen-music-tiny"}


def test_other_prompts_and_versions_stand_apart(music: StoredRun) -> None:
    def of(day: int, version: int, ids: str, sha256: str = "", listed: str = "music") -> StoredRun:
        known = {"prompts": list(ids), "prompts_sha256": list(sha256)}
        options = {"spec": {"prompts": listed}, **known}
        return later(music, day, version=version, options=options)

    runs = [
        of(1, 1, "ab"),  # of a time when hashes were not written down
        of(2, 2, "ab", "12"),
        of(3, 2, "abc", "123"),
        of(4, 2, "ab", "19"),
        of(5, 2, "xy", "78"),
        of(6, 2, "yx", "87"),
        of(7, 1, "a", "9"),
        of(8, 5, "a", "0", listed="speech"),
    ]
    assert [set(told_apart(run)) for run in with_oldest(runs)] == [
        {""},
        {"version 2"},
        {"version 2"},
        {"version 2, prompts of music-4"},
        {"version 2, prompts of music-5"},
        {"version 2, prompts of music-5"},
        {""},
        {""},
    ]


def test_clips_of_other_lengths_stand_apart(music: StoredRun) -> None:
    def of(day: int, seconds: float | None, listed: str = "music") -> StoredRun:
        lengths = {} if seconds is None else {"seconds": seconds, "prompt_seconds": 3.0}
        return later(music, day, options={"spec": {"prompts": listed, **lengths}})

    runs = [of(1, 12.0), of(2, 30.0), of(3, 12.0), of(4, None), of(5, 6.0, listed="speech")]
    long = "clips of 30 s, 3 s given"
    found = with_oldest(runs)
    assert [set(told_apart(run)) for run in found] == [{""}, {long}, {""}, {""}, {""}]
    claims = [one for one in load_claims() if one.id == "speech-ppx-0.8"]
    ledger = build_ledger(claims, found)
    assert [note for note in ledger.notes if "lengths" in note] == [
        f"music-2: {long}, unlike an older run: what lengths decide stands apart"
    ]
    times = [value for value in found[1].results.rows if value.metric == "rtf"]
    assert found[1].apart(*times) == ""


def test_text_drawn_at_another_temperature_stands_apart() -> None:
    cells = [system("calm-speech-tiny", "CALM", temp=temp) for temp in (0.8, 0.7)]
    rows = [cell.model_copy(update={"text_temperature": 0.7}) for cell in cells]
    run = make_run([(row, {"wer": around(20.0)}) for row in rows])
    assert [run.apart(value) for value in run.results.rows] == ["text temp 0.7", ""]


def test_trainings_of_a_system_are_runs_of_their_own() -> None:
    rows = [
        (
            system(f"calm-music-tiny@seed{n}", f"CALM, training {n}", training=n),
            {"fad": around(5.0 + n)},
        )
        for n in (0, 1)
    ]
    rows.append((system("musicgen-music-tiny", "MusicGen"), {"fad": around(9.0)}))
    run = make_run(rows, name="music-1")
    parts = run.by_training()
    assert {name: [row.label for row in part.results.cells] for name, part in parts.items()} == {
        f"training {seed}": [f"CALM, training {seed}", "MusicGen"] for seed in (0, 1)
    }
    assert ModelName.of("calm-music-tiny@seed1") == ModelName.of("calm-music-tiny")
    assert ModelName.of("calm-music-tiny@seed1@500").step == 500
    names = tuple(row.cell_id for row, _ in rows[:2])
    mean = {"value": 5.5, "low": 5.1, "high": 5.9, "n": 2, "recipe_id": "fad-mel"}
    pool = Pooled(cell_ids=names, metric="fad", **mean)
    results = run.results.model_copy(update={"pooled": (pool,)})
    ((name, found),) = replace(run, results=results).over_trainings().items()
    assert name == "mean of trainings"
    assert [row.label for row in found.results.cells] == ["CALM, training 0", "MusicGen"]
    (value,) = found.values("fad", found.results.cells[0])
    assert (value.value, value.low, value.high) == (5.5, 5.1, 5.9)
    (other,) = found.values("fad", found.results.cells[1])
    assert other in run.results.rows
    # No mean of what one training lacks; and of one training there is none.
    lost = Pooled(
        cell_ids=names, metric="fad", n=1, recipe_id="fad-mel", reason="no number of training 1"
    )
    cells = (*run.results.cells[:2], run.results.cells[2].model_copy(update={"training": 0}))
    results = run.results.model_copy(update={"pooled": (lost,), "cells": cells})
    parts = replace(run, results=results).over_trainings()
    assert {name: [row.label for row in part.results.cells] for name, part in parts.items()} == {
        "mean of trainings": ["CALM, training 0"],
        "one training": ["MusicGen"],
    }
    (value,) = parts["mean of trainings"].values("fad", cells[0])
    assert (value.value, value.low, value.reason) == (None, None, "no number of training 1")


@pytest.mark.parametrize(
    ("environment", "times", "scores"),
    [
        ({"code": CODE, "commit": "def"}, "", ""),
        ({"code": CODE | {"times": "9" * 16}}, "times by code 99999999", ""),
        ({"code": CODE | {"scores": "9" * 16}}, "", "scores by code 99999999"),
        ({"code": CODE | {"clips": "9" * 16}}, "", "clips by code 99999999"),
        # Older runs have one hash for all code, or a commit alone.
        ({"code": "9" * 16}, "times by code 99999999",
         "clips by code 99999999, scores by code 99999999"),
        ({}, "times by code abc", "clips by code abc, scores by code abc"),
    ],
)  # fmt: skip
def test_other_code_keeps_apart_what_it_decides(
    environment: dict[str, Any], times: str, scores: str
) -> None:
    first = stored(music_results(), environment={"code": CODE})
    second = other(environment=environment)
    check_names([first, second])
    before, after = with_oldest([second, first])
    assert (before.oldest, after.oldest) == (None, first)
    assert not any(before.apart(row) for row in before.results.rows)
    found = {row.metric: after.apart(row) for row in after.results.rows if row.value is not None}
    assert found.pop("fad") == found.pop("fad_inf") == scores
    assert set(found.values()) == {times}


@pytest.mark.parametrize("environment", [{"code": "1234"}, {}])
def test_older_runs_of_the_same_code_go_together(environment: dict[str, Any]) -> None:
    first = stored(music_results(), environment=environment)
    _, after = with_oldest([first, other(environment=environment)])
    assert not any(after.apart(row) for row in after.results.rows)


def test_another_recipe_stands_apart_and_another_instrument_has_its_own_name(
    music: StoredRun,
) -> None:
    later = other()
    results = with_values(
        later.results, lambda value: value.recipe_id == "fad-mel", recipe_id="fad-later"
    )
    recipes = results.recipes | {"fad-later": {"metric": "fad", "embedding": "mel"}}
    results = results.model_copy(update={"recipes": recipes})
    _, after = with_oldest([music, replace(later, results=results)])
    found = {value.recipe_id: after.apart(value) for value in results.rows}
    assert found["fad-later"] == "recipe fad-late"
    assert not found["fad-whisper v1"]


def test_the_oldest_is_found_through_runs_between() -> None:
    def run(name: str, created: str, *models: str) -> StoredRun:
        rows = [(system(model, model), {"fad": around(5.0)}) for model in models]
        found = make_run(rows, name=name)
        assert found.manifest is not None
        manifest = found.manifest.model_copy(update={"created": created})
        return replace(found, manifest=manifest)

    last, first = run("a", "2026-03", "rq32-music-tiny"), run("c", "2026-01", "calm-music-tiny")
    between = run("b", "2026-02", "calm-music-tiny", "rq32-music-tiny")
    alone = run("d", "2026-04", "calm-speech-tiny")
    found = with_oldest([last, between, alone, first])
    assert [(r.name, r.oldest and r.oldest.name) for r in found] == [
        ("c", None), ("b", "c"), ("a", "c"), ("d", None),
    ]  # fmt: skip


def test_runs_of_other_models_may_differ_in_everything(music: StoredRun) -> None:
    cell = system("calm-speech-tiny", "CALM")
    speech = make_results("speech-1", "speech", [(cell, {"wer": around(20.0)})])
    check_names([music, stored(speech, environment={"commit": "def"})])


def test_without_a_manifest_nothing_says_that_two_runs_agree(music: StoredRun) -> None:
    bare = StoredRun(name="music-2", results=other().results, manifest=None)
    with pytest.raises(InputError, match=r"music-2 has no manifest\.json"):
        check_names([music, bare])


def test_one_run_twice_is_refused(music: StoredRun) -> None:
    with pytest.raises(InputError, match="two folders hold the run music-1"):
        check_names([music, music])


def test_debug_models_make_no_ledger(save: Callable[[StoredRun], Path]) -> None:
    cell = system("calm-debug", "CALM")
    run = make_run([(cell, {"wer": around(20.0)})], name="smoke-1", benchmark="smoke")
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


def test_rows_that_compare_precisions_answer_no_claim(tmp_path: Path) -> None:
    results = music_results()
    last = results.cells[-1].model_copy(update={"precision": "int8"})
    rough = last.model_copy(update={"mode": "eager", "cell_id": "timed"})
    cells = (*results.cells[:-1], last, rough)
    RunStore(tmp_path).write_results(results.model_copy(update={"cells": cells}))
    (run,) = read_stored([tmp_path])
    assert run.results.cells == (*results.cells[:-1], rough)
