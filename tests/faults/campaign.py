"""Tries commands with bad inputs, kills them at every point, and damages what they keep.

    python tests/faults/campaign.py inputs           every bad input
    python tests/faults/campaign.py kills -n 450     kills at so many points of nine commands
    python tests/faults/campaign.py damage           damaged stores, caches, models and trainings
    python tests/faults/campaign.py planted          do they find faults that are planted?

Exit code 1 if something is wrong; each such thing is a line. With --log, the same command goes on
after what was tried. Needs fork, so no Windows.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

os.environ.update(HF_HUB_OFFLINE="1", MPLBACKEND="Agg", OMP_NUM_THREADS="1")

import damage
import inputs
import kills
import planted
from harness import call

LOADED = (
    *("calm_bench.run", "calm_bench.cli.app", "calm_bench.training.train", "calm_bench.gate.check"),
    *("calm_bench.score.folders", "calm_bench.report.build", "calm_bench.systems.engine"),
    *("calm_bench.listening.server", "calm_bench.report.paper.rebuild", "calm_bench.data.folder"),
    *("calm_bench.cli.doctor", "calm_bench.speed.peers.comparison", "calm_bench.data.cuts"),
    *("matplotlib.figure", "matplotlib.pyplot", "rich.progress", "torch", "soxr", "jiwer"),
    *("pandas", "scipy.signal", "jinja2", "PIL.PngImagePlugin", "torch.utils.tensorboard"),
    *("rich.logging", "rich.markdown", "rich._emoji_codes", "calm_bench.metrics.loudness"),
)

T = TypeVar("T")
Problem = str
Try = tuple[str, Callable[[], Problem | None]]
"""A case's name, and what tries it and says what is wrong, None for nothing."""


def load() -> None:
    """Import what commands import, once for all children; figures are not drawn."""
    for name in LOADED:
        importlib.import_module(name)
    import torch
    from matplotlib.figure import Figure

    torch.set_num_threads(1)
    Figure.savefig = lambda self, out, **_: out.write(b"drawn")  # type: ignore[method-assign]


def spread(items: Sequence[T], n: int | None) -> list[T]:
    """As many of some items, evenly spread over all; None for all."""
    n = len(items) if n is None else min(n, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * n)] for i in range(n)]


def try_inputs(work: Path, n: int | None = None, part: str = "") -> Iterator[Try]:
    """Bad inputs, each refused as it should be."""
    good = work / "good"
    inputs.lay(good / "here", good / "home")
    run = ["run", "bench.yaml", "--out", "run", "--no-latency"]
    said = call(run, good / "here", good / "home", limit=300)
    assert said.code == 0, said.text
    for case in spread([case for case in inputs.cases() if case.name.startswith(part)], n):
        yield case.name, partial(inputs.tried, case, good, work / "try")


def try_kills(work: Path, n: int | None = None, part: str = "") -> Iterator[Try]:
    """Kills, each mended by the command's repetition."""
    jobs = spread([job for job in kills.JOBS if job[0].startswith(part)], n)
    share = None if n is None else -(-n // len(jobs))
    for asked in jobs:
        job = kills.Job(work, *asked)
        for turn, point in enumerate(spread(range(job.count() + 1), share)):
            power = turn % 2 == 0
            name = f"{job.name} at {point}{'' if power else ', without power'}"
            yield name, partial(job.killed, point, power=power)


def try_damage(work: Path, n: int | None = None, part: str = "") -> Iterator[Try]:
    """Damaged files, each refused or mended by the command that meets it."""
    benches = [bench for bench in damage.BENCHES if bench[0].startswith(part)]
    benches = spread(benches, None if n is None else -(-n // 2))
    share = None if n is None else -(-n // len(benches))
    for asked in benches:
        bench = damage.Bench(work, *asked)
        for hurt in spread(list(bench.cases()), share):
            yield str(hurt), partial(bench.tried, hurt)


def try_planted(work: Path, n: int | None = None, part: str = "") -> Iterator[Try]:
    """Faults that are planted, each found by the campaign that is there for its kind."""
    for plant in planted.PLANTS:
        if plant.name.startswith(part):
            yield plant.name, partial(_found, plant, work / plant.name)


def _found(plant: planted.Plant, work: Path) -> Problem | None:
    """What is wrong with a campaign that does not find a planted fault; None if it does."""
    n = 0
    for name, tried in CAMPAIGNS[plant.campaign](work, plant.n, plant.part):
        n += 1
        with planted.planted(plant):
            found = tried()
        if found:
            sys.stdout.write(f"{plant.name}: {plant.campaign}, {n} tried: {name}: {found}\n")
            return None
    return f"{n} cases of {plant.campaign} did not find it"


CAMPAIGNS: dict[str, Callable[[Path, int | None, str], Iterator[Try]]] = {
    "inputs": try_inputs,
    "kills": try_kills,
    "damage": try_damage,
    "planted": try_planted,
}
SAMPLE = {
    ("inputs", "sample"): 24,
    ("kills", "sample"): 4,
    ("damage", "sample"): 8,
    ("inputs", "all"): None,
    ("kills", "all"): 450,
    ("damage", "all"): None,
    ("planted", "all"): None,
}
"""How many are tried by the tests."""


def main() -> int:
    """Run one campaign and say what went wrong."""
    how = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("campaign", choices=CAMPAIGNS)
    parser.add_argument("-n", type=int, default=None, help="how many, spread over all there are")
    parser.add_argument("--part", default="", help="only cases whose names begin so")
    parser.add_argument("--log", type=Path, help="where each case is a line; it is not tried again")
    chosen = parser.parse_args()
    found = dict(_logged(chosen.log))
    load()
    with tempfile.TemporaryDirectory(prefix="faults-") as work:
        for name, tried in CAMPAIGNS[chosen.campaign](Path(work), chosen.n, chosen.part):
            if name in found:
                continue
            begun = time.monotonic()
            found[name] = tried()
            if chosen.log:
                line = json.dumps([name, found[name], round(time.monotonic() - begun, 1)])
                with chosen.log.open("a") as log:
                    log.write(f"{line}\n")
    wrong = {name: problem for name, problem in found.items() if problem is not None}
    for name, problem in wrong.items():
        sys.stdout.write(f"{name}: {problem}\n")
    sys.stdout.write(f"{len(found)} tried, {len(wrong)} wrong\n")
    return int(bool(wrong))


def _logged(log: Path | None) -> Iterator[tuple[str, Problem | None]]:
    if log is not None and log.is_file():
        for line in log.read_text().splitlines():
            name, problem, _ = json.loads(line)
            yield name, problem


if __name__ == "__main__":
    sys.exit(main())
