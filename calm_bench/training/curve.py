"""What of a run's log is kept with the model: every validation, and training in a few stretches."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from calm_bench.store.curves import CurvePoint
from calm_bench.training.loop import means
from calm_bench.training.objective import TrainingConfig

STRETCHES = 25
NOT_LOSSES = {"step", "seconds", "processor_seconds"}


def curve_of(records: Sequence[Mapping[str, Any]], recipe: TrainingConfig) -> Iterator[CurvePoint]:
    """The points of one training, whose stretches are those of its whole recipe.

    A loss that is no finite number stands in the log alone: no axis has a place for it.
    """
    width = math.ceil(recipe.steps / STRETCHES)
    stretches: dict[int, list[Mapping[str, Any]]] = {}
    for record in records:
        if "validation" in record:
            yield _point(record, recipe.seed, "validation", record["validation"])
        else:
            stretches.setdefault(math.ceil(record["step"] / width), []).append(record)
    for stretch in stretches.values():
        losses = [{k: v for k, v in record.items() if k not in NOT_LOSSES} for record in stretch]
        yield _point(stretch[-1], recipe.seed, "training", means(losses))


def _point(
    record: Mapping[str, Any], seed: int, kind: str, losses: Mapping[str, float]
) -> CurvePoint:
    short = {k: float(f"{value:.5g}") for k, value in losses.items() if math.isfinite(value)}
    at = {"step": record["step"], "processor_seconds": record["processor_seconds"]}
    return CurvePoint.model_validate({"seed": seed, **at, kind: short})
