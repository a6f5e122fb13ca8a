"""Scores of a run's clips: each metric over each row, and what rows differ by.

A score depends on the clips, the recipe and the code that computes it, and is kept under the hash
of all three: the same clips are scored once per machine, whatever run they stand in. Audio is read
and recognised only where that hash is new. A metric that cannot run, or not in this row, leaves its
reason where the number would be; a clip that it fails on is noted and counted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Self

from calm_bench import registry
from calm_bench.asr import load_recognizer
from calm_bench.asr.recognizer import Recognizer
from calm_bench.config import BenchmarkSpec
from calm_bench.core.cache import ArrayCache, ContentCache
from calm_bench.core.code import computed_by
from calm_bench.core.progress import stage
from calm_bench.core.ranks import ALONE, Ranks
from calm_bench.errors import BenchError, describe
from calm_bench.metrics.base import Metric, refuse_faults, score_row
from calm_bench.metrics.drift import DriftMetric
from calm_bench.metrics.embedded import DEFAULT_EMBEDDING, EmbeddingMetric
from calm_bench.metrics.fad import FadOverTime, Segments
from calm_bench.score.clips import Clips, Failure, Firsts, StoredClip, firsts
from calm_bench.score.transcripts import hear_in_parts, transcribe
from calm_bench.seeds import content_hash, recipe_id_of
from calm_bench.store.records import Row, RowScore, ScoreRecord
from calm_bench.store.run_store import RunStore
from calm_bench.types import Column, Estimate, MetricResult, Transcript


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


@dataclass(frozen=True, slots=True)
class Setup:
    """How a metric is made for a run.

    Attributes:
        embedding: What it looks through, where the run has more than one.
    """

    cls: type[Metric]
    make: Callable[[], Metric]
    embedding: str | None = None


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


def setups_of(name: str, setting: Setting, embeddings: tuple[str, ...]) -> Iterator[Setup]:
    """A registered metric, once for each embedding if it looks through one."""
    cls = registry.load("metric", name)
    segments = [setting.segments] if issubclass(cls, DriftMetric | FadOverTime) else []
    if not issubclass(cls, EmbeddingMetric):
        yield Setup(cls, partial(cls, *segments))
        return
    for embedding in embeddings:
        make = partial(cls, embedding, ArrayCache("vectors"), *segments)
        yield Setup(cls, make, embedding if len(embeddings) > 1 else None)


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


def _record_scores(scores: Sequence[MetricScores], clips: Clips, store: RunStore) -> None:
    kinds: tuple[type[ScoreRecord | RowScore], ...] = (ScoreRecord, RowScore)
    known = {(kind, record.key): record for kind in kinds for record in store.read(kind)}
    for score in scores:
        found = _records(score, clips)
        store.append(*(r for r in found if known.get((type(r), r.key)) != r))


def _records(score: MetricScores, clips: Clips) -> Iterator[ScoreRecord | RowScore]:
    for cell_id, result in score.results.items():
        about = {"metric": score.metric, "recipe_id": str(score.recipe_id), "cell_id": cell_id}
        estimates, counts = dict(result.estimates), dict(result.counts)
        yield RowScore(**about, estimates=estimates, counts=counts)
        for clip in clips.of(cell_id):
            yield ScoreRecord(
                **about,
                trial_id=clip.clip_id,
                clip_id=clip.audio_id,
                values=dict(result.clips.get(clip.clip_id, {})),
                note=result.notes.get(clip.clip_id),
            )


class Scorer:
    """Runs metrics over the rows of a run or over plain folders of audio."""

    def __init__(
        self,
        rows: Sequence[Row],
        clips: Clips,
        store: RunStore,
        setting: Setting | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Score the clips of these rows; records go to the store, on the first of several ranks."""
        self.rows, self.ranks = rows, ranks
        self.clips = clips
        self.store = store
        self.setting = setting or Setting()
        self.notes: tuple[str, ...] = ()
        self.failures: list[Failure] = list(clips.failures)
        self._cache = ContentCache("scores")

    def score(self, names: Sequence[str], pairs: Sequence[Pair]) -> list[MetricScores]:
        """Every metric over every row.

        Args:
            names: Registered metrics.
            pairs: Rows whose set columns are compared.
        """
        setups = self._setups(names)
        if self._hears(setups):
            _ = self._transcripts_by_id  # heard under a bar of its own
        with stage("scoring", len(setups) * self._n_clips) as advance:
            scores = [self._score_metric(setup, pairs, advance) for setup in setups]
        _record_scores(scores, self.clips, self.store)
        return scores

    def prepare(self, names: Sequence[str]) -> None:
        """Of several ranks, each one's part of what `score` then finds in the cache."""
        if self.ranks.count == 1:
            return
        setups = self._setups(names)
        with self.ranks.meeting():
            if self._hears(setups):
                clips = {c.audio_id: c for row in self.rows for c in self.clips.of(row.cell_id)}
                hear_in_parts(clips, self._recognizer, self.ranks)
        with self.ranks.meeting(), stage("scoring", len(setups) * len(self.rows)) as advance:
            for setup in self.ranks.turned(setups):
                self._prepare(setup)
                advance(len(self.rows))

    def _prepare(self, setup: Setup) -> None:
        with suppress(Exception):  # which `score` meets again, and says
            metric = setup.make()
            about = metric.name, setup.embedding
            for row in self.rows:
                if self.ranks.take("scores", *about, row.cell_id) and not self._unfit(metric, row):
                    self._found(metric, self._recipe(metric), row.cell_id)

    def _setups(self, names: Sequence[str]) -> list[Setup]:
        embeddings, self.notes = usable_embeddings(self.setting)
        return [s for n in names for s in setups_of(n, self.setting, embeddings)]

    def _score_metric(
        self, setup: Setup, pairs: Sequence[Pair], advance: Callable[[int], None]
    ) -> MetricScores:
        cls, embedding = setup.cls, setup.embedding
        found = MetricScores(metric=cls.name, columns=cls.columns, embedding=embedding)
        try:
            metric = setup.make()
            found.columns = metric.own_columns
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
            with self.clips.counting(row.cell_id, advance):
                self._score_row(metric, row, found)
        if any(column.aggregate == "set" for column in found.columns):
            self._compare(metric, found, pairs)
        return found

    def _score_row(self, metric: Metric, row: Row, found: MetricScores) -> None:
        """Add what a metric finds in a row, or why it finds nothing."""
        try:
            if reason := self._unfit(metric, row):
                raise BenchError(reason)
            found.results[row.cell_id] = self._result(metric, found.recipe, row.cell_id)
        except BenchError as error:
            found.reasons[row.cell_id] = str(error)

    @property
    def _n_clips(self) -> int:
        return sum(len(self.clips.of(row.cell_id)) for row in self.rows)

    def _recipe(self, metric: Metric) -> dict[str, Any]:
        """The metric's own, what its transcripts came from, and the set it compares with."""
        recipe = dict(metric.recipe)
        if "transcript" in metric.needs:
            recipe["asr"] = dict(self._recognizer.recipe)
        if "reference" in metric.needs and self._reference is not None:
            clips = self.clips.of(self._reference)
            ids = {clip.audio_id for clip in clips}
            recipe["reference_set"] = {
                "clips": len(ids),
                "hash": content_hash(sorted(ids)),
                "recordings": len({clip.group for clip in clips}),
            }
            if self._ends(metric):
                recipe["clips"] = f"{self.setting.clip_seconds:g} s, to their recordings' ends"
        if any(column.aggregate == "set" for column in metric.own_columns):
            recipe["copies"] = "counted once"
        return recipe

    def _ends(self, metric: Metric) -> Mapping[str, float]:
        """By prompt, where its recording ends: clips are compared with recordings up to there."""
        if "reference" not in metric.needs or metric.goes_beyond_reference:
            return {}
        if self._reference is None or self.setting.clip_seconds is None:
            return {}
        return self.clips.ends_before(self._reference, self.setting.clip_seconds)

    def _unfit(self, metric: Metric, row: Row) -> str | None:
        """Why a metric says nothing of a row, whatever its clips."""
        if not self.clips.of(row.cell_id):
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
        ids = (row.cell_id for row in self.rows if row.kind == "reference")
        return next((name for name in ids if self.clips.of(name)), None)

    def _result(self, metric: Metric, recipe: Mapping[str, Any], cell_id: str) -> MetricResult:
        """What the metric finds in a row; the clips that it fails on are noted."""
        found = self._found(metric, recipe, cell_id)
        for clip in self.clips.of(cell_id):
            if clip.clip_id in found.failed:
                self._fail(cell_id, clip, metric.name, found.notes[clip.clip_id])
        return found

    def _found(self, metric: Metric, recipe: Mapping[str, Any], cell_id: str) -> MetricResult:
        """What the metric finds in a row, from the cache if it found it before."""
        rows = [cell_id, *self._reference_row(metric)]
        key = self._key("score", metric, recipe, rows)
        alike = self._alike(metric, cell_id)
        found = self._cache.read(key, lambda kept: MetricResult.from_json(kept, list(alike)))
        if found is None:
            clips = self._given(metric, self._distinct(metric, cell_id))
            found, is_lasting = score_row(metric, clips, self._reference_clips(metric))
            found = found.with_copies(alike)
            if is_lasting:
                self._cache.write(key, found.to_json(list(alike)))
        return found

    def _fail(self, cell_id: str, clip: StoredClip, by: str, reason: str) -> None:
        about = {"cell_id": cell_id, "clip_id": clip.clip_id, "by": by, "reason": reason}
        self.failures.append(Failure(path=clip.path, **about))

    def _distinct(self, metric: Metric, cell_id: str) -> list[StoredClip]:
        """A row's clips without those that are copies of others to a metric."""
        alike = self._alike(metric, cell_id)
        return [c for c in self.clips.of(cell_id) if alike[c.clip_id] == c.clip_id]

    def _alike(self, metric: Metric, cell_id: str) -> Firsts:
        paired = "paired_reference" in metric.needs and self._reference is not None
        originals = self.clips.of(str(self._reference)) if paired else ()
        return firsts(
            self.clips.of(cell_id),
            words=metric.scope == "clip",
            originals={clip.prompt_id: clip.audio_id for clip in originals},
        )

    def _compare(self, metric: Metric, found: MetricScores, pairs: Sequence[Pair]) -> None:
        """The differences of the set columns between rows that both have results."""
        for pair in pairs:
            if not all(name in found.results for name in pair):
                continue
            rows = [*pair, *self._reference_row(metric)]
            key = self._key("difference", metric, found.recipe, rows)
            kept = self._cache.read(
                key, lambda kept: {name: Estimate.from_json(value) for name, value in kept.items()}
            )
            if kept is not None:
                found.differences[pair] = kept
                continue
            shared = list(self.clips.shared(pair, found.alike, once=True))
            clips, base = (self._given(metric, [both[i] for both in shared]) for i in (0, 1))
            try:
                estimates = metric.difference(clips, base, self._reference_clips(metric))
                refuse_faults(metric, [], MetricResult(estimates=estimates))
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

    def _reference_clips(self, metric: Metric) -> list[StoredClip]:
        paired = "paired_reference" in metric.needs  # looks for each clip's own
        of = self.clips.of if paired else partial(self._distinct, metric)
        return [c for row in self._reference_row(metric) for c in self._given(metric, of(row))]

    def _given(self, metric: Metric, clips: Iterable[StoredClip]) -> list[StoredClip]:
        """Clips as a metric gets them: with what was heard in them, and up to where they count."""
        heard, ends = self._transcripts(metric), self._ends(metric)
        return [
            replace(c, transcript=heard.get(c.audio_id), end_seconds=ends.get(c.prompt_id))
            for c in clips
        ]

    def _transcripts(self, metric: Metric) -> Mapping[str, Transcript]:
        return self._transcripts_by_id if "transcript" in metric.needs else {}

    def _key(
        self, kind: str, metric: Metric, recipe: Mapping[str, Any], rows: Sequence[str]
    ) -> str:
        heard = self._said if "transcript" in metric.needs else {}
        clips = [[[*c.identity, heard.get(c.audio_id)] for c in self.clips.of(r)] for r in rows]
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

    def _hears(self, setups: Sequence[Setup]) -> bool:
        """Whether a metric needs to know what was said, and a recogniser can be had."""
        if not any("transcript" in setup.cls.needs for setup in setups):
            return False
        try:
            dict(self._recognizer.recipe)
        except Exception:
            return False  # the metrics that need it meet the same error and give it as their reason
        return True

    @cached_property
    def _said(self) -> Mapping[str, Any]:
        """The transcripts as keys hold them."""
        return {name: asdict(said) for name, said in self._transcripts_by_id.items()}

    @cached_property
    def _transcripts_by_id(self) -> Mapping[str, Transcript]:
        clips = [(row.cell_id, clip) for row in self.rows for clip in self.clips.of(row.cell_id)]
        by_audio = {clip.audio_id: clip for _, clip in clips}
        store = self.store if self.ranks.is_first else None
        found, failed = transcribe(by_audio, self._recognizer, store)
        for cell_id, clip in clips:
            if reason := failed.get(clip.audio_id):
                self._fail(cell_id, clip, "speech recognition", reason)
        return found
