"""results.json from a run's records and scores: every number with interval, n, recipe or reason."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from pathlib import Path

import numpy as np

from calm_bench.config import BenchmarkSpec
from calm_bench.core.inference import ALPHA, quantile
from calm_bench.core.recordings import amount, few
from calm_bench.core.stats import ClipValues, GroupOf, compare, student_interval, summarise
from calm_bench.metrics.fidelity import BITS_PER_SECOND
from calm_bench.numbers.speed import SPEED_COLUMNS, speed_rows, value_of
from calm_bench.numbers.trainings import as_one, pooled, pooled_pairs
from calm_bench.score.clips import READING, Clips, Failure, StoredClip
from calm_bench.score.scorer import MetricScores, Pair, Scorer
from calm_bench.seeds import derive_seed
from calm_bench.store.records import LatencyRecord, Manifest, Row, RowScore, TrialRecord, row_title
from calm_bench.store.results import Difference, Pooled, Results, TrialCount, Value
from calm_bench.store.run_store import RunStore
from calm_bench.types import Column, Estimate


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


def finish(store: RunStore, manifest: Manifest, results: Results) -> Outcome:
    """Write down what a run has found, and whether all of it could be."""
    results = results.model_copy(update={"weights": manifest.named_weights})
    store.write_results(results)
    outcome = Outcome(folder=store.root, results=store.read_results())  # with the votes
    status = "partial" if outcome.n_failed else "finished"
    store.write_manifest(manifest.model_copy(update={"status": status}))
    return outcome


def summarise_benchmark(
    spec: BenchmarkSpec,
    manifest: Manifest,
    scorer: Scorer,
    scores: Sequence[MetricScores],
    pairs: Sequence[Pair],
) -> Results:
    """The results of a benchmark's run, from its records and from what scoring found out."""
    made = scorer.store.read(TrialRecord)
    return summarise_run(
        scorer,
        scores,
        pairs,
        manifest,
        trials={row.cell_id: _count(row, made) for row in scorer.rows},
        table=spec.table,
        notes=[*scorer.notes, *_trial_notes(made)],
    )


def summarise_run(
    scorer: Scorer,
    scores: Sequence[MetricScores],
    pairs: Sequence[Pair],
    manifest: Manifest,
    *,
    trials: Mapping[str, TrialCount],
    table: tuple[str, ...] = (),
    notes: Sequence[str] = (),
) -> Results:
    """The tidy rows of a run: speed, scores, and the differences between the rows of each pair.

    Args:
        scorer: Which rows were scored, and what could not be.
        scores: What was found.
        pairs: Which rows are compared.
        manifest: What the run is.
        trials: Clips that were made and that failed, by row.
        table: Columns of the printed table, in order; empty for all.
        notes: What must be said of the clips.
    """
    rows, latency = scorer.rows, scorer.store.read(LatencyRecord)
    speed, rates = speed_rows(rows, latency), _bit_rates(rows, scorer.store)
    numbers = [_Numbers(score, scorer.clips) for score in scores]
    scored = [value for part in numbers for value in part.values(rows)]
    values = [*speed.values, *rates, *scored]
    recipes = {s.recipe_id: {"metric": s.metric, **s.recipe} for s in scores if s.recipe_id}
    return Results(
        run_id=manifest.run_id,
        benchmark=manifest.benchmark,
        benchmark_version=manifest.version,
        cells=tuple(rows),
        columns=(*(SPEED_COLUMNS if latency else ()), *_columns(scores, codecs=bool(rates))),
        table=table,
        recipes={**speed.recipes, **recipes},
        rows=tuple(values),
        differences=tuple(d for part in numbers for d in part.differences(pairs)),
        pooled=tuple(pooled(rows, scored, scorer.clips.n_groups)),
        pooled_differences=tuple(d for part in numbers for d in part.pooled(rows, pairs)),
        trials={row: _with_failures(made, row, scorer) for row, made in trials.items()},
        unusable=len(manifest.options.get("unusable", ())),
        fit=speed.fit,
        counts={row.cell_id: _counts(row, scores) for row in rows},
        notes=(
            *speed.notes,
            *manifest.options.get("notes", ()),
            *notes,
            *_failure_notes(scorer.failures),
            *_noise_notes(rows, table, scores, values),
        ),
    )


def _columns(scores: Sequence[MetricScores], *, codecs: bool) -> Iterable[Column]:
    found = [BITS_PER_SECOND.model_copy(update={"metric": "codec"})] if codecs else []
    for score in scores:
        found += [c.model_copy(update={"metric": score.metric}) for c in score.columns]
    return {column.name: column for column in found}.values()


