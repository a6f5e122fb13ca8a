"""What a listener's browser may ask for: the next question, its clips, and to cast one vote.

What leaves this module names no row: a question is an opaque word, made from a key that dies with
the server, and so is a clip, anew for every question.
"""

import hashlib
import hmac
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from calm_bench.errors import InputError
from calm_bench.listening.ballot import Asked
from calm_bench.listening.sessions import ClipFiles
from calm_bench.listening.votes import Answer, Vote, VoteBook, clean_name
from calm_bench.types import StrictModel

M = TypeVar("M", bound=StrictModel)
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class Refused(InputError):
    """A request that is not granted, with the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the status beside the one line for the listener."""
        super().__init__(message)
        self.status = status


class _Ask(StrictModel):
    rater: str


class _Cast(StrictModel):
    rater: str
    question: str
    answer: Answer
    heard: tuple[Seconds, ...]
    seconds: Seconds


class Desk:
    """Hands questions out and takes votes in, for any number of browsers at once."""

    def __init__(self, book: VoteBook, files: ClipFiles) -> None:
        """Serve the questions of a book whose clips lie in these files."""
        self._book, self._files = book, files
        self._key = secrets.token_bytes(32)
        self._clips: dict[str, Path] = {}
        self._lock = threading.Lock()

    @property
    def n_votes(self) -> int:
        """How many votes the book holds."""
        return sum(len(votes) for votes in self._book.votes.values())

    def question(self, body: bytes) -> dict[str, Any]:
        """The question that a listener is to answer next, or that there is none left.

        Raises:
            Refused: If the request does not say who asks.
        """
        rater = _name(_parsed(_Ask, body).rater)
        with self._lock:
            self._book.welcome(rater)
            return self._next(rater)

    def vote(self, body: bytes) -> dict[str, Any]:
        """Write one vote down, then hand out the next question.

        Raises:
            Refused: If the vote is malformed, or answers anything but the pending question.
        """
        cast = _parsed(_Cast, body)
        rater = _name(cast.rater)
        with self._lock:
            if rater not in self._book.votes:
                raise Refused(403, f"nobody called {rater!r} takes part yet")
            asked, number = self._pending(rater, cast.question)
            if not cast.heard or min(cast.heard) <= 0:
                raise Refused(400, "listen to every clip before you answer")
            prompt_id, seed_index = self._book.session.items[asked.item]
            vote = Vote(
                rater=rater,
                number=number,
                cells=asked.rows,
                prompt_id=prompt_id,
                seed_index=seed_index,
                answer=cast.answer,
                heard=cast.heard,
                seconds=cast.seconds,
                at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            try:
                self._book.add(vote)
            except InputError as error:
                raise Refused(400, str(error)) from error
            return self._next(rater)

    def clip(self, word: str) -> Path:
        """The file behind a clip's word.

        Raises:
            Refused: If no question has handed this word out.
        """
        with self._lock:
            path = self._clips.get(word)
        if path is None or not path.is_file():
            raise Refused(404, "there is no such clip: reload the page")
        return path

    def _pending(self, rater: str, question: str) -> tuple[Asked, int]:
        """What the listener is being asked, if it is what the vote answers."""
        number = len(self._book.votes[rater])
        earlier = (self._word(rater, i) for i in range(number))
        if any(hmac.compare_digest(question.encode(), word.encode()) for word in earlier):
            raise Refused(409, "this question was answered before; a vote counts once")
        asked = self._book.pending(rater)
        if asked is None or question != self._word(rater, number):
            raise Refused(403, "nobody asked this question: reload the page")
        return asked, number

    def _next(self, rater: str) -> dict[str, Any]:
        session, number = self._book.session, len(self._book.votes[rater])
        asked = self._book.pending(rater)
        known = {"rater": rater, "kind": session.question, "done": number}
        known |= {"of": self._book.ballot.length}
        if asked is None:
            return known
        words = [self._word(rater, number, side) for side in range(len(asked.rows))]
        for word, row in zip(words, asked.rows, strict=True):
            self._clips[word] = self._files.paths[row, asked.item]
        return known | {
            "question": self._word(rater, number),
            "clips": [f"clip/{word}" for word in words],
            "prompt_seconds": self._files.prompt_seconds[asked.item],
        }

    def _word(self, *parts: object) -> str:
        return hmac.new(self._key, repr(parts).encode(), hashlib.sha256).hexdigest()[:32]


def _name(rater: str) -> str:
    try:
        return clean_name(rater)
    except InputError as error:
        raise Refused(400, str(error)) from error


def _parsed(model: type[M], body: bytes) -> M:
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the request"
        raise Refused(400, f"{field}: {first['msg']}") from error
