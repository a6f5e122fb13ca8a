"""A session from a run: which rows and prompts are judged, and where their clips lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from calm_bench.core import paths
from calm_bench.errors import InputError, UnknownNameError
from calm_bench.listening.ballot import QUESTIONS, Question, Session
from calm_bench.listening.votes import new_session_name
from calm_bench.store.records import Row, TrialRecord
from calm_bench.store.run_store import RunStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a listening test is to be.

    Attributes:
        rows: Labels or ids of the rows that are judged; empty for all systems and the reference.
        n_prompts: Only the first ones, so that more listeners judge the same clips.
        per_rater: Questions a listener; the paper asks 10.
    """

    question: Question = "meaningfulness"
    rows: Sequence[str] = ()
    n_prompts: int | None = None
    per_rater: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.question not in QUESTIONS:
            raise UnknownNameError("question", self.question, QUESTIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFiles:
    """Where the clips of a session lie.

    Attributes:
        paths: By cell_id and number of the item.
        prompt_seconds: By number of the item.
        left_out: How many prompts are not judged because some row has no clip for them.
    """

    paths: dict[tuple[str, int], Path]
    prompt_seconds: tuple[float, ...]
    left_out: int = 0


def vote_file(run: Path, question: Question) -> Path:
    """Where the votes of a run are collected unless --votes says otherwise."""
    return run / "votes" / f"{question}.jsonl"


def plan_session(store: RunStore, wanted: Wanted) -> tuple[Session, ClipFiles]:
    """The session that a run and these wishes give, with its clips.

    Raises:
        InputError: If the run has no clips that could be compared.
    """
    results = store.read_results()
    rows = _chosen(results.cells, wanted)
    trials = {(t.cell_id, t.prompt_id, t.seed_index): t for t in store.read(TrialRecord)}
    tried = list(dict.fromkeys(key[1:] for key in trials))
    found = [item for item in tried if all(_usable(store, trials, c, item) for c in rows)]
    items = found[: wanted.n_prompts]
    if not items:
        raise InputError(
            f"{store.root} has no prompt for which each of {', '.join(c.label for c in rows)} has "
            "its clip on disk"
        )
    trials_of = {c.cell_id: [trials[(c.cell_id, *item)] for item in items] for c in rows}
    session = Session(
        session=new_session_name(),
        run_id=results.run_id,
        benchmark=results.benchmark,
        benchmark_version=results.benchmark_version,
        question=wanted.question,
        seed=wanted.seed,
        per_rater=wanted.per_rater,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        cells=rows,
        items=tuple(items),
        clips={name: tuple(str(t.clip_id) for t in row) for name, row in trials_of.items()},
    )
    files = ClipFiles(
        paths={
            (name, i): paths.inside(store.root, str(trial.clip))
            for name, row in trials_of.items()
            for i, trial in enumerate(row)
        },
        prompt_seconds=tuple(t.prompt_seconds for t in trials_of[rows[0].cell_id]),
        left_out=len(tried) - len(found),
    )
    return session, files


def _chosen(rows: Sequence[Row], wanted: Wanted) -> tuple[Row, ...]:
    """The rows that are judged, in the table's order."""
    if not wanted.rows:
        chosen = [row for row in rows if row.kind in ("reference", "system")]
    else:
        names = {name for row in rows for name in (row.cell_id, row.label)}
        for name in wanted.rows:
            if name not in names:
                raise UnknownNameError("row", name, names)
        chosen = [c for c in rows if c.cell_id in wanted.rows or c.label in wanted.rows]
    if wanted.question != "quality" and len(chosen) < 2:
        raise InputError("a comparison needs two rows; this run has no more that could be judged")
    if not chosen:
        raise InputError("this run has no row that could be judged")
    return tuple(chosen)


def _usable(
    store: RunStore,
    trials: dict[tuple[str, str, int], TrialRecord],
    row: Row,
    item: tuple[str, int],
) -> bool:
    trial = trials.get((row.cell_id, *item))
    return trial is not None and trial.clip is not None and (store.root / trial.clip).is_file()
