"""Kills at every point at which a command touches its files; the next command mends all of it."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inputs
from harness import Said, call

from calm_bench.seeds import file_hash
from calm_bench.store.curves import read_curve

Outcome = dict[str, Any]


def results_of(folder: Path) -> Outcome:
    """What a run found, its times apart, and its clips by their paths."""
    data = json.loads((folder / "results.json").read_bytes())
    clips = {p.relative_to(folder).as_posix(): file_hash(p) for p in folder.rglob("*.flac")}
    return {"rows": data["rows"], "trials": data["trials"], "clips": clips}


def weights_of(folder: Path) -> Outcome:
    """A trained model's files, but for the times that its card and log tell."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    weights = {path.name: file_hash(path) for path in folder.rglob("*.safetensors")}
    config = inputs.yaml.safe_load((folder / "config.yaml").read_bytes())
    losses = [point.model_dump(exclude={"processor_seconds"}) for point in read_curve(folder)]
    return {"names": sorted(names), "weights": weights, "config": config, "losses": losses}


def files_of(folder: Path) -> Outcome:
    """All files of a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in found}


def corpus_of(folder: Path) -> Outcome:
    """What is listed and said of a corpus."""
    return {name: (folder / name).read_text() for name in ("manifest.jsonl", "corpus.json")}


def ratings_of(folder: Path) -> Outcome:
    """What listeners said of a run."""
    return {"ratings": json.loads((folder / "ratings.json").read_bytes())}


RUN = "run smoke --no-latency --out run"
JOBS: tuple[tuple[str, str, str, Callable[[Path], Outcome], str], ...] = (
    ("run", "run smoke --no-latency --out out", "out", results_of, ""),
    ("train", "train mine", "models/mine", weights_of, ""),
    ("score", "score wav --metrics loudness --out out", "out", results_of, ""),
    ("report", "report run --out site --clips 1", "site", files_of, RUN),
    ("seeded", "train mine --seed 1", "models/mine", weights_of, "train mine"),
    ("folder", "data folder wav --out c --min-seconds 0.1", "c", corpus_of, ""),
    ("export", "export run --to audiofolder --out x", "x", files_of, RUN),
    ("paper", "paper stored --out p", "p", files_of, ""),
    ("elo", "elo run", "run", ratings_of, RUN),
)
"""Name, command, what it makes, what counts of that, and the command that comes before it."""


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
            inputs.lay_votes(self.good / "here" / "run")
        self._begin()
        said = self._call()
        assert said.code == 0, said.text
        code = "home/cache/code"  # hundreds of files of one kind, which every command of ours reads
        if (self.work / code).is_dir():
            shutil.copytree(self.work / code, self.good / code, dirs_exist_ok=True)
        self.wanted: Outcome = {}
        self.names: set[str] = set()
        self.n = 0

    def _begin(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.good, self.work, symlinks=True)

    def _call(self, kill_at: int | None = None, *, power: bool = True) -> Said:
        here, home = self.work / "here", self.work / "home"
        return call(self.words, here, home, kill_at=kill_at, power=power, limit=300)

    def count(self) -> int:
        """How many points the command has when nothing kills it; keeps what it makes."""
        self._begin()
        said = self._call(kill_at=1 << 40)
        assert said.code == 0, said.text
        self.wanted = self.outcome(self.work / "here" / self.out)
        self.names = self._names()
        self.n = int(said.text.rsplit("points: ", 1)[1])
        return self.n

    def _names(self) -> set[str]:
        """All that lies there; TensorBoard has a file for each start, named by its time."""
        names = {path.relative_to(self.work).as_posix() for path in self.work.rglob("*")}
        return {name.partition("events.out.")[0] for name in names}

    def killed(self, point: int, *, power: bool) -> str | None:
        """What is wrong after a kill at a point and a repetition; None if nothing is.

        At the point behind the last one the command has ended, and only power may be lost.
        """
        self._begin()
        said = self._call(kill_at=point, power=power)
        if said.code != (-9 if point < self.n else 0):
            return f"was not killed but ended with {said.code}"
        said = self._call()
        ended = said.code == 2 and "is there already" in said.text  # and need not be done again
        if not (said.code == 0 or ended) or said.fault:
            return f"stuck, {said.fault or said.code}: {said.text.strip()[-300:]!a}"
        if self.outcome(self.work / "here" / self.out) != self.wanted:
            return "another outcome"
        left = sorted(self._names() - self.names)
        return f"left behind {left[0]}" if left else None
