"""The ledger for readers: as tables for Markdown, LaTeX and the terminal, and as CSV."""

import csv
import io
from collections import Counter
from collections.abc import Sequence

from calm_bench.report.numbers import plain_number
from calm_bench.report.paper.ledger import Entry, Ledger, fitting_decimals
from calm_bench.report.tables import Table, Text

_COMMAND_WIDTH = 52  # beyond it, a command pushes what follows it


def ledger_tables(ledger: Ledger, *, brief: bool = False) -> list[Table]:
    """The counts, the lines that were measured, and what is missing for the others.

    With `brief` claims are named by their ids, for a terminal.
    """
    measured = [entry for entry in ledger.entries if entry.verdict != "not measured"]
    absent = [entry for entry in ledger.entries if entry.verdict == "not measured"]
    tables = [_counts_table(ledger)]
    if measured:
        tables.append(_measured_table(measured, brief))
    if absent:
        tables.append(_absent_table(absent, brief))
    tables[-1].notes += ledger.notes
    return tables


def _counts_table(ledger: Ledger) -> Table:
    table = Table(title="Claims by verdict")
    table.add_column("verdict", left=True)
    table.add_column("lines")
    counts = ledger.counts.items()
    table.rows = [[Text(text=verdict), Text(text=str(count))] for verdict, count in counts]
    table.notes.append(
        f"runs: {', '.join(ledger.runs) or 'none'}. A verdict speaks of the scale in its line: "
        "models of a few million parameters cannot confirm or refute what billions do"
    )
    return table


def _table(
    title: str, headings: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]]
) -> Table:
    table = Table(title=title)
    for heading, left in headings:
        table.add_column(heading, left=left)
    table.rows = [[Text(text=text) for text in row] for row in rows]
    return table


def _measured_table(entries: Sequence[Entry], brief: bool) -> Table:
    headings = [("claim", True), ("published", True), ("ours", True), ("95 % interval", False)]
    headings += [("n", False), ("scale", True), ("verdict", True), ("by", True)]
    headings += [] if brief else [("run", True), ("note", True), ("source", True)]
    rows = []
    for entry in entries:
        row = [_name(entry, brief), entry.published, entry.ours or "", interval_of(entry)]
        row += [str(entry.n), entry.scale, entry.verdict, entry.by or ""]
        row += [] if brief else [entry.run or "", entry.note or "", entry.source]
        rows.append(row)
    table = _table("Measured", headings, rows)
    table.notes.append(
        "the interval is that of the difference or factor at the end of `ours`; of an order, that "
        "of its weakest link"
    )
    return table


def _absent_table(entries: Sequence[Entry], brief: bool) -> Table:
    headings = [("claim", True), ("published", True), ("scale", True), ("what is missing", True)]
    headings += [] if brief else [("what would measure it", True), ("source", True)]
    rows = []
    for entry in entries:
        scale = "" if entry.scale == "none" else entry.scale
        row = [_name(entry, brief), entry.published, scale, entry.note or ""]
        rows.append(row + ([] if brief else [entry.command or "", entry.source]))
    return _table("Not measured", headings, rows)


def _name(entry: Entry, brief: bool) -> str:
    return entry.claim if brief else f"{entry.claim}: {entry.says}"


def remedy_lines(ledger: Ledger) -> list[str]:
    """The commands that can be run as they stand, and how many claims each would measure.

    Claims that need more than one command, or something of one's own, are counted in the last line.
    """
    wanted = Counter(e.command for e in ledger.entries if e.verdict == "not measured")
    found = [(c, n) for c, n in wanted.most_common() if c is not None and _can_be_run(c)]
    width = min(_COMMAND_WIDTH, max((len(command) for command, _ in found), default=0))
    lines = [f"{c:<{width}}  would measure {n} claim{'s' if n > 1 else ''}" for c, n in found]
    if rest := wanted.total() - sum(n for _, n in found):
        lines.append(f"ledger.md says what {rest} more claim{'s need' if rest > 1 else ' needs'}")
    return lines


def _can_be_run(command: str) -> bool:
    """Whether a command is a single one, and nothing in it is for the reader to fill in."""
    alone = not any(mark in command for mark in ("&&", "#", ","))
    return command.startswith("calm-bench ") and alone and command.islower()


def ledger_csv(ledger: Ledger) -> str:
    """Every line of the ledger with its unrounded numbers."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(Entry.model_fields), lineterminator="\n")
    writer.writeheader()
    for entry in ledger.entries:
        writer.writerow(entry.model_dump())
    return out.getvalue()


def interval_of(entry: Entry) -> str:
    """The 95 % interval of an entry's effect as text."""
    if entry.value is None or entry.low is None or entry.high is None:
        return "—"
    decimals = fitting_decimals(entry.high - entry.low)
    return f"[{plain_number(entry.low, decimals)}, {plain_number(entry.high, decimals)}]"
