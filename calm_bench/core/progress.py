"""How far a long stage has come, on standard error: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def stage(title: str, total: int, done: int = 0) -> Iterator[Advance]:
    """A function to be called with the number of things just finished.

    Args:
        title: What is done, as it stands before the bar.
        total: How many things there are in all.
        done: How many of them an earlier start of the same command has finished.
    """
    if sys.stderr.isatty():
        with _bar(title, total, done) as advance:
            yield advance
    else:
        yield _lines(title, total, done)


@contextmanager
def _bar(title: str, total: int, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<36}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda n: bar.advance(task, n)


def _lines(title: str, total: int, done: int) -> Advance:
    """Plain lines for logs: the first, the last, and one every few seconds between them."""
    began = last = time.monotonic()
    count = done

    def say(note: str = "") -> None:
        sys.stderr.write(f"{title}: {count}/{total}{note}\n")
        sys.stderr.flush()

    def advance(n: int) -> None:
        nonlocal count, last
        count += n
        now = time.monotonic()
        if count >= total:
            say(f" in {now - began:.0f} s")
        elif now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = (now - began) / (count - done) * (total - count) if count > done else 0.0
            say(f", {left:.0f} s left")

    say()
    return advance
