"""Adapters of released checkpoints: what they say where weights or packages are missing.

What they do with their packages, the contract tests check on the debug models.
"""

import importlib.util
import os
from pathlib import Path

import pytest

from calm_bench.cli.doctor import collect
from calm_bench.config import Models, load_model_config
from calm_bench.errors import BenchError, UnknownNameError, WeightsError
from calm_bench.generate.clips import Studio
from calm_bench.plan.overrides import Overrides
from calm_bench.plan.plan import expand
from calm_bench.run import prompts_of
from calm_bench.store.records import TrialRecord
from calm_bench.store.run_store import RunStore
from calm_bench.systems.loading import OpenModels, load_system
from calm_bench.systems.released import fetched

RELEASED = [
    ("moshi", "moshi", r"peers\.sh"),
    ("musicgen-small", "transformers", "pip install.*llm"),
    ("pocket-tts", "pocket_tts", "pip install.*kyutai"),
]


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@pytest.mark.parametrize(("name", "module", "remedy"), RELEASED)
def test_a_missing_package_is_one_line(name: str, module: str, remedy: str) -> None:
    if installed(module):
        pytest.skip(f"{module} is installed")
    with pytest.raises(BenchError, match=f"is not installed.*{remedy}"):
        load_system(name)


def test_weights_that_cannot_be_had_are_one_line() -> None:
    def offline() -> None:
        raise OSError("no route to the hub\nand a long story")

    with pytest.raises(WeightsError, match="weights of a/b cannot be had: no route to the hub;"):
        fetched("a/b", offline)


@pytest.mark.extra("llm")
def test_offline_and_not_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.environ.get("HF_HUB_OFFLINE") != "1":
        pytest.skip("a hub is in reach")
    with pytest.raises(WeightsError, match="facebook/musicgen-small cannot be had"):
        load_system("musicgen-small")


@pytest.mark.extra("kyutai")
def test_a_configuration_that_does_not_exist(tmp_path: Path) -> None:
    text = "kind: system\ntype: pocket-tts\ndescription: none\narchitecture: {name: englisch}\n"
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UnknownNameError, match="did you mean english"):
        load_system(str(tmp_path))


def test_a_release_is_no_random_model() -> None:
    for name, *_ in RELEASED:
        models = Models()
        assert load_model_config(name)[0].weights is None
        models.identity(name, "system")
        assert models.weights[name] is not None
    debug = Models()
    debug.identity("moshi-debug", "system")
    assert debug.weights["moshi-debug"] is None


@pytest.mark.parametrize("name", ["moshi-debug", "musicgen-small-debug", "pocket-tts-debug"])
def test_it_runs_in_a_benchmark_of_another_rate(name: str, tmp_path: Path) -> None:
    try:
        system = load_system(name)
    except BenchError as error:
        pytest.skip(str(error))
    plan = expand("smoke", Overrides(systems=(name,), n_prompts=1))
    store = RunStore(tmp_path / "run")
    Studio(plan, store, OpenModels(plan.models, "cpu"), prompts_of(plan)).make(plan.rows)
    records = store.read(TrialRecord)
    assert [r.error for r in records if r.status != "ok"] == []
    made = [r for r in records if r.cell_id.startswith(name)]
    reference = next(r for r in records if r.cell_id == "reference")
    assert made
    assert system.codec.sample_rate != reference.sample_rate
    assert {r.sample_rate for r in made} == {reference.sample_rate}


def test_doctor_says_where_released_weights_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calm_bench.cli.doctor._extras", list)
    found = {check.name: check for check in collect()}
    assert found["model moshi"].status == "ok"
    assert "kyutai/moshiko-pytorch-bf16" in found["model moshi"].detail
    assert "random" in found["model moshi-debug"].detail
