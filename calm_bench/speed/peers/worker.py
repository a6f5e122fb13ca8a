"""Times one pair in this process: `python -m calm_bench.speed.peers.worker JSON`.

Every round all arms of an item run one block each, in an order drawn anew, so that what the machine
does over seconds meets both sides alike. Blocks are written down as soon as their round is whole.
"""

import gc
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calm_bench.core.progress import stage
from calm_bench.seeds import derive_seed
from calm_bench.speed.peers.items import CONTROL, ITEMS, PACKAGE, PAIRS, Item, is_ours, ours
from calm_bench.speed.peers.records import Block
from calm_bench.store.run_store import RunStore

if TYPE_CHECKING:
    from calm_bench.speed.peers.sides import Side

WARM_UP_BLOCKS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One pair's work: where to, with what, and how often."""

    folder: str
    pair: str
    precisions: tuple[str, ...]
    rounds: int
    threads: int

    def as_json(self) -> str:
        """The argument of the worker."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> "Task":
        """The task that `as_json` wrote."""
        found = json.loads(text)
        return cls(**{**found, "precisions": tuple(found["precisions"])})


def arms_of(item: Item, precisions: Sequence[str]) -> list[str]:
    """The package, the package again, its own modes where they matter, and ours."""
    own = [ours(precision) for precision in precisions if precision in item.precisions]
    return [PACKAGE, CONTROL, *item.modes, *own]


def items_of(pair: str) -> list[Item]:
    """What is timed of a pair."""
    return [item for item in ITEMS.values() if item.pair == pair]


def missing_rounds(store: RunStore, item: Item, arms: Sequence[str], rounds: int) -> list[int]:
    """The rounds of which an arm is missing; those are run again as a whole."""
    found: dict[int, set[str]] = {}
    for block in store.read(Block):
        if block.item == item.key:
            found.setdefault(block.round, set()).add(block.arm)
    return [number for number in range(rounds) if not set(arms) <= found.get(number, set())]


def time_pair(task: Task) -> None:
    """Run every round that is missing, item by item."""
    import torch

    torch.set_num_threads(task.threads)
    store = RunStore(Path(task.folder))
    for item in items_of(task.pair):
        arms = arms_of(item, task.precisions)
        missing = missing_rounds(store, item, arms, task.rounds)
        if missing:
            with torch.inference_mode():
                _time_item(store, item, arms, missing, task)


def _time_item(
    store: RunStore, item: Item, arms: Sequence[str], rounds: Sequence[int], task: Task
) -> None:
    import torch

    torch.manual_seed(0)
    title = f"{PAIRS[item.pair].title}, {item.title}"
    sides = {arm: _open(item, PACKAGE if arm == CONTROL else arm) for arm in arms if arm != CONTROL}
    sides[CONTROL] = sides[PACKAGE]
    torch.set_num_threads(task.threads)  # a package may have set its own while it was imported
    for _ in range(WARM_UP_BLOCKS):
        for side in sides.values():
            _run(side, item.calls, task.threads)
    with stage(title, task.rounds, task.rounds - len(rounds)) as advance:
        for number in rounds:
            order = random.Random(derive_seed(item.key, number)).sample(arms, len(arms))
            times = [_run(sides[arm], item.calls, task.threads) for arm in order]
            rows = zip(order, times, strict=True)
            store.append(*(_block(item, number, i, arm, t) for i, (arm, t) in enumerate(rows)))
            advance(1)


def _open(item: Item, arm: str) -> "Side":
    from calm_bench.speed.peers import moshi_sides, musicgen_sides, pocket_sides

    makers = {
        "pocket": pocket_sides.side_of,
        "moshi": moshi_sides.side_of,
        "mimi": moshi_sides.mimi_side_of,
        "musicgen": musicgen_sides.side_of,
    }
    return makers[item.pair.partition("-")[0]](item, arm)


def _run(side: "Side", calls: int, threads: int) -> tuple[int, int]:
    """Nanoseconds of a block: on the wall, and of processor time."""
    clock = time.thread_time_ns if threads == 1 else time.process_time_ns
    side.reset()
    gc.collect()
    gc.disable()
    try:
        wall, cpu = time.perf_counter_ns(), clock()
        for _ in range(calls):
            side.call()
        return time.perf_counter_ns() - wall, clock() - cpu
    finally:
        gc.enable()


def _block(item: Item, number: int, order: int, arm: str, times: tuple[int, int]) -> Block:
    return Block(
        item=item.key,
        arm=arm,
        round=number,
        order=order,
        calls=item.calls,
        frames=item.calls * item.frames * (item.rows if is_ours(arm) else 1),
        wall_ns=times[0],
        cpu_ns=times[1],
    )


def main() -> None:
    """Run the task that the first argument holds."""
    time_pair(Task.of(sys.argv[1]))


if __name__ == "__main__":
    main()
