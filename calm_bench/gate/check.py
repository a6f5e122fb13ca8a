"""One run of `check`: which gates were asked for, what they are compared with, what is stored.

What came of it is an `Outcome`: verdict, exit code, tables for terminals and pull requests.
"""

import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from calm_bench import __version__
from calm_bench.core.device import device_name
from calm_bench.errors import InputError, UnknownNameError
from calm_bench.gate.baseline import (
    Baseline,
    Counted,
    count_systems,
    counted_systems,
    default_path,
    differences,
    read_baseline,
    stored,
    torch_key,
    write_baseline,
)
from calm_bench.gate.crews import checked_out
from calm_bench.gate.ratios import AGAINST, RATIOS, compare, compare_stored, measured_ratios
from calm_bench.gate.rule import Judgement, Quantity, Verdict
from calm_bench.report.formats import to_markdown
from calm_bench.report.tables import Table, Text

COUNTS = "counts"
REGRESSED, UNDECIDED = 1, 3

WORDS = frozenset({"system", "stage", "count", "ratio", "verdict"})
"""Columns of words, which are left-aligned."""
COUNTED = "Counts of one frame"
CONTROL = "A/A is the reference against itself: 1.00 on a fit machine"
TIMES = "ratios of processor time, more is better; wall time beside them finds what waits"


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

    @property
    def counts(self) -> bool:
        """Whether counts were asked for."""
        return not self.gates or COUNTS in self.gates

    def ratios(self) -> Sequence[Quantity]:
        """The ratios asked for.

        Raises:
            UnknownNameError: If a gate is neither a ratio nor `counts`.
        """
        quantities: Sequence[Quantity] = RATIOS if self.against is None else AGAINST
        known = [quantity.name for quantity in quantities]
        for name in self.gates:
            if name != COUNTS and name not in known:
                raise UnknownNameError("gate", name, [COUNTS, *known])
        return [q for q in quantities if not self.gates or q.name in self.gates]


def check(request: Request) -> "Outcome":
    """Count, time and compare.

    Raises:
        InputError: If there is no such commit, baseline file or gate.
    """
    baseline, notes = read_baseline(request.path), list[str]()
    chosen, title, judged, counted = request.ratios(), "", list[Judgement](), None
    with ExitStack() as stack:
        reference = None
        if chosen and request.against is not None:  # first of all: a wrong name costs no waiting
            reference = stack.enter_context(checked_out(request.against))
        if request.counts:
            counted = differences(count_systems(counted_systems()), baseline)
        if reference is not None:
            title = f"Time of {request.against} ({reference.name}) over time of this tree"
            judged = compare(reference, f"{request.against}", chosen, notes)
        elif chosen:
            references, note = baseline.references()
            notes += [note] if note else []
            title = f"Ratios, stored in {request.path.name}"
            judged = compare_stored(references, chosen, notes)
    return Outcome(title=title, counted=counted, judged=judged, notes=notes)


def update(request: Request) -> "Outcome":
    """Store counts and ratios as they are now; ratios only where the machine is fit.

    Raises:
        InputError: If the file cannot be read or written.
    """
    if request.against is not None:
        raise InputError("--update stores what this tree gives now: leave --against out")
    chosen = request.ratios()
    if chosen and len(chosen) < len(RATIOS):
        raise InputError("--update stores all ratios together: give --gates counts, or no --gates")
    before = read_baseline(request.path) if request.path.exists() else Baseline()
    after, counted, judged, notes = before, None, list[Judgement](), list[str]()
    if request.counts:
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
    title = f"Ratios, {done} in {request.path}"
    return Outcome(title=title, counted=counted, judged=judged, notes=notes)


