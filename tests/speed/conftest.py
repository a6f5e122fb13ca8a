"""A list of two debug systems, and records of a run whose numbers are known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from calm_bench.speed.timetable import Request, SpeedPlan, expand

SYSTEMS = [
    {"model": "rq-debug", "label": "RQ", "baseline": True, "head_steps": [3]},
    {"model": "calm-debug", "label": "CALM"},
]


def write_spec(folder: Path, **changes: Any) -> Path:
    setting = {
        "frames": 4, "warmup": 1, "rounds": 2, "modes": ["plain"], "batch": [1, 2],
        "growth": {"seconds": [0.08, 0.32], "frames": 2, "repeats": 1}, **changes,
    }  # fmt: skip
    spec = {
        "name": "speed", "version": 1, "description": "test", "probe_mb": 1,
        "parts": {
            "toys": {"prompts_of": "smoke", "temperature": 0.8,
                     "tiny": {"systems": SYSTEMS, "cpu": setting}},
        },
    }  # fmt: skip
    path = folder / "list.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


@pytest.fixture
def expanded(tmp_path: Path) -> Callable[..., SpeedPlan]:
    """Expands a request for the debug systems, with changes to it or to their setting."""

    def expand_with(setting: dict[str, Any] | None = None, **request: Any) -> SpeedPlan:
        spec = write_spec(tmp_path, **(setting or {}))
        return expand(Request(**{"part": "toys", "spec": spec, **request}))

    return expand_with


@pytest.fixture
def listed(tmp_path: Path) -> Callable[..., Path]:
    """Writes the list of debug systems, with changes to their setting."""
    return lambda **changes: write_spec(tmp_path, **changes)
