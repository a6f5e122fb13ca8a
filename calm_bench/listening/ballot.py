"""Who is asked what: a fixed order that needs no memory, balanced over rows, prompts and sides.

All contests (pairs of rows; single rows where sound is scored) stand in one long sequence. A block
of it holds every contest once, with another prompt each; after as many blocks as there are prompts,
every contest was asked of every prompt, and the sequence goes round. Listener number r gets the
r-th stretch of it, in an order of their own. So however many listeners answer, any two contests
were held equally often, give or take one, and each row of a pair was heard first as often as
second.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal, Self

from pydantic import Field, model_validator

from calm_bench.seeds import content_hash
from calm_bench.store.records import Row
from calm_bench.types import StrictModel

Question = Literal["meaningfulness", "enjoyment", "quality"]
QUESTIONS: tuple[Question, ...] = ("meaningfulness", "enjoyment", "quality")
PAIRED: tuple[Question, ...] = ("meaningfulness", "enjoyment")
"""Questions that compare two clips; the others score one."""


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
        return self.question in PAIRED


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
