"""The claims ledger: claim, published value, ours with its interval, verdict; none without one.

A claim has a line for every run, scale and recipe that measures it, so that none can be picked, and
one line that says what is missing where nothing does. Runs of the same clips share a line.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from calm_bench.report.columns import plain_number, signed
from calm_bench.report.paper.claims import Claim
from calm_bench.report.paper.measure import Measured, Missing, measure
from calm_bench.report.paper.runs import SPEED_METRICS, Scale, StoredRun
from calm_bench.report.paper.verdicts import VERDICTS, Verdict
from calm_bench.report.tables import Table
from calm_bench.store.records import Weights, weights_text
from calm_bench.store.results import Value
from calm_bench.types import StrictModel

_COMMAND_WIDTH = 52  # beyond it, a command pushes what follows it


def _can_be_run(command: str) -> bool:
    """Whether a command is a single one, and nothing in it is for the reader to fill in."""
    alone = not any(mark in command for mark in ("&&", "#", ","))
    return command.startswith("calm-bench ") and alone and command.islower()


class Entry(StrictModel):
    """One line of the ledger.

    Attributes:
        run: Where it was measured; several runs where these hold the same clips.
        ours: What was measured, as text: the rows compared and their difference or ratio.
        value, low, high: The effect, unrounded, with its 95 % interval.
        n: Clips, or rounds of timing.
        n_needed: Of an inconclusive claim, the n at which the interval would leave the null.
        paired: Whether the run paired the rows; None where one row alone was judged.
        by: What of the rows a reader must know: language model, embedding, device; which of several
            trainings; and code, recipe, prompts or weights that are not those of the oldest run.
        recipe_id: The recipe under which the run holds the rows.
        note: Why the verdict is what it is, where it needs words.
    """

    claim: str
    section: str
    says: str
    source: str
    published: str
    scale: Scale | Literal["none"]
    run: str | None = None
    ours: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    n_needed: int | None = None
    paired: bool | None = None
    by: str | None = None
    recipe_id: str | None = None
    verdict: Verdict
    note: str | None = None
    command: str | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """What makes a line another one: claim, run, scale, recipe, and by what it was measured."""
        return self.claim, self.run or "", self.scale, self.recipe_id or "", self.by or ""


class Ledger(StrictModel):
    """All lines, and what must be said of the runs behind them."""

    schema_version: Literal[1] = 1
    runs: tuple[str, ...]
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[Verdict, int]:
        """Lines by verdict, in the order of the rule."""
        found = Counter(entry.verdict for entry in self.entries)
        return {verdict: found[verdict] for verdict in VERDICTS}

    @property
    def summary(self) -> str:
        """Lines by verdict in words: 3 reproduced, 1 direction only, ..."""
        return ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items())


def ledger_tables(ledger: Ledger, *, brief: bool = False) -> list[Table]:
    """The counts, the lines that were measured, and what is missing for the others.

    With `brief` claims are named by their ids, for a terminal.
    """
    counts = [{"verdict": v, "lines": str(n)} for v, n in ledger.counts.items()]
    tables = [_table("Claims by verdict", counts)]
    tables[0].notes.append(
        f"runs: {', '.join(ledger.runs) or 'none'}. A verdict speaks of the scale in its line: "
        "models of a few million parameters cannot confirm or refute what billions do"
    )
    measured = [_measured_line(e, brief) for e in ledger.entries if e.verdict != "not measured"]
    absent = [_absent_line(e, brief) for e in ledger.entries if e.verdict == "not measured"]
    if measured:
        tables.append(_table("Measured", measured))
        tables[1].notes.append(
            "the interval is that of the difference or factor at the end of `ours`; of an order, "
            "that of its weakest link"
        )
    if absent:
        tables.append(_table("Not measured", absent))
    tables[-1].notes += ledger.notes
    return tables


def _table(title: str, lines: Sequence[Mapping[str, str]]) -> Table:
    table = Table.of(title, lines[0], left=lines[0].keys() - {"95 % interval", "lines", "n"})
    for line in lines:
        table.add_row(*line.values())
    return table


def _measured_line(entry: Entry, brief: bool) -> dict[str, str]:
    line = {
        "claim": entry.claim if brief else f"{entry.claim}: {entry.says}",
        "published": entry.published,
        "ours": entry.ours or "",
        "95 % interval": _interval(entry),
        "n": str(entry.n),
        "scale": entry.scale,
        "verdict": entry.verdict,
        "by": entry.by or "",
    }
    rest = {"run": entry.run or "", "note": entry.note or "", "source": entry.source}
    return line if brief else line | rest


def _absent_line(entry: Entry, brief: bool) -> dict[str, str]:
    line = {
        "claim": entry.claim if brief else f"{entry.claim}: {entry.says}",
        "published": entry.published,
        "scale": "" if entry.scale == "none" else entry.scale,
        "what is missing": entry.note or "",
    }
    rest = {"what would measure it": entry.command or "", "source": entry.source}
    return line if brief else line | rest


def _interval(entry: Entry) -> str:
    if entry.value is None or entry.low is None or entry.high is None:
        return "—"
    decimals = _decimals(entry.high - entry.low)
    return f"[{plain_number(entry.low, decimals)}, {plain_number(entry.high, decimals)}]"


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


def ledger_csv(ledger: Ledger) -> str:
    """Every line of the ledger with its unrounded numbers."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(Entry.model_fields), lineterminator="\n")
    writer.writeheader()
    for entry in ledger.entries:
        writer.writerow(entry.model_dump())
    return out.getvalue()


