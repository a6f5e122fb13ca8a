"""Several trainings of one system as one number: their mean and how far apart they lie."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from calm_bench.core.inference import Effect, over_trainings
from calm_bench.store.records import Row
from calm_bench.store.results import Difference, Pooled, Value


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


def pooled_pairs(
    rows: Sequence[Row], pairs: Sequence[tuple[str, str]]
) -> list[list[tuple[str, str]]]:
    """The pairs of rows of one training that differ in their training alone, where several do."""
    known = {row.cell_id: row for row in rows}
    found: dict[tuple[Any, ...], list[tuple[str, str]]] = {}
    for a, b in pairs:
        training = known[a].training
        if training is not None and training == known[b].training:
            key = _but_for_training(known[a]), _but_for_training(known[b])
            found.setdefault(key, []).append((a, b))
    return [group for group in found.values() if len(group) > 1]


def pooled(
    rows: Sequence[Row], values: Sequence[Value], n_prompts: Mapping[str, int]
) -> list[Pooled]:
    """The mean over trainings of every number, of those that depend on weights, that each has.

    `n_prompts` says of how many prompts a row's clips are.
    """
    by_row: dict[str, dict[tuple[str, str | None], Value]] = {}
    for value in values:
        by_row.setdefault(value.cell_id, {})[value.metric, value.recipe_id] = value
    found = []
    for group in pooled_rows(rows):
        names = tuple(row.cell_id for row in group)
        for key, value in by_row.get(names[0], {}).items():
            about = Pooled(cell_ids=names, metric=key[0], recipe_id=key[1], unit=value.unit, n=0)
            numbers = [by_row.get(name, {}).get(key) for name in names]
            fewest = min(n_prompts[name] for name in names)
            found.append(as_one(about, [row.training for row in group], numbers, fewest))
    return found


def as_one(
    about: Pooled,
    trainings: Sequence[int | None],
    numbers: Sequence[Value | Difference | None],
    n_prompts: int,
) -> Pooled:
    """The numbers of several trainings as one; `about` says which, and what is known of prompts.

    An interval over prompts knows as much as so many prompts do, however often each was continued.
    """
    known = [number for number in numbers if number is not None and number.value is not None]
    about = about.model_copy(update={"n": len(known)})
    reasons = {number.reason if number is not None else None for number in numbers}
    if not known and len(reasons) == 1 and (reason := reasons.pop()):
        return about.model_copy(update={"reason": reason})
    if len(known) < len(numbers):
        without = [
            f"training {name}{f': {number.reason}' if number and number.reason else ''}"
            for name, number in zip(trainings, numbers, strict=True)
            if number is None or number.value is None
        ]
        return about.model_copy(update={"reason": f"no number of {'; '.join(without)}"})
    values = [number.value or 0.0 for number in known]
    update = {"value": fmean(values), "least": min(values), "greatest": max(values)}
    found = about.model_copy(update={**update, "sd": stdev(values)})
    effects = [effect for number in known if (effect := effect_of(number)) is not None]
    if len(effects) < len(known):
        return found
    counts = [max(2, min(effect.n, n_prompts)) for effect in effects]
    effects = [replace(e, n=n, df=n - 1) for e, n in zip(effects, counts, strict=True)]
    together = over_trainings(effects, about.prompt_error)
    planned = together.detectable if about.baseline_cell_ids else {}
    ends = {"low": together.low, "high": together.high}
    return found.model_copy(update={**ends, "detectable": planned})


def effect_of(number: Value | Difference) -> Effect | None:
    """A number with its interval; None without one."""
    value, low, high = number.value, number.low, number.high
    if value is None or low is None or high is None:
        return None
    df = max(1, number.n - 1)
    return Effect(value=value, low=low, high=high, n=number.n, df=df, marked=number.marked)
