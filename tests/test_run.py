"""A run reads every model's configuration once, and loads every model once."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from calm_bench import config
from calm_bench.plan.overrides import Overrides
from calm_bench.plan.plan import expand
from calm_bench.run import run
from calm_bench.systems import loading
from calm_bench.types import Precision


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each model's config.yaml is read."""
    counts: Counter[str] = Counter()
    read_yaml = config.read_yaml

    def counted(path: Path) -> dict[str, Any]:
        if path.name == "config.yaml":
            counts[path.parent.name] += 1
        return read_yaml(path)

    monkeypatch.setattr(config, "read_yaml", counted)
    return counts


def test_every_configuration_is_read_once(read: Counter[str], tmp_path: Path) -> None:
    plan = expand("smoke", Overrides())
    run(plan, out=tmp_path, device="cpu")
    once = dict.fromkeys(("rq-debug", "calm-debug", "rvq-debug", "vae-debug"), 1)
    assert read == once
    run(plan, out=tmp_path, device="cpu")
    assert read == once


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each system, in each precision, and each codec is loaded."""
    counts: Counter[str] = Counter()
    load_system, load_codec = loading.load_system, loading.load_codec

    def system(name: str, *args: Any, precision: Precision, **options: Any) -> Any:
        counts[f"{name} {precision}"] += 1
        return load_system(name, *args, precision=precision, **options)

    def codec(name: str, *args: Any) -> Any:
        counts[name] += 1
        return load_codec(name, *args)

    monkeypatch.setattr(loading, "load_system", system)
    monkeypatch.setattr(loading, "load_codec", codec)
    return counts


def test_a_system_is_loaded_once_for_clips_losses_and_times(
    loaded: Counter[str], tmp_path: Path
) -> None:
    plan = expand("smoke", Overrides(precisions=("fp32", "int8")))
    run(plan, out=tmp_path, device="cpu")
    systems = [f"{name}-debug {at}" for name in ("rq", "calm") for at in ("fp32", "int8")]
    assert loaded == dict.fromkeys([*systems, "rvq-debug", "vae-debug"], 1)
    run(plan, out=tmp_path, device="cpu")
    assert loaded.total() == 6
