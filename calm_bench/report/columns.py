"""Which columns a report shows: one per number and recipe, because recipes are not comparable."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calm_bench.report.numbers import decimals_of, heading
from calm_bench.store import Cell, ColumnInfo, ResultRow, Results

__all__ = ["SPEED_COLUMNS", "Shown", "shown_columns", "shown_recipes", "steps_vary"]

SPEED_COLUMNS = ("overall_speedup", "head_speedup", "head_share")
"""What stands before the quality columns, as in the paper's tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One column on paper: a column of the results under one recipe, with its rows by cell.

    Attributes:
        note: What sets this recipe apart, where the column has more than one.
    """

    column: ColumnInfo
    recipe_id: str | None
    rows: Mapping[str, ResultRow]
    decimals: int
    note: str | None = None

    @property
    def heading(self) -> str:
        """What the column is headed by."""
        return heading(self.column)

    @property
    def is_speed(self) -> bool:
        """Whether the column says how fast, not how good."""
        return self.column.name in SPEED_COLUMNS

    def value(self, cell_id: str) -> float | None:
        """The number of one cell."""
        row = self.rows.get(cell_id)
        return None if row is None else row.value


def shown_columns(results: Results, *, everything: bool = False) -> list[Shown]:
    """The columns of the table in order, each recipe of a column apart from the others.

    With `everything`, the columns that the benchmark shows are followed by all the others.
    """
    known = {column.name: column for column in results.columns}
    wanted = (*results.table, *known) if everything or not results.table else results.table
    names = [name for name in SPEED_COLUMNS if name in known]
    names += [name for name in wanted if name in known and name not in names]
    return [shown for name in names for shown in _by_recipe(results, known[name])]


def shown_recipes(results: Results) -> dict[str, dict[str, Any]]:
    """The recipes behind the columns of the table, by id."""
    ids = dict.fromkeys(shown.recipe_id for shown in shown_columns(results))
    return {key: results.recipes[key] for key in ids if key is not None and key in results.recipes}


def steps_vary(cells: Iterable[Cell]) -> bool:
    """Whether some system stands in the table with more than one number of head steps."""
    steps: dict[str, set[int | None]] = defaultdict(set)
    for cell in cells:
        steps[cell.label].add(cell.head_steps)
    return any(len(found) > 1 for found in steps.values())


def _by_recipe(results: Results, column: ColumnInfo) -> list[Shown]:
    recipes: dict[str | None, dict[str, ResultRow]] = {}
    for row in results.rows:
        if row.metric == column.name:
            recipes.setdefault(row.recipe_id, {})[row.cell_id] = row
    recipes = _spread_missing(recipes)
    decimals = decimals_of(column, (r.value for rows in recipes.values() for r in rows.values()))
    notes = _recipe_notes([results.recipes.get(key or "", {}) for key in recipes])
    return [
        Shown(column=column, recipe_id=recipe_id, rows=rows, decimals=decimals, note=note)
        for (recipe_id, rows), note in zip(recipes.items(), notes, strict=True)
    ]


def _spread_missing(
    recipes: dict[str | None, dict[str, ResultRow]],
) -> dict[str | None, dict[str, ResultRow]]:
    """Put rows without value and recipe (the metric never ran) into every recipe's column."""
    missing = recipes.get(None, {})
    if not recipes:
        return {None: {}}
    if len(recipes) == 1 or any(row.value is not None for row in missing.values()):
        return recipes
    return {key: missing | rows for key, rows in recipes.items() if key is not None}


def _recipe_notes(recipes: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """How each recipe differs from the others; None if there is only one."""
    if len(recipes) < 2:
        return [None for _ in recipes]
    keys = sorted({key for recipe in recipes for key in recipe})
    differing = [key for key in keys if len({repr(recipe.get(key)) for recipe in recipes}) > 1]
    texts = [", ".join(f"{key} {recipe.get(key)}" for key in differing) for recipe in recipes]
    return [f"recipe with {text or 'no name'}; not comparable with another" for text in texts]
