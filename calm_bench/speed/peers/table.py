"""Blocks to ratios, and ratios to a table: how many times the package's time ours takes.

A ratio pairs blocks of one round; its interval is a bootstrap over rounds.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, get_args

from calm_bench.core.stats import ratio_interval
from calm_bench.errors import InputError
from calm_bench.report.columns import TIMES
from calm_bench.report.formats import to_latex, to_markdown
from calm_bench.report.tables import Table, Text
from calm_bench.seeds import derive_seed
from calm_bench.speed.peers.comparison import Machine, read_machine
from calm_bench.speed.peers.items import (
    CONTROL,
    PACKAGE,
    PACKAGE_INT8,
    PACKAGE_SINGLE,
    Item,
    load_peers,
    missing_package,
    ours,
)
from calm_bench.speed.peers.worker import Block
from calm_bench.store.run_store import RunStore
from calm_bench.types import Estimate, Precision

NAMES = {
    PACKAGE: "package",
    CONTROL: "package again (A/A)",
    PACKAGE_INT8: "package, its int8",
    PACKAGE_SINGLE: "package, a call per frame",
}
ARMS = [*NAMES, *(ours(precision) for precision in get_args(Precision))]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRow:
    """One arm of one item.

    Attributes:
        cpu_ms: Median processor time per frame; `wall_ms` likewise.
        cpu: How many times faster than the package, by processor time; `wall` by the clock.
        goal: The speed-up aimed at; None for arms without one.
    """

    item: Item
    arm: str
    cpu_ms: float
    wall_ms: float
    cpu: Estimate
    wall: Estimate
    n: int
    goal: float | None

    @property
    def verdict(self) -> str:
        """Whether the interval lies above the goal, below it or around it."""
        low, high = self.cpu.low, self.cpu.high
        if self.goal is None or low is None or high is None:
            return ""
        return "met" if low >= self.goal else "missed" if high < self.goal else "open"

    def as_json(self) -> dict[str, Any]:
        """All numbers, unrounded."""
        ratios = {"cpu_ratio": self.cpu, "wall_ratio": self.wall}
        return {
            "pair": self.item.pair,
            "item": self.item.name,
            "arm": self.arm,
            "n": self.n,
            "cpu_ms_per_frame": self.cpu_ms,
            "wall_ms_per_frame": self.wall_ms,
            **{
                name + end: getattr(ratio, field)
                for name, ratio in ratios.items()
                for end, field in (("", "value"), ("_low", "low"), ("_high", "high"))
            },
            "goal": self.goal,
            "verdict": self.verdict or None,
            "inside": self.item.inside,
        }


def rows_of(blocks: Sequence[Block]) -> list[PeerRow]:
    """Every arm that was timed beside the package, in the order of the items."""
    found: dict[tuple[str, str], dict[int, Block]] = {}
    for block in blocks:
        found.setdefault((block.item, block.arm), {})[block.round] = block
    rows = []
    for key, item in load_peers().items.items():
        package = found.get((key, PACKAGE), {})
        for arm in ARMS:
            own = found.get((key, arm), {})
            if rounds := sorted(package.keys() & own.keys()):
                rows.append(_row(item, arm, [(package[n], own[n]) for n in rounds]))
    return rows


def _row(item: Item, arm: str, pairs: Sequence[tuple[Block, Block]]) -> PeerRow:
    """An arm in the rounds that hold the package as well."""
    seed = derive_seed(item.key, arm)

    def timed(clock: str) -> tuple[float, Estimate]:
        package, own = (
            [getattr(block, f"{clock}_ns") / block.frames for block in side]
            for side in zip(*pairs, strict=True)
        )
        return median(own) / 1e6, ratio_interval(package, own, seed)

    (cpu_ms, cpu), (wall_ms, wall) = timed("cpu"), timed("wall")
    return PeerRow(
        item=item,
        arm=arm,
        cpu_ms=cpu_ms,
        wall_ms=wall_ms,
        cpu=cpu,
        wall=wall,
        n=len(pairs),
        goal=next((goal for name, goal in item.goals.items() if ours(name) == arm), None),
    )


def peers_table(rows: Sequence[PeerRow], machine: Machine) -> Table:
    """The table of a comparison: what is inside each timer stands in the footnotes."""
    keys = ("package", "what is timed", "arm")
    ratios = (f"{TIMES} by CPU time ↑", f"{TIMES} by the clock ↑")
    table = Table.of(
        "Other packages and ours: the same weights, the same outputs",
        (*keys, "CPU ms", "wall ms", *ratios, "goal", "n"),
        left=(*keys, "goal"),
    )
    table.keys = len(keys)
    last = ""
    for row in rows:
        pair, item, new = load_peers().pairs[row.item.pair], row.item, row.item.key != last
        package = row.arm == PACKAGE
        table.add_row(
            Text(pair.title, pair.shape) if new else "",
            Text(item.title, item.inside) if new else "",
            NAMES.get(row.arm, row.arm),
            _milliseconds(row.cpu_ms),
            _milliseconds(row.wall_ms),
            "1" if package else _ratio(row.cpu),
            "1" if package else _ratio(row.wall),
            "" if row.goal is None else f"≥ {row.goal:g}: {row.verdict}",
            str(row.n),
            ruled=new and bool(last),
        )
        last = item.key
    table.notes += _notes(machine)
    return table


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _ratio(found: Estimate) -> str:
    if found.value is None:
        return "—"
    if found.low is None or found.high is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _notes(machine: Machine) -> list[str]:
    versions = ", ".join(f"{k} {v}" for k, v in machine.versions.items() if v is not None)
    without = [name for name, version in machine.versions.items() if version is None]
    threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    if machine.kernels == "measured":
        threads += ", our kernels as measured on it"
    cpu = "the calling thread's" if machine.threads == 1 else "all threads'"
    return [
        f"{machine.processor}, {machine.cores} cores, {threads}; Python {machine.python}, "
        f"{versions}{', without ' + ', '.join(without) if without else ''}; "
        f"calm-bench {machine.calm_bench}; {machine.started[:10]}",
        "random weights, the package's own on both sides: our modules give its outputs to four "
        "digits at fp32; milliseconds are medians per frame; × is the package's time over the "
        "arm's, the median over rounds that ran every arm once in random order, with a 95 % "
        "interval; above 1 the arm is faster, below 1 slower; CPU time is "
        f"{cpu}; a goal is met when the whole interval by CPU time reaches it",
    ]


def to_csv(rows: Sequence[PeerRow]) -> str:
    """All numbers, unrounded."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0].as_json()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.as_json() for row in rows)
    return out.getvalue()


def build_tables(folder: Path) -> tuple[Table, list[PeerRow]]:
    """Write tables/peers.md, .csv and .tex of a folder of records, and return what they show.

    Raises:
        InputError: If the folder holds no block.
    """
    store = RunStore(folder)
    machine = read_machine(folder)
    rows = rows_of(store.read(Block))
    if not rows:
        raise InputError(f"{folder} holds no timed block yet: run `calm-bench speed peers`")
    table = peers_table(rows, machine)
    timed = {row.item.pair for row in rows}
    for pair in load_peers().pairs.values():
        if pair.name not in timed:
            reason = missing_package(pair) or "not asked for"
            table.notes.append(f"not measured: {pair.title}: {reason}")
    store.write_text("tables/peers.md", to_markdown(table))
    store.write_text("tables/peers.tex", to_latex(table, "peers"))
    store.write_text("tables/peers.csv", to_csv(rows))
    return table, rows
