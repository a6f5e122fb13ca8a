"""Several trainings of one system as one number: their mean and how far apart they lie."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from calm_bench.store.records import Row
from calm_bench.store.results import Pooled, Value


def pooled_rows(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of a system that differ in their training alone, where there are several."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.training is not None:
            found.setdefault(_but_for_training(row), []).append(row)
    return [group for group in found.values() if len(group) > 1]


def _but_for_training(row: Row) -> tuple[Any, ...]:
    drawn = row.temperature, row.text_temperature, row.head_steps, row.top_k
    return *row.system, *drawn, row.precision, row.training_step


def pooled(rows: Sequence[Row], values: Sequence[Value]) -> list[Pooled]:
    """The mean over trainings of every number that each of them has.

    Args:
        rows: Of the run.
        values: Numbers of the rows that depend on weights.
    """
    by_row: dict[str, dict[tuple[str, str | None], Value]] = {}
    for value in values:
        by_row.setdefault(value.cell_id, {})[value.metric, value.recipe_id] = value
    return [
        _pooled(group, [by_row.get(row.cell_id, {}).get(key) for row in group], key, value.unit)
        for group in pooled_rows(rows)
        for key, value in by_row.get(group[0].cell_id, {}).items()
    ]


def _pooled(
    group: Sequence[Row], values: Sequence[Value | None], key: tuple[str, str | None], unit: str
) -> Pooled:
    known = [value.value for value in values if value is not None and value.value is not None]
    about: dict[str, Any] = {
        "cell_ids": tuple(row.cell_id for row in group),
        "metric": key[0],
        "unit": unit,
        "recipe_id": key[1],
        "n": len(known),
    }
    reasons = {value.reason if value is not None else None for value in values}
    if not known and len(reasons) == 1 and (reason := reasons.pop()):
        return Pooled(**about, reason=reason)
    if len(known) < len(group):
        without = [
            f"training {row.training}{f': {value.reason}' if value and value.reason else ''}"
            for row, value in zip(group, values, strict=True)
            if value is None or value.value is None
        ]
        return Pooled(**about, reason=f"no number of {'; '.join(without)}")
    about |= {"least": min(known), "greatest": max(known), "sd": stdev(known)}
    return Pooled(**about, value=fmean(known))