class _Numbers:
    def __init__(self, score: MetricScores, clips: Clips) -> None:
        self.score = score
        self.clips = clips

    def values(self, rows: Sequence[Row]) -> Iterator[Value]:
        """Every column's number of each row."""
        for row, column in product(rows, self.score.columns):
            found = self._estimate(row.cell_id, column)
            yield value_of(row, column.name, column.unit, found, self.score.recipe_id)

    def differences(self, pairs: Sequence[Pair]) -> list[Difference]:
        """Every column's paired difference between rows that the metric has something to say of."""
        known = self.score.results
        both = [pair for pair in pairs if pair[0] in known and pair[1] in known]
        return [self._difference(pair, column) for pair in both for column in self.score.columns]

    def pooled(self, rows: Sequence[Row], pairs: Sequence[Pair]) -> Iterator[Pooled]:
        """Every column's difference over several trainings of the same two systems."""
        training, n_prompts = {row.cell_id: row.training for row in rows}, self.clips.n_groups
        for group, column in product(pooled_pairs(rows, pairs), self.score.columns):
            known = [set(pair) <= self.score.results.keys() for pair in group]
            if not any(known):
                continue
            ours, theirs = zip(*group, strict=True)
            about = Pooled(
                cell_ids=ours,
                baseline_cell_ids=theirs,
                metric=column.name,
                unit=column.unit,
                recipe_id=self.score.recipe_id,
                prompt_error=self._prompt_error(group, column) if all(known) else None,
                n=0,
            )
            numbers = [
                self._difference(pair, column) if has else None
                for pair, has in zip(group, known, strict=True)
            ]
            prompts = min(n_prompts[name] for name in (*ours, *theirs))
            yield as_one(about, [training[name] for name in ours], numbers, prompts)

    def _prompt_error(self, group: Sequence[Pair], column: Column) -> float | None:
        """The standard error over prompts of a difference's mean over trainings."""
        if column.aggregate == "set":
            gaps = [self._gap(pair, column) for pair in group]
            deleted = [gap.deleted for gap in gaps]
            # Blocks are dealt from the prompts that there are: with others they hold others.
            dealt = {
                (gap.n, *self._shared(pair)[2].values())
                for gap, pair in zip(gaps, group, strict=True)
            }
            if len(dealt) > 1 or len(set(map(len, deleted))) > 1 or not deleted[0]:
                return None
            n = len(deleted[0])
            found = student_interval(0.0, np.mean(deleted, axis=0), n)
        else:
            sides: list[dict[str, Mapping[str, float | None]]] = [{}, {}]
            groups: dict[str, str] = {}
            for index, pair in enumerate(group):
                *both, owners = self._shared(pair)
                for side, values in zip(sides, both, strict=True):
                    side |= {f"{index} {key}": fields for key, fields in values.items()}
                groups |= {f"{index} {key}": owner for key, owner in owners.items()}
            n = len(set(groups.values()))
            found = compare(column, sides[0], sides[1], derive_seed("paired"), groups)
        if found.low is None or found.high is None:
            return None
        return (found.high - found.low) / 2 / quantile(1 - ALPHA / 2, max(1, n - 1))

    def _difference(self, pair: Pair, column: Column) -> Difference:
        return Difference(
            **self._gap(pair, column).number,
            cell_id=pair[0],
            baseline_cell_id=pair[1],
            metric=column.name,
            recipe_id=self.score.recipe_id,
        )

    def _estimate(self, cell_id: str, column: Column) -> Estimate:
        reason = self.score.reasons.get(cell_id)
        if reason is not None:
            return Estimate(value=None, reason=reason)
        alike = self.score.alike.get(cell_id, {})
        once: dict[str, StoredClip] = {}  # the first copy at hand: another one's file may be gone
        for clip in self.clips.of(cell_id):
            once.setdefault(alike.get(clip.clip_id, clip.clip_id), clip)
        own = list(once.values())
        if column.aggregate == "set":
            missing = Estimate(value=None, reason="the metric gave no value")
            found = self.score.results[cell_id].estimates.get(column.name, missing)
            noted = [c for c in own if c.clip_id in self.score.results[cell_id].notes]
            short = found.value is not None and found.n == len(own) - len(noted)
            return self._explained(cell_id, column, noted if short else [], found)
        seed = derive_seed("interval", cell_id, column.name)
        found = summarise(column, self._values(cell_id, own), seed, _groups(own))
        return self._explained(cell_id, column, own, found)

    def _explained(
        self, cell_id: str, column: Column, clips: Sequence[StoredClip], found: Estimate
    ) -> Estimate:
        """The number with the reasons of those of the clips that have no part in it."""
        score = self.score.results[cell_id]
        lost: dict[str, list[str]] = {}
        for clip in clips:
            values, note = score.clips.get(clip.clip_id, {}), score.notes.get(clip.clip_id)
            if note and (not column.fields or any(values.get(f) is None for f in column.fields)):
                lost.setdefault(note, []).append(clip.path.name)
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
        a, b, groups = self._shared(pair)
        return compare(column, a, b, derive_seed("paired"), groups)

    def _shared(self, pair: Pair) -> tuple[ClipValues, ClipValues, GroupOf]:
        """The fields of clips that two rows share, of either, and the group of each."""
        shared = list(self.clips.shared(pair, self.score.alike, once=False))
        sides = [[both[side] for both in shared] for side in (0, 1)]
        a, b = (self._values(name, own) for name, own in zip(pair, sides, strict=True))
        return a, b, _groups(sides[0])

    def _values(self, cell_id: str, clips: Sequence[StoredClip]) -> ClipValues:
        """The fields of clips by what pairs them across rows."""
        known = self.score.results[cell_id].clips
        return {clip.pair_key: known.get(clip.clip_id, {}) for clip in clips}


