"""What a row is called: its label with whatever tells it from the other rows of its table."""

from collections import defaultdict
from collections.abc import Iterable

from calm_bench.store.records import Row


def temperature_text(value: float | None) -> str:
    """A temperature as one writes it (0.8, 1.0); nothing where there is none."""
    return "" if value is None else str(float(value))


def steps_text(row: Row) -> str:
    """A row's head steps in words."""
    return f"{row.head_steps} step{'s' if row.head_steps != 1 else ''}"


def row_title(row: Row, *, several_steps: bool = False) -> str:
    """A row's name where it must stand alone: label, temperature and, where they vary, steps."""
    parts = [row.label]
    if several_steps and row.head_steps is not None:
        parts.append(steps_text(row))
    if row.training_step is not None:
        parts.append(f"training step {row.training_step}")
    if row.temperature is not None:
        parts.append(f"temp {temperature_text(row.temperature)}")
    if row.text_temperature not in (None, row.temperature):
        parts.append(f"text {temperature_text(row.text_temperature)}")
    return ", ".join(parts)


def steps_vary(rows: Iterable[Row]) -> bool:
    """Whether some system stands in the table with more than one number of head steps."""
    return bool(swept(rows))


def swept(rows: Iterable[Row]) -> set[str]:
    """The labels of the systems that stand in the table with more than one number of head steps."""
    steps: dict[str, set[int | None]] = defaultdict(set)
    for row in rows:
        steps[row.label].add(row.head_steps)
    return {label for label, found in steps.items() if len(found) > 1}