def build_ledger(claims: Sequence[Claim], runs: Sequence[StoredRun]) -> Ledger:
    """Every claim with a verdict from every run that measures it.

    Raises:
        InputError: If a claim's rows are ambiguous in a run.
    """
    entries = [entry for claim in claims for entry in _entries(claim, runs)]
    notes = tuple(note for run in runs for note in _notes_on(run))
    return Ledger(runs=tuple(run.name for run in runs), entries=tuple(entries), notes=notes)


def _notes_on(run: StoredRun) -> Iterator[str]:
    """What keeps a run's numbers apart or is not on record, its weights, and its own notes."""
    if run.manifest is None:
        yield (
            f"{run.name}: its manifest.json was not kept, so that weights and code are not on "
            "record"
        )
    if run.oldest is not None and run.other_code:
        yield (
            f"{run.name}: other code than that of {run.oldest.name} made its "
            f"{', '.join(run.other_code)}: what that decides is named, and no verdict mixes both"
        )
    if named := weights_text(run.results.weights):
        yield f"{run.name}: weights {named}"
    if run.replaced:
        others = (f"{name} {Weights(sha256=run.weights[name]).short}" for name in run.replaced)
        yield (
            f"{run.name}: {', '.join(sorted(others))} "
            f"{'has' if len(run.replaced) == 1 else 'have'} other weights "
            "than in an older run: what they decide stands apart"
        )
    if run.prompted:
        yield (
            f"{run.name}: {run.prompted}, whose prompts an older run does not have: what they "
            "decide stands apart"
        )
    yield from (f"{run.name}: {note}" for note in run.results.notes)


def _entries(claim: Claim, runs: Sequence[StoredRun]) -> list[Entry]:
    if claim.measure is None:
        return [_missing(claim, claim.missing or "")]
    found: list[Entry] = []
    absent: list[Missing] = []
    for run in (part for whole in runs for part in whole.by_training().values()):
        for scale in run.scales:
            try:
                results = measure(claim, run, scale)
            except Missing as missing:
                absent.append(missing)
            else:
                found += [_entry(claim, run, scale, result) for result in results]
    return _merged(found) or [_missing(claim, _nearest(claim, absent))]


def _merged(found: Sequence[Entry]) -> list[Entry]:
    """Lines that agree to the last digit, as of the same clips, as one that names its runs."""
    runs: dict[Entry, dict[str, None]] = {}
    for entry in found:
        runs.setdefault(entry.model_copy(update={"run": None}), {})[entry.run or ""] = None
    return [line.model_copy(update={"run": ", ".join(names)}) for line, names in runs.items()]


def _nearest(claim: Claim, absent: Sequence[Missing]) -> str:
    best = min(absent, key=lambda missing: missing.lacks, default=None)
    if best is None or best.lacks == len(claim.rows):
        models = dict.fromkeys(row.model for row in claim.rows)
        metrics = dict.fromkeys(row.metric for row in claim.rows)
        return f"no stored run has {' and '.join(metrics)} of {', '.join(models)}"
    return str(best)