def _groups(clips: Sequence[StoredClip]) -> GroupOf:
    return {clip.pair_key: clip.group for clip in clips}


def _bit_rates(rows: Sequence[Row], store: RunStore) -> list[Value]:
    """The bits per second of round trips' codecs; older runs keep them among the scores."""
    name, unit = BITS_PER_SECOND.name, BITS_PER_SECOND.unit
    older = [score for score in store.read(RowScore) if name in score.estimates]
    found = {score.cell_id: score.estimates[name] for score in older}
    found |= {t.cell_id: t.bit_rate for t in store.read(TrialRecord) if t.bit_rate}
    return [value_of(r, name, unit, found[r.cell_id], None) for r in rows if r.cell_id in found]


def _count(row: Row, trials: Sequence[TrialRecord]) -> TrialCount:
    own = [trial for trial in trials if trial.cell_id == row.cell_id]
    made = {trial.clip_id for trial in own if trial.status == "ok"}
    return TrialCount(ok=len(made), failed=sum(trial.status == "failed" for trial in own))


def _with_failures(made: TrialCount, cell_id: str, scorer: Scorer) -> TrialCount:
    """A row's count of clips, with those that could not be read or scored."""
    there = len({clip.audio_id for clip in scorer.clips.of(cell_id)})
    own = (failure for failure in scorer.failures if failure.cell_id == cell_id)
    unscored = len({failure.clip_id for failure in own if failure.by != READING})
    return TrialCount(ok=there, failed=made.failed + made.ok - there, unscored=unscored)


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
    if failed := [trial for trial in trials if trial.status == "failed"]:
        yield (
            f"{len(failed)} of {amount(len(trials), 'clip')} could not be made; the first, "
            f"{failed[0].cell_id} {failed[0].prompt_id}: {failed[0].error}"
        )
    if untimed := sorted({t.prompt_id for t in trials if t.prompt_text_source == "estimated"}):
        yield (
            f"{amount(len(untimed), 'prompt')} whose given text was not heard: {few(untimed)}; the "
            "times of these words are estimated"
        )
    if heard := {t.prompt_id for t in trials if t.prompt_text_source == "transcribed"}:
        yield f"the text of {amount(len(heard), 'prompt')} was recognised, not given"


def _noise_notes(
    rows: Sequence[Row],
    table: tuple[str, ...],
    scores: Sequence[MetricScores],
    values: Sequence[Value],
) -> Iterator[str]:
    """What the rows without content say against the numbers, one line of each kind."""
    kinds = ("reference", "silence", "noise", "system")
    of = {kind: [row for row in rows if row.kind == kind] for kind in kinds}
    columns = [
        (c, s.recipe_id) for s in scores for c in s.columns if c.higher_is_better is not None
    ]
    headed = [c for c in columns if not table or c[0].name in table]
    sets = [c for c in columns if c[0].aggregate == "set"]
    known = {(value.cell_id, value.metric, value.recipe_id): value.value for value in values}
    better = product(headed, [*of["silence"], *of["noise"]], of["reference"])
    if found := [text for gap, text in _gaps(better, known) if gap > 0]:
        yield f"better than the reference without any content, so mistrust it: {few(found)}"
    noise = product(sets, of["noise"], of["system"])
    if found := [text for gap, text in _gaps(noise, known) if gap >= 0]:
        yield f"noise does as well as a system or better: {few(found)}"


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


def _failure_notes(failures: Iterable[Failure]) -> Iterator[str]:
    """A line for each metric that failed on clips: on how many, and the first of them."""
    for by, found in groupby(sorted(failures, key=lambda f: f.by), key=lambda f: f.by):
        first, *others = found
        n = amount(len(others) + 1, "clip")
        yield f"{by} failed on {n}; the first, {first.path}: {first.reason}"
