"""One run of `check`: which gates were asked for, what they are compared with, what is stored."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from calm_bench import __version__
from calm_bench.core.device import device_name
from calm_bench.errors import InputError, UnknownNameError
from calm_bench.gate.baseline import (
    Baseline,
    default_path,
    read_baseline,
    torch_key,
    write_baseline,
)
from calm_bench.gate.checkout import checked_out
from calm_bench.gate.counting import Counted, count_systems, counted_systems, differences, stored
from calm_bench.gate.outcome import Outcome
from calm_bench.gate.ratios import AGAINST, RATIOS, compare, compare_stored, measured_ratios
from calm_bench.gate.rule import Judgement, Quantity

COUNTS = "counts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for.

    Attributes:
        against: A commit to be timed beside this tree; None: ratios are compared with stored ones.
        baseline: The file of stored counts and ratios; None for the shipped one.
        gates: Names of what is gated; empty: everything.
    """

    against: str | None = None
    baseline: Path | None = None
    gates: Collection[str] = ()

    @property
    def path(self) -> Path:
        """The file of stored counts and ratios."""
        return self.baseline or default_path()


def check(request: Request) -> Outcome:
    """Count, time and compare.

    Raises:
        InputError: If there is no such commit, baseline file or gate.
    """
    baseline, notes = read_baseline(request.path), list[str]()
    chosen, title, judged = _chosen(request), "", list[Judgement]()
    with ExitStack() as stack:
        reference = None
        if chosen and request.against is not None:  # first of all: a wrong name costs no waiting
            reference = stack.enter_context(checked_out(request.against))
        counted = _counted(baseline) if _wants_counts(request) else None
        if reference is not None:
            title = f"Time of {request.against} ({reference.commit}) over time of this tree"
            judged = compare(reference.tree, f"{request.against}", chosen, notes)
        elif chosen:
            references, note = baseline.references()
            notes += [note] if note else []
            title = f"Ratios, stored in {request.path.name}"
            judged = compare_stored(references, chosen, notes)
    return _outcome(title, counted, judged, notes)


def update(request: Request) -> Outcome:
    """Store counts and ratios as they are now; ratios only where the machine is fit.

    Raises:
        InputError: If the file cannot be read or written.
    """
    if request.against is not None:
        raise InputError("--update stores what this tree gives now: leave --against out")
    chosen = _chosen(request)
    if chosen and len(chosen) < len(RATIOS):
        raise InputError("--update stores all ratios together: give --gates counts, or no --gates")
    before = read_baseline(request.path) if request.path.exists() else Baseline()
    after, counted, judged, notes = before, None, list[Judgement](), list[str]()
    if _wants_counts(request):
        found = count_systems(counted_systems())
        after = stored(found, before)
        changed = differences(found, before)
        notes += [f"stored {change}" for change in (*changed.grown, *changed.fallen)]
        counted = differences(found, after)
        write_baseline(request.path, after)
    if chosen:
        after, judged = measured_ratios(after, notes)
        write_baseline(request.path, after)
    done = "stored" if after.ratios != before.ratios else "not stored"
    return _outcome(f"Ratios, {done} in {request.path}", counted, judged, notes)


def _counted(baseline: Baseline) -> Counted:
    return differences(count_systems(counted_systems()), baseline)


def _wants_counts(request: Request) -> bool:
    return not request.gates or COUNTS in request.gates


def _chosen(request: Request) -> Sequence[Quantity]:
    """The ratios asked for."""
    quantities: Sequence[Quantity] = RATIOS if request.against is None else AGAINST
    known = [quantity.name for quantity in quantities]
    for name in request.gates:
        if name != COUNTS and name not in known:
            raise UnknownNameError("gate", name, [COUNTS, *known])
    return [q for q in quantities if not request.gates or q.name in request.gates]


def _outcome(
    title: str, counted: Counted | None, judged: Sequence[Judgement], notes: Sequence[str]
) -> Outcome:
    environment = {
        "processor": device_name("cpu"),
        "torch": metadata.version("torch"),
        "dispatch": torch_key(),
        "threads": 1,
        "calm_bench": __version__,
    }
    return Outcome(
        title=title, counted=counted, judged=judged, notes=notes, environment=environment
    )
