"""Times one pair in this process: `python -m calm_bench.speed.peers.worker FOLDER PAIR REQUEST`.

Every round all arms of an item run one block each, in an order drawn anew, so that what the machine
does over seconds meets both sides alike. Blocks are written down as soon as their round is whole.
"""

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, get_args

from calm_bench.core.progress import stage
from calm_bench.seeds import derive_seed
from calm_bench.speed.frames import quiet
from calm_bench.speed.peers.items import CONTROL, PACKAGE, Item, Pair, is_ours, load_peers
from calm_bench.speed.protocol import unfinished
from calm_bench.store.records import Record
from calm_bench.store.run_store import RunStore
from calm_bench.types import KernelsOf, Precision, StrictModel

if TYPE_CHECKING:
    from calm_bench.speed.peers.sides import Side

WARM_UP_BLOCKS = 2


class PeerRequest(StrictModel):
    """What was asked for."""

    pairs: tuple[Pair, ...]
    precisions: tuple[str, ...] = get_args(Precision)
    rounds: int = 24
    threads: int = 1
    kernels: KernelsOf = "fixed"
    command: tuple[str, ...] = ()


class Block(Record):
    """A number of calls in a row, timed as one.

    Attributes:
        item: `pair/name` of what was timed.
        arm: The package, or our code at a precision.
        order: The arm's place in the round, which is drawn anew for each.
        cpu_ns: Time the processor worked for it: the calling thread's on one thread, else the
            process's.
    """

    file: ClassVar[str] = "blocks.jsonl"
    key_fields: ClassVar[tuple[str, ...]] = ("item", "arm", "round")

    item: str
    arm: str
    round: int
    order: int
    calls: int
    frames: int
    wall_ns: int
    cpu_ns: int


def time_pair(folder: Path, pair: str, request: PeerRequest) -> None:
    """Run every round of a pair that is missing, item by item."""
    import torch

    torch.set_num_threads(request.threads)
    store = RunStore(folder)
    for item in load_peers().of(pair):
        arms = item.arms(request.precisions)
        done = ((b.round, b.arm) for b in store.read(Block) if b.item == item.key)
        missing = unfinished(range(request.rounds), set(arms), done)
        if missing:
            with torch.inference_mode():
                _time_item(store, item, arms, missing, request)


def _time_item(
    store: RunStore, item: Item, arms: Sequence[str], rounds: Sequence[int], request: PeerRequest
) -> None:
    import torch

    from calm_bench.nn.kernels import Kernels
    from calm_bench.systems.loading import measured_kernels

    torch.manual_seed(0)
    title = f"{load_peers().pairs[item.pair].title}, {item.title}"
    kernels = measured_kernels() if request.kernels == "measured" else Kernels()
    with kernels.choosing():
        sides = {arm: _open(item, arm) for arm in arms if arm != CONTROL}
    sides[CONTROL] = sides[PACKAGE]
    torch.set_num_threads(request.threads)  # a package may have set its own while it was imported
    for _ in range(WARM_UP_BLOCKS):
        for side in sides.values():
            _run(side, item.calls, request.threads)
    with stage(title, request.rounds, request.rounds - len(rounds)) as advance:
        for number in rounds:
            order = random.Random(derive_seed(item.key, number)).sample(arms, len(arms))
            times = [_run(sides[arm], item.calls, request.threads) for arm in order]
            rows = zip(order, times, strict=True)
            store.append(*(_block(item, number, i, arm, t) for i, (arm, t) in enumerate(rows)))
            advance(1)


def _open(item: Item, arm: str) -> "Side":
    from calm_bench.speed.peers import moshi_twin, musicgen_twin, pocket_twin

    makers = {
        "pocket": pocket_twin.side_of,
        "moshi": moshi_twin.side_of,
        "mimi": moshi_twin.mimi_side_of,
        "musicgen": musicgen_twin.side_of,
    }
    return makers[item.pair.partition("-")[0]](item, arm)


def _run(side: "Side", calls: int, threads: int) -> tuple[int, int]:
    """Nanoseconds of a block: on the wall, and of processor time."""
    clock = time.thread_time_ns if threads == 1 else time.process_time_ns
    side.reset()
    with quiet():
        wall, cpu = time.perf_counter_ns(), clock()
        for _ in range(calls):
            side.call()
        return time.perf_counter_ns() - wall, clock() - cpu


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
    """Time a pair into a folder, as the request asks."""
    folder, pair, request = sys.argv[1:]
    time_pair(Path(folder), pair, PeerRequest.model_validate_json(request))


if __name__ == "__main__":
    main()
