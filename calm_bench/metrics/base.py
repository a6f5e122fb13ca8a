"""What a metric is: it looks at the clips of one row and returns values per clip or per row.

A clip that a metric fails on costs that clip's score and no other (`score_row`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar, Literal

from calm_bench.core.recordings import few
from calm_bench.errors import BenchError, called, describe
from calm_bench.types import Clip, Column, Estimate, MetricResult

Need = Literal["reference", "text", "transcript", "paired_reference"]
"""reference: a set of reference clips; paired_reference: the reference clip of the same prompt;
text: Clip.words; transcript: Clip.transcript."""

Fields = Mapping[str, float | None]
"""What is found in one clip; None where it is undefined."""


class Metric(ABC):
    """Scores one row: the clips of one system at one temperature.

    `recipe` names everything that changes the values (weights hash, rate, window, normalisation,
    versions); values with different recipes are never put in one column or compared.
    """

    name: ClassVar[str]
    scope: ClassVar[Literal["clip", "set"]]
    needs: ClassVar[frozenset[Need]] = frozenset()
    columns: ClassVar[tuple[Column, ...]]
    goes_beyond_reference: ClassVar[bool] = False
    """Whether it knows what to do where clips go on after the reference has ended."""
    fewest_clips: ClassVar[int] = 1
    """How many clips a row must have before the metric says anything of it."""

    @property
    def own_columns(self) -> tuple[Column, ...]:
        """The columns of this instance, where their number depends on the clips' length."""
        return self.columns

    @property
    @abstractmethod
    def recipe(self) -> Mapping[str, Any]:
        """What the values depend on besides the audio, as JSON-like values."""

    @abstractmethod
    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        """Score the clips of one row.

        Args:
            clips: The row's clips; a clip that cannot be scored is noted and counted, never zero.
            reference: The reference clips of the same benchmark; empty if `needs` has no reference.
        """

    def difference(
        self, clips: Sequence[Clip], baseline: Sequence[Clip], reference: Sequence[Clip]
    ) -> Mapping[str, Estimate]:
        """Paired difference (clips minus baseline) of `set` columns; clip columns need no code."""
        return {}


def each_clip(
    clips: Sequence[Clip], look: Callable[[Clip], tuple[Fields, str | None]]
) -> MetricResult:
    """What is found in each clip, and why where something is not."""
    found = {clip.clip_id: look(clip) for clip in clips}
    notes = {clip_id: note for clip_id, (_, note) in found.items() if note}
    return MetricResult(clips={key: fields for key, (fields, _) in found.items()}, notes=notes)


def too_little(fields: Fields) -> str | None:
    """What is missing in a clip that is too short or silent for it."""
    missing = [name for name, value in fields.items() if value is None]
    return f"too short or silent for {', '.join(missing)}" if missing else None


def score_row(
    metric: Metric, clips: Sequence[Clip], reference: Sequence[Clip]
) -> tuple[MetricResult, bool]:
    """What a metric finds in a row, and whether another try would find the same for all one knows.

    A metric of single clips is tried on each clip alone once it has failed on all together; a set
    metric that fails says nothing of the row. Clips in which it finds no finite number fail.

    Raises:
        BenchError: If the metric says nothing of the row, or what it says is of no use.
    """
    errors: dict[str, Exception] = {}
    try:
        found = metric.score(clips, reference)
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
    refuse_faults(metric, clips, found)
    failed = dict(_not_finite(metric, found))
    failed |= {clip_id: describe(error) for clip_id, error in errors.items()}
    kept = {key: values for key, values in found.clips.items() if key not in failed}
    numbers = {
        key: {name: None if value is None else float(value) for name, value in values.items()}
        for key, values in kept.items()
    }
    found = replace(
        found,
        clips={**numbers, **{clip_id: {} for clip_id in failed}},
        notes={**_unsaid(metric, clips, found), **found.notes, **failed},
        failed=frozenset(failed),
    )
    passing = (OSError, MemoryError, BenchError)
    lasting = not any(isinstance(error, passing) for error in errors.values())
    return found, lasting


def refuse_faults(metric: Metric, clips: Sequence[Clip], found: Any) -> None:
    """Refuse a result that no table can be made of.

    Raises:
        BenchError: What is wrong with it.
    """
    try:
        fault = next(result_faults(metric, clips, found), None)
    except Exception as error:  # things of other kinds lie in it
        fault = f"gave a result that cannot be read: {describe(error)}"
    if fault:
        raise BenchError(f"{called(metric)} {fault}")


def result_faults(metric: Metric, clips: Sequence[Clip], found: Any) -> Iterator[str]:
    """What makes a result useless: keys of no clip, columns without fields, numbers of no kind."""
    if not isinstance(found, MetricResult):
        yield f"gave a {type(found).__name__} for a MetricResult"
        return
    unknown = sorted({*found.clips, *found.notes} - {clip.clip_id for clip in clips})
    if unknown:
        yield f"gave values of clips that it was not given ({few(unknown)}): key them by clip_id"
    given = {field for values in found.clips.values() for field in values}
    for column in metric.own_columns:
        if given and (lacking := {*column.fields} - given):
            fields = ", ".join(sorted(lacking))
            yield f"has a column {column.name} of {fields}, but gave only {few(sorted(given))}"
        if column.aggregate == "set" and clips and column.name not in found.estimates:
            yield f"gave no estimate of its column {column.name}, only of {[*found.estimates]}"
    for name, estimate in found.estimates.items():
        numbers = (estimate.value, estimate.low, estimate.high)
        if not all(number is None or math.isfinite(number) for number in numbers):
            yield f"gave {name} as {estimate.value} ({estimate.low} to {estimate.high})"
        if estimate.value is None and not estimate.reason:
            yield f"gave {name} no value and no reason"
    wrong = [count for count in found.counts.items() if not math.isfinite(count[1])]
    if wrong:
        yield f"counted {wrong[0][0]} as {wrong[0][1]}"


def _not_finite(metric: Metric, found: MetricResult) -> Iterator[tuple[str, str]]:
    for clip_id, values in found.clips.items():
        known = {key: value for key, value in values.items() if value is not None}
        wrong = [k for k, v in known.items() if not (isinstance(v, Real) and math.isfinite(v))]
        if wrong:
            yield clip_id, f"{called(metric)} gave {few([f'{k} as {known[k]}' for k in wrong])}"


def _unsaid(metric: Metric, clips: Sequence[Clip], found: MetricResult) -> dict[str, str]:
    """A note for each clip of which a metric says neither a number nor why there is none."""
    fields = [field for column in metric.own_columns for field in column.fields]
    return {
        clip.clip_id: f"{called(metric)} gave no {lacking[0]} and no reason"
        for clip in clips
        if (lacking := [f for f in fields if found.clips.get(clip.clip_id, {}).get(f) is None])
    }


def _failing(
    metric: Metric, clips: Sequence[Clip], reference: Sequence[Clip]
) -> Iterator[tuple[str, Exception]]:
    paired = "paired_reference" in metric.needs
    originals = {clip.prompt_id: [clip] for clip in reference}
    for clip in clips:
        theirs = originals.get(clip.prompt_id, []) if paired else reference
        try:
            metric.score([clip], theirs)
        except Exception as error:
            yield clip.clip_id, error
