"""Measured kernels are found once for a machine, and every rank and later run takes the same."""

from pathlib import Path
from typing import Any

import pytest
import torch

from calm_bench.core import code
from calm_bench.core.ranks import ALONE
from calm_bench.errors import InputError
from calm_bench.nn.kernels import Choice, Shape, fixed
from calm_bench.plan.overrides import Overrides
from calm_bench.plan.plan import expand
from calm_bench.run import run
from calm_bench.store.run_store import RunStore
from calm_bench.systems.loading import OpenModels, load_system, measured_kernels
from calm_bench.types import KernelsOf

SHAPE = Shape(512, 256, "fp32", True)
FOUND: Choice = ((1, "packed"), (3, "split"))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Shape]:
    """What is measured, in a home of its own, where all are found to be fastest alike."""
    shapes: list[Shape] = []

    def measured(shape: Shape) -> Choice:
        shapes.append(shape)
        return FOUND

    monkeypatch.setenv("CALM_BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("calm_bench.systems.loading.measure", measured)
    return shapes


def test_a_shape_is_timed_once_for_a_machine_and_its_threads(
    timed: list[Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert measured_kernels()(SHAPE) == FOUND
    assert timed == [SHAPE]
    assert measured_kernels({str(SHAPE): [[1, "dense"]]})(SHAPE) == ((1, "dense"),)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    measured_kernels()(SHAPE)
    monkeypatch.setattr("calm_bench.systems.loading.device_name", lambda _: "another processor")
    measured_kernels()(SHAPE)
    assert timed == [SHAPE] * 3


@pytest.mark.parametrize(
    ("name", "change", "times"),
    [
        ("nn.product", "FROM_LATER = 7\n", 2),
        ("nn.kernels", "FROM_LATER = 7\n", 2),
        ("nn.product", "# nothing is done by this\n", 1),
        ("nn.trigflow", "FROM_LATER = 7\n", 1),
    ],
)
def test_a_changed_kernel_is_timed_anew(
    timed: list[Shape],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    change: str,
    times: int,
) -> None:
    measured_kernels()(SHAPE)
    file_of, changed = code._file_of, tmp_path / "changed.py"

    def other(module: str) -> Path | None:
        path = file_of(module)
        if path is None or module != f"calm_bench.{name}":
            return path
        changed.write_text(path.read_text() + change)
        return changed

    monkeypatch.setattr(code, "_file_of", other)
    assert measured_kernels()(SHAPE) == FOUND
    assert timed == [SHAPE] * times


def test_a_system_is_opened_with_the_kernels_it_is_given(timed: list[Shape]) -> None:
    plan, kernels = expand("smoke", Overrides()), measured_kernels()
    opened = OpenModels(plan.models, "cpu", kernels)
    system: Any = opened.system("calm-debug", "fp32")
    assert set(map(str, timed)) == set(kernels.taken)
    products = system.steps.backbone.layers[0].products
    assert products.qkv.names == ["packed", "packed", "packed", "split"]
    other: Any = load_system("calm-debug")
    assert not hasattr(other.steps.backbone.layers[0].products.qkv, "names")


@pytest.fixture(scope="module")
def ids() -> dict[KernelsOf, str]:
    kinds: tuple[KernelsOf, ...] = ("fixed", "measured")
    return {kind: expand("smoke", Overrides(kernels=kind)).run_id for kind in kinds}


def test_a_run_records_its_kernels_and_goes_on_with_them(
    timed: list[Shape], ids: dict[KernelsOf, str], tmp_path: Path
) -> None:
    assert ids["fixed"] != ids["measured"]
    plan = expand("smoke", Overrides(kernels="measured", latency=False))
    store = RunStore(tmp_path / "run")
    run(plan, out=store.root, device="cpu", ranks=ALONE)
    options = store.read_manifest().options
    assert set(options["kernels"]) == set(map(str, timed))
    assert options["kernels"][str(timed[0])] == [[1, "packed"], [3, "split"]]
    assert any("kernels as measured" in note for note in options["notes"])
    n = len(timed)
    for kept in (tmp_path / "home" / "cache" / "kernels").rglob("*.json"):
        kept.unlink()
    run(plan, out=store.root, device="cpu", ranks=ALONE)
    assert len(timed) == n, "what a run began with holds to its end"
    assert store.read_manifest().options["kernels"] == options["kernels"]


def test_a_run_with_fixed_kernels_measures_nothing(timed: list[Shape], tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    run(expand("smoke", Overrides(latency=False)), out=store.root, device="cpu")
    assert store.read_manifest().options["kernels"] == "fixed"
    assert not timed


def test_a_manifest_that_names_no_kernel_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no choice of kernels"):
        measured_kernels({str(SHAPE): [[1, "fastest"]]})
    assert fixed(SHAPE) == ((1, "split"), (4, "packed"))
