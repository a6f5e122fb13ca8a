"""Votes on disk: JSON lines whose checksums form a chain, synced before a vote is acknowledged.

Each line is {"check": …, "record": …}; `check` is a hash of the record and of the check before it,
so that a line that was changed, dropped, copied or moved is found, with its number. A last line
without its newline was being written when the server died: its listener was not told that it
counts, and is asked again. The votes of several files make a poll.
"""

import logging
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from calm_bench.core import files
from calm_bench.errors import InputError
from calm_bench.listening.session import QUESTIONS, Asked, Ballot, Session
from calm_bench.seeds import content_hash
from calm_bench.types import StrictModel, problem

logger = logging.getLogger(__name__)

Answer = Literal["first", "second", "tie", 1, 2, 3, 4, 5]
_LINE = re.compile(rb'\{"check":"([0-9a-f]{16})","record":(\{.*\})\}', re.DOTALL)
_LONGEST_NAME = 40


class Rater(StrictModel):
    """A listener's first visit, which gives them their number."""

    kind: Literal["rater"] = "rater"
    rater: str


class Vote(StrictModel):
    """One answer.

    Attributes:
        number: Which of the listener's questions, from 0.
        cells: The rows that were heard, in that order.
        heard: Seconds played of each clip, as the browser counted them.
        seconds: From the question to the answer.
    """

    kind: Literal["vote"] = "vote"
    rater: str
    number: int = Field(ge=0)
    cells: tuple[str, ...]
    prompt_id: str
    seed_index: int
    answer: Answer
    heard: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...]
    seconds: float = Field(ge=0, allow_inf_nan=False)
    at: str


_RECORD: TypeAdapter[Session | Rater | Vote] = TypeAdapter(
    Annotated[Session | Rater | Vote, Field(discriminator="kind")]
)


def clean_name(name: str) -> str:
    """A listener's name with single spaces.

    Raises:
        InputError: If it is empty, too long or holds what cannot be printed.
    """
    plain = " ".join(name.split())
    if not plain or len(plain) > _LONGEST_NAME or not plain.isprintable():
        raise InputError(f"a name has 1 to {_LONGEST_NAME} printable characters")
    return plain


class VoteBook:
    """The votes of one session, in memory and on disk.

    Attributes:
        session: What is asked.
        ballot: Who is asked what.
        votes: By listener, in the order of their numbers, their answers in order.
    """

    def __init__(self, path: Path, session: Session) -> None:
        """A book without votes; nothing is written. `open` and `read` are the ways in."""
        self.path, self.session = path, session
        self.ballot = Ballot(session)
        self.votes: dict[str, list[Vote]] = {}
        self._check = ""

    @classmethod
    def open(cls, path: Path, wanted: Session) -> "VoteBook":
        """The book of a session that begins or goes on.

        Raises:
            InputError: If the file holds another session, is damaged or someone else's.
        """
        if not files.committed_lines(path):
            _refuse_foreign(path)
            book = cls(path, wanted)
            book._append(wanted)
            return book
        book = cls.read(path)
        names = (name for name in Session.model_fields if name not in ("session", "created"))
        other = [name for name in names if getattr(book.session, name) != getattr(wanted, name)]
        if other:
            differing = ", ".join(name.replace("_", " ") for name in other)
            raise InputError(
                f"{path} holds votes of another session (other {differing}); repeat its options, "
                "or collect into another file with --votes"
            )
        return book

    @classmethod
    def read(cls, path: Path) -> "VoteBook":
        """The book of a file, every line checked.

        Raises:
            InputError: If the file is missing, or a line is damaged, forged or replayed.
        """
        if not path.is_file():
            raise InputError(f"{path} {'is no file' if path.exists() else 'does not exist'}")
        book: VoteBook | None = None
        for number, line in enumerate(files.committed_lines(path), start=1):
            try:
                book = _with_line(book, line, path)
            except (InputError, ValidationError) as error:
                said = problem(error) if isinstance(error, ValidationError) else error
                raise InputError(f"{path}:{number}: {said}") from error
        if book is None:
            raise InputError(f"{path} holds no votes")
        return book

    @staticmethod
    def locked(path: Path) -> AbstractContextManager[None]:
        """Hold a vote file for writing, making its folder; the lock dies with the process.

        Raises:
            BenchError: If another server collects votes into it, or it is someone else's, or its
                folder cannot be made.
        """
        _refuse_foreign(path)
        with files.disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock")
        return files.locked(lock, instead="collect votes into another file with --votes")

    def welcome(self, rater: str) -> None:
        """Give a listener their number, unless they have one."""
        if rater not in self.votes:
            self._append(Rater(rater=rater))
            self.votes[rater] = []

    def pending(self, rater: str) -> Asked | None:
        """The question that a listener is to answer next; None when all are answered."""
        questions = self.ballot.questions(list(self.votes).index(rater))
        done = len(self.votes[rater])
        return questions[done] if done < len(questions) else None

    def add(self, vote: Vote) -> None:
        """Write a vote; it is on disk when this returns.

        Raises:
            InputError: If it answers anything but the listener's next question.
        """
        self._require_next(vote)
        self._append(vote)
        self.votes[vote.rater].append(vote)

    def _take(self, record: Session | Rater | Vote) -> None:
        """Take in a record that was read."""
        if isinstance(record, Vote):
            self._require_next(record)
            self.votes[record.rater].append(record)
        elif isinstance(record, Session):
            raise InputError("a second session in one file")
        elif record.rater in self.votes:
            raise InputError(f"{record.rater!r} was given a number before")
        else:
            self.votes[record.rater] = []

    def _require_next(self, vote: Vote) -> None:
        """Refuse a vote that nobody was asked for."""
        if vote.rater not in self.votes:
            raise InputError(f"nobody called {vote.rater!r} takes part")
        if vote.number < len(self.votes[vote.rater]):
            raise InputError(f"question {vote.number + 1} of {vote.rater!r} was answered before")
        asked = self.pending(vote.rater)
        item = self.session.items[asked.item] if asked else None
        if (
            asked is None
            or vote.number != len(self.votes[vote.rater])
            or (vote.cells, (vote.prompt_id, vote.seed_index)) != (asked.rows, item)
        ):
            raise InputError(f"{vote.rater!r} was not asked this")
        if isinstance(vote.answer, str) != self.session.paired:
            kind = "preference" if self.session.paired else "quality"
            raise InputError(f"{vote.answer!r} is no answer to a question of {kind}")
        if len(vote.heard) != len(vote.cells):
            raise InputError("a vote says of each clip how much of it was played")

    def _append(self, record: Session | Rater | Vote) -> None:
        body = record.model_dump_json().encode()
        check = content_hash(self._check, body)
        files.append_lines(self.path, b'{"check":"%b","record":%b}\n' % (check.encode(), body))
        self._check = check


