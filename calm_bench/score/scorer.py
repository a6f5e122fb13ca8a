"""Scores of a run's clips: each metric over each row, and what rows differ by.

A score depends on the clips, the recipe and the code that computes it, and is kept under the hash
of all three: the same clips are scored once per machine, whatever run they stand in. Audio is read
and recognised only where that hash is new. A metric that cannot run, or not in this row, leaves its
reason where the number would be; a clip that it fails on is noted and counted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any, Self

from calm_bench import registry
from calm_bench.asr import Recognizer, load_recognizer
from calm_bench.config import BenchmarkSpec
from calm_bench.core.cache import ArrayCache, ContentCache
from calm_bench.core.code import computed_by
from calm_bench.core.progress import stage
from calm_bench.errors import BenchError, describe
from calm_bench.metrics.base import Metric, score_row
from calm_bench.metrics.drift import DriftMetric
from calm_bench.metrics.embedded import DEFAULT_EMBEDDING, EmbeddingMetric
from calm_bench.metrics.fad import FadOverTime, Segments
from calm_bench.score.clips import ClipEntry, ClipShelf, Failure, Firsts, firsts
from calm_bench.score.transcripts import transcribe
from calm_bench.seeds import content_hash, recipe_id_of
from calm_bench.store.records import Row, RowScore, ScoreRecord
from calm_bench.store.run_store import RunStore
from calm_bench.types import Clip, Column, Estimate, MetricResult, Transcript


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a benchmark says of how its clips are scored.

    Attributes:
        embeddings: What set metrics look through, each in columns of its own.
        optional: More of them, left out with a note where they cannot be loaded.
        segments: The stretches that metrics over time compare.
        unpaired: Why a row that is no round trip has no originals to be compared with.
        clip_seconds: How long clips are to be, where a recording that ends before that leaves its
            clips to be compared up to its end; None for clips of any length.
    """

    asr: str | None = None
    embeddings: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    segments: Segments = field(default_factory=Segments)
    unpaired: str = "only a codec's round trip can be compared with its original"
    clip_seconds: float | None = None

    @classmethod
    def of(cls, spec: BenchmarkSpec) -> Self:
        """A benchmark's."""
        return cls(
            asr=spec.asr,
            embeddings=spec.embedding,
            optional=spec.embedding_if_usable,
            segments=Segments.within(spec.seconds - spec.prompt_seconds, spec.segment_seconds),
            clip_seconds=spec.seconds,
        )

    def ends_for(
        self, metric: Metric, shelf: ClipShelf, reference: str | None
    ) -> Mapping[str, float]:
        """By prompt, where its recording ends: clips are compared with recordings up to there."""
        if "reference" not in metric.needs or metric.goes_beyond_reference:
            return {}
        known = reference is not None and self.clip_seconds is not None
        return shelf.ends_before(str(reference), self.clip_seconds or 0.0) if known else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """A metric, or why there is none.

    Attributes:
        embedding: What it looks through, where the run has more than one.
    """

    cls: type[Metric]
    metric: Metric | None
    embedding: str | None = None
    reason: str = ""


