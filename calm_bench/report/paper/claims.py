"""benchmarks/claims.yaml: every claim as data, checked strictly before anything is measured."""

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from calm_bench import registry
from calm_bench.config import parse, read_yaml
from calm_bench.core import paths
from calm_bench.errors import near_names
from calm_bench.numbers.parameters import PARTS
from calm_bench.numbers.speed import SPEED_COLUMNS
from calm_bench.report.columns import TIMES
from calm_bench.report.paper.runs import SCALES, SPEED_METRICS, STORED_AS, Scale
from calm_bench.report.paper.verdicts import Side
from calm_bench.types import StrictModel

Section = Literal[
    "abstract", "speech", "music", "steps", "ablations", "scale", "sizes", "conditioning", "tts",
    "codecs",
]  # fmt: skip
Function = Literal["count", "difference", "joint", "order", "ratio", "value"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
HalfWidth = Annotated[float, Field(gt=0, allow_inf_nan=False)]

MARGIN = 1.25
"""How far from a published number without an interval one of ours may lie, as a factor."""
MOST_HEADLINES = 6

_N_ROWS = {"difference": "2 rows", "ratio": "2 rows", "value": "1 row", "count": "1 row"}
COUNTED = {f"{part}_parameters": part for part in PARTS}
"""What no run measures: it follows from a model's shapes."""
OF_NO_METRIC = ("bits_per_second", "elo_enjoyment", "elo_meaningfulness", "mos", "text_nll")
"""What codecs, listeners and held-out texts say."""


@cache
def units() -> Mapping[str, str]:
    """The unit of each number that a claim may ask for; a metric's are those of its columns."""
    known = dict.fromkeys((*STORED_AS, *OF_NO_METRIC, *COUNTED), "")
    return known | {c.name: c.unit for c in (*SPEED_COLUMNS, *registry.columns())}


class Selector(StrictModel):
    """One row: which metric of which model, drawn how; None takes the only setting there is.

    Attributes:
        model: Without its scale; or the kind of a row that has none, such as `reference`.
    """

    metric: str
    model: str
    temp: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    steps: int | None = Field(default=None, ge=1)

    def __str__(self) -> str:
        """The row as words."""
        text = self.model
        text += "" if self.steps is None else f", {self.steps} head step{'s' * (self.steps != 1)}"
        return text + ("" if self.temp is None else f", temp {self.temp:g}")


class Source(StrictModel):
    """Where a claim stands: a table or page, and the row of it."""

    where: str
    row: str


class Published(StrictModel):
    """What was published.

    Attributes:
        text: As a reader would quote it.
        number: The effect on the scale of the claim's measure, alone or with the half-width of its
            interval; None where only its side is claimed, or ours is in other units.
        by: Through which instrument, where the number counts through it and at the paper's size
            alone.
    """

    text: str
    number: Finite | tuple[Finite, HalfWidth] | None = None
    by: str | None = None


class Claim(StrictModel):
    """One claim: in words, where it stands, and what in a run would show it.

    Attributes:
        measure: The value of one row; the first row minus the second, or over it; the order of
            rows, each minus the one before it; what several claims say together; the parameters
            of a part of a model. None where nothing here measures it.
        rows: What is measured, in this order.
        claims: The ids of those that a joint claim holds together.
        missing: Why nothing measures it.
        side: On which side of the null the measure should lie, or level with it.
        than: The null; by default 0 for differences and 1 for ratios.
        delta: How far from the null is still level, as a share of the second row's value.
        headline: Whether it is one of the few that are corrected together.
        device: What its times were published of.
        scales: At which scales a measurement speaks of the claim.
        note: What every line of it must say, such as what else differs between the rows.
        command: What measures it.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.\-]*$")
    section: Section
    says: str
    source: Source
    published: Published | None = None
    measure: Function | None = None
    rows: tuple[Selector, ...] = ()
    claims: tuple[str, ...] = ()
    missing: str | None = Field(default=None, min_length=1)
    side: Side | None = None
    than: Finite | None = None
    delta: float | None = Field(default=None, gt=0, lt=1)
    headline: bool = False
    device: Literal["cpu", "cuda"] = "cuda"
    scales: tuple[Scale, ...] = Field(default=SCALES, min_length=1)
    note: str | None = None
    command: str

    @model_validator(mode="after")
    def _can_be_judged(self) -> Self:
        if (self.measure is None) == (self.missing is None):
            raise ValueError("give either `measure` or `missing`, which says why there is none")
        if self.headline and self.family != "quality":
            raise ValueError("only a claim of quality that is measured can be a headline")
        self._check_joint()
        if self.measure in (None, "joint"):
            if self.side is not None or self.than is not None or self.rows:
                raise ValueError("a claim without a measure has no side, no null and no rows")
            return self
        self._check_side()
        wanted, n = _N_ROWS.get(self.measure, "at least 2 rows"), len(self.rows)
        if n < 2 if self.measure == "order" else n != int(wanted[0]):
            raise ValueError(f"{self.measure} takes {wanted}, not {n}")
        if len(set(self.rows)) < n:
            raise ValueError("a row is compared with others, not with itself")
        self._check_numbers()
        return self

    def _check_joint(self) -> None:
        if (self.measure == "joint") != bool(self.claims):
            raise ValueError("a joint claim names `claims`, and no other does")
        if self.claims and len(set(self.claims)) < max(2, len(self.claims)):
            raise ValueError("a joint claim names at least two, each once")

    def _check_side(self) -> None:
        if self.side is None:
            raise ValueError("a measure needs its `side`: above, below or level")
        if (self.side == "level") != (self.delta is not None):
            raise ValueError("`side: level` and `delta` go together")
        if self.side == "level" and self.measure != "difference":
            raise ValueError("only a difference can be level")
        if self.side == "level" and self.than is not None:
            raise ValueError("what is level is level with the second row, and has no `than`")

    def _check_numbers(self) -> None:
        unknown = [row.metric for row in self.rows if row.metric not in units()]
        if unknown:
            near = near_names(unknown[0], units()) or sorted(units())
            raise ValueError(f"unknown metric {unknown[0]!r}; did you mean {' or '.join(near)}?")
        if (self.measure == "count") != any(row.metric in COUNTED for row in self.rows):
            raise ValueError(f"count takes one of {', '.join(COUNTED)}")
        if self.measure == "value" and self.than is None:
            raise ValueError("value needs `than`: the number it is compared with")
        if self.is_factor and self.null <= 0:
            raise ValueError("a ratio is compared with a positive number")
        number = self.number
        if number is None:
            return
        if self.measure == "order" or self.side == "level":
            raise ValueError("an order and a level claim no number: say it in `published.text`")
        if (number > self.null) != (self.side == "above") or number == self.null:
            raise ValueError(f"the published {number:g} is not {self.side} {self.null:g}")
        if self.is_factor and self.margin is not None and self.margin[0] <= 0:
            raise ValueError(f"the interval of the published factor {number:g} reaches 0")

    @property
    def is_factor(self) -> bool:
        """Whether the effect is a factor, judged on the log scale."""
        of_ratios = all(units()[row.metric] == TIMES or row.metric == "rtf" for row in self.rows)
        return self.measure == "ratio" or (self.measure == "value" and of_ratios)

    @property
    def family(self) -> Literal["quality", "times", "exact", "joint"]:
        """What kind of number it is about, which decides how far a verdict may go."""
        if self.measure == "joint":
            return "joint"
        metrics = {row.metric for row in self.rows}
        if metrics and metrics <= SPEED_METRICS:
            return "times"
        return "exact" if metrics & COUNTED.keys() else "quality"

    @property
    def null(self) -> float:
        """The value without an effect."""
        by_default = 1.0 if self.measure == "ratio" else 0.0
        return by_default if self.than is None else self.than

    @property
    def number(self) -> float | None:
        """The published effect, where one is claimed."""
        found = self.published.number if self.published else None
        return found[0] if isinstance(found, tuple) else found

    @property
    def margin(self) -> tuple[float, float] | None:
        """What counts as the published effect: its interval, or a factor of 1.25 either way."""
        found = self.published.number if self.published else None
        if found is None:
            return None
        if isinstance(found, tuple):
            return found[0] - found[1], found[0] + found[1]
        low, high = sorted((found / MARGIN, found * MARGIN))
        return low, high


class _File(StrictModel):
    claims: tuple[Claim, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        for name, n in Counter(claim.id for claim in self.claims).items():
            if n > 1:
                raise ValueError(f"two claims have the id {name}")
        named = {name: claim.id for claim in self.claims for name in claim.claims}
        single = {claim.id for claim in self.claims if claim.measure != "joint"}
        if lost := sorted(named.keys() - single):
            raise ValueError(f"{named[lost[0]]} names {lost[0]}, which is no single claim")
        if sum(claim.headline for claim in self.claims) > MOST_HEADLINES:
            raise ValueError(f"more than {MOST_HEADLINES} claims are headlines")
        return self


def load_claims(path: Path | None = None) -> tuple[Claim, ...]:
    """The claims of a file, in its order; by default those that are shipped.

    Raises:
        InputError: If the file or one of its claims is not valid; the message names the claim.
    """
    path = path or paths.benchmarks_dir() / "claims.yaml"
    return parse(_File, read_yaml(path), str(path)).claims
