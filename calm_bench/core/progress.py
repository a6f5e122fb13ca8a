"""Long work: spread over the cores with its results in order, and how far it has come.

On standard error, by a bar on a terminal and by plain lines elsewhere.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Advance = Callable[[int], None]

In = TypeVar("In")
Out = TypeVar("Out")

SECONDS_BETWEEN_LINES = 10.0
SECONDS_IN_SILENCE = 2.0
silenced = False
"""Whether this process is a rank that others speak for."""


@contextmanager
def stage(title: str, total: int, done: int = 0) -> Iterator[Advance]:
    """A function to be called with the number of things just finished.

    An earlier start of the same command has finished `done` of all.
    """
    if silenced:
        yield lambda n: None
    elif sys.stderr.isatty():
        with _bar(title, total, done) as advance:
            yield advance
    else:
        yield _lines(title, total, done)


@contextmanager
def _bar(title: str, total: int, done: int) -> Iterator[Advance]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description:<36}", markup=False),
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda n: bar.advance(task, n)


def _lines(title: str, total: int, done: int) -> Advance:
    """Plain lines for logs: what is to do, one every few seconds with a rate, and the last."""
    began = last = time.monotonic()
    count = done

    def say(note: str) -> None:
        sys.stderr.write(f"{title}: {note}\n")
        sys.stderr.flush()

    def advance(n: int) -> None:
        nonlocal count, last
        count += n
        now = time.monotonic()
        if count >= total:
            say(f"{count}/{total} in {now - began:.0f} s")
        elif now - last >= SECONDS_BETWEEN_LINES and count > done:
            last = now
            rate = (count - done) / (now - began)
            left = (total - count) / rate
            say(f"{count}/{total}, {60 * rate:.3g} a minute, {left:.0f} s left")

    if count < total:
        say(f"{total - count} to do" + (f", {done} done before" if done else ""))
    return advance


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A line that says what is done, once it has taken longer than one waits in silence."""
    timer = threading.Timer(SECONDS_IN_SILENCE, lambda: silenced or sys.stderr.write(f"{what} …\n"))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def cores() -> int:
    """How many cores this process may use; ranks of one machine share them."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    count //= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(count, int(os.environ.get("SLURM_CPUS_PER_TASK", count))))


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
