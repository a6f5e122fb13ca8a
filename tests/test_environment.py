import shutil
from pathlib import Path

import pytest
import torch

from calm_bench.core import environment, paths
from calm_bench.core.environment import describe_environment, resolve_device
from calm_bench.errors import InputError, MachineError


def test_auto_takes_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == "cuda"


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "mps"])
def test_names_of_no_device_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        resolve_device(name)


def test_a_device_this_machine_lacks_is_the_machines_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda:0") == "cuda:0"
    with pytest.raises(MachineError, match="no device cuda:1: this machine has 1 CUDA devices"):
        resolve_device("cuda:1")


def test_the_environment_names_what_decides_the_clips() -> None:
    found = describe_environment("cpu")
    assert found["device"] == "cpu"
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["device_name"]


def test_the_codes_hash_is_of_what_makes_and_scores_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = paths.package_dir()
    shutil.copytree(package, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    known, fresh = environment.code_hash(), environment.code_hash.__wrapped__
    monkeypatch.setattr(paths, "package_dir", lambda: tmp_path / "copy")
    before = fresh()
    assert before == known
    with (tmp_path / "copy/report/page.py").open("a") as file:
        file.write("\n")
    assert fresh() == before
    with (tmp_path / "copy/core/stats.py").open("a") as file:
        file.write("\n")
    assert fresh() != before
