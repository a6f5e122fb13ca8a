"""Tries commands with bad inputs, kills them at every point, and damages what they keep.

    python tests/faults/campaign.py inputs           every bad input
    python tests/faults/campaign.py kills -n 200     kills at so many points of four commands
    python tests/faults/campaign.py damage           damaged stores, caches, models and trainings

Exit code 1 if something is wrong; each such thing is a line. Needs fork, so no Windows.
"""

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

os.environ.update(HF_HUB_OFFLINE="1", MPLBACKEND="Agg", OMP_NUM_THREADS="1")

import damage
import inputs
import kills
from harness import call

LOADED = (
    *("calm_bench.run", "calm_bench.cli.app", "calm_bench.training.train", "calm_bench.gate.check"),
    *("calm_bench.score.folders", "calm_bench.report.build", "calm_bench.systems.engine"),
    *("calm_bench.listening.server", "calm_bench.report.paper.rebuild", "calm_bench.data.folder"),
    *("calm_bench.cli.doctor", "calm_bench.speed.peers.comparison", "calm_bench.data.cuts"),
    *("matplotlib.figure", "matplotlib.pyplot", "rich.progress", "torch", "soxr", "jiwer"),
)

T = TypeVar("T")
Problem = str


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
    return [items[i * len(items) // n] for i in range(n)]


def try_inputs(work: Path, n: int | None = None) -> Iterator[Problem | None]:
    """What is wrong with each answer to a bad input, None for nothing."""
    good = work / "good"
    inputs.lay(good / "here", good / "home")
    run = ["run", "bench.yaml", "--out", "run", "--no-latency"]
    said = call(run, good / "here", good / "home", limit=120)
    assert said.code == 0, said.text
    for case in spread(list(inputs.cases()), n):
        said, fault = inputs.tried(case, good, work / "try")
        last = ascii(said.text.strip().split("\n")[-1])[:300]
        yield None if fault is None else f"{case.name}: {fault}: {last}"


def try_kills(work: Path, n: int | None = None) -> Iterator[Problem | None]:
    """What is left wrong by each kill once the command was repeated, None for nothing."""
    jobs = [kills.Job(work, *asked) for asked in kills.JOBS]
    share = None if n is None else -(-n // len(jobs))
    for job in jobs:
        for point in spread(range(job.count()), share):
            yield job.killed(point)


def try_damage(work: Path, n: int | None = None) -> Iterator[Problem | None]:
    """What is wrong with what commands make of damaged files, None for nothing."""
    for bench in damage.benches(work):
        for hurt in spread(list(bench.cases()), None if n is None else -(-n // damage.BENCHES)):
            yield bench.tried(hurt)


CAMPAIGNS = {"inputs": try_inputs, "kills": try_kills, "damage": try_damage}
SAMPLE = {
    ("inputs", "sample"): 24,
    ("kills", "sample"): 4,
    ("damage", "sample"): 8,
    ("inputs", "all"): None,
    ("kills", "all"): 200,
    ("damage", "all"): None,
}
"""How many are tried by the tests."""


def main() -> int:
    """Run one campaign and say what went wrong."""
    how = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("campaign", choices=CAMPAIGNS)
    parser.add_argument("-n", type=int, default=None, help="how many, spread over all there are")
    chosen = parser.parse_args()
    load()
    n = bad = 0
    with tempfile.TemporaryDirectory(prefix="faults-") as work:
        for problem in CAMPAIGNS[chosen.campaign](Path(work), chosen.n):
            n += 1
            if problem is not None:
                bad += 1
                sys.stdout.write(f"{problem}\n")
                sys.stdout.flush()
    sys.stdout.write(f"{n} tried, {bad} wrong\n")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
