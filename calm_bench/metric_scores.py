"""All that one metric says of a run, and the records that it leaves there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from calm_bench.shelf import ClipShelf, Firsts
from calm_bench.store import CellScore, RunStore, ScoreRecord
from calm_bench.types import Column, Estimate, MetricResult

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


def record_scores(scores: Sequence[MetricScores], shelf: ClipShelf, store: RunStore) -> None:
    """Write what is new to the run's records."""
    known = {record.key: record for record in store.read(ScoreRecord)}
    known_cells = {record.key: record for record in store.read(CellScore)}
    for score in scores:
        clip_records, cell_records = _records(score, shelf)
        store.append(*(r for r in clip_records if known.get(r.key) != r))
        store.append(*(r for r in cell_records if known_cells.get(r.key) != r))


def _records(score: MetricScores, shelf: ClipShelf) -> tuple[list[ScoreRecord], list[CellScore]]:
    clips, cells = [], []
    for cell_id, result in score.results.items():
        about = {"metric": score.metric, "recipe_id": str(score.recipe_id), "cell_id": cell_id}
        estimates, counts = dict(result.estimates), dict(result.counts)
        cells.append(CellScore(**about, estimates=estimates, counts=counts))
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
