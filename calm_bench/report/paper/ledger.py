"""The claims ledger: a line a claim, with its verdict, and below it all that was measured of it.

Evidence comes from every run, scale and recipe that measures a claim, so that none can be picked;
runs of the same clips share theirs. A claim without evidence says what is missing.
"""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from calm_bench.core.inference import ALPHA, POWER, holm, range_needed, trainings_needed
from calm_bench.report.columns import MARK, MARKED, needed_text, plain_number, signed, two_figures
from calm_bench.report.paper.claims import MOST_HEADLINES, Claim
from calm_bench.report.paper.measure import (
    Measured,
    Missing,
    counted,
    level_reach,
    measure,
    number_of,
)
from calm_bench.report.paper.runs import SPEED_METRICS, Scale, StoredRun
from calm_bench.report.paper.verdicts import AGAINST, VERDICTS, Verdict, joined, settled
from calm_bench.report.tables import Table
from calm_bench.store.records import Weights, weights_text
from calm_bench.types import StrictModel

_COMMAND_WIDTH = 52  # beyond it, a command pushes what follows it
_COMPLETE = re.compile(r"calm-bench (?!.*&&)[^#,A-Z]+")  # nothing is left to be filled in
_AT = f"with {100 * POWER:g} % power"


class Evidence(StrictModel):
    """What one run says of a claim, by one recipe.

    Attributes:
        run: Where it was measured; several runs where these hold the same clips.
        ours: What was measured, as text: the rows compared and their difference or ratio.
        value, low, high: The effect, unrounded, with its 95 % interval; of an order, its weakest
            link's own.
        n: Prompts, or rounds of timing.
        trainings: Of how many of each model; None where weights change nothing.
        spread: The standard deviation of the effect over trainings; of factors, itself a factor.
        p: Of the verdict, two-sided.
        paired: Whether the run paired the rows; None where one row alone was judged.
        by: What of the rows a reader must know: language model, embedding, device; and code,
            recipe, prompts or weights that are not those of the oldest run.
        recipe_id: The recipe under which the run holds the rows.
        alike: Whether scale and device are those of the published number.
        note: Why the verdict is what it is, where it needs words.
    """

    run: str
    scale: Scale
    ours: str
    value: float
    low: float
    high: float
    n: int
    trainings: int | None = None
    spread: float | None = None
    p: float
    paired: bool | None = None
    by: str | None = None
    recipe_id: str | None = None
    alike: bool
    verdict: Verdict
    note: str | None = None


Family = Literal["headline", "exploratory", "times", "exact", "joint", ""]


class Line(StrictModel):
    """One claim.

    Attributes:
        family: With what it is corrected, or why not; empty for what nothing here measures.
        p: Of a headline, corrected with the others.
        evidence: All of it; empty of a claim that no run measures, and of a joint one.
        note: What is missing, or what must be said of all evidence.
        command: What would measure it; None of what was.
    """

    claim: str
    section: str
    says: str
    source: str
    published: str
    family: Family
    verdict: Verdict
    p: float | None = None
    evidence: tuple[Evidence, ...] = ()
    note: str | None = None
    command: str | None = None

    @property
    def raw_p(self) -> float:
        """That of the evidence that decides, each piece of which must hold."""
        return max((one.p for one in _nearest_to(self.evidence)), default=1.0)


def _nearest_to(evidence: Sequence[Evidence]) -> Sequence[Evidence]:
    """What was measured at the published size and on the published device, if anything was."""
    return [one for one in evidence if one.alike] or evidence


class Ledger(StrictModel):
    """All claims, and what must be said of the runs behind them."""

    schema_version: Literal[2] = 2
    runs: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[Verdict, int]:
        """Claims by verdict, in the order of the rule."""
        found = Counter(line.verdict for line in self.lines)
        return {verdict: found[verdict] for verdict in VERDICTS}

    @property
    def summary(self) -> str:
        """Claims by verdict in words: 3 reproduced, 1 direction only, ..."""
        shown = [f"{n} {v}" for v, n in self.counts.items() if n or v == "reproduced"]
        return f"{len(self.lines)} claims: {', '.join(shown)}"


