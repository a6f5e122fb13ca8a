"""Votes gathered from files: what was asked, and who said what."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calm_bench.errors import InputError
from calm_bench.listening.ballot import QUESTIONS, Session
from calm_bench.listening.votes import Vote, VoteBook


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