def _line(claim: Claim, **found: Any) -> Entry:
    return Entry(
        claim=claim.id,
        section=claim.section,
        says=claim.says,
        source=f"{claim.source.where}: {claim.source.row}",
        published=claim.published.text if claim.published else "–",
        **found,
    )


def _missing(claim: Claim, reason: str) -> Entry:
    scale = claim.scales[0] if len(claim.scales) == 1 else "none"
    return _line(claim, scale=scale, verdict="not measured", note=reason, command=claim.command)


def _entry(claim: Claim, run: StoredRun, scale: Scale, result: Measured) -> Entry:
    first = result.values[0]
    by = (_by(run, first), _training(run, result), run.apart(*result.values))
    return _line(
        claim,
        **asdict(result.effect),
        scale=scale,
        run=run.name,
        ours=_ours(claim, result),
        n_needed=result.needed,
        by=", ".join(filter(None, by)) or None,
        recipe_id=first.recipe_id,
        verdict=result.verdict,
        note=_note(claim, result),
    )


def _training(run: StoredRun, result: Measured) -> str:
    """Of which training the rows are, where a run has several; they share their times."""
    if result.values[0].metric in SPEED_METRICS:
        return ""
    names = {value.cell_id for value in result.values}
    rows = (row for row in run.results.cells if row.cell_id in names)
    seeds = sorted({row.training for row in rows if row.training is not None})
    return ", ".join(f"training {seed}" for seed in seeds)


def _ours(claim: Claim, result: Measured) -> str:
    effect, values = result.effect, result.values
    function = claim.measure
    if function == "value":
        return _number(effect.value, values[0].unit)
    if function == "order":
        return " → ".join(_number(value.value or 0.0, value.unit) for value in values)
    a, b = (_number(value.value or 0.0, value.unit) for value in values[:2])
    sign = "" if function == "ratio" else signed(effect.value, _decimals(effect.value))
    return f"{a} against {b}: {sign or f'×{effect.value:.2f}'}"


def _decimals(value: float) -> int:
    """Enough for three significant figures, at most four."""
    size = abs(value)
    return next((d for d, limit in enumerate((100.0, 10.0, 1.0, 0.1)) if size >= limit), 4)


def _number(value: float, unit: str) -> str:
    text = plain_number(value, _decimals(value))
    if unit == "×":
        return f"×{text}"
    return f"{text} {unit}".strip()


def _by(run: StoredRun, value: Value) -> str | None:
    """By what a number was measured, where those of another kind would differ."""
    return run.timed_on(value) if value.metric in SPEED_METRICS else run.instrument(value.recipe_id)


def _note(claim: Claim, result: Measured) -> str | None:
    parts = []
    unit = "rounds" if result.values[0].metric in SPEED_METRICS else "clips"
    if result.verdict == "inconclusive":
        parts.append(
            f"about {result.needed} {unit} would settle it, if the observed effect is the true one"
            if result.needed
            else "no n would settle it: the observed effect is nil"
        )
    if result.verdict == "direction only" and claim.number is not None:
        parts.append(f"the published {_signed_or_factor(claim, claim.number)} is not reached")
    if result.effect.paired is False:
        parts.append("the run does not pair these rows: outer ends of both intervals")
    return "; ".join(parts) or None


def _signed_or_factor(claim: Claim, number: float) -> str:
    """A published number as one writes it: ×12.3, or +0.70."""
    if claim.is_factor:
        return f"×{number:g}"
    return signed(number, 2) if claim.null == 0 else plain_number(number, 2)


def changes(committed: Ledger, now: Ledger) -> list[str]:
    """What a recomputed ledger says otherwise than a committed one; empty if nothing."""
    before = {entry.key: entry for entry in committed.entries}
    after = {entry.key: entry for entry in now.entries}
    found = []
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        name = key[0] + (f" ({key[1]}, {key[2]})" if key[1] else "")
        if old is None or new is None:
            state = "is not in the committed ledger" if old is None else "is no longer found"
            found.append(f"{name}: {(new or old).verdict} {state}")  # type: ignore[union-attr]
        elif old.verdict != new.verdict:
            found.append(f"{name}: committed as {old.verdict}, the stored runs say {new.verdict}")
        elif (old.value, old.low, old.high) != (new.value, new.low, new.high):
            found.append(f"{name}: the committed numbers are not those of the stored runs")
    return found
