"""Which columns a report shows, and how numbers are written: decimals by column, intervals.

There is one column per number and recipe, because recipes are not comparable.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from calm_bench.numbers.speed import LEADING
from calm_bench.store.results import Difference, Pooled, Results, Value
from calm_bench.types import Column

TEMPERATURE_KINDS = {
    "noise_variance": "noise variance",
    "softmax_divisor": "softmax divisor",
    "none": "",
}
TIMES = "×"
MARK = "†"
MARKED = f"{MARK} an interval of too few clips for its kind of number to hold 95 %"
APART = "columns through different embeddings are not comparable with each other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One column on paper: a column of the results under one recipe, with its rows by row.

    Attributes:
        note: What sets this recipe apart, where the column has more than one.
        embedding: What it looks through, where that is what sets it apart.
    """

    column: Column
    recipe_id: str | None
    values: Mapping[str, Value]
    decimals: int
    note: str | None = None
    embedding: str | None = None

    @property
    def label(self) -> str:
        """The column's name in words, and what it looks through."""
        return self.column.label + (f", {self.embedding}" if self.embedding else "")

    @property
    def heading(self) -> str:
        """What the column is headed by."""
        return heading(self.column.model_copy(update={"label": self.label}))

    @property
    def key(self) -> str:
        """A name that no other column of the run has: `wer`, `fad[mel]`, `wer@<recipe>`."""
        if self.embedding:
            return f"{self.column.name}[{self.embedding}]"
        return self.column.name + (f"@{self.recipe_id}" if self.note else "")

    @property
    def is_speed(self) -> bool:
        """Whether the column says how fast, not how good: no metric gave it."""
        return self.column.metric is None

    def value(self, cell_id: str) -> float | None:
        """The number of one row."""
        value = self.values.get(cell_id)
        return None if value is None else value.value


def shown_columns(results: Results, *, everything: bool = False) -> list[Shown]:
    """The columns of the table in order, each recipe of a column apart from the others.

    With `everything`, the columns that the benchmark shows are followed by all the others. A
    benchmark that names none shows all but those over time. Of a column that it names with an
    embedding, `fad[musicnn]`, those through others are shown with `everything`, or where it has
    none through this one.
    """
    known = {column.name: column for column in results.columns}
    whole = [column.name for column in results.columns if column.span is None]
    table = [name.partition("[")[0] for name in results.table]
    wanted = (*table, *known) if everything else table or whole
    names = [name for name in LEADING if name in known]
    names += [name for name in dict.fromkeys(wanted) if name in known and name not in names]
    found = [_by_recipe(results, known[name]) for name in names]
    if not everything:
        found = [[s for s in some if s.key in results.table] or some for some in found]
    return [shown for some in found for shown in some]


def shown_recipes(results: Results) -> dict[str, dict[str, Any]]:
    """The recipes behind the columns of the table, by id."""
    shown = shown_columns(results)
    ids = dict.fromkeys(
        value.recipe_id for column in shown for value in column.values.values() if value.recipe_id
    )
    return {key: results.recipes[key] for key in ids if key is not None and key in results.recipes}


def _by_recipe(results: Results, column: Column) -> list[Shown]:
    recipes: dict[str | None, dict[str, Value]] = {}
    for value in results.rows:
        if value.metric == column.name:
            recipes.setdefault(_shared_recipe(results, value), {})[value.cell_id] = value
    # Rows without value and recipe, for which the metric never ran, belong to every recipe.
    missing = recipes.get(None, {})
    if len(recipes) > 1 and all(value.value is None for value in missing.values()):
        recipes = {key: missing | own for key, own in recipes.items() if key is not None}
    recipes = recipes or {None: {}}
    numbers = [[value.value for value in values.values()] for values in recipes.values()]
    found = [results.recipes.get(key or "", {}) for key in recipes]
    through = [recipe.get("embedding") for recipe in found]
    apart = len(found) > 1 and None not in through and len(set(through)) == len(found)
    notes = [APART] * len(found) if apart else _recipe_notes(found)
    return [
        Shown(
            column=column,
            recipe_id=recipe_id,
            values=values,
            # Numbers of different kinds have decimals of their own.
            decimals=decimals_of(column, own if apart else chain(*numbers)),
            note=note,
            embedding=embedding if apart else None,
        )
        for (recipe_id, values), own, note, embedding in zip(
            recipes.items(), numbers, notes, through, strict=True
        )
    ]


