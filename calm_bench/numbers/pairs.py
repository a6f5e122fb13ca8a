"""Which rows of a run are compared with each other, prompt by prompt."""

from collections.abc import Sequence
from typing import Any

from calm_bench.store.records import Cell


def compared_rows(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Pairs of rows whose difference is shown, the second one being subtracted.

    Every system against the baseline, or where there is none against the first system, at the same
    temperatures (after the same training, and with the same head steps if it has such a row); then
    every row against the one above it that was drawn alike, which is how orders and sweeps of head
    steps are judged; every temperature of a system against its first, and every precision of a row
    against the first one.
    """
    systems = [cell for cell in cells if cell.kind == "system"]
    has_baseline = any(cell.baseline for cell in systems)
    pairs = []
    for cell in systems:
        alike = [o for o in systems if _is_base(o, systems, has_baseline) and _drawn_alike(o, cell)]
        if alike and not _is_base(cell, systems, has_baseline):
            other = next((o for o in alike if o.head_steps == cell.head_steps), alike[0])
            pairs.append((cell.cell_id, other.cell_id))
    pairs += [
        (cell.cell_id, above.cell_id)
        for index, cell in enumerate(systems)
        if (above := _above(systems[:index], cell)) is not None
    ]
    for same in (_made_by, _but_for_precision):
        for cell in systems:
            first = next(other for other in systems if same(other) == same(cell))
            if first is not cell:
                pairs.append((cell.cell_id, first.cell_id))
    return list(dict.fromkeys(pairs))


def _is_base(cell: Cell, systems: Sequence[Cell], has_baseline: bool) -> bool:
    """Whether others are compared with a row: a baseline's, or else the first system's."""
    return cell.baseline if has_baseline else _named(cell) == _named(systems[0])


def _above(before: Sequence[Cell], cell: Cell) -> Cell | None:
    """The last of the rows before one that was drawn as it was, by other means."""
    alike = (
        other
        for other in reversed(before)
        if _drawn_alike(other, cell)
        and other.precision == cell.precision
        and (_named(other), other.head_steps) != (_named(cell), cell.head_steps)
    )
    return next(alike, None)


def _named(cell: Cell) -> tuple[str | None, str]:
    return cell.model, cell.label


def _but_for_precision(cell: Cell) -> tuple[Any, ...]:
    """What rows share that differ in their precision alone."""
    return cell.model, cell.head_steps, cell.top_k, *_drawn(cell)


def _drawn_alike(a: Cell, b: Cell) -> bool:
    """Whether two systems drew at the same temperatures, as far as both draw text."""
    texts = {cell.text_temperature for cell in (a, b)} - {None}
    of_audio = [(cell.temperature, cell.training_step) for cell in (a, b)]
    return of_audio[0] == of_audio[1] and len(texts) < 2


def _drawn(cell: Cell) -> tuple[float | int | None, ...]:
    return cell.temperature, cell.text_temperature, cell.training_step


def _made_by(cell: Cell) -> tuple[Any, ...]:
    """What rows share that differ in their temperatures or their training alone."""
    return *_named(cell), cell.head_steps, cell.top_k
