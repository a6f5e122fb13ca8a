"""The frame that is timed, written once: `run`, `speed`, growth, counts and `check` step by it.

A mark is whatever the caller's clock says: a time, an event in a GPU's stream, what was counted so
far. This file imports nothing of calm_bench, because `check --against` runs it over older trees.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from calm_bench.store.records import Stage

Mark = TypeVar("Mark")
Marks = tuple[Mark, Mark, Mark, Mark, Mark]
"""Before a frame, and after its backbone, its head, its push and its decoding."""


def marked_frame(
    system: Any, state: Any, decoder: Any, mark: Callable[[], Mark]
) -> tuple[Any, Marks[Mark]]:
    """One frame by the methods that make clips, with a mark around each of them."""
    start = mark()
    z = system.backbone_step(state)
    after_backbone = mark()
    frame = system.head_step(state, z)
    after_head = mark()
    system.push(state, frame)
    after_push = mark()
    system.decode_step(frame, decoder)
    return frame, (start, after_backbone, after_head, after_push, mark())


def by_stage(
    marks: Sequence[Marks[Mark]], between: Callable[[Mark, Mark], Any]
) -> "dict[Stage, tuple[Any, ...]]":
    """What lies between marks, a value per frame; `push` is part of the backbone."""
    return {
        "backbone": tuple(between(a, b) + between(c, d) for a, b, c, d, _ in marks),
        "head": tuple(between(b, c) for _, b, c, _, _ in marks),
        "codec": tuple(between(d, e) for *_, d, e in marks),
        "total": tuple(between(a, e) for a, *_, e in marks),
    }


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection while the clock runs."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
