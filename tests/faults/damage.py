"""Damaged stores, caches, models and trainings: refused in one line, or mended to the same."""

import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import inputs
import kills
import numpy as np
from harness import call

from calm_bench.core.audio import write_flac
from calm_bench.numbers.speed import SPEED_COLUMNS

Damage = Callable[[bytes], bytes | None]
"""What becomes of a file; None removes it."""


def flipped(data: bytes) -> bytes:
    """A digit in the middle of a text is another one; of other bytes one bit is."""
    half = len(data) // 2
    place = next((i for i in range(half, len(data)) if data[i : i + 1].isdigit()), half)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def lines_dropped(data: bytes) -> bytes:
    """Every other line is gone."""
    return b"".join(data.splitlines(keepends=True)[::2])


DAMAGES: dict[str, Damage] = {
    "empty": lambda _: b"",
    "half": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: np.random.default_rng(0).bytes(max(9, len(data))),
    "flipped": flipped,
    "gone": lambda _: None,
    "twice": lambda data: data + data,
    "lines dropped": lines_dropped,
    "other": lambda _: b'{"run_id": "a", "plan_hash": "b"}\n',
}


@dataclass(frozen=True)
class Hurt:
    """One file that is damaged, and the command that meets it."""

    file: Path
    damage: str
    line: str
    bench: str

    def __str__(self) -> str:
        return f"{self.bench}: {self.file} {self.damage}, {self.line}"


class Bench:
    """Good files, the commands that read them, and what these must find."""

    def __init__(
        self,
        work: Path,
        name: str,
        first: list[str],
        lines: dict[str, Callable[[Path], kills.Outcome]],
        files: list[str],
        damages: list[str],
    ) -> None:
        """Make good files with the commands of `first`, and learn what the others find in them."""
        self.name, self.lines, self.files, self.damages = name, lines, files, damages
        self.good, self.work = work / f"{name}-good", work / name
        inputs.lay(self.good / "here", self.good / "home")
        lay_sounds(self.good / "here" / "sounds")
        for line in first:
            said = call(shlex.split(line), self.good / "here", self.good / "home", limit=300)
            assert said.code == 0, said.text
        inputs.lay_votes(self.good / "here" / "run")
        said = {line: self._outcome(line) for line in lines}
        self.wanted = {line: found for line, (_, found, _) in said.items()}
        self.warnings = {line: _told(text) for line, (_, _, text) in said.items()}

    def _outcome(self, line: str, hurt: Hurt | None = None) -> tuple[int, kills.Outcome, str]:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.good, self.work, symlinks=True)
        if hurt is not None:
            path = self.work / hurt.file
            data = DAMAGES[hurt.damage](path.read_bytes())
            path.unlink() if data is None else path.write_bytes(data)
        folder = self.work / "here"
        said = call(shlex.split(line), folder, self.work / "home", limit=300)
        if said.fault or said.code not in (0, 2, 4):
            return said.code, {"fault": said.fault or said.code}, said.text
        return said.code, self.lines[line](folder) if said.code != 2 else {}, said.text

    def cases(self) -> Iterator[Hurt]:
        """Every file of the patterns with every damage, each met by one command after the other.

        Another digit, which nothing but a checksum tells, is met by all of them.
        """
        turns = cycle(self.lines)
        for pattern in self.files:
            for path in sorted(self.good.glob(pattern))[:4]:
                for damage in self.damages:
                    for line in self.lines if damage == "flipped" else [next(turns)]:
                        yield Hurt(path.relative_to(self.good), damage, line, self.name)

    def tried(self, hurt: Hurt) -> str | None:
        """What is wrong with what a command makes of a damaged file; None if nothing is."""
        code, found, text = self._outcome(hurt.line, hurt)
        last = ascii(text.strip().split("\n")[-1])[:200]
        if "fault" in found:
            return f"{found['fault']}: {last}"
        if code == 2:
            return None if "error" in text else f"no line says what is wrong: {last}"
        if code == 4:
            return None  # which the table names
        told = _told(text) > self.warnings[hurt.line]
        return None if told or found == self.wanted[hurt.line] else "other numbers, in silence"


def _told(text: str) -> int:
    """How often a command warns, or says that a model's weights are drawn at random."""
    return text.count("WARNING") + text.count("random weights in mine")