def _shared_recipe(results: Results, value: Value) -> str | None:
    """The recipe that heads a row's column: the first that differs in what rows themselves say.

    Where mode and precision are what tells rows apart, they need no columns of their own.
    """
    if not any(row.mode or row.precision for row in results.cells):
        return value.recipe_id
    own = _without_step(results.recipes.get(value.recipe_id or "", {}))
    alike = (key for key, recipe in results.recipes.items() if _without_step(recipe) == own)
    return next(alike, value.recipe_id) if own else value.recipe_id


def _without_step(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key not in ("mode", "dtype")}


def _recipe_notes(recipes: Sequence[Mapping[str, Any]]) -> list[str | None]:
    if len(recipes) < 2:
        return [None for _ in recipes]
    keys = sorted({key for recipe in recipes for key in recipe})
    differing = [key for key in keys if len({repr(recipe.get(key)) for recipe in recipes}) > 1]
    texts = [", ".join(f"{key} {recipe.get(key)}" for key in differing) for recipe in recipes]
    return [f"recipe with {text or 'no name'}; not comparable with another" for text in texts]


def decimals_of(column: Column, values: Iterable[float | None]) -> int:
    """How many decimals a column shows: its own choice, else by the largest of its values."""
    if column.decimals is not None:
        return column.decimals
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    limits = enumerate((1000.0, 10.0, 1.0))
    return next((d for d, limit in limits if largest >= limit), two_figures(largest, 3))


def two_figures(value: float, least: int) -> int:
    """So many decimals, and as many more as two significant figures of a small number take.

    What is below a millionth is what rounding has left of nothing.
    """
    size = abs(value)
    return least if size < 1e-6 else max(least, 1 - math.floor(math.log10(size)))


def plain_number(value: float, decimals: int) -> str:
    """A number with fixed decimals, a true minus sign and never a minus zero."""
    text = f"{value:.{decimals}f}"
    if not any(c in text for c in "123456789"):
        text = text.removeprefix("-")
    return text.replace("-", "−")


def signed(value: float, decimals: int) -> str:
    """A difference: always with its sign, unless it rounds to zero."""
    text = plain_number(value, decimals)
    return f"+{text}" if any(c in text for c in "123456789") and text[0] != "−" else text


def interval_text(value: Value | Difference | Pooled, decimals: int, *, sign: bool = False) -> str:
    """What follows a value: " ± 1.2" if both sides round to one width, else " [low, high]".

    An interval of too few clips has a mark.
    """
    if value.value is None or value.low is None or value.high is None:
        return ""
    widths = value.value - value.low, value.high - value.value
    below, above = (plain_number(width, decimals) for width in widths)
    mark = MARK if value.marked else ""
    if below == above:
        return f" ± {above}{mark}"
    show = signed if sign else plain_number
    return f" [{show(value.low, decimals)}, {show(value.high, decimals)}]{mark}"


def value_text(value: Value, column: Column, decimals: int) -> str:
    """A value with its interval, as the table shows it; a dash where there is none."""
    if value.value is None:
        return "—"
    times = TIMES if column.unit == TIMES else ""
    return times + plain_number(value.value, decimals) + interval_text(value, decimals)


def pooled_text(pool: Pooled, decimals: int) -> str:
    """The mean over trainings with the least and the greatest of them: 14.1 (12.9 to 15.2)."""
    if pool.value is None or pool.least is None or pool.greatest is None:
        return "—"
    mean, *ends = (plain_number(x, decimals) for x in (pool.value, pool.least, pool.greatest))
    return f"{mean} ({' to '.join(ends)})"


def needed_text(n: int | None, few: int | None, many: int | None) -> str:
    """An n that would do with its range, to two significant figures: 230 (61 to 46,000)."""

    def upwards(n: int | None) -> str:
        if n is None:
            return "no end"
        size = 10 ** max(0, len(str(n)) - 2)
        return f"{-(-n // size) * size:,}"

    return "—" if n is None else f"{upwards(n)} ({upwards(few)} to {upwards(many)})"


def heading(column: Column) -> str:
    """A column's label with its unit and an arrow towards better."""
    arrow = {True: " ↑", False: " ↓", None: ""}[column.higher_is_better]
    unit = f" ({column.unit})" if column.unit not in ("", TIMES) else ""
    times = f" {TIMES}" if column.unit == TIMES and not column.label.endswith(TIMES) else ""
    return f"{column.label}{unit}{times}{arrow}"