def ledger_tables(ledger: Ledger, *, brief: bool = False) -> list[Table]:
    """The counts, the claims that were measured by family, and what is missing for the others.

    With `brief` claims are named by their ids, for a terminal.
    """
    counts = [{"verdict": v, "claims": str(n)} for v, n in ledger.counts.items() if n]
    tables = [_table("Claims by verdict", counts)]
    tables[0].notes.append(
        f"runs: {', '.join(ledger.runs) or 'none'}. docs/claims.md defines every verdict. It "
        "speaks of the scale in its line: models of a few million parameters cannot confirm or "
        "refute what billions do"
    )
    measured = [line for line in ledger.lines if line.verdict != "not measured"]
    for family, (title, note) in _FAMILIES.items():
        lines = (line for line in measured if line.family == family)
        if rows := [row for line in lines for row in _rows(line, brief)]:
            tables.append(_table(title, rows, brief))
            tables[-1].groups = [i for i, row in enumerate(rows) if i and row["claim"] != _UNDER]
            tables[-1].notes.append(note)
    absent = [
        {
            "claim": _named(line, brief),
            "published": line.published,
            "what is missing": line.note or "",
            "what would measure it": line.command or "",
            "source": line.source,
        }
        for line in ledger.lines
        if line.verdict == "not measured"
    ]
    if absent:
        tables.append(_table("Not measured", absent, brief))
    tables[-1].notes += ledger.notes
    return tables


_FAMILIES: dict[Family, tuple[str, str]] = {
    "headline": (
        "Headline claims of quality",
        f"declared beforehand, at most {MOST_HEADLINES}, and corrected together (Holm); more "
        "prompts say more of these trainings, and nothing of others",
    ),
    "joint": ("Several claims at once", "each of them must hold; their lines are in the others"),
    "exploratory": (
        "Other claims of quality: exploratory",
        "each is judged at 5 % by itself: of twenty true nulls one comes out on one side or the "
        "other; more prompts say more of these trainings, and nothing of others",
    ),
    "times": (
        "Times",
        "published of a GPU at the paper's size; on another device, or at a size that we chose, a "
        "direction is all that can hold",
    ),
    "exact": ("Sizes", "counted from the shapes in models/; nothing is estimated"),
}


_UNDER = "↳"
_NUMBERS = {"95 % interval", "claims", "n", "trainings", "spread"}
_LONG = {"run", "note", "source", "what would measure it"}


def _table(title: str, rows: Sequence[Mapping[str, str]], brief: bool = False) -> Table:
    """A table without its empty columns, and where it is brief without the long ones."""
    dropped = _LONG if brief else set()
    said = [name for name in rows[0] if name not in dropped and any(row[name] for row in rows)]
    table = Table.of(title, said, left=set(said) - _NUMBERS)
    for row in rows:
        table.add_row(*(row[name] for name in said))
    return table


def _rows(line: Line, brief: bool) -> Iterator[dict[str, str]]:
    """A claim, and below it each piece of evidence; one row for both where there is one."""
    alone = line.evidence[0] if len(line.evidence) == 1 else None
    notes = _both(line.note, alone.note if alone else None)
    about = {"claim": _named(line, brief), "verdict": line.verdict, "published": line.published}
    fields = _fields(alone)
    if line.family == "joint":
        fields["ours"], notes = notes, ""
    yield about | fields | {"note": notes, "source": line.source}
    for one in line.evidence if alone is None else ():
        about = {"claim": _UNDER, "verdict": one.verdict, "published": ""}
        yield about | _fields(one) | {"note": one.note or "", "source": ""}


def _both(*notes: str | None) -> str:
    return "; ".join(filter(None, notes))


def _named(line: Line, brief: bool) -> str:
    return line.claim if brief else f"{line.claim}: {line.says}"


_FIELDS = ("ours", "95 % interval", "n", "trainings", "spread", "scale", "by", "run")


