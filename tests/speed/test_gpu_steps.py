"""What `benchmarks/gpu.sh` does on a GPU, rehearsed on a processor: nothing of it is untried."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import loaded

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "benchmarks" / "gpu.py"


gpu = loaded(FILE)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a step sets for its process is put back."""
    monkeypatch.setattr("calm_bench.systems.engine.SMALLEST", 256)
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    yield
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


@pytest.mark.slow
@pytest.mark.usefixtures("settings")
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # in mixed precision
@pytest.mark.parametrize("name", gpu.STEPS)
def test_a_step_passes_its_rehearsal(name: str) -> None:
    line = gpu.take(name, gpu.Bench(device="cpu", rehearsal=True))
    assert line.get("error") is None
    assert line["status"] == "passed"
    assert json.loads(json.dumps(line)) == line
    assert (line["step"], line["rehearsal"], line["gpu"]) == (name, True, None)


def test_what_fails_in_a_step_is_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(bench: Any) -> Any:
        raise ValueError("too hot")

    monkeypatch.setitem(gpu.STEPS, "tf32", (breaks, 9))
    line = gpu.take("tf32", gpu.Bench(device="cpu", rehearsal=True))
    assert line["status"] == "failed"
    assert "ValueError: too hot" in line["error"]
    assert "test_gpu_steps.py" in line["error"]


def test_steps_go_on_where_they_were_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    def run(name: str, rehearse: bool, seconds: float) -> dict[str, Any]:
        taken.append(name)
        status = "failed" if name == "jvp" and len(taken) < 3 else "passed"
        return {"step": name, "status": status, "rehearsal": rehearse}

    monkeypatch.setattr(gpu, "run_step", run)
    words = ["--rehearse", "--out", str(tmp_path), "--only", "tf32", "jvp"]
    assert gpu.main(words) == 1
    with (tmp_path / "gpu.jsonl").open("a") as file:
        file.write('{"step": "codec", "sta')  # a line that was cut off
    assert gpu.main(words) == 0
    assert taken == ["tf32", "jvp", "jvp"]
    assert gpu.main([*words, "--fresh"]) == 0
    assert len(taken) == 5
    monkeypatch.setattr(gpu, "BUDGET", 10.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu.main(words[1:]) == 1  # no time, and a rehearsal is no step that was passed
    assert len(taken) == 5


@pytest.mark.slow
def test_the_command_takes_a_step_in_a_process(tmp_path: Path) -> None:
    command = ["bash", str(FILE.with_suffix(".sh")), "--out", str(tmp_path), "--only", "bandwidth"]
    if not torch.cuda.is_available():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = subprocess.run([*command, "--rehearse"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bandwidth  passed" in done.stdout
    line = json.loads((tmp_path / "gpu.jsonl").read_text())
    assert line["found"]["gbs"][0] > 0
