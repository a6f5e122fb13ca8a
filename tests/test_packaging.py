"""What the project ships and what it asks for: the wheel, the extras, the pins."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from calm_bench import config
from calm_bench.cli import doctor

WEIGHTS_BUDGET = 90_000_000
TRAININGS_BUDGET = 60_000_000
WHEEL_BUDGET = 105_000_000
WHEEL_PROMPTS = 8


@pytest.fixture(scope="module")
def project(checkout: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((checkout / "pyproject.toml").read_text())
    return table["project"]


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return found[0].lower().replace("_", "-")


def pins(path: Path) -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {name_of(line): line.partition("==")[2] for line in lines if line}


def test_every_extra_has_its_line_in_doctor(project: dict[str, Any]) -> None:
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"]) - {"dev", "test"}


def test_every_requirement_is_pinned(project: dict[str, Any], checkout: Path) -> None:
    extras = project["optional-dependencies"]
    fad = pins(checkout / "constraints-fad.txt")
    ours = pins(checkout / "constraints.txt")
    core = [name_of(line) for line in project["dependencies"]]
    rest = [name_of(line) for extra in extras if extra != "fad" for line in extras[extra]]
    assert [name for name in core + rest if name not in ours] == []
    assert [name for name in core + [name_of(r) for r in extras["fad"]] if name not in fad] == []


def test_the_fad_extra_and_the_main_environment_exclude_each_other(
    project: dict[str, Any], checkout: Path
) -> None:
    fad, ours = project["optional-dependencies"]["fad"], pins(checkout / "constraints.txt")
    assert "torch==2.11.*" in fad
    assert "torchaudio==2.11.*" in fad
    assert not ours["torch"].startswith("2.11")


def test_the_peers_environment_has_the_versions_of_the_main_one(checkout: Path) -> None:
    ours, peers = (
        pins(checkout / name) for name in ("constraints.txt", "benchmarks/peers-constraints.txt")
    )
    # What moshi and pocket-tts bring stands in the second file alone.
    assert {name: peers[name] for name in peers if ours.get(name, peers[name]) != peers[name]} == {}
    known = {"torch": "2.13.0", "pocket-tts": "4.0.1", "moshi": "0.2.13"}
    assert {name: peers[name] for name in known} == known
    assert peers["transformers"].startswith("5.")


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy in which every model has a further training."""
    out, copy = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(checkout / name, copy)
    for name in ("benchmarks", "calm_bench", "models"):
        shutil.copytree(
            checkout / name, copy / name, ignore=shutil.ignore_patterns("trainings", "__pycache__")
        )
    for folder in (copy / "models").iterdir():
        (folder / "trainings").mkdir()
        (folder / "trainings" / "1.safetensors").write_bytes(b"")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_the_wheel_carries_models_and_benchmarks(wheel: zipfile.ZipFile, checkout: Path) -> None:
    inside = set(wheel.namelist())
    for folder in ("models", "benchmarks"):
        files = [
            path.relative_to(checkout).as_posix()
            for path in (checkout / folder).rglob("*")
            if path.is_file()
            and not {"__pycache__", "trainings"} & set(path.parts)
            and path.suffix != ".flac"
        ]
        assert files
        assert [f for f in files if f"calm_bench/_shipped/{f}" not in inside] == []


def test_the_wheel_carries_the_first_prompts_of_every_benchmark(
    wheel: zipfile.ZipFile, checkout: Path
) -> None:
    inside = {name for name in wheel.namelist() if name.endswith(".flac")}
    expected = set()
    for listed in (checkout / "benchmarks" / "prompts").glob("*.jsonl"):
        audio = [json.loads(line)["audio"] for line in listed.read_text().splitlines()]
        expected |= {f"calm_bench/_shipped/benchmarks/{path}" for path in audio[:WHEEL_PROMPTS]}
    assert inside == expected


def test_the_wheel_stays_small(wheel: zipfile.ZipFile) -> None:
    assert wheel.filename is not None
    assert Path(wheel.filename).stat().st_size <= WHEEL_BUDGET


def test_the_wheel_carries_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"calm_bench"}
    assert "calm_bench/py.typed" in wheel.namelist()
    assert [n for n in wheel.namelist() if "/trainings/" in n] == []


def test_shipped_weights_stay_small(checkout: Path) -> None:
    models = checkout / "models"
    own, every = set(models.glob("*/*.safetensors")), set(models.rglob("*.safetensors"))
    for files, budget in ((own, WEIGHTS_BUDGET), (every - own, TRAININGS_BUDGET)):
        assert sum(path.stat().st_size for path in files) <= budget


@pytest.mark.parametrize("name", config.model_names())
def test_every_model_folder_says_what_it_is(name: str) -> None:
    spec, folder = config.load_model_config(name)
    assert spec.description
    if spec.weights is not None:
        assert (folder / "card.md").is_file()