def _fields(one: Evidence | None) -> dict[str, str]:
    if one is None:
        return dict.fromkeys(_FIELDS, "")
    decimals = _decimals(one.high - one.low)
    ends = (plain_number(end, decimals) for end in (one.low, one.high))
    # Equal ends of what was measured more than once are not exact.
    counted = one.n == 1 and one.low == one.high
    interval, n = ("exact", "") if counted else (f"[{', '.join(ends)}]", str(one.n))
    spread = "" if one.spread is None else plain_number(one.spread, _decimals(one.spread))
    trainings, by = str(one.trainings or ""), one.by or ""
    known = (one.ours, interval, n, trainings, spread, one.scale, by, one.run)
    return dict(zip(_FIELDS, known, strict=True))


def remedy_lines(ledger: Ledger) -> list[str]:
    """The commands that can be run as they stand, and how many claims each would measure.

    Claims that need more than one command, or something of one's own, are counted in the last line.
    """
    wanted = Counter(line.command for line in ledger.lines if line.verdict == "not measured")
    found = [(c, n) for c, n in wanted.most_common() if c is not None and _COMPLETE.fullmatch(c)]
    width = min(_COMMAND_WIDTH, max((len(command) for command, _ in found), default=0))
    lines = [f"{c:<{width}}  would measure {n} claim{'s' if n > 1 else ''}" for c, n in found]
    if rest := wanted.total() - sum(n for _, n in found):
        lines.append(f"ledger.md says what {rest} more claim{'s need' if rest > 1 else ' needs'}")
    return lines


def ledger_csv(ledger: Ledger) -> str:
    """Every piece of evidence with its unrounded numbers, and every claim without any."""
    out = io.StringIO()
    of_claim = [name for name in Line.model_fields if name != "evidence"]
    of_evidence = list(Evidence.model_fields)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*of_claim, *(f"evidence_{name}" for name in of_evidence)])
    for line in ledger.lines:
        about = [getattr(line, name) for name in of_claim]
        for one in line.evidence or (None,):
            writer.writerow([*about, *(getattr(one, name, None) for name in of_evidence)])
    return out.getvalue()


def build_ledger(claims: Sequence[Claim], runs: Sequence[StoredRun]) -> Ledger:
    """Every claim with a verdict, from every run that measures it.

    Raises:
        InputError: If a claim's rows are ambiguous in a run.
    """
    known = {claim.id: _line(claim, runs) for claim in claims}
    heads = [line for line in known.values() if line.family == "headline"]
    for line, p in zip(heads, holm([line.raw_p for line in heads]), strict=True):
        known[line.claim] = _held(line, p)
    together = (
        _joint(claim, [known[name] for name in claim.claims]) if claim.claims else known[claim.id]
        for claim in claims
    )
    notes = tuple(f"{run.name}: {note}" for run in runs for note in _notes_on(run))
    return Ledger(runs=tuple(run.name for run in runs), lines=tuple(together), notes=notes)


def _held(line: Line, p: float) -> Line:
    """A headline with the p value that it has among the others; what does not hold is open."""
    if not line.evidence:
        return line
    opened = p > ALPHA and line.verdict not in ("mixed", "inconclusive")
    said = f"corrected p {p:.2g}" + (f"; {line.verdict}, were it alone" if opened else "")
    update = {"p": p, "note": _both(line.note, said)}
    return line.model_copy(update=update | ({"verdict": "inconclusive"} if opened else {}))


def _joint(claim: Claim, parts: Sequence[Line]) -> Line:
    said = "; ".join(f"{line.claim}: {line.verdict}" for line in parts)
    # Of several claims one is contradicted by chance more often than each by itself.
    verdict = joined(
        "inconclusive"
        if line.verdict in AGAINST and len(parts) * line.raw_p > ALPHA
        else line.verdict
        for line in parts
    )
    command = claim.command if verdict == "not measured" else None
    return _of(claim, family="joint", verdict=verdict, note=said, command=command)


