"""docs/own-data.md from the first command to the last, as a reader types them."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import call

from calm_bench.store.run_store import RunStore

SHIPPED = ("calm-speech-tiny", "rq-speech-tiny", "rvq-speech-tiny", "vae-speech-tiny")
QUICK = {
    "train": ["--threads", "1", "--set", "steps=2", "batch_size=2", "precision=32-true"],
    "run": ["--temps", "0.8", "--prompts", "1", "--no-latency"],
}
"""What makes a command of the page quick."""


@pytest.fixture
def reader(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reader's folder: ten recordings of speech, and the shipped models."""
    monkeypatch.setenv("CALM_BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for number in range(10):
        source = checkout / f"benchmarks/prompts/speech/test-{number:05}.flac"
        target = tmp_path / "my-recordings" / f"story-{number}.flac"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
    for name in SHIPPED:
        shutil.copytree(checkout / "models" / name, tmp_path / "models" / name)
    return tmp_path


def typed(line: str) -> None:
    """Does what a line of the page says."""
    words = shlex.split(line)
    if words[0] == "calm-bench":
        call(*words[1:], *QUICK.get(words[1], []))
    else:
        subprocess.run(["bash", "-euc", line], check=True)


@pytest.mark.slow
@pytest.mark.weights
def test_a_reader_comes_from_recordings_to_rows(checkout: Path, reader: Path) -> None:
    page = (checkout / "docs/own-data.md").read_text(encoding="utf-8")
    for language, block in re.findall(r"```(bash|yaml)\n(.*?)```", page, re.S):
        if language == "yaml":
            path = reader / block.splitlines()[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)
        else:
            for line in block.splitlines():
                typed(line)
    trips = {row.label: row.model for row in rows("my-run") if row.kind == "round_trip"}
    assert trips["my-vae round trip"] == "my-vae"
    assert "mine" in {row.label for row in rows("my-survey")}
    found = {value.metric for value in RunStore(reader / "my-run").read_results().rows}
    assert {"kad", "loudness", "loudness_drift"} <= found
    assert "wer" not in found
    card = (reader / "models/my-calm/card.md").read_text()
    rebuild = card.partition("Rebuild: `")[2].partition("`")[0]
    listed = "calm-bench data folder my-recordings --out my-corpus"
    assert rebuild.startswith(f"{listed} --licence CC-BY-4.0 --transcribe faster-whisper && ")
    codec, system = rebuild.split(" && ")[-2:]
    assert codec.startswith("calm-bench train my-vae --set steps=2 --set batch_size=2")
    assert system.startswith("calm-bench train my-calm --set steps=2 --set batch_size=2")
    assert "| licence | none stated (" in card
    assert "trained on CC-BY-4.0 (8 recordings) |" in card


def rows(run: str) -> list[Any]:
    """The rows of a run."""
    return list(RunStore(Path(run)).read_results().cells)
