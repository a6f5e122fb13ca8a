"""What is asked: a session from a run, and a ballot that is balanced over rows, prompts and sides.

The order of questions is fixed and needs no memory. All contests (pairs of rows; single rows where
sound is scored) stand in one long sequence. A block of it holds every contest once, with another
prompt each; after as many blocks as there are prompts, every contest was asked of every prompt, and
the sequence goes round. Listener number r gets the r-th stretch of it, in an order of their own. So
however many listeners answer, any two contests were held equally often, give or take one, and each
row of a pair was heard first as often as second.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from calm_bench.core import paths
from calm_bench.errors import InputError, UnknownNameError
from calm_bench.seeds import content_hash
from calm_bench.store.records import Row, TrialRecord
from calm_bench.store.run_store import RunStore
from calm_bench.types import StrictModel

Question = Literal["meaningfulness", "enjoyment", "quality"]
QUESTIONS: tuple[Question, ...] = get_args(Question)


class Session(StrictModel):
    """The first line of a vote file: all that decides who is asked what.

    Attributes:
        session: A random name; two files of one name hold the same votes.
        per_rater: How many questions each listener is asked.
        cells: The rows that are judged.
        items: Prompt and draw of the clips, in the run's order.
        clips: By cell_id, the content hashes of its clips, one an item.
    """

    kind: Literal["session"] = "session"
    schema_version: Literal[1] = 1
    session: str
    run_id: str
    benchmark: str
    benchmark_version: int
    question: Question
    seed: int
    per_rater: int = Field(ge=1)
    created: str
    cells: tuple[Row, ...]
    items: tuple[tuple[str, int], ...] = Field(min_length=1)
    clips: dict[str, tuple[str, ...]]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        names = [row.cell_id for row in self.cells]
        if len(set(names)) != len(names) or len(names) < (2 if self.paired else 1):
            raise ValueError("the rows are too few or not distinct")
        if self.clips.keys() != set(names):
            raise ValueError("rows and clips do not belong together")
        if any(len(clips) != len(self.items) for clips in self.clips.values()):
            raise ValueError("every row needs one clip an item")
        return self

    @property
    def paired(self) -> bool:
        """Whether two clips are compared, and not one scored."""
        return self.question != "quality"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question to one listener: the rows in the order of hearing, of which item."""

    rows: tuple[str, ...]
    item: int


class Ballot:
    """The questions of every listener, computed when they are asked for."""

    def __init__(self, session: Session) -> None:
        """Lay the sequence of a session out."""
        names = [row.cell_id for row in session.cells]
        self._contests = list(combinations(names, 2 if session.paired else 1))
        self._key = (session.seed, session.question)
        self._items = self._shuffled("items", len(session.items))
        self._known: dict[int, tuple[Asked, ...]] = {}
        self._flips = [int(self._hash("side", c), 16) % 2 for c in range(len(self._contests))]
        self.length = min(session.per_rater, len(self._contests) * len(self._items))

    def questions(self, rater_index: int) -> tuple[Asked, ...]:
        """What the listener of this number is asked, in order."""
        if rater_index not in self._known:
            start = rater_index * self.length
            order = self._shuffled(f"rater {rater_index}", self.length)
            self._known[rater_index] = tuple(self._at(start + place) for place in order)
        return self._known[rater_index]

    def _at(self, position: int) -> Asked:
        block, place = divmod(position, len(self._contests))
        n_items = len(self._items)
        contest = self._shuffled(f"block {block}", len(self._contests))[place]
        rows = self._contests[contest]
        # With an even number of prompts the sides would repeat from round to round.
        turn = block + (block // n_items if n_items % 2 == 0 else 0)
        if (turn + self._flips[contest]) % 2:
            rows = rows[::-1]
        return Asked(rows=rows, item=self._items[(block + contest) % n_items])

    def _hash(self, *parts: object) -> str:
        return content_hash(*self._key, *parts)

    def _shuffled(self, label: str, n: int) -> list[int]:
        """The numbers below n in an order that no library's version can change."""
        return sorted(range(n), key=lambda i: self._hash(label, i))


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
    there = {key for key, t in trials.items() if t.clip and (store.root / t.clip).is_file()}
    tried = list(dict.fromkeys(key[1:] for key in trials))
    found = [item for item in tried if all((row.cell_id, *item) in there for row in rows)]
    items = found[: wanted.n_prompts]
    if not items:
        raise InputError(
            f"{store.root} has no prompt for which each of {', '.join(r.label for r in rows)} has "
            "its clip on disk"
        )
    trials_of = {r.cell_id: [trials[(r.cell_id, *item)] for item in items] for r in rows}
    session = Session(
        session=secrets.token_hex(8),
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
    names = {name for row in rows for name in (row.cell_id, row.label)}
    for name in wanted.rows:
        if name not in names:
            raise UnknownNameError("row", name, names)
    if wanted.rows:
        chosen = [r for r in rows if r.cell_id in wanted.rows or r.label in wanted.rows]
    else:
        chosen = [row for row in rows if row.kind in ("reference", "system")]
    if wanted.question != "quality" and len(chosen) < 2:
        raise InputError("a comparison needs two rows; this run has no more that could be judged")
    if not chosen:
        raise InputError("this run has no row that could be judged")
    return tuple(chosen)
