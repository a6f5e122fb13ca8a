"""A stored run's results with the intervals that today's methods give to numbers of its clips.

What clips say is on record, so an interval that an earlier version made is made anew. Values stay
as they are, and where the records do not give a value and its n again, so does its interval. Those
of sets of clips (FAD, VERT) and of times are as old as their runs.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isclose
from typing import TypeVar

from calm_bench import registry
from calm_bench.core.stats import compare, summarise
from calm_bench.errors import UnknownNameError
from calm_bench.seeds import derive_seed
from calm_bench.store.records import ScoreRecord, TrialRecord
from calm_bench.store.results import Difference, Results, Value
from calm_bench.store.run_store import RunStore
from calm_bench.types import Column, Estimate

N = TypeVar("N", Value, Difference)
Fields = Mapping[str, float | None]


def read_current(store: RunStore) -> Results:
    """What a run has found, votes included, with today's intervals.

    Raises:
        InputError: As `RunStore.read_results` does.
    """
    return with_intervals(store.read_results(), store)


def refresh(store: RunStore) -> Results:
    """The same, and results.json is written anew where an interval in it is an earlier one.

    Raises:
        InputError: As `RunStore.read_results` does.
    """
    kept = store.read_json(Results, "results.json")
    if (current := with_intervals(kept, store)) != kept:
        with store.lock():
            store.write_results(current)
    return store.read_results()


def lost_scores(results: Results, scores: Sequence[ScoreRecord]) -> str | None:
    """A number of which not all clips are on record, in words; None if there is none."""
    there = Counter((score.metric, score.recipe_id, score.cell_id) for score in scores)
    metric_of = {column.name: str(column.metric) for column in results.columns if column.fields}
    for value in results.rows:
        if value.metric in metric_of and value.value is not None:
            found = there[metric_of[value.metric], str(value.recipe_id), value.cell_id]
            if found < value.n:
                return f"has {found} of {value.n} clips behind {value.metric} of {value.cell_id}"
    return None


def with_intervals(results: Results, store: RunStore) -> Results:
    """Results of which no number of clips has an interval of which nothing says how it was made."""
    columns = {column.name: _declared(column) for column in results.columns}
    clips = {name for name, column in columns.items() if column.aggregate != "set"}
    numbers: list[Value | Difference] = [*results.rows, *results.differences]
    if not any(_is_earlier(number) and number.metric in clips for number in numbers):
        return results
    records = _Records(store, columns)
    return results.model_copy(
        update={
            "columns": tuple(columns.values()),
            "rows": tuple(_renewed(value, records.summaries(value)) for value in results.rows),
            "differences": tuple(_renewed(d, records.gaps(d)) for d in results.differences),
        }
    )


def _declared(column: Column) -> Column:
    """A column as its metric declares it today, if that still makes it of the same fields."""
    try:
        known = registry.load("metric", str(column.metric)).columns
    except UnknownNameError:
        return column
    alike = (now for now in known if (now.name, now.fields) == (column.name, column.fields))
    if (now := next(alike, None)) is None:
        return column
    changes = {name: getattr(now, name) for name in ("aggregate", "near_normal", "note")}
    return column.model_copy(update=changes)


def _is_earlier(number: Value | Difference) -> bool:
    return number.low is not None and number.method is None


def _renewed(number: N, made: Iterator[Estimate]) -> N:
    """A number with the first interval of those made today that is about the same."""
    if not _is_earlier(number):
        return number
    for found in made:
        same = None not in (found.value, found.low) and found.n == number.n
        if same and isclose(number.value or 0.0, found.value or 0.0, rel_tol=1e-9, abs_tol=1e-9):
            now = {name: getattr(found, name) for name in ("low", "high", "method", "marked")}
            return number.model_copy(update=now)
    return number


@dataclass(frozen=True)
class _Records:
    """What a run's clips said, and which of them are copies of one recording."""

    store: RunStore
    columns: Mapping[str, Column]

    @cached_property
    def _scores(self) -> dict[tuple[str, str, str], dict[str, Fields]]:
        """By metric, recipe and row, the fields of each trial."""
        found: dict[tuple[str, str, str], dict[str, Fields]] = {}
        for score in self.store.read(ScoreRecord):
            key = score.metric, score.recipe_id, score.cell_id
            found.setdefault(key, {})[score.trial_id] = score.values
        return found

    @cached_property
    def _trials(self) -> dict[str, list[TrialRecord]]:
        """By row, those that made a clip."""
        found: dict[str, list[TrialRecord]] = {}
        for trial in self.store.read(TrialRecord):
            if trial.clip:
                found.setdefault(trial.cell_id, []).append(trial)
        for trials in found.values():
            trials.sort(key=lambda trial: (trial.prompt_id, trial.seed_index))
        return found

    def summaries(self, value: Value) -> Iterator[Estimate]:
        """A row's number over its clips, under each way to count copies."""
        column, rows = self.columns[value.metric], [value.cell_id]
        seed = derive_seed("interval", value.cell_id, value.metric)
        for (clips,), groups in self._sides(column, rows, value.recipe_id):
            yield summarise(column, clips, seed, groups)

    def gaps(self, gap: Difference) -> Iterator[Estimate]:
        """A difference over the clips that both rows have."""
        column, rows = self.columns[gap.metric], [gap.cell_id, gap.baseline_cell_id]
        for (ours, theirs), groups in self._sides(column, rows, gap.recipe_id):
            yield compare(column, ours, theirs, derive_seed("paired"), groups)

    def _sides(
        self, column: Column, rows: Sequence[str], recipe_id: str | None
    ) -> Iterator[tuple[list[dict[str, Fields]], dict[str, str]]]:
        """By row the fields of clips by what pairs them, and their groups, in each way to count."""
        if column.aggregate == "set" or any(row not in self._trials for row in rows):
            return
        known = [self._scores.get((str(column.metric), str(recipe_id), row), {}) for row in rows]
        if not all(known):
            return
        trials = [{f"{t.prompt_id}/{t.seed_index}": t for t in self._trials[row]} for row in rows]
        for identity in _IDENTITIES:
            once: dict[Hashable, str] = {}
            for key in trials[0]:
                if all(key in own for own in trials):
                    once.setdefault(tuple(identity(own[key]) for own in trials), key)
            names = list(once.values())
            groups = {key: trials[0][key].group or trials[0][key].prompt_id for key in names}
            sides = [
                {key: scores.get(own[key].trial_id, {}) for key in names}
                for own, scores in zip(trials, known, strict=True)
            ]
            yield sides, groups


_IDENTITIES: tuple[Callable[[TrialRecord], Hashable], ...] = (
    lambda trial: (trial.clip_id, trial.prompt_seconds, trial.words),
    lambda trial: trial.prompt_id,  # of what is said of recordings, not of clips
    lambda trial: trial.trial_id,
)
"""What clips of a row that count once have in common; earlier versions counted each."""