def _notes_on(run: StoredRun) -> Iterator[str]:
    """What keeps a run's numbers apart or is not on record, its weights, and its own notes."""
    if run.manifest is None:
        yield "its manifest.json was not kept, so that weights and code are not on record"
    if run.oldest is not None and run.other_code:
        yield (
            f"other code than that of {run.oldest.name} made its {', '.join(run.other_code)}: "
            "what that decides is named, and no verdict mixes both"
        )
    if named := weights_text(run.results.weights):
        yield f"weights {named}"
    if run.replaced:
        others = (f"{name} {Weights(sha256=run.weights[name]).short}" for name in run.replaced)
        have = "has" if len(run.replaced) == 1 else "have"
        why = "other weights than in an older run: what they decide stands apart"
        yield f"{', '.join(sorted(others))} {have} {why}"
    if run.prompted:
        why = "whose prompts an older run does not have: what they decide stands apart"
        yield f"{run.prompted}, {why}"
    if run.lasting:
        yield f"{run.lasting}, unlike an older run: what lengths decide stands apart"
    yield from run.results.notes


def _line(claim: Claim, runs: Sequence[StoredRun]) -> Line:
    """A claim with all evidence; of a joint one, a place for what the others say."""
    found, absent = _evidence(claim, runs)
    family: Family = "headline" if claim.headline else "exploratory"
    if claim.measure is None:
        family = ""
    elif claim.family != "quality":
        family = claim.family
    if not found:
        note = _both(claim.missing or _nearest(claim, absent), claim.note)
        return _of(claim, family=family, verdict="not measured", note=note, command=claim.command)
    verdict = settled(one.verdict for one in _nearest_to(found))
    return _of(claim, family=family, verdict=verdict, evidence=tuple(found), note=claim.note)


def _of(claim: Claim, **found: Any) -> Line:
    return Line(
        claim=claim.id,
        section=claim.section,
        says=claim.says,
        source=f"{claim.source.where}: {claim.source.row}",
        published=claim.published.text if claim.published else "–",
        **found,
    )


def _evidence(claim: Claim, runs: Sequence[StoredRun]) -> tuple[list[Evidence], list[Missing]]:
    places: list[tuple[StoredRun | None, Scale]] = [(None, "paper")]
    if claim.measure != "count":
        places = [(run, scale) for run in runs for scale in run.scales]
    found: list[Evidence] = []
    absent: list[Missing] = []
    for run, scale in places if claim.measure not in (None, "joint") else ():
        try:
            results = [counted(claim)] if run is None else measure(claim, run, scale)
        except Missing as missing:
            absent.append(missing)
        else:
            found += [_one(claim, run, scale, result) for result in results]
    # What agrees to the last digit is of the same clips: one piece that names its runs.
    names: dict[Evidence, dict[str, None]] = {}
    for one in found:
        names.setdefault(one.model_copy(update={"run": ""}), {})[one.run] = None
    merged = [one.model_copy(update={"run": ", ".join(runs)}) for one, runs in names.items()]
    return merged, absent


def _nearest(claim: Claim, absent: Sequence[Missing]) -> str:
    best = min(absent, key=lambda missing: missing.lacks, default=None)
    if best is None or best.lacks == len(claim.rows):
        models = dict.fromkeys(row.model for row in claim.rows)
        metrics = dict.fromkeys(row.metric for row in claim.rows)
        return f"no stored run has {' and '.join(metrics)} of {', '.join(models)}"
    return str(best)


def _one(claim: Claim, run: StoredRun | None, scale: Scale, result: Measured) -> Evidence:
    effect, first = result.effect, result.values[0]
    of = math.exp if claim.is_factor else float
    by: tuple[str | None, ...] = ("counted from its shapes",)
    if run is not None:
        is_time = first.metric in SPEED_METRICS
        how = run.timed_on(first) if is_time else run.instrument(first.recipe_id)
        by = (how, run.apart(*result.values))
    return Evidence(
        run=run.name if run else f"models/{first.cell_id}-paper",
        scale=scale,
        ours=_ours(claim, result),
        value=of(effect.value),
        low=of(effect.low),
        high=of(effect.high),
        n=effect.n,
        trainings=result.trainings if claim.family == "quality" else None,
        spread=None if effect.spread is None else of(effect.spread),
        p=result.p,
        paired=effect.paired,
        by=", ".join(filter(None, by)) or None,
        recipe_id=first.recipe_id,
        alike=result.alike,
        verdict=result.verdict,
        note=_note(claim, result),
    )