def numbers_of(folder: Path) -> kills.Outcome:
    """What a run found but for its times, and its clips."""
    found = kills.results_of(folder)
    timed = {column.name for column in SPEED_COLUMNS}
    return found | {"rows": [row for row in found["rows"] if row["metric"] not in timed]}


def tables_of(folder: Path) -> kills.Outcome:
    """The tables that a report printed."""
    return {path.name: path.read_bytes() for path in folder.glob("tables/*")}


def lay_sounds(folder: Path) -> None:
    """Enough short noises for metrics of sets, and versions of them."""
    for index in range(20):
        wave = np.random.default_rng(index).normal(0, 0.1, 8000).astype(np.float32)
        write_flac(folder / "theirs" / f"{index}.flac", wave, 8000)
        write_flac(folder / "ours" / f"{index}.flac", 0.9 * wave, 8000)


_RUN = "run smoke --out run"
_SCORE = (
    "score sounds/ours --reference sounds/theirs --metrics loudness fidelity fad --embedding mel "
    "--out scores"
)
_MEASURED = "run bench.yaml --no-latency --kernels measured --out o"
_MINE = "run bench.yaml --no-latency --systems mine --out o"
_SEEDS = "run bench.yaml --no-latency --systems mine --trainings 0,1 --out o"
_FOLDER = "data folder sounds/ours --out c --min-seconds 0.1"
_AUDIO = "export run --to audiofolder --out x"
_KINDS = [name for name in DAMAGES if name != "other"]


BENCHES: tuple[
    tuple[str, list[str], dict[str, Callable[[Path], kills.Outcome]], list[str], list[str]], ...
] = (
    (
        "run", [_RUN],
        {
            _RUN: lambda here: numbers_of(here / "run"),
            "score run": lambda here: numbers_of(here / "run"),
            "report run": lambda here: tables_of(here / "run"),
            "report run --json": lambda here: {},
        },
        ["here/run/*.json", "here/run/*.jsonl", "here/run/clips/*/*-0.0.flac"],
        list(DAMAGES),
    ),
    (
        "cache", [_SCORE.replace("--out scores", "--out first")],
        {_SCORE: lambda here: numbers_of(here / "scores")},
        [f"home/cache/{kind}/*/*" for kind in ("sounds", "scores", "vectors", "code")],
        _KINDS,
    ),
    (
        "model", ["train mine"], {_MINE: lambda here: numbers_of(here / "o")},
        ["here/models/mine/weights-*"], _KINDS,
    ),
    (
        "training", ["train mine --steps 1"],
        {"train mine": lambda here: kills.weights_of(here / "models" / "mine")},
        [
            "home/training/mine/state.pt", "home/training/mine/log.jsonl", "home/data/tones/0.flac",
            "home/data/tones/shards/train-*/*", "here/models/mine/card.md",
        ],
        _KINDS,
    ),
    (
        "taken", [_RUN],
        {
            _AUDIO: lambda here: kills.files_of(here / "x"),
            "report run --out s": lambda here: kills.files_of(here / "s"),
        },
        ["here/run/*.json", "here/run/*.jsonl", "here/run/clips/*/*-0.0.flac"],
        _KINDS,
    ),
    (
        "votes", [_RUN],
        {
            "elo run": lambda here: kills.ratings_of(here / "run"),
            "elo run --json": lambda here: kills.ratings_of(here / "run"),
        },
        ["here/run/votes/*"], list(DAMAGES),
    ),
    (
        "seeds", ["train mine", "train mine --seed 1"],
        {
            _SEEDS: lambda here: numbers_of(here / "o"),
            "train mine --seed 1": lambda here: kills.weights_of(here / "models" / "mine"),
        },
        ["here/models/mine/trainings/*", "here/models/mine/*.yaml", "here/models/mine/*.md"],
        _KINDS,
    ),
    (
        "kernels", [_MEASURED.replace("--out o", "--out first")], {_MEASURED: lambda here: {}},
        ["home/cache/kernels/*/*"], _KINDS,
    ),
    (
        "corpus", [_FOLDER], {_FOLDER: lambda here: kills.corpus_of(here / "c")},
        ["here/c/*.json*"], _KINDS,
    ),
)  # fmt: skip
