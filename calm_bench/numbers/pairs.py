"""Which rows of a run are compared with each other, prompt by prompt."""

from collections.abc import Sequence
from typing import Any

from calm_bench.store.records import Row


def compared_rows(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Pairs of rows whose difference is shown, the second one being subtracted.

    Every system against the baseline, or where there is none against the first system, at the same
    temperatures (after as many training steps, and in the same training and with the same head
    steps if it has such a row); then every row against the one above it that was drawn alike, which
    is how orders and sweeps of head steps are judged; every temperature of a system against its
    first, and every precision of a row against the first one.
    """
    systems = [row for row in rows if row.kind == "system"]
    baselines = [row for row in systems if row.baseline]
    bases = baselines or [row for row in systems if row.system == systems[0].system]
    pairs = []
    for row in systems:
        alike = [base for base in bases if _drawn_alike(base, row)]
        if alike and row not in bases:
            other = min(
                alike, key=lambda o: (o.training != row.training, o.head_steps != row.head_steps)
            )
            pairs.append((row.cell_id, other.cell_id))
    pairs += [
        (row.cell_id, above.cell_id)
        for index, row in enumerate(systems)
        if (above := _above(systems[:index], row)) is not None
    ]
    for same in (_made_by, _but_for_precision):
        for row in systems:
            first = next(other for other in systems if same(other) == same(row))
            if first is not row:
                pairs.append((row.cell_id, first.cell_id))
    return list(dict.fromkeys(pairs))


def _above(before: Sequence[Row], row: Row) -> Row | None:
    """The last of the rows before one that was drawn as it was, by other means."""
    alike = (
        other
        for other in reversed(before)
        if _drawn_alike(other, row)
        and (other.precision, other.training) == (row.precision, row.training)
        and (_named(other), other.head_steps) != (_named(row), row.head_steps)
    )
    return next(alike, None)


def _named(row: Row) -> tuple[str | None, str]:
    return row.model, row.label


def _but_for_precision(row: Row) -> tuple[Any, ...]:
    drawn = row.temperature, row.text_temperature, row.training_step
    return row.model, row.head_steps, row.top_k, *drawn


def _drawn_alike(a: Row, b: Row) -> bool:
    """Whether two systems drew at the same temperatures, as far as both have them."""
    texts = {row.text_temperature for row in (a, b)} - {None}
    of_audio = {row.temperature for row in (a, b)} - {None}
    return a.training_step == b.training_step and len(of_audio) < 2 and len(texts) < 2


def _made_by(row: Row) -> tuple[Any, ...]:
    """What rows share that differ in their temperatures or their training alone."""
    return *_named(row), row.head_steps, row.top_k
