"""What a metric finds in a row; a clip that it fails on costs that clip's score and no other."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

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


def score_row(
    metric: Metric, clips: Sequence[Clip], reference: Sequence[Clip]
) -> tuple[MetricResult, bool]:
    """What a metric finds in a row, and whether another try would find the same for all one knows.

    A metric of single clips is tried on each clip alone once it has failed on all together; a set
    metric that fails says nothing of the row.

    Raises:
        BenchError: If the metric says nothing of the row.
    """
    try:
        return metric.score(clips, reference), True
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
        failed=frozenset(failed),
    )
    passing = (OSError, MemoryError, BenchError)
    lasting = not any(isinstance(error, passing) for error in errors.values())
    return result, lasting


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
