"""What `check` found: verdict, exit code, and the tables for terminals and pull requests."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calm_bench.gate.counting import Change, Counted
from calm_bench.gate.rule import Judgement, Verdict
from calm_bench.report.formats import to_markdown
from calm_bench.report.tables import Table, Text
from calm_bench.types import Estimate

REGRESSED, UNDECIDED = 1, 3

CONTROL = "A/A is the reference against itself: 1.00 on a fit machine"
TIMES = "ratios of processor time, more is better; wall time beside them finds what waits"


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
    environment: dict[str, Any]

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
            tables.append(_table("Nothing was compared", [("verdict", True)], [[self.verdict]]))
        tables[-1].notes += self.notes
        return tables

    def markdown(self) -> str:
        """The tables for a step summary."""
        parts = [f"## calm-bench check: {self.verdict}", *map(to_markdown, self.tables())]
        return "\n\n".join(part.strip() for part in parts) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        counted = self.counted
        counts = None
        if counted is not None:
            counts = {
                "verdict": "regressed" if counted.grown else "pass",
                "compared": counted.compared,
                "grown": [asdict(change) for change in counted.grown],
                "fallen": [asdict(change) for change in counted.fallen],
                "notes": list(counted.notes),
            }
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "counts": counts,
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


def _table(
    title: str, headings: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]]
) -> Table:
    table = Table(title=title)
    for heading, left in headings:
        table.add_column(heading, left=left)
    table.rows = [[Text(text=text) for text in row] for row in rows]
    return table


def _counts_table(counted: Counted) -> Table:
    title = "Counts of one frame"
    changed = [(one, "regressed") for one in counted.grown]
    changed += [(one, "fell") for one in counted.fallen if one.stage == "total"]
    if counted.grown or counted.fallen:
        headings = [("system", True), ("stage", True), ("count", True), ("stored", False)]
        headings += [("now", False), ("change", False), ("verdict", True)]
        rows = [[*_cells(one), verdict] for one, verdict in changed]
        table = _table(title, headings, rows)
        same = counted.compared - len(counted.grown) - len(counted.fallen)
        table.notes.append(
            f"{len(counted.grown)} counts grew, {len(counted.fallen)} fell (--json "
            f"has them by stage), {same} are as stored"
        )
    else:
        verdict = "pass" if counted.compared else "not gated"
        headings = [("compared", False), ("changed", False), ("verdict", True)]
        table = _table(title, headings, [[str(counted.compared), "0", verdict]])
    if counted.fallen:
        table.notes.append("a count that fell passes; --update stores it, so that it stays down")
    table.notes += counted.notes
    return table


def _cells(one: Change) -> list[str]:
    name = one.count.replace("_", " ")
    return [one.system, one.stage, name, f"{one.before:,}", f"{one.after:,}", one.difference]


def _ratios_table(title: str, judged: Sequence[Judgement]) -> Table:
    headings = [("ratio", True), ("now", False), ("95 % interval", False), ("needs", False)]
    headings += [("A/A", False), ("wall", False), ("n", False), ("verdict", True)]
    rows = []
    for one in judged:
        row = [one.label, _number(one.ratio.value), _interval(one.ratio)]
        row += [
            f"≥ {one.threshold:.2f}" if one.threshold else "—",
            _number(one.control.value),
            _number(one.wall.value),
        ]
        rows.append([*row, str(one.ratio.n), one.verdict])
    table = _table(title, headings, rows)
    for texts, one in zip(table.rows, judged, strict=True):
        if one.note:
            texts[-1] = table.text(one.verdict, one.note)
    table.notes += [TIMES, CONTROL]
    return table


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "—"
    return f"{estimate.low:.2f} to {estimate.high:.2f}"
