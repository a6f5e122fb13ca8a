"""benchmarks/claims.yaml: every claim as data, checked strictly before anything is measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from calm_bench.config import parse, read_yaml
from calm_bench.core import paths
from calm_bench.errors import InputError, near_names
from calm_bench.report.paper.expressions import Expression, parse_expression
from calm_bench.report.paper.names import METRICS, RATIO_METRICS
from calm_bench.report.paper.runs import SCALES, Scale
from calm_bench.report.paper.verdicts import Side
from calm_bench.types import StrictModel

Section = Literal["speech", "music", "steps", "ablations", "scale", "conditioning", "tts", "codecs"]


class Source(StrictModel):
    """Where a claim stands: a table or page, and the row of it."""

    where: str
    row: str


class Published(StrictModel):
    """What was published.

    Attributes:
        text: As a reader would quote it.
        number: The effect that must be reached, on the scale of the claim's measure; None where
            only its side is claimed, or ours is in other units.
    """

    text: str
    number: float | None = None


class Claim(StrictModel):
    """One claim: in words, where it stands, and what in a run would show it.

    Attributes:
        measure: An expression (`expressions`); None where nothing here measures it.
        missing: Why nothing does.
        side: On which side of the null the measure should lie.
        than: The null; by default 0 for differences and 1 for ratios.
        scales: At which scales a measurement speaks of the claim.
        needs: What the recipe of the rows must say: by key, words that its value holds.
        command: What measures it.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.\-]*$")
    section: Section
    says: str
    source: Source
    published: Published | None = None
    measure: str | None = None
    missing: str | None = None
    side: Side | None = None
    than: float | None = None
    scales: tuple[Scale, ...] = Field(default=SCALES, min_length=1)
    needs: dict[str, str] = Field(default_factory=dict)
    command: str

    @model_validator(mode="after")
    def _can_be_judged(self) -> Self:
        if (self.measure is None) == (self.missing is None):
            raise ValueError("give either `measure` or `missing`, which says why there is none")
        if self.measure is None:
            if self.side is not None or self.than is not None:
                raise ValueError("a claim without a measure has no side and no null")
            return self
        if self.side is None:
            raise ValueError("a measure needs its `side`: above or below")
        self._check_numbers(self.expression)
        return self

    def _check_numbers(self, expression: Expression) -> None:
        unknown = [row.metric for row in expression.rows if row.metric not in METRICS]
        if unknown:
            near = near_names(unknown[0], METRICS) or sorted(METRICS)
            raise ValueError(f"unknown metric {unknown[0]!r}; did you mean {' or '.join(near)}?")
        if expression.function == "value" and self.than is None:
            raise ValueError("value(...) needs `than`: the number it is compared with")
        if self.is_factor and self.null <= 0:
            raise ValueError("a ratio is compared with a positive number")
        number = self.published.number if self.published else None
        if number is None:
            return
        if expression.function == "order":
            raise ValueError("an order claims no number: say it in `published.text`")
        if (number > self.null) != (self.side == "above") or number == self.null:
            raise ValueError(f"the published {number:g} is not {self.side} {self.null:g}")

    @property
    def expression(self) -> Expression:
        """The parsed measure.

        Raises:
            ValueError: If it is no expression, or there is none.
        """
        if self.measure is None:
            raise ValueError(f"{self.id} has no measure")
        try:
            return parse_expression(self.measure)
        except InputError as error:
            raise ValueError(str(error)) from error

    @property
    def is_factor(self) -> bool:
        """Whether the effect is a factor, judged on the log scale."""
        expression = self.expression
        of_ratios = all(row.metric in RATIO_METRICS for row in expression.rows)
        return expression.function == "ratio" or (expression.function == "value" and of_ratios)

    @property
    def null(self) -> float:
        """The value without an effect."""
        if self.than is not None:
            return self.than
        return 1.0 if self.expression.function == "ratio" else 0.0

    @property
    def number(self) -> float | None:
        """The published effect that must be reached, where one is claimed."""
        return self.published.number if self.published else None


def load_claims(path: Path | None = None) -> list[Claim]:
    """The claims of a file, in its order; by default those that are shipped.

    Raises:
        InputError: If the file or one of its claims is not valid; the message names the claim.
    """
    path = path or paths.benchmarks_dir() / "claims.yaml"
    data = read_yaml(path)
    items = data.get("claims")
    if set(data) != {"claims"} or not isinstance(items, list) or not items:
        raise InputError(f"{path} must hold one list named claims, with at least one entry")
    claims = [_claim(item, path, index) for index, item in enumerate(items, start=1)]
    seen: set[str] = set()
    for claim in claims:
        if claim.id in seen:
            raise InputError(f"{path}: two claims have the id {claim.id}")
        seen.add(claim.id)
    return claims


def _claim(item: Any, path: Path, index: int) -> Claim:
    if not isinstance(item, Mapping):
        raise InputError(f"{path}: entry {index} is no claim: it must map names to values")
    where = f"{path}: claim {item.get('id', index)}"
    return parse(Claim, dict(item), where)
