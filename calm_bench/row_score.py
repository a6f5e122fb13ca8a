"""What a metric finds in a row; a clip that it fails on costs that clip's score and no other."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from calm_bench.errors import BenchError, describe
from calm_bench.metrics.base import Metric
from calm_bench.types import Clip, MetricResult

READING = "reading"
"""What failed on a file that no metric got to see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A clip that could not be read, heard or scored: its file, who failed on it, and why."""

    cell_id: str
    clip_id: str
    path: Path
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RowScore:
    """A metric's result and, by clip id, why it failed on clips of the row.

    Attributes:
        lasting: Whether another try would find the same, as far as one can tell.
    """

    result: MetricResult
    failed: Mapping[str, str]
    lasting: bool = True

    def with_copies(self, first_of: Mapping[str, str]) -> Self:
        """The same, with what was found in a clip said of its copies; `first_of` names it."""
        failed = {copy: self.failed[i] for copy, i in first_of.items() if i in self.failed}
        return replace(self, result=self.result.with_copies(first_of), failed=failed)

    def to_json(self, clip_ids: Sequence[str]) -> dict[str, Any]:
        """As JSON, with the places of clips in their row for their ids, which other runs share."""
        failed = {str(i): self.failed[c] for i, c in enumerate(clip_ids) if c in self.failed}
        return {**self.result.to_json(clip_ids), "failed": failed}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], clip_ids: Sequence[str]) -> Self:
        """What `to_json` gave, for these clips."""
        failed = {clip_ids[int(place)]: reason for place, reason in data["failed"].items()}
        return cls(result=MetricResult.from_json(data, clip_ids), failed=failed)


def score_row(metric: Metric, clips: Sequence[Clip], reference: Sequence[Clip]) -> RowScore:
    """What a metric finds in a row.

    A metric of single clips is tried on each clip alone once it has failed on all together; a set
    metric that fails says nothing of the row.

    Raises:
        BenchError: If the metric says nothing of the row.
    """
    try:
        return RowScore(result=metric.score(clips, reference), failed={})
    except Exception as error:
        errors = dict(_failing(metric, clips, reference)) if metric.scope == "clip" else {}
        reasons = {str(e) if isinstance(e, BenchError) else None for e in errors.values()}
        refused = len(errors) == len(clips) and len(reasons) == 1 and None not in reasons
        if not errors or refused:
            raise BenchError(describe(error)) from error
    try:
        found = metric.score([clip for clip in clips if clip.clip_id not in errors], reference)
    except Exception as error:
        raise BenchError(describe(error)) from error
    failed = {clip_id: describe(error) for clip_id, error in errors.items()}
    result = replace(
        found,
        clips={**found.clips, **{clip_id: {} for clip_id in failed}},
        notes={**found.notes, **failed},
    )
    passing = (OSError, MemoryError, BenchError)
    lasting = not any(isinstance(error, passing) for error in errors.values())
    return RowScore(result=result, failed=failed, lasting=lasting)


def _failing(
    metric: Metric, clips: Sequence[Clip], reference: Sequence[Clip]
) -> Iterator[tuple[str, Exception]]:
    """The clips on which a metric fails, each tried alone with what belongs to it."""
    paired = "paired_reference" in metric.needs
    originals = {clip.prompt_id: [clip] for clip in reference}
    for clip in clips:
        theirs = originals.get(clip.prompt_id, []) if paired else reference
        try:
            metric.score([clip], theirs)
        except Exception as error:
            yield clip.clip_id, error


def failure_notes(failures: Iterable[Failure]) -> Iterator[str]:
    """A line for each metric that failed on clips: on how many, and the first of them."""
    for by, found in groupby(sorted(failures, key=lambda f: f.by), key=lambda f: f.by):
        first, *others = found
        n = f"{len(others) + 1} clips" if others else "1 clip"
        yield f"{by} failed on {n}; the first, {first.path}: {first.reason}"
