"""benchmarks/published.yaml: the paper's tables as layout and numbers, checked strictly."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from calm_bench.config import parse, read_yaml
from calm_bench.core import paths
from calm_bench.types import StrictModel

Value = float | tuple[float, float]


class ColumnSpec(StrictModel):
    """One column: which metric, and how its numbers are written.

    Attributes:
        id: What the published values call it; the metric unless said.
        decimals: Fixed decimals; else `significant` figures.
        scale: What a stored value is multiplied with; published ones stand as they are shown.
        by: What the paper measured with, where numbers of another instrument would not compare.
        model: The system, for tables whose rows are settings.
        rank: Whether the column ranks the systems by the metric instead of showing it.
        ours: Whether the paper's table lacks the column.
    """

    metric: str
    heading: str
    id: str = ""
    decimals: int | None = None
    significant: int | None = None
    unit: str = ""
    scale: float = 1.0
    by: str | None = None
    model: str | None = None
    rank: bool = False
    ours: bool = False

    @property
    def key(self) -> str:
        """The column's name among the published values."""
        return self.id or self.metric

    @model_validator(mode="after")
    def _says_how_it_is_written(self) -> Self:
        if not self.rank and (self.decimals is None) == (self.significant is None):
            raise ValueError("give either decimals or significant figures")
        return self


class RowSpec(StrictModel):
    """One row: a system without its scale, drawn how, and what was published of it."""

    label: str
    model: str | None = None
    temp: float | None = None
    steps: int | None = None
    values: dict[str, Value] = Field(default_factory=dict)


class TableSpec(StrictModel):
    """One table of the paper."""

    name: str
    title: str
    source: str
    command: str
    columns: tuple[ColumnSpec, ...]
    rows: tuple[RowSpec, ...]

    @model_validator(mode="after")
    def _knows_its_values(self) -> Self:
        keys = [column.key for column in self.columns]
        if len(set(keys)) < len(keys):
            raise ValueError("two columns have one id")
        for row in self.rows:
            for key in row.values:
                if key not in keys:
                    raise ValueError(f"row {row.label!r} has a value for {key!r}, no column does")
            if row.model is None and any(c.model is None for c in self.columns):
                raise ValueError(f"row {row.label!r} names no model")
        return self


class _File(StrictModel):
    tables: tuple[TableSpec, ...] = Field(min_length=1)


def load_tables(path: Path | None = None) -> tuple[TableSpec, ...]:
    """The tables of a file, in its order; by default those that are shipped.

    Raises:
        InputError: If the file is not valid.
    """
    path = path or paths.benchmarks_dir() / "published.yaml"
    return parse(_File, read_yaml(path), str(path)).tables
