"""A run reads every model's configuration once, and loads every model once."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from calm_bench import config
from calm_bench.plan.overrides import Overrides
from calm_bench.plan.plan import expand
from calm_bench.run import run


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
