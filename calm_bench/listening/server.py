"""The listening test's server: this machine alone, behind a token, and nothing but its own files.

It binds 127.0.0.1. A page elsewhere on the web could still send a browser here, under a name of its
own that resolves to this address; so the Host header must name this server, the token of the
address must be right, and a POST from another origin is refused.

A browser may ask for the next question and its clips, and cast one vote. What leaves names no row:
a question is an opaque word, made from a key that dies with the server, and so is a clip, anew for
every question.
"""

import hashlib
import hmac
import json
import logging
import re
import secrets
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, Field, ValidationError

from calm_bench.errors import InputError, describe
from calm_bench.listening.session import Asked, ClipFiles
from calm_bench.listening.votes import Answer, Vote, VoteBook, clean_name
from calm_bench.types import StrictModel, problem

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=StrictModel)
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]

_PAGE = {
    "": ("index.html", "text/html; charset=utf-8"),
    "listen.css": ("listen.css", "text/css; charset=utf-8"),
    "listen.js": ("listen.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_MAX_BODY = 4096
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Refused(InputError):
    """A request that is not granted, with the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the status beside the one line for the listener."""
        super().__init__(message)
        self.status = status


class _Ask(StrictModel):
    rater: Annotated[str, AfterValidator(clean_name)]


class _Cast(_Ask):
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
        rater = _parsed(_Ask, body).rater
        with self._lock:
            self._book.welcome(rater)
            return self._next(rater)

    def vote(self, body: bytes) -> dict[str, Any]:
        """Write one vote down, then hand out the next question.

        Raises:
            Refused: If the vote is malformed, or answers anything but the pending question.
        """
        given = _parsed(_Cast, body)
        rater = given.rater
        with self._lock:
            if rater not in self._book.votes:
                raise Refused(403, f"nobody called {rater!r} takes part yet")
            asked, number = self._pending(rater, given.question)
            if not given.heard or min(given.heard) <= 0:
                raise Refused(400, "listen to every clip before you answer")
            prompt_id, seed_index = self._book.session.items[asked.item]
            vote = Vote(
                number=number,
                cells=asked.rows,
                prompt_id=prompt_id,
                seed_index=seed_index,
                at=datetime.now(UTC).isoformat(timespec="seconds"),
                **given.model_dump(exclude={"question"}),
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
        of = self._book.ballot.length
        known = {"rater": rater, "kind": session.question, "done": number, "of": of}
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


def _parsed(model: type[M], body: bytes) -> M:
    """A request, checked."""
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise Refused(400, problem(error)) from error
    except InputError as error:
        raise Refused(400, str(error)) from error


def _number(digits: str) -> int:
    """What a header counts; so many digits that nothing is as long stand for the largest number."""
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= 18 else sys.maxsize


class ListeningServer(ThreadingHTTPServer):
    """Serves one listening test at `address` until it is stopped or killed."""

    daemon_threads = True
    request_queue_size = 128  # a room full of listeners reloads its pages at once

    def __init__(self, desk: Desk, port: int = 0) -> None:
        """Take a port of 127.0.0.1, any free one for 0.

        Raises:
            InputError: If the port is taken.
        """
        self.desk, self.token = desk, secrets.token_urlsafe(16)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise InputError(
                f"port {port} of this machine cannot be used: {error.strerror}; choose another "
                "--port, or none for a free one"
            ) from error
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nobody's error; any other is a line and no traceback."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, ConnectionError | TimeoutError):
            logger.warning("a request failed: %s", describe(error))

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "calm-bench", ""
    timeout = 60

    @property
    def test(self) -> ListeningServer:
        return cast(ListeningServer, self.server)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, method: Callable[[str], None]) -> None:
        """Check who asks, then do it; whatever is refused is one line."""
        try:
            method(self._path())
        except InputError as error:
            # What was sent with a refused request may be unread: it must not pass for the next one.
            self.close_connection = True
            status = error.status if isinstance(error, Refused) else 500
            self._send_json(status, {"error": str(error)})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the browser went away in the middle of a clip

    def _path(self) -> str:
        """The path below the token."""
        if self.headers.get("Host", "") not in self.test.hosts:
            raise Refused(403, "this server answers to 127.0.0.1 and localhost alone")
        origin = self.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://") not in self.test.hosts:
            raise Refused(403, "requests of other pages are refused")
        token, slash, rest = self.path.removeprefix("/").partition("/")
        if not slash or not hmac.compare_digest(token.encode(), self.test.token.encode()):
            raise Refused(404, "nothing is here: use the address that the terminal shows")
        return rest

    def _get(self, path: str) -> None:
        if path in _PAGE:
            name, kind = _PAGE[path]
            data = (files("calm_bench.listening") / "page" / name).read_bytes()
            self._send(200, data, kind)
            return
        folder, _, word = path.partition("/")
        if folder != "clip":
            raise Refused(404, "there is no such page")
        self._send_range(self.test.desk.clip(word).read_bytes())

    def _post(self, path: str) -> None:
        actions = {"question": self.test.desk.question, "vote": self.test.desk.vote}
        if path not in actions:
            raise Refused(404, "there is no such page")
        self._send_json(200, actions[path](self._body()))

    def _body(self) -> bytes:
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "a request must be JSON")
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or _number(length) > _MAX_BODY:
            raise Refused(413, f"a request says its length, at most {_MAX_BODY} bytes")
        return self.rfile.read(_number(length))

    def _send_range(self, data: bytes) -> None:
        """A clip or the part of it that is asked for: browsers seek, and phones insist."""
        found = _RANGE.fullmatch(self.headers.get("Range", ""))
        if found is None or found.group(0) == "bytes=-":
            self._send(200, data, "audio/flac", {"Accept-Ranges": "bytes"})
            return
        first, last = found.groups()
        start = _number(first) if first else max(0, len(data) - _number(last))
        end = min(_number(last), len(data) - 1) if first and last else len(data) - 1
        if start > end:
            self._send(416, b"", "audio/flac", {"Content-Range": f"bytes */{len(data)}"})
            return
        where = {"Content-Range": f"bytes {start}-{end}/{len(data)}", "Accept-Ranges": "bytes"}
        self._send(206, data[start : end + 1], "audio/flac", where)

    def _send_json(self, status: int, data: dict[str, Any]) -> None:
        self._send(status, json.dumps(data).encode(), "application/json")

    def _send(
        self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in (_HEADERS | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are of interest under --verbose alone, and without their token."""
        logger.info("%s", (format % args).replace(self.test.token, "…"))
