"""Rows, their times and their values as tests make them."""

from collections.abc import Callable
from typing import Any

from calm_bench.store.records import LatencyRecord, Row
from calm_bench.store.results import Results, Value


def system(model: str, label: str, temp: float = 1.0, *, steps: int = 1, **changes: Any) -> Row:
    """The row of a system."""
    fields = {
        "cell_id": f"{model}-t{temp:g}-s{steps}",
        "label": label,
        "kind": "system",
        "model": model,
        "temperature": temp,
        "temperature_kind": "noise_variance",
        "text_temperature": temp,
        "head_steps": steps,
    }
    return Row.model_validate(fields | changes)


def one_round(
    number: int, cell_id: str, *stages: int, lost: int = 0, frames: int = 4, **changes: Any
) -> LatencyRecord:
    """One round: each frame takes so many ns of backbone, head and codec, and some of no stage."""
    parts = (*stages, sum(stages) + lost)
    names = ("backbone", "head", "codec", "total")
    fields = {
        "round": number,
        "cell_id": cell_id,
        "order": 0,
        "stage_ns": {name: (ns,) * frames for name, ns in zip(names, parts, strict=True)},
        "first_audio_ns": 2 * sum(stages),
        "frame_ns": 80_000_000,
        "device": "a processor",
        "dtype": "float32",
        "threads": 1,
    }
    return LatencyRecord.model_validate(fields | changes)


def with_values(found: Results, which: Callable[[Value], bool], **update: Any) -> Results:
    """The results with some of their values changed."""
    rows = (value.model_copy(update=update) if which(value) else value for value in found.rows)
    return found.model_copy(update={"rows": tuple(rows)})
