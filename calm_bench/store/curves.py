"""How a model's losses fell in each of its trainings: models/<name>/curve.jsonl, a line a point.

Lines end with a checksum; those of older versions have none.
"""

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from calm_bench.core.files import replace, sealed, text_lines
from calm_bench.errors import InputError
from calm_bench.store.run_store import load_record
from calm_bench.types import StrictModel

FILE = "curve.jsonl"


class CurvePoint(StrictModel):
    """Mean losses of a stretch of steps, or those of a validation, by the names of the run's log.

    Attributes:
        seed: Which training.
        step: Of a stretch, its last.
        processor_seconds: What the steps so far took.
    """

    seed: int
    step: int
    processor_seconds: float
    training: dict[str, float] = Field(default_factory=dict)
    validation: dict[str, float] = Field(default_factory=dict)


def read_curve(folder: Path) -> list[CurvePoint]:
    """The points of all trainings of the model in a folder, by seed and step; none without a file.

    Raises:
        InputError: If the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return []
    try:
        lines = text_lines(path)
        return [
            load_record(CurvePoint, line.encode(), f"{path}:{number}") for number, line in lines
        ]
    except InputError as error:
        remedy = "restore or delete it: a training writes its own points anew when it is done"
        raise InputError(f"{error}; {remedy}") from error


def write_curve(folder: Path, seed: int, points: Iterable[CurvePoint]) -> None:
    """Put one training's points in the place of those it had; other trainings' stay."""
    every = [point for point in read_curve(folder) if point.seed != seed] + list(points)
    every.sort(key=lambda point: (point.seed, point.step, bool(point.validation)))
    lines = (sealed(point.model_dump_json(exclude_defaults=True).encode()) for point in every)
    replace(folder / FILE, b"".join(line + b"\n" for line in lines))
