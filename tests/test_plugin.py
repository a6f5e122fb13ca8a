"""A package of somebody else's, installed beside this one: its names work everywhere ours do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from calm_bench.core.audio import write_flac
from calm_bench.seeds import file_hash

BENCHMARK = """
name: mine
version: 1
description: the prompt over and over, and how loud it is
systems:
  - {model: loop-debug, label: Loop}
references: [reference]
temperatures: [0.0, 1.0]
prompt_seconds: 0.4
seconds: 1.2
prompts: prompts.jsonl
metrics: [peak]
table: [peak_dbfs]
latency: null
"""


@pytest.fixture(scope="module")
def installed(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the example package is installed into."""
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(checkout / "tests" / "plugin", source)
    target = tmp_path_factory.mktemp("target")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", target]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, source], check=True)
    return target


@pytest.fixture
def folder(checkout: Path, tmp_path: Path) -> Path:
    """A user's folder: a model of the plug-in's system, a benchmark, and two prompts."""
    shutil.copytree(checkout / "tests" / "plugin" / "models", tmp_path / "models")
    (tmp_path / "mine.yaml").write_text(BENCHMARK)
    lines = []
    for i in range(2):
        wave = 0.2 * np.sin(np.arange(1920) * (0.1 + 0.05 * i)).astype(np.float32)
        path = tmp_path / f"prompt{i}.flac"
        write_flac(path, wave, 1600)
        lines.append(json.dumps({"id": f"p{i}", "audio": path.name, "sha256": file_hash(path)}))
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def calm_bench(installed: Path, folder: Path, *words: str, code: int = 0) -> str:
    """What the command line prints in a fresh process that can see the plug-in, or its error."""
    program = "from calm_bench.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_its_names_are_listed_with_what_they_are(installed: Path, folder: Path) -> None:
    found = json.loads(calm_bench(installed, folder, "list", "--json"))
    assert found["systems"]["loop"].startswith("Repeats its prompt")
    assert found["metrics"]["peak"] == "The peak of each continuation in dBFS."
    assert "loop-debug" in found["models"]
    assert {"calm", "rq"} <= set(found["systems"])


def test_its_system_runs_and_its_metric_scores(installed: Path, folder: Path) -> None:
    found = json.loads(calm_bench(installed, folder, "run", "mine.yaml", "--json"))
    rows = {
        (row["system"], row["temperature"]): row
        for row in found["rows"]
        if row["metric"] == "peak_dbfs"
    }
    assert rows["Reference", None]["value"] == pytest.approx(20 * np.log10(0.2), abs=0.1)
    assert [row for row in rows if row[0] == "Loop"] == [("Loop", None)]
    assert not any("random weights in loop" in note for note in found["notes"])
    assert all(row["n"] == 2 and row["value"] is not None for row in rows.values())
    page = Path(found["folder"], "page", "index.html").read_text(encoding="utf-8")
    table = Path(found["folder"], "tables", "mine.md").read_text(encoding="utf-8")
    assert "Peak (dBFS)" in table
    assert "Peak" in page


def test_a_precision_that_its_system_lacks_is_refused_at_once(
    installed: Path, folder: Path
) -> None:
    line = calm_bench(installed, folder, "run", "mine.yaml", "--precision", "int8", code=2)
    assert "loop-debug runs at fp32 alone" in line
    assert not list(folder.glob("results/runs/*/trials.jsonl"))