def _environment() -> dict[str, Any]:
    return {
        "processor": device_name("cpu"),
        "torch": metadata.version("torch"),
        "dispatch": torch_key(),
        "threads": 1,
        "calm_bench": __version__,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that was gated in one run of `check`.

    Attributes:
        title: What times were compared with.
        counted: None where counts were not asked for.
        environment: Processor, torch and the like.
    """

    title: str
    counted: Counted | None
    judged: Sequence[Judgement]
    notes: Sequence[str]
    environment: dict[str, Any] = field(default_factory=_environment)

    @property
    def verdict(self) -> Verdict:
        """The worst there is: a regression counts even where another ratio could not be judged."""
        found = {judgement.verdict for judgement in self.judged}
        if (self.counted and self.counted.grown) or "regressed" in found:
            return "regressed"
        for undecided in ("inconclusive", "unfit"):
            if undecided in found:
                return undecided
        compared = self.counted is not None and self.counted.compared > 0
        return "pass" if compared or "pass" in found else "not gated"

    @property
    def exit_code(self) -> int:
        """0 passed, 1 regressed, 3 inconclusive, unfit machine, or nothing to compare with."""
        return {"pass": 0, "regressed": REGRESSED}.get(self.verdict, UNDECIDED)

    def tables(self) -> list[Table]:
        """Counts that changed, if counts were asked for, and the ratios."""
        tables = [] if self.counted is None else [_counts_table(self.counted)]
        if self.judged:
            tables.append(_ratios_table(self.title, self.judged))
        if not tables:
            tables.append(_table("Nothing was compared", "verdict"))
            tables[0].add_row(self.verdict)
        tables[-1].notes += self.notes
        return tables

    def markdown(self) -> str:
        """The tables for a step summary."""
        parts = [f"## calm-bench check: {self.verdict}", *map(to_markdown, self.tables())]
        return "\n\n".join(part.strip() for part in parts) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        verdict = "regressed" if self.counted and self.counted.grown else "pass"
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "counts": {"verdict": verdict, **asdict(self.counted)} if self.counted else None,
            "compared_with": self.title if self.judged else None,
            "ratios": [asdict(judgement) for judgement in self.judged],
            "notes": list(self.notes),
            "environment": self.environment,
        }


def write_step_summary(outcome: Outcome) -> None:
    """Append the tables to GitHub's summary of this step, where there is one."""
    if name := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(name).open("a", encoding="utf-8") as file:
            file.write(outcome.markdown())


def _table(title: str, *headings: str) -> Table:
    return Table.of(title, headings, left=WORDS)


def _counts_table(counted: Counted) -> Table:
    if not (counted.grown or counted.fallen):
        table = _table(COUNTED, "compared", "changed", "verdict")
        table.add_row(str(counted.compared), "0", "pass" if counted.compared else "not gated")
        table.notes += counted.notes
        return table
    headings = ("system", "stage", "count", "stored", "now", "change", "verdict")
    table = _table(COUNTED, *headings)
    changed = [(one, "regressed") for one in counted.grown]
    changed += [(one, "fell") for one in counted.fallen if one.stage == "total"]
    for one, mark in changed:
        before, after = f"{one.before:,}", f"{one.after:,}"
        table.add_row(one.system, one.stage, one.words, before, after, one.difference, mark)
    same = counted.compared - len(counted.grown) - len(counted.fallen)
    table.notes.append(
        f"{len(counted.grown)} counts grew, {len(counted.fallen)} fell (--json "
        f"has them by stage), {same} are as stored"
    )
    if counted.fallen:
        table.notes.append("a count that fell passes; --update stores it, so that it stays down")
    table.notes += counted.notes
    return table


def _ratios_table(title: str, judged: Sequence[Judgement]) -> Table:
    table = _table(title, "ratio", "now", "95 % interval", "needs", "A/A", "wall", "n", "verdict")
    for one in judged:
        low, high = _number(one.ratio.low), _number(one.ratio.high)
        table.add_row(
            one.label,
            _number(one.ratio.value),
            "—" if one.ratio.low is None else f"{low} to {high}",
            f"≥ {one.threshold:.2f}" if one.threshold else "—",
            _number(one.control.value),
            _number(one.wall.value),
            str(one.ratio.n),
            Text(one.verdict, one.note),
        )
    table.notes += [TIMES, CONTROL]
    return table


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"