def usable_embeddings(setting: Setting) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The embeddings of a setting, and notes on the optional ones that cannot be loaded."""
    chosen, notes = list(setting.embeddings or (DEFAULT_EMBEDDING,)), []
    for name in setting.optional:
        try:
            dict(registry.load("embedding", name)().recipe)
            chosen.append(name)
        except Exception as error:
            notes.append(f"no columns with the embedding {name}: {describe(error)}")
    return tuple(dict.fromkeys(chosen)), tuple(notes)


def instruments_of(
    name: str, setting: Setting, embeddings: tuple[str, ...]
) -> Iterator[Instrument]:
    """A registered metric, once for each embedding if it looks through one."""
    cls = registry.load("metric", name)
    if not issubclass(cls, EmbeddingMetric):
        yield _built(cls, None, *([setting.segments] if issubclass(cls, DriftMetric) else []))
        return
    for embedding in embeddings:
        named = embedding if len(embeddings) > 1 else None
        more = [setting.segments] if issubclass(cls, FadOverTime) else []
        yield _built(cls, named, embedding, ArrayCache("vectors"), *more)


def _built(cls: type[Metric], embedding: str | None, *parts: Any) -> Instrument:
    try:
        return Instrument(cls=cls, metric=cls(*parts), embedding=embedding)
    except Exception as error:
        return Instrument(cls=cls, metric=None, embedding=embedding, reason=describe(error))


SCORED_BY = ("calm_bench.score.clips",)
Pair = tuple[str, str]
"""A row and the one that it is compared with."""


@dataclass(slots=True, kw_only=True)
class MetricScores:
    """All that one metric said of a run.

    Attributes:
        embedding: What it looked through, where the run has more than one.
        results: By row, what it found.
        reasons: By row, why it found nothing.
        differences: By (row, other row), what its set columns differ by.
        alike: By row, which of its clips are the same to the metric.
    """

    metric: str
    columns: tuple[Column, ...]
    embedding: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_id: str | None = None
    results: dict[str, MetricResult] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    differences: dict[Pair, Mapping[str, Estimate]] = field(default_factory=dict)
    alike: dict[str, Firsts] = field(default_factory=dict)


def _heard_identity(transcript: Transcript | None) -> Any:
    return None if transcript is None else asdict(transcript)


def _record_scores(scores: Sequence[MetricScores], shelf: ClipShelf, store: RunStore) -> None:
    """Write what is new to the run's records."""
    known = {record.key: record for record in store.read(ScoreRecord)}
    known_rows = {record.key: record for record in store.read(RowScore)}
    for score in scores:
        clip_records, cell_records = _records(score, shelf)
        store.append(*(r for r in clip_records if known.get(r.key) != r))
        store.append(*(r for r in cell_records if known_rows.get(r.key) != r))


def _records(score: MetricScores, shelf: ClipShelf) -> tuple[list[ScoreRecord], list[RowScore]]:
    clips, cells = [], []
    for cell_id, result in score.results.items():
        about = {"metric": score.metric, "recipe_id": str(score.recipe_id), "cell_id": cell_id}
        estimates, counts = dict(result.estimates), dict(result.counts)
        cells.append(RowScore(**about, estimates=estimates, counts=counts))
        clips += [
            ScoreRecord(
                **about,
                trial_id=entry.clip_id,
                clip_id=entry.audio_id,
                values=dict(result.clips.get(entry.clip_id, {})),
                note=result.notes.get(entry.clip_id),
            )
            for entry in shelf.entries(cell_id)
        ]
    return clips, cells