def _refuse_foreign(path: Path) -> None:
    """Leave a file alone that is not empty and does not begin as ours do, if only with half a line.

    Raises:
        InputError: If it is someone else's.
    """
    begun, there = b'{"check":"', b""
    if path.is_file():
        with path.open("rb") as file:
            there = file.read(len(begun))
    if not begun.startswith(there):
        raise InputError(f"{path} is no vote file: collect votes into another with --votes")


def _with_line(book: VoteBook | None, line: bytes, path: Path) -> VoteBook:
    """The book with what the next line of its file says, once that was checked."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise InputError("not a line of a vote file")
    check, body = found[1].decode(), found[2]
    if check != content_hash(book._check if book else "", body):
        raise InputError(
            "the checksum does not fit: this line was changed, or the line before it was removed, "
            "added or moved"
        )
    record = _RECORD.validate_json(body)
    if book is not None:
        book._take(record)
    elif isinstance(record, Session):
        book = VoteBook(path, record)
    else:
        raise InputError("the file does not begin with its session")
    book._check = check
    return book


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """All votes on one question about one run.

    Attributes:
        session: What was asked; of several files, the first one's.
        votes: With the listener that each came from, who is another one in another file.
    """

    session: Session
    votes: tuple[tuple[str, Vote], ...]

    @property
    def n_raters(self) -> int:
        """How many listeners voted."""
        return len({rater for rater, _ in self.votes})


def vote_files(names: Sequence[Path]) -> list[Path]:
    """The vote files that are meant: themselves, or all that lie in a run's votes/.

    Raises:
        InputError: If a folder holds none.
    """
    out: list[Path] = []
    for name in names:
        if not name.is_dir():
            out.append(name)
            continue
        found = sorted((name / "votes").glob("*.jsonl"))
        if not found:
            raise InputError(f"{name} holds no votes; `calm-bench listen` collects them")
        out += found
    return out


def read_polls(files: Sequence[Path]) -> list[Poll]:
    """The votes of all files, by question.

    Raises:
        InputError: If a file is damaged, given twice, or speaks of another run than the others.
    """
    books = [VoteBook.read(path) for path in files]
    for path in files:
        if not path.read_bytes().endswith(b"\n"):
            logger.warning("%s ends in half a line, which does not count", path)
    seen: dict[str, VoteBook] = {}
    for book in books:
        first = seen.setdefault(book.session.session, book)
        if first is not book:
            raise InputError(
                f"{book.path} repeats the votes of {first.path}: they would count twice"
            )
        if book.session.run_id != books[0].session.run_id:
            raise InputError(
                f"{book.path} is about the run {book.session.run_id}, {books[0].path} about "
                f"{books[0].session.run_id}: votes of different runs cannot be pooled"
            )
    found = [_pooled([b for b in books if b.session.question == q]) for q in QUESTIONS]
    return [poll for poll in found if poll is not None]


def _pooled(books: Sequence[VoteBook]) -> Poll | None:
    if not books:
        return None
    first = books[0].session
    for book in books[1:]:
        if book.session.cells != first.cells:
            raise InputError(
                f"{book.path} and {books[0].path} judge different rows: they cannot be pooled"
            )
        known, others = clip_ids(first), clip_ids(book.session)
        if any(known[key] != others[key] for key in known.keys() & others.keys()):
            raise InputError(f"{book.path} and {books[0].path} judge different clips of one run")
    votes = [
        (f"{book.session.session}/{rater}", vote)
        for book in books
        for rater, cast in book.votes.items()
        for vote in cast
    ]
    return Poll(session=first, votes=tuple(votes))


def clip_ids(session: Session) -> dict[tuple[str, str, int], str]:
    """The content hashes of a session's clips by row, prompt and draw."""
    return {
        (name, *item): clip
        for name, clips in session.clips.items()
        for item, clip in zip(session.items, clips, strict=True)
    }
