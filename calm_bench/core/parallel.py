"""Work spread over the cores with its results in order, and counted while they are used."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from calm_bench.core.progress import stage

In = TypeVar("In")
Out = TypeVar("Out")


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered_map(
    function: Callable[[In], Out], items: Iterable[In], jobs: int | None = None
) -> Iterator[Out]:
    """Results in the order of the items, a few computed ahead on other threads.

    Threads serve, because decoding, resampling and hashing release the interpreter's lock. Few
    results wait at a time, so a slow consumer does not fill the memory.
    """
    jobs = jobs or cores()
    queue = iter(items)
    with ThreadPoolExecutor(jobs) as pool:
        pending: deque[Future[Out]] = deque()
        pending.extend(pool.submit(function, item) for item in islice(queue, 2 * jobs))
        try:
            while pending:
                yield pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(queue, 1))
        finally:
            for future in pending:
                future.cancel()


def counted(items: Iterable[In], total: int, title: str, done: int = 0) -> Iterator[In]:
    """The items themselves, while a bar on standard error counts them up from `done`."""
    with stage(title, total, done) as advance:
        for item in items:
            yield item
            advance(1)
