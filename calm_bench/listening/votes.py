"""Votes on disk: JSON lines whose checksums form a chain, synced before a vote is acknowledged.

Each line is {"check": …, "record": …}; `check` is a hash of the record and of the check before it,
so that a line that was changed, dropped, copied or moved is found, with its number. A last line
without its newline was being written when the server died: its listener was not told that it
counts, and is asked again.
"""

import re
import secrets
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from calm_bench.core import files
from calm_bench.errors import InputError
from calm_bench.listening.ballot import Asked, Ballot, Session
from calm_bench.seeds import content_hash
from calm_bench.types import StrictModel

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
            InputError: If the file holds another session or is damaged.
        """
        if not files.committed_lines(path):
            book = cls(path, wanted)
            book._append(wanted)
            return book
        book = cls.read(path)
        own = {"session", "created"}
        if book.session.model_dump(exclude=own) != wanted.model_dump(exclude=own):
            raise InputError(
                f"{path} holds votes of another session ({_what_differs(book.session, wanted)}); "
                "repeat its options, or collect into another file with --votes"
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
            where = f"{path}:{number}"
            check, record = _parse(line, where)
            if check != _checksum(book._check if book else "", record):
                raise InputError(
                    f"{where}: the checksum does not fit: this line was changed, or the line "
                    "before it was removed, added or moved"
                )
            known = _load(record, where)
            if isinstance(known, Session):
                if book is not None:
                    raise InputError(f"{where}: a second session in one file")
                book = cls(path, known)
            elif book is None:
                raise InputError(f"{where}: the file does not begin with its session")
            else:
                book._take(known, where)
            book._check = check
        if book is None:
            raise InputError(f"{path} holds no votes")
        return book

    @staticmethod
    def locked(path: Path) -> AbstractContextManager[None]:
        """Hold a vote file for writing, making its folder; the lock dies with the process.

        Raises:
            BenchError: If another server collects votes into it, or the folder cannot be made.
        """
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

    def _take(self, record: Rater | Vote, where: str) -> None:
        try:
            if isinstance(record, Vote):
                self._require_next(record)
                self.votes[record.rater].append(record)
            elif record.rater in self.votes:
                raise InputError(f"{record.rater!r} was given a number before")
            else:
                self.votes[record.rater] = []
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

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
            raise InputError(f"{vote.answer!r} is no answer to a question of {_kind(self.session)}")
        if len(vote.heard) != len(vote.cells):
            raise InputError("a vote says of each clip how much of it was played")

    def _append(self, record: Session | Rater | Vote) -> None:
        body = record.model_dump_json().encode()
        check = _checksum(self._check, body)
        files.append_lines(self.path, b'{"check":"%b","record":%b}\n' % (check.encode(), body))
        self._check = check


def new_session_name() -> str:
    """A name that no other session has."""
    return secrets.token_hex(8)


def _checksum(before: str, body: bytes) -> str:
    return content_hash(before, body)


def _parse(line: bytes, where: str) -> tuple[str, bytes]:
    found = _LINE.fullmatch(line)
    if found is None:
        raise InputError(f"{where}: not a line of a vote file")
    return found[1].decode(), found[2]


def _load(body: bytes, where: str) -> Session | Rater | Vote:
    try:
        return _RECORD.validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{where}: {field}: {first['msg'].removeprefix('Value error, ')}"
        ) from error


def _kind(session: Session) -> str:
    return "preference" if session.paired else "quality"


def _what_differs(known: Session, wanted: Session) -> str:
    names = (n for n in Session.model_fields if n not in {"session", "created"})
    differing = [n for n in names if getattr(known, n) != getattr(wanted, n)]
    return "other " + ", ".join(n.replace("_", " ") for n in differing)