class Scorer:
    """Runs metrics over the rows of a run or over plain folders of audio."""

    def __init__(
        self,
        rows: Sequence[Row],
        shelf: ClipShelf,
        store: RunStore,
        setting: Setting | None = None,
    ) -> None:
        """Score these rows, whose clips are on the shelf; records go to the store."""
        self.rows = rows
        self.shelf = shelf
        self.store = store
        self.setting = setting or Setting()
        self._ends = partial(self.setting.ends_for, shelf=shelf, reference=self._reference)
        self.notes: tuple[str, ...] = ()
        self.failures: list[Failure] = list(shelf.failures)
        self._cache = ContentCache("scores")

    def score(self, names: Sequence[str], pairs: Sequence[Pair]) -> list[MetricScores]:
        """Every metric over every row.

        Args:
            names: Registered metrics.
            pairs: Rows whose set columns are compared.
        """
        embeddings, self.notes = usable_embeddings(self.setting)
        found = [i for n in names for i in instruments_of(n, self.setting, embeddings)]
        if any("transcript" in instrument.cls.needs for instrument in found):
            self._hear()
        with stage("scoring", len(found) * self._n_clips) as advance:
            scores = [self._score_metric(instrument, pairs, advance) for instrument in found]
        _record_scores(scores, self.shelf, self.store)
        return scores

    def _score_metric(
        self, instrument: Instrument, pairs: Sequence[Pair], advance: Callable[[int], None]
    ) -> MetricScores:
        cls, metric, embedding = instrument.cls, instrument.metric, instrument.embedding
        columns = cls.columns if metric is None else metric.own_columns
        found = MetricScores(metric=cls.name, columns=columns, embedding=embedding)
        try:
            if metric is None:
                raise BenchError(instrument.reason)
            found.recipe = self._recipe(metric)
        except Exception as error:
            found.reasons = dict.fromkeys((row.cell_id for row in self.rows), describe(error))
            if embedding is not None:  # keeps its column apart from that of another embedding
                found.recipe = {"embedding": embedding}
                found.recipe_id = recipe_id_of({"metric": cls.name, **found.recipe})
            advance(self._n_clips)
            return found
        found.recipe_id = recipe_id_of({"metric": cls.name, **found.recipe})
        found.alike = {row.cell_id: self._alike(metric, row.cell_id) for row in self.rows}
        for row in self.rows:
            with self.shelf.counting(row.cell_id, advance):
                self._score_row(metric, row, found)
        if any(column.aggregate == "set" for column in columns):
            self._compare(metric, found, pairs)
        return found

    def _score_row(self, metric: Metric, row: Row, found: MetricScores) -> None:
        """Add what a metric finds in a row, or why it finds nothing."""
        reason = self._unfit(metric, row)
        if reason is None:
            try:
                found.results[row.cell_id] = self._result(metric, found.recipe, row.cell_id)
            except BenchError as error:
                reason = str(error)
        if reason is not None:
            found.reasons[row.cell_id] = reason

    @property
    def _n_clips(self) -> int:
        return sum(len(self.shelf.entries(row.cell_id)) for row in self.rows)

    def _recipe(self, metric: Metric) -> dict[str, Any]:
        """The metric's own, what its transcripts came from, and the set it compares with."""
        recipe = dict(metric.recipe)
        if "transcript" in metric.needs:
            recipe["asr"] = dict(self._recognizer.recipe)
        if "reference" in metric.needs and self._reference is not None:
            entries = self.shelf.entries(self._reference)
            ids, groups = ({getattr(e, name) for e in entries} for name in ("audio_id", "group"))
            recipe["reference_set"] = {"clips": len(ids), "hash": content_hash(sorted(ids))}
            recipe["reference_set"]["recordings"] = len(groups)
            if self._ends(metric):
                recipe["clips"] = f"{self.setting.clip_seconds:g} s, to their recordings' ends"
        if any(column.aggregate == "set" for column in metric.own_columns):
            recipe["copies"] = "counted once"
        return recipe

    def _unfit(self, metric: Metric, row: Row) -> str | None:
        """Why a metric says nothing of a row, whatever its clips."""
        if not self.shelf.entries(row.cell_id):
            return "there is no clip to score"
        if not {"reference", "paired_reference"} & metric.needs:
            return None
        if row.kind == "reference":
            return "this row is the reference"
        if "paired_reference" in metric.needs and row.kind == "system":
            return self.setting.unpaired
        if "paired_reference" in metric.needs and row.kind in ("silence", "noise"):
            return f"{row.kind} is no version of the original"
        if self._reference is None:
            return "there are no reference clips"
        return None

    @cached_property
    def _reference(self) -> str | None:
        """The reference row, if it has clips."""
        ids = (row.cell_id for row in self.rows if row.kind == "reference")
        return next((name for name in ids if self.shelf.entries(name)), None)

    def _result(self, metric: Metric, recipe: Mapping[str, Any], cell_id: str) -> MetricResult:
        """What the metric finds in a row, from the cache if it found it before."""
        rows = [cell_id, *self._reference_row(metric)]
        key = self._key("score", metric, recipe, rows)
        kept = self._cache.read(key)
        alike = self._alike(metric, cell_id)
        if kept is None:
            clips = self._clips(metric, self._distinct(metric, cell_id))
            found, is_lasting = score_row(metric, clips, self._reference_clips(metric))
            found = found.with_copies(alike)
            if is_lasting:
                self._cache.write(key, found.to_json(list(alike)))
        else:
            found = MetricResult.from_json(kept, list(alike))
        for entry in self.shelf.entries(cell_id):
            if entry.clip_id in found.failed:
                self._fail(cell_id, entry, metric.name, found.notes[entry.clip_id])
        return found

    def _fail(self, cell_id: str, entry: ClipEntry, by: str, reason: str) -> None:
        clip_id, path = entry.clip_id, entry.path
        found = Failure(cell_id=cell_id, clip_id=clip_id, path=path, by=by, reason=reason)
        self.failures.append(found)

    def _distinct(self, metric: Metric, cell_id: str) -> list[ClipEntry]:
        """A row's clips without those that are copies of others to a metric."""
        alike = self._alike(metric, cell_id)
        return [e for e in self.shelf.entries(cell_id) if alike[e.clip_id] == e.clip_id]

    def _alike(self, metric: Metric, cell_id: str) -> Firsts:
        """Which clips of a row are the same to a metric."""
        paired = "paired_reference" in metric.needs and self._reference is not None
        originals = self.shelf.entries(str(self._reference)) if paired else ()
        return firsts(
            self.shelf.entries(cell_id),
            words=metric.scope == "clip",
            originals={entry.prompt_id: entry.audio_id for entry in originals},
        )

    def _compare(self, metric: Metric, found: MetricScores, pairs: Sequence[Pair]) -> None:
        """The differences of the set columns between rows that both have results."""
        for pair in pairs:
            if not all(name in found.results for name in pair):
                continue
            rows = [*pair, *self._reference_row(metric)]
            key = self._key("difference", metric, found.recipe, rows)
            kept = self._cache.read(key)
            if kept is not None:
                found.differences[pair] = {k: Estimate(**v) for k, v in kept.items()}
                continue
            shared = list(self.shelf.shared(pair, found.alike, once=True))
            clips, base = (self._clips(metric, [both[i] for both in shared]) for i in (0, 1))
            try:
                estimates = metric.difference(clips, base, self._reference_clips(metric))
            except Exception as error:
                lost = Estimate(value=None, reason=describe(error))
                names = [c.name for c in metric.own_columns if c.aggregate == "set"]
                found.differences[pair] = dict.fromkeys(names, lost)
                continue
            self._cache.write(key, {name: asdict(value) for name, value in estimates.items()})
            found.differences[pair] = estimates

    def _reference_row(self, metric: Metric) -> list[str]:
        wants = bool({"reference", "paired_reference"} & metric.needs)
        return [self._reference] if wants and self._reference is not None else []

    def _reference_clips(self, metric: Metric) -> list[Clip]:
        paired = "paired_reference" in metric.needs  # looks for each clip's own
        of = self.shelf.entries if paired else partial(self._distinct, metric)
        return [c for row in self._reference_row(metric) for c in self._clips(metric, of(row))]

    def _clips(self, metric: Metric, entries: Iterable[ClipEntry]) -> list[Clip]:
        clips, ends = self.shelf.clips(entries, self._transcripts(metric)), self._ends(metric)
        return [c.within(c.prompt_seconds, ends.get(c.prompt_id)) for c in clips]

    def _transcripts(self, metric: Metric) -> Mapping[str, Transcript]:
        return self._transcripts_by_id if "transcript" in metric.needs else {}

    def _key(
        self, kind: str, metric: Metric, recipe: Mapping[str, Any], rows: Sequence[str]
    ) -> str:
        transcripts = self._transcripts(metric)
        clips = [
            [[*entry.identity, _heard_identity(transcripts.get(entry.audio_id))] for entry in found]
            for found in (self.shelf.entries(row) for row in rows)
        ]
        about = [metric.name, dict(recipe), self._code(metric), self._ends(metric)]
        return content_hash(kind, about, clips, length=40)

    def _code(self, metric: Metric) -> str:
        """What a metric's values are computed by besides its recipe."""
        parts: list[object] = [metric]
        parts += [metric.embedder.embedding] if isinstance(metric, EmbeddingMetric) else []
        parts += [self._recognizer] if "transcript" in metric.needs else []
        return computed_by(*SCORED_BY, *(type(part).__module__ for part in parts))

    @cached_property
    def _recognizer(self) -> Recognizer:
        return load_recognizer(self.setting.asr)

    @cached_property
    def _transcripts_by_id(self) -> Mapping[str, Transcript]:
        """What is heard in every clip."""
        by_row = {row.cell_id: self.shelf.entries(row.cell_id) for row in self.rows}
        entries = [entry for own in by_row.values() for entry in own]
        paths = {entry.audio_id: entry.path for entry in entries}
        found, failed = transcribe(paths, self._recognizer, self.store)
        for cell_id, own in by_row.items():
            for entry in own:
                if reason := failed.get(entry.audio_id):
                    self._fail(cell_id, entry, "speech recognition", reason)
        return found

    def _hear(self) -> int:
        """Transcribe, under a bar of its own; without a recogniser nothing is heard."""
        try:
            dict(self._recognizer.recipe)
        except Exception:
            return 0  # the metrics that need it meet the same error and give it as their reason
        return len(self._transcripts_by_id)
