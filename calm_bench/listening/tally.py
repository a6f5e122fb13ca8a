"""From vote files to rows of the table: Elo or mean opinions with intervals, n and recipe."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from calm_bench.core.stats import numbered
from calm_bench.errors import InputError
from calm_bench.listening import ratings
from calm_bench.listening.votes import Poll, clip_ids
from calm_bench.numbers.speed import value_of
from calm_bench.seeds import content_hash, derive_seed
from calm_bench.store.records import TrialRecord
from calm_bench.store.results import Rated, Ratings, Results, TrialCount
from calm_bench.store.run_store import RunStore
from calm_bench.types import Column, Estimate, Floats

logger = logging.getLogger(__name__)

ONE_LISTENER = "an interval needs two listeners and two prompts"
ALIKE = "an interval needs votes that differ"
Interval = tuple[Floats, Floats]
_SCORES = {"first": 1.0, "tie": 0.5, "second": 0.0}


def rated(poll: Poll) -> Rated:
    """What the votes on one question say."""
    return _preferences(poll) if poll.session.paired else _opinions(poll)


def results_of(polls: Sequence[Poll]) -> Results:
    """The table of the votes alone, the best row of the first question on top.

    Raises:
        InputError: If nobody has voted.
    """
    if not any(poll.votes for poll in polls):
        raise InputError("nobody has voted yet")
    sessions = [poll.session for poll in polls]
    rows = {row.cell_id: row for session in sessions for row in session.cells}
    said: dict[str, Rated] = {poll.session.question: rated(poll) for poll in polls}
    first = next(iter(said.values()))
    values = {r.cell_id: r.value for r in first.rows if r.metric == first.columns[0].name}
    known = {name: value for name, value in values.items() if value is not None}
    order = sorted(rows, key=lambda name: -known.get(name, -np.inf))
    empty = Results(
        run_id=sessions[0].run_id,
        benchmark=sessions[0].benchmark,
        benchmark_version=sessions[0].benchmark_version,
        cells=tuple(rows[name] for name in order),
        columns=(),
        rows=(),
        trials={
            row.cell_id: TrialCount(ok=len(session.items))
            for session in reversed(sessions)
            for row in session.cells
        },
    )
    return empty.joined(Ratings(run_id=empty.run_id, questions=said))


def join_run(folder: Path, polls: Sequence[Poll]) -> None:
    """Write what the votes say into a run's ratings.json, from where its tables take it.

    Raises:
        InputError: If the run is another one, or its clips are no longer those that were heard.
    """
    store = RunStore(folder)
    run_id = store.read_manifest().run_id
    there = {(t.cell_id, t.prompt_id, t.seed_index): t.clip_id for t in store.read(TrialRecord)}
    for poll in polls:
        if poll.session.run_id != run_id:
            other = poll.session.run_id
            raise InputError(f"{folder} is the run {run_id}, the votes are about {other}")
        if any(there.get(key, clip) != clip for key, clip in clip_ids(poll.session).items()):
            raise InputError(f"the clips of {folder} are no longer those that the votes are about")
    with store.lock():
        known = store.read_ratings(run_id).questions
        new: dict[str, Rated] = {poll.session.question: rated(poll) for poll in polls}
        for question, now in new.items():
            before = _n_votes(known[question]) if question in known else 0
            if _n_votes(now) < before:
                logger.warning(
                    "%s counted %s votes on %s, and now %s: name all files that are to count",
                    *(store.root / "ratings.json", before, question, _n_votes(now)),
                )
        store.write_json("ratings.json", Ratings(run_id=run_id, questions={**known, **new}))


def _n_votes(found: Rated) -> int:
    return sum(int(recipe.get("votes", 0)) for recipe in found.recipes.values())


def _preferences(poll: Poll) -> Rated:
    index, groups, seed = _index(poll), _groups(poll), _seed(poll)
    asked = [[index[name] for name in vote.cells] for _, vote in poll.votes]
    pairs = np.array(asked, dtype=np.int64).reshape(-1, 2)  # [V, 2]
    scores = np.array([_SCORES[str(vote.answer)] for _, vote in poll.votes])
    each, k = ratings.win_matrix(pairs, scores, len(index)), len(index)  # [V, K, K]
    wins, ties = each.sum(axis=0), int((scores == 0.5).sum())
    ours, theirs = ratings.centred_elo(wins), ratings.elo(ratings.strengths(wins))
    widths = ratings.two_way_errors(
        each.reshape(-1, k * k),
        groups,
        lambda sums: ratings.centred_elo(sums.reshape(-1, k, k)),
        seed,
    )
    reason = None if ratings.connected(wins) else "the votes do not link every row with every other"
    covered = ratings.gamma_coverage(wins, ties / max(1, len(scores)), seed)
    name = poll.session.question
    column = _column(f"elo_{name}", f"{name} Elo")
    paper = _column(f"elo_{name}_paper", f"{name} Elo, Gamma interval (paper)")
    numbers = {
        column: _estimates(poll, ours, _around(ours, widths), reason),
        paper: _estimates(poll, theirs, ratings.gamma_interval(wins), reason),
    }
    notes = (
        f"{name}: {_who(poll)}, {ties} ties; Elo is centred on 2000, its interval a bootstrap "
        "over listeners and prompts",
        f"{name}: the Gamma interval (paper), nominally 95 %, held the truth in "
        f"{100 * covered:.0f} % of 1,000 simulated repeats of this test",
    )
    fit = {"prior": ratings.PRIOR, "sweeps": ratings.SWEEPS, "ties": "half a win to each side"}
    recipe = {"fit": fit, "tied_votes": ties, "gamma_interval_coverage": covered}
    # A preference turns round with the order of the rows, and so does what two listeners agree on.
    forward = np.where(pairs[:, 0] < pairs[:, 1], scores, 1 - scores)
    return _rated(poll, numbers, recipe, notes, forward)


def _opinions(poll: Poll) -> Rated:
    index = _index(poll)
    cells = np.array([index[vote.cells[0]] for _, vote in poll.votes], dtype=np.int64)
    scores = np.array([float(vote.answer) for _, vote in poll.votes])
    chosen = np.eye(len(index))[cells]  # [V, K]
    sums = np.concatenate([chosen * scores[:, None], chosen], axis=1)
    means = ratings.mean_opinions(sums.sum(axis=0))
    widths = ratings.two_way_errors(sums, _groups(poll), ratings.mean_opinions, _seed(poll))
    column = _column("mos", "acoustic quality", unit="MOS", decimals=2)
    numbers = {column: _estimates(poll, means, _around(means, widths), None)}
    notes = (
        f"acoustic quality: {_who(poll)} from 1 (bad) to 5 (excellent), interval a bootstrap over "
        "listeners and prompts",
    )
    return _rated(poll, numbers, {}, notes, scores)


def _index(poll: Poll) -> dict[str, int]:
    return {row.cell_id: i for i, row in enumerate(poll.session.cells)}


def _groups(poll: Poll) -> list[ratings.Ints]:
    raters = [rater for rater, _ in poll.votes]
    return [numbered(raters), numbered([vote.prompt_id for _, vote in poll.votes])]


def _around(values: Floats, widths: Floats | None) -> Interval | None:
    return None if widths is None else (values - widths, values + widths)


def _estimates(
    poll: Poll, values: Floats, interval: Interval | None, reason: str | None
) -> list[Estimate]:
    """A number a row: its value, its interval, in how many votes it stood, or why there is none."""
    out = []
    for i, row in enumerate(poll.session.cells):
        about = [(who, vote.prompt_id) for who, vote in poll.votes if row.cell_id in vote.cells]
        n, fewest = len(about), min(len({pair[side] for pair in about}) for side in (0, 1))
        found = Estimate(value=float(values[i]), n=n)
        low, high = (float(side[i]) for side in interval or (values, values))
        if n == 0 or reason is not None:
            found = replace(found, value=None, reason=reason if n else "nobody has judged this row")
        elif interval is None or fewest < 2:
            found = replace(found, reason=ONE_LISTENER)
        elif low == high:
            found = replace(found, reason=ALIKE)
        else:
            found = replace(found, low=low, high=high)
        out.append(found)
    return out


def _rated(
    poll: Poll,
    numbers: Mapping[Column, Sequence[Estimate]],
    recipe: Mapping[str, Any],
    notes: tuple[str, ...],
    judged: Floats,
) -> Rated:
    """Rows of one recipe, and how far listeners agree; the first column joins the run's table."""
    question = poll.session.question
    units = [(vote.prompt_id, vote.seed_index, *sorted(vote.cells)) for _, vote in poll.votes]
    alpha = ratings.agreement(numbered(units), judged)
    agreed = (
        "how far listeners agree is unknown: nothing was judged twice, or all votes are alike; "
        "`calm-bench listen --prompts N` asks about fewer clips"
        if alpha is None
        else f"listeners agree to Krippendorff's alpha = {alpha:.2f}"
    )
    made_by = {
        "metric": question,
        "version": 1,
        "interval": f"two-way bootstrap over listeners and prompts, {ratings.RESAMPLES} resamples",
        "listeners": poll.n_raters,
        "votes": len(poll.votes),
        "prompts": len({vote.prompt_id for _, vote in poll.votes}),
        **recipe,
        "krippendorff_alpha": alpha,
    }
    recipe_id = content_hash(made_by)
    values = [
        value_of(row, column.name, column.unit, estimate, recipe_id)
        for column, estimates in numbers.items()
        for row, estimate in zip(poll.session.cells, estimates, strict=True)
    ]
    return Rated(
        columns=tuple(numbers),
        table=(next(iter(numbers)).name,),
        recipes={recipe_id: made_by},
        rows=tuple(values),
        notes=(*notes, f"{question}: {agreed}"),
    )


def _column(name: str, label: str, *, unit: str = "", decimals: int = 0) -> Column:
    return Column(name=name, label=label, unit=unit, higher_is_better=True, decimals=decimals)


def _who(poll: Poll) -> str:
    return f"{len(poll.votes)} votes of {poll.n_raters} listeners"


def _seed(poll: Poll) -> int:
    return derive_seed("votes", poll.session.question)
