"""What every registered system, codec, metric and embedding must do, checked at debug size.

A new one is covered the moment its line stands in the registry.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest

from calm_bench import contracts, registry
from calm_bench.codecs.checkpoints import load_codec
from calm_bench.config import load_model_config, model_names
from calm_bench.errors import BenchError, MissingExtraError, WeightsError
from calm_bench.systems.loading import load_system


def debug_models(kind: str) -> dict[str, str]:
    """The debug models of a kind, and the registered type of each."""
    debug = [name for name in model_names() if name.endswith("-debug")]
    specs = {name: load_model_config(name)[0] for name in debug}
    return {name: spec.type for name, spec in specs.items() if spec.kind == kind}


# The embeddings of `fad` have an environment of their own and tests that need it.
PARTS = {
    "system": debug_models("system"),
    "codec": debug_models("codec"),
    "metric": registry.METRICS,
    "embedding": ("mel", "musicnn", "notes", "notes-drift", "whisper"),
}
CASES = [
    pytest.param(kind, name, check, id=f"{name}-{check.__name__}")
    for kind, names in PARTS.items()
    for name in names
    for check in contracts.CHECKS[kind]
]


@cache
def part_of(kind: Any, name: str) -> Any:
    """The part; a test is skipped where it needs a package or weights that are not here."""
    load = {"system": load_system, "codec": load_codec}
    try:
        part = load[kind](name) if kind in load else registry.load(kind, name)()
        if kind == "metric":
            part.score(contracts.reference()[:1], contracts.reference())
        if kind == "embedding":
            assert part.recipe  # which asks for its weights
    except (MissingExtraError, WeightsError, BenchError) as error:
        missing = isinstance(error, MissingExtraError | WeightsError) and kind == "metric"
        if getattr(error, "extra", "") == "offline":  # what it brings is always here
            raise
        if not missing and "is not installed" not in str(error):
            raise
        pytest.skip(str(error))
    return part


@pytest.mark.parametrize(("kind", "name", "check"), CASES)
def test_contract(kind: str, name: str, check: Any) -> None:
    check(part_of(kind, name))


@pytest.mark.parametrize(
    ("kind", "registered"), [("system", registry.SYSTEMS), ("codec", registry.CODECS)]
)
def test_every_registered_type_has_a_debug_model(kind: str, registered: dict[str, str]) -> None:
    missing = set(registered) - set(debug_models(kind).values())
    assert missing == set(), f"add models/NAME-debug for each {kind} named"


@pytest.mark.parametrize("name", registry.SYSTEMS)
def test_what_a_plan_reads_of_a_class_is_what_the_class_says(name: str) -> None:
    cls = registry.load("system", name)
    for attribute in ("any_head_steps", "own_text"):
        assert registry.declares("system", name, attribute) == getattr(cls, attribute), attribute


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in registry._BASES for name in registry._BUILT_IN[kind]],
)
def test_our_own_are_what_their_kind_declares(kind: Any, name: str) -> None:
    faults = registry._faults(kind, name, registry.load(kind, name))
    assert [fault for fault in faults if not fault.startswith("a column is called")] == []


def test_no_two_metrics_share_a_column() -> None:
    columns = [column.name for column in registry.columns()]
    assert sorted(set(columns)) == sorted(columns)


@pytest.mark.parametrize("name", PARTS["embedding"])
def test_a_constant_offset_is_not_described(name: str) -> None:
    wave = contracts.speechlike(3.0, 0)
    plain, moved = part_of("embedding", name).embed([wave, wave + np.float32(0.01)])
    assert np.linalg.norm(moved - plain) < 0.03 * np.linalg.norm(plain)


def test_a_part_is_verified_by_its_name() -> None:
    for name in ("rq", "vae-debug", "mel", "loudness"):
        assert [found for found in contracts.verify(name) if found.fault] == [], name
