"""The tidy rows of a finished run: each number with its interval, its n and its recipe.

A value that could not be computed is None and says why; nothing here is ever a stand-in number.
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from calm_bench.core.paths import FileName
from calm_bench.store.records import Row, Weights
from calm_bench.types import Column, StrictModel, TemperatureKind


class _Number(StrictModel):
    """A number with its interval and n, or None with a reason."""

    model_config = ConfigDict(allow_inf_nan=False)

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    reason: str | None = None
    method: str | None = Field(default=None, description="how the interval was made")
    marked: bool = Field(default=False, description="too few clips for the interval's level")

    @model_validator(mode="after")
    def _value_or_reason(self) -> Self:
        if self.value is None and not self.reason:
            raise ValueError("a missing value needs its reason")
        return self


class Value(_Number):
    """One number of the report: which row, which column, by which recipe."""

    cell_id: str
    system: str
    temperature: float | None = None
    temperature_kind: TemperatureKind = "none"
    text_temperature: float | None = None
    head_steps: int | None = None
    metric: str = Field(description="column name")
    unit: str = ""
    recipe_id: str | None = None

    def scaled(self, by: float, **changes: Any) -> Self:
        """The number with its interval in another unit, and otherwise changed."""
        ends = {name: getattr(self, name) for name in ("value", "low", "high")}
        times = {name: None if end is None else by * end for name, end in ends.items()}
        return self.model_copy(update=times | changes)


class Pooled(StrictModel):
    """Several trainings of a system as one number, or None with a reason.

    Attributes:
        cell_ids: Their rows.
        baseline_cell_ids: Of a difference, the rows of the other system in the same trainings.
        value: The mean of the rows' values, or of their differences.
        low, high: Its 95 % interval over trainings and prompts.
        least, greatest: Of the values; no interval.
        sd: Their standard deviation, as of a sample.
        prompt_error: Of a difference, the standard error over prompts of its mean.
        detectable: By how many trainings, the difference that these would show with 80 % power.
        n: How many trainings have a value.
    """

    model_config = ConfigDict(allow_inf_nan=False)
    marked: ClassVar[bool] = False

    cell_ids: tuple[str, ...]
    baseline_cell_ids: tuple[str, ...] = ()
    metric: str
    unit: str = ""
    recipe_id: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    least: float | None = None
    greatest: float | None = None
    sd: float | None = None
    prompt_error: float | None = None
    detectable: dict[int, float] = Field(default_factory=dict)
    n: int
    reason: str | None = None


class Difference(_Number):
    """A row minus another over shared pair keys."""

    cell_id: str
    baseline_cell_id: str
    metric: str
    recipe_id: str | None = None
    n_needed: int | None = Field(default=None, description="of earlier results; not read")


class TrialCount(StrictModel):
    """How many clips of a row exist, copies of one recording once, and how many failed.

    Attributes:
        unscored: Of those that exist, how many some metric failed on.
    """

    ok: int
    failed: int = 0
    unscored: int = 0


UNFIT = "the baseline differs from itself"
"""How a note begins that takes back the speed columns of its run."""


class Results(StrictModel):
    """results.json: all that tables and plots need.

    Attributes:
        table: Names of the columns of the printed table, in order; empty means all.
        tables: Columns of several tables by title, in place of one.
        trials: Clips per cell_id.
        unusable: How many recordings that were to be prompts could not be used.
        fit: Whether the baseline took as long as itself, so that ratios of times can be believed;
            None where that was not looked at.
        counts: By cell_id, the counts of its metrics as "metric.count": n_empty, n_flagged, ...
        recipes: By recipe_id, what the values depend on besides the audio.
        weights: By model, those that the numbers are of; the manifest's where a file has none.
    """

    schema_version: Literal[1] = 1
    run_id: str
    benchmark: FileName
    benchmark_version: int
    cells: tuple[Row, ...]
    columns: tuple[Column, ...]
    table: tuple[str, ...] = ()
    tables: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    recipes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    rows: tuple[Value, ...]
    differences: tuple[Difference, ...] = ()
    pooled: tuple[Pooled, ...] = ()
    pooled_differences: tuple[Pooled, ...] = ()
    trials: dict[str, TrialCount] = Field(default_factory=dict)
    unusable: int = 0
    fit: bool | None = None
    counts: dict[str, dict[str, float]] = Field(default_factory=dict)
    weights: dict[str, Weights] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_unfit(self) -> bool:
        """Whether ratios of times are not to be believed."""
        return self.fit is False

    def joined(self, ratings: "Ratings") -> Self:
        """These results with what listeners said of the same run."""
        columns, rows, recipes = [*self.columns], [*self.rows], {**self.recipes}
        table, notes = [*self.table], [*self.notes]
        names = {row.cell_id for row in self.cells}
        for question, part in ratings.questions.items():
            # What listeners said is no time: their question stands where the others name a metric.
            columns += [c.model_copy(update={"metric": question}) for c in part.columns]
            table += part.table if self.table else ()
            rows += [value for value in part.rows if value.cell_id in names]
            recipes |= part.recipes
            notes += part.notes
        update = {"columns": tuple(columns), "rows": tuple(rows), "recipes": recipes}
        return self.model_copy(update={**update, "table": tuple(table), "notes": tuple(notes)})


class Rated(StrictModel):
    """What the votes on one question say: rows like those of the metrics.

    Attributes:
        table: The columns that the benchmark's table gains.
    """

    columns: tuple[Column, ...]
    table: tuple[str, ...]
    recipes: dict[str, dict[str, Any]]
    rows: tuple[Value, ...]
    notes: tuple[str, ...] = ()


class Ratings(StrictModel):
    """ratings.json: what listeners said of a run, by question; made from votes by `elo`."""

    schema_version: Literal[1] = 1
    run_id: str
    questions: dict[str, Rated] = Field(default_factory=dict)
