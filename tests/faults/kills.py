"""Kills at every point at which a command touches its files; the next command mends all of it."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inputs
from harness import Said, call

from calm_bench.core import files
from calm_bench.seeds import file_hash

Outcome = dict[str, Any]


def results_of(folder: Path) -> Outcome:
    """What a run found, its times apart, and its clips by their paths."""
    data = json.loads((folder / "results.json").read_bytes())
    clips = {p.relative_to(folder).as_posix(): file_hash(p) for p in folder.rglob("*.flac")}
    return {"rows": data["rows"], "trials": data["trials"], "clips": clips}


def weights_of(folder: Path) -> Outcome:
    """A trained model's files, but for the times that its card and log tell."""
    names = {path.name for path in folder.iterdir() if path.is_file()}
    (weights,) = folder.glob("weights-*.safetensors")
    config = inputs.yaml.safe_load((folder / "config.yaml").read_bytes())
    return {"names": sorted(names), "weights": file_hash(weights), "config": config}


JOBS: tuple[tuple[str, str, str, Callable[[Path], Outcome], str], ...] = (
    ("run", "run smoke --no-latency --out out", "out", results_of, ""),
    ("train", "train mine", "models/mine", weights_of, ""),
    ("score", "score wav --metrics loudness --out out", "out", results_of, ""),
    (
        "report",
        "report run --out site --clips 1",
        "site",
        lambda folder: {
            p.relative_to(folder).as_posix(): file_hash(p) for p in folder.rglob("*.*")
        },
        "run smoke --no-latency --out run",
    ),
)


class Job:
    """A command that is killed and repeated, each time from the same start."""

    def __init__(
        self,
        work: Path,
        name: str,
        line: str,
        out: str,
        outcome: Callable[[Path], Outcome],
        first: str,
    ) -> None:
        """Lay its files and do what comes before it."""
        self.name, self.words, self.out, self.outcome = name, shlex.split(line), out, outcome
        self.good, self.work = work / f"{name}-good", work / name
        inputs.lay(self.good / "here", self.good / "home")
        if first:
            said = call(shlex.split(first), self.good / "here", self.good / "home", limit=300)
            assert said.code == 0, said.text
        self.wanted: Outcome = {}

    def _begin(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.good, self.work, symlinks=True)

    def _call(self, kill_at: int | None = None) -> Said:
        return call(self.words, self.work / "here", self.work / "home", kill_at=kill_at, limit=300)

    def count(self) -> int:
        """How many points the command has when nothing kills it; keeps what it makes."""
        self._begin()
        said = self._call(kill_at=1 << 40)
        assert said.code == 0, said.text
        self.wanted = self.outcome(self.work / "here" / self.out)
        return int(said.text.rsplit("points: ", 1)[1])

    def killed(self, point: int) -> str | None:
        """What is wrong after a kill at a point and a repetition; None if nothing is."""
        self._begin()
        said = self._call(kill_at=point)
        if said.code != -9:
            return f"{self.name} at {point}: was not killed but ended with {said.code}"
        said = self._call()
        where = f"{self.name} at {point}"
        if said.code != 0:
            return f"{where}: stuck, exit code {said.code}: {said.text.strip()[-300:]!a}"
        if self.outcome(self.work / "here" / self.out) != self.wanted:
            return f"{where}: another outcome"
        left = [path for path in self.work.rglob(".*") if files.is_unfinished(path)]
        return f"{where}: left behind {left[0].name}" if left else None