def _ours(claim: Claim, result: Measured) -> str:
    values, function = result.values, claim.measure
    value = math.exp(result.effect.value) if claim.is_factor else result.effect.value
    if function == "value":
        return _number(value, values[0].unit)
    if function == "count":
        return f"{round(value):,}"
    if function == "order":
        return " → ".join(_number(number_of(value), value.unit) for value in values)
    a, b = (_number(number_of(value), value.unit) for value in values[:2])
    sign = "" if function == "ratio" else signed(value, _decimals(value))
    return f"{a} against {b}: {sign or f'×{value:.{two_figures(value, 2)}f}'}"


def _decimals(value: float) -> int:
    """Enough for three significant figures; of small numbers four, or enough for two."""
    limits = enumerate((100.0, 10.0, 1.0, 0.1))
    return next((d for d, limit in limits if abs(value) >= limit), two_figures(value, 4))


def _number(value: float, unit: str) -> str:
    text = plain_number(value, _decimals(value))
    return f"×{text}" if unit == "×" else f"{text} {unit}".strip()


def _note(claim: Claim, result: Measured) -> str | None:
    effect, parts = result.effect, []
    if claim.measure == "order":
        names = claim.rows[result.link], claim.rows[result.link + 1]
        text = signed(effect.value, _decimals(effect.value))
        parts.append(f"weakest link: {text} from {names[0]} to {names[1]}")
    if result.verdict == "inconclusive":
        parts.append(_needed(claim, result))
    if claim.delta is not None:
        reach = _number(level_reach(claim, result.values), "")
        parts.append(f"δ is {100 * claim.delta:g} % of the second row: ±{reach}")
    if found := effect.detectable:
        sizes = [
            _number(math.exp(x), "×") if claim.is_factor else _number(x, "") for x in found.values()
        ]
        parts.append(
            f"detectable with {' / '.join(map(str, found))} trainings: {' / '.join(sizes)}"
        )
    parts += [f"without {name}: {why}" for name, why in result.without.items()]
    if effect.marked:
        parts.append(MARKED.removeprefix(f"{MARK} "))
    if effect.paired is False:
        parts.append("the run does not pair these rows: outer ends of both intervals")
    return _both(*parts) or None


def _needed(claim: Claim, result: Measured) -> str:
    """What would show the observed effect, or on which side of δ it lies, with 80 % power."""
    effect, shown = result.effect, f"show the observed effect {_AT}"
    null = math.log(claim.null) if claim.is_factor else claim.null
    if claim.delta is not None:
        if result.p <= ALPHA:
            return "within δ in one training"
        null = math.copysign(level_reach(claim, result.values), effect.value)
        side = "within" if abs(effect.value) <= abs(null) else "beyond"
        shown = f"show that it lies {side} δ, {_AT}"
    n, few, many = range_needed(effect, null)
    if n is None and effect.trainings > 1:
        k, more = trainings_needed(effect, abs(effect.value - null))
        wanted = f"about {k} trainings" if k else "more than 50 trainings"
        wanted += " and more prompts" if more else ""
        return f"{wanted} would {shown}"
    if n is None:
        return "no n would show it: the observed effect is nil"
    unit = "rounds" if claim.family == "times" else "prompts"
    return f"about {needed_text(n, few, many)} {unit} would {shown}"


def other_verdicts(committed: Ledger, now: Ledger) -> list[str]:
    """The claims of which a recomputed ledger says otherwise than a committed one."""
    known = {line.claim: line.verdict for line in committed.lines}
    return [
        f"{line.claim}: committed as {known[line.claim]}, the stored runs say {line.verdict}"
        for line in now.lines
        if known.get(line.claim, line.verdict) != line.verdict
    ]
