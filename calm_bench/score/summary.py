"""results.json from a run's records and scores: every number with interval, n, recipe or reason."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from pathlib import Path
from typing import Self

from calm_bench.config import BenchmarkSpec
from calm_bench.core.recordings import amount, few
from calm_bench.core.stats import ClipValues, GroupOf, compare, n_needed, summarise
from calm_bench.metrics.fidelity import BITS_PER_SECOND
from calm_bench.numbers.speed import SPEED_COLUMNS, speed_rows, value_of
from calm_bench.score.clips import READING, ClipEntry, ClipShelf, Failure
from calm_bench.score.scorer import MetricScores, Pair, Scorer
from calm_bench.seeds import derive_seed
from calm_bench.store.records import LatencyRecord, Manifest, Row, RowScore, TrialRecord, row_title
from calm_bench.store.results import ColumnInfo, Difference, Results, TrialCount, Value
from calm_bench.store.run_store import RunStore
from calm_bench.types import Column, Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a run is and what came of its trials.

    Attributes:
        table: Columns of the printed table, in order; empty for all.
        trials: Clips that were made and that failed, by row.
        failures: What could not be scored of those that were made.
        codecs: What is known of the codecs of round-trip rows besides their clips.
        unusable: How many recordings that were to be prompts could not be used.
        notes: What must be said of the clips.
    """

    run_id: str
    benchmark: str
    version: int
    rows: Sequence[Row]
    table: tuple[str, ...] = ()
    trials: Mapping[str, TrialCount]
    latency: Sequence[LatencyRecord] = ()
    codecs: Sequence[RowScore] = ()
    unusable: int = 0
    failures: Sequence[Failure] = ()
    notes: Sequence[str] = ()

    @classmethod
    def of_run(
        cls,
        spec: BenchmarkSpec,
        manifest: Manifest,
        rows: Sequence[Row],
        store: RunStore,
        scorer: Scorer,
    ) -> Self:
        """The facts of a benchmark's run, from its records and from what scoring found out."""
        trials = store.read(TrialRecord)
        return cls(
            run_id=manifest.run_id,
            benchmark=spec.name,
            version=spec.version,
            rows=rows,
            table=spec.table,
            trials={row.cell_id: _count(row, trials) for row in rows},
            latency=store.read(LatencyRecord),
            codecs=[score for score in store.read(RowScore) if score.metric == "codec"],
            unusable=len(manifest.options.get("unusable", ())),
            failures=scorer.failures,
            notes=(*manifest.options.get("notes", ()), *scorer.notes, *_trial_notes(trials)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Where a run lies and what it found."""

    folder: Path
    results: Results

    @property
    def n_failed(self) -> int:
        """Clips that could not be made, read or scored, and recordings that could not be used."""
        clips = sum(count.failed + count.unscored for count in self.results.trials.values())
        return clips + self.results.unusable


def summarise_run(
    facts: Facts, shelf: ClipShelf, scores: Sequence[MetricScores], pairs: Sequence[Pair]
) -> Results:
    """The tidy rows of a run: speed, scores, and the differences between the rows of each pair."""
    rows = facts.rows
    speed = speed_rows(rows, facts.latency)
    values = list(speed.values)
    values += _codec_values(rows, facts.codecs)
    differences: list[Difference] = []
    recipes = dict(speed.recipes)
    for score in scores:
        numbers = _Numbers(score, shelf)
        values += [numbers.value(row, column) for row in rows for column in score.columns]
        differences += numbers.differences(pairs)
        if score.recipe_id is not None:
            recipes[score.recipe_id] = {"metric": score.metric, **score.recipe}
    columns = [*(SPEED_COLUMNS if facts.latency else ())]
    columns += [ColumnInfo.of(BITS_PER_SECOND, "codec")] if facts.codecs else []
    found = [ColumnInfo.of(column, score.metric) for score in scores for column in score.columns]
    columns += list({column.name: column for column in found}.values())
    return Results(
        run_id=facts.run_id,
        benchmark=facts.benchmark,
        benchmark_version=facts.version,
        cells=tuple(rows),
        columns=tuple(columns),
        table=facts.table,
        recipes=recipes,
        rows=tuple(values),
        differences=tuple(differences),
        trials={cell_id: _with_failures(facts, cell_id) for cell_id in facts.trials},
        unusable=facts.unusable,
        fit=speed.fit,
        counts={row.cell_id: _counts(row, scores) for row in rows},
        notes=(
            *speed.notes,
            *facts.notes,
            *failure_notes(facts.failures),
            *_floor_notes(facts, scores, values),
        ),
    )


class _Numbers:
    """Estimates of one metric's columns."""

    def __init__(self, score: MetricScores, shelf: ClipShelf) -> None:
        self.score = score
        self.shelf = shelf

    def value(self, row: Row, column: Column) -> Value:
        """One number of the table."""
        found = self._estimate(row.cell_id, column)
        return value_of(row, column.name, column.unit, found, self.score.recipe_id)

    def differences(self, pairs: Sequence[Pair]) -> list[Difference]:
        """Every column's paired difference between rows that the metric has something to say of."""
        known = self.score.results
        both = [pair for pair in pairs if pair[0] in known and pair[1] in known]
        return [self._difference(pair, column) for pair in both for column in self.score.columns]

    def _difference(self, pair: Pair, column: Column) -> Difference:
        found = self._gap(pair, column)
        return Difference(
            cell_id=pair[0],
            baseline_cell_id=pair[1],
            metric=column.name,
            value=found.value,
            low=found.low,
            high=found.high,
            n=found.n,
            recipe_id=self.score.recipe_id,
            n_needed=n_needed(found),
            reason=found.reason,
        )

    def _estimate(self, cell_id: str, column: Column) -> Estimate:
        reason = self.score.reasons.get(cell_id)
        if reason is not None:
            return Estimate(value=None, reason=reason)
        alike = self.score.alike.get(cell_id, {})
        entries = self.shelf.entries(cell_id)
        own = [e for e in entries if alike.get(e.clip_id, e.clip_id) == e.clip_id]
        if column.aggregate == "set":
            missing = Estimate(value=None, reason="the metric gave no value")
            found = self.score.results[cell_id].estimates.get(column.name, missing)
            noted = [e for e in own if e.clip_id in self.score.results[cell_id].notes]
            short = found.value is not None and found.n == len(own) - len(noted)
            return self._explained(cell_id, column, noted if short else [], found)
        seed = derive_seed("interval", cell_id, column.name)
        found = summarise(column, self._values(cell_id, own), seed, _groups(own))
        return self._explained(cell_id, column, own, found)

    def _explained(
        self, cell_id: str, column: Column, entries: Sequence[ClipEntry], found: Estimate
    ) -> Estimate:
        """The number with the reasons of those of the clips that have no part in it."""
        score = self.score.results[cell_id]
        lost: dict[str, list[str]] = {}
        for entry in entries:
            values, note = score.clips.get(entry.clip_id, {}), score.notes.get(entry.clip_id)
            if note and (not column.fields or any(values.get(f) is None for f in column.fields)):
                lost.setdefault(note, []).append(entry.path.name)
        if not lost:
            return found
        named = [f"{note} ({few(names)})" for note, names in lost.items()]
        alone = found.value is None and len(lost) == 1
        reasons = [] if found.reason is None or column.fields else [found.reason]
        reasons.append(next(iter(lost)) if alone else few(named))
        return replace(found, reason="; ".join(reasons))

    def _gap(self, pair: Pair, column: Column) -> Estimate:
        if column.aggregate == "set":
            missing = Estimate(value=None, reason="this metric gives no paired difference")
            return self.score.differences.get(pair, {}).get(column.name, missing)
        # One seed for all pairs and columns: the same prompts are drawn for each of them.
        shared = list(self.shelf.shared(pair, self.score.alike, once=False))
        sides = [[entries[side] for entries in shared] for side in (0, 1)]
        a, b = (self._values(name, own) for name, own in zip(pair, sides, strict=True))
        return compare(column, a, b, derive_seed("paired"), _groups(sides[0]))

    def _values(self, cell_id: str, entries: Sequence[ClipEntry]) -> ClipValues:
        """The fields of clips by what pairs them across rows."""
        clips = self.score.results[cell_id].clips
        return {entry.pair_key: clips.get(entry.clip_id, {}) for entry in entries}


def _groups(entries: Sequence[ClipEntry]) -> GroupOf:
    """What is resampled together."""
    return {entry.pair_key: entry.group for entry in entries}


def _codec_values(rows: Sequence[Row], codecs: Sequence[RowScore]) -> Iterator[Value]:
    """The bit rates of the round-trip rows."""
    by_id = {row.cell_id: row for row in rows}
    name, unit = BITS_PER_SECOND.name, BITS_PER_SECOND.unit
    for score in codecs:
        if score.cell_id in by_id:
            yield value_of(by_id[score.cell_id], name, unit, score.estimates[name], None)


def _count(row: Row, trials: Sequence[TrialRecord]) -> TrialCount:
    own = [trial for trial in trials if trial.cell_id == row.cell_id]
    made = {trial.clip_id for trial in own if trial.status == "ok"}
    return TrialCount(ok=len(made), failed=sum(trial.status == "failed" for trial in own))


def _with_failures(facts: Facts, cell_id: str) -> TrialCount:
    """A row's count of clips, with those that could not be read or scored."""
    unread, unscored = (
        {f.clip_id for f in facts.failures if f.cell_id == cell_id and (f.by == READING) is reading}
        for reading in (True, False)
    )
    made = facts.trials[cell_id]
    return TrialCount(
        ok=made.ok - len(unread), failed=made.failed + len(unread), unscored=len(unscored)
    )


def _counts(row: Row, scores: Sequence[MetricScores]) -> dict[str, float]:
    found: dict[str, float] = {}
    for score in scores:
        through = f"[{score.embedding}]" if score.embedding else ""
        if row.cell_id in score.results:
            counts = score.results[row.cell_id].counts
            found |= {f"{score.metric}{through}.{name}": value for name, value in counts.items()}
    return found


def _trial_notes(trials: Sequence[TrialRecord]) -> Iterator[str]:
    """What must be said of the clips themselves."""
    failed = [trial for trial in trials if trial.status == "failed"]
    if failed:
        yield (
            f"{len(failed)} of {amount(len(trials), 'clip')} could not be made; the first, "
            f"{failed[0].cell_id} {failed[0].prompt_id}: {failed[0].error}"
        )
    untimed = sorted({t.prompt_id for t in trials if t.prompt_text_source == "estimated"})
    if untimed:
        yield (
            f"{amount(len(untimed), 'prompt')} whose given text was not heard: {few(untimed)}; the "
            "times of these words are estimated"
        )
    heard = {t.prompt_id for t in trials if t.prompt_text_source == "transcribed"}
    if heard:
        yield f"the text of {amount(len(heard), 'prompt')} was recognised, not given"


def _floor_notes(
    facts: Facts, scores: Sequence[MetricScores], values: Sequence[Value]
) -> Iterator[str]:
    """What the rows without content say against the numbers, one line of each kind."""
    of = {kind: [row for row in facts.rows if row.kind == kind] for kind in _FLOORS}
    columns = [
        (c, s.recipe_id) for s in scores for c in s.columns if c.higher_is_better is not None
    ]
    headed = [c for c in columns if not facts.table or c[0].name in facts.table]
    sets = [c for c in columns if c[0].aggregate == "set"]
    known = {(value.cell_id, value.metric, value.recipe_id): value.value for value in values}
    floors = product(headed, [*of["silence"], *of["noise"]], of["reference"])
    if found := [text for gap, text in _gaps(floors, known) if gap > 0]:
        yield f"better than the reference without any content, so mistrust it: {few(found)}"
    noise = product(sets, of["noise"], of["system"])
    if found := [text for gap, text in _gaps(noise, known) if gap >= 0]:
        yield f"noise does as well as a system or better: {few(found)}"


_FLOORS = ("reference", "silence", "noise", "system")


def _gaps(
    compared: Iterable[tuple[tuple[Column, str | None], Row, Row]],
    known: Mapping[tuple[str, str, str | None], float | None],
) -> Iterator[tuple[float, str]]:
    """By how much the first row is better than the second, and both values in words."""
    for (column, recipe_id), one, other in compared:
        a, b = (known.get((row.cell_id, column.name, recipe_id)) for row in (one, other))
        if a is not None and b is not None:
            pair = f"{row_title(one)} {a:.3g}, {row_title(other)} {b:.3g}"
            yield (a - b if column.higher_is_better else b - a), f"{column.label} ({pair})"


def failure_notes(failures: Iterable[Failure]) -> Iterator[str]:
    """A line for each metric that failed on clips: on how many, and the first of them."""
    for by, found in groupby(sorted(failures, key=lambda f: f.by), key=lambda f: f.by):
        first, *others = found
        n = f"{len(others) + 1} clips" if others else "1 clip"
        yield f"{by} failed on {n}; the first, {first.path}: {first.reason}"
