"""What a row is called: its label with whatever tells it from the other rows of its table."""

from collections import defaultdict
from collections.abc import Iterable

from calm_bench.store.records import Cell


def temperature_text(value: float | None) -> str:
    """A temperature as one writes it (0.8, 1.0); nothing where there is none."""
    return "" if value is None else str(float(value))


def steps_text(cell: Cell) -> str:
    """A row's head steps in words."""
    return f"{cell.head_steps} step{'s' if cell.head_steps != 1 else ''}"


def cell_name(cell: Cell, *, several_steps: bool = False) -> str:
    """A row's name where it must stand alone: label, temperature and, where they vary, steps."""
    parts = [cell.label]
    if several_steps and cell.head_steps is not None:
        parts.append(steps_text(cell))
    if cell.training_step is not None:
        parts.append(f"training step {cell.training_step}")
    if cell.temperature is not None:
        parts.append(f"temp {temperature_text(cell.temperature)}")
    if cell.text_temperature not in (None, cell.temperature):
        parts.append(f"text {temperature_text(cell.text_temperature)}")
    return ", ".join(parts)


def steps_vary(cells: Iterable[Cell]) -> bool:
    """Whether some system stands in the table with more than one number of head steps."""
    return bool(swept(cells))


def swept(cells: Iterable[Cell]) -> set[str]:
    """The labels of the systems that stand in the table with more than one number of head steps."""
    steps: dict[str, set[int | None]] = defaultdict(set)
    for cell in cells:
        steps[cell.label].add(cell.head_steps)
    return {label for label, found in steps.items() if len(found) > 1}
