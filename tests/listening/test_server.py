"""The server, spoken to as browsers and strangers would."""

import contextlib
import http.client
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from calm_bench.listening.server import Desk, ListeningServer
from calm_bench.listening.session import ClipFiles, Session
from calm_bench.listening.votes import VoteBook
from calm_bench.store.run_store import RunStore

SECRETS = ("reference", "calm-t", "CALM", "rq-t0.8", "RQ-Transformer", "clips/", "owl", "dog")


class Client:
    """A browser that may lie about who it is."""

    def __init__(self, address: str) -> None:
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/[^/]+/)", address)
        assert found is not None
        self.port, self.root = int(found[1]), found[2]

    def __call__(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"Host": f"127.0.0.1:{self.port}"} | named
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        target = path if path.startswith("/") else self.root + path
        with contextlib.closing(connection):  # also when the server dies on the way
            connection.request(method, target, body, sent)
            with connection.getresponse() as response:
                return response.status, dict(response.getheaders()), response.read()

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        status, _, data = self("POST", path, body, **headers)
        return status, json.loads(data)

    def vote(self, asked: dict[str, Any], **changes: Any) -> tuple[int, dict[str, Any]]:
        vote = {"rater": asked["rater"], "question": asked["question"], "answer": "tie"}
        vote |= {"heard": [1.0] * len(asked["clips"]), "seconds": 3.5}
        return self.post("vote", vote | changes)


@pytest.fixture
def server(tmp_path: Path, planned: tuple[Session, ClipFiles]) -> Iterator[ListeningServer]:
    session, files = planned
    with ListeningServer(Desk(VoteBook.open(tmp_path / "v.jsonl", session), files)) as out:
        thread = threading.Thread(target=out.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield out
        out.shutdown()
        thread.join()


@pytest.fixture
def client(server: ListeningServer) -> Client:
    return Client(server.address)


def book_of(tmp_path: Path) -> VoteBook:
    return VoteBook.read(tmp_path / "v.jsonl")


def test_only_this_machine_can_reach_it(server: ListeningServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert len(server.token) >= 20


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({"Host": "evil.example"}, "", 403),
        ({"Host": "127.0.0.1"}, "", 403),
        ({"Origin": "http://evil.example"}, "", 403),
        ({"Origin": "null"}, "", 403),
        ({}, "/", 404),
        ({}, "/wrong-token/", 404),
        ({}, "../../manifest.json", 404),
        ({}, "clip/../../manifest.json", 404),
        ({}, "clip/" + "0" * 32, 404),
        ({}, "trials.jsonl", 404),
    ],
)
def test_strangers_get_one_line_and_nothing_else(
    client: Client, headers: dict[str, str], path: str, status: int
) -> None:
    found, _, body = client("GET", path, **headers)
    assert found == status
    assert set(json.loads(body)) == {"error"}
    assert "\n" not in json.loads(body)["error"]


def test_the_page_keeps_to_itself(client: Client) -> None:
    kinds = {"": "text/html", "listen.js": "text/javascript", "listen.css": "text/css"}
    for path, kind in kinds.items():
        status, headers, body = client("GET", path)
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, kind)
        assert headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert headers["Cache-Control"] == "no-store"
        assert b"http://" not in body
        assert b"https://" not in body


def test_nothing_that_leaves_the_server_names_a_row(client: Client, tmp_path: Path) -> None:
    _, asked = client.post("question", {"rater": "ada"})
    seen = [json.dumps(asked)]
    while "question" in asked:
        for clip in asked["clips"]:
            status, headers, body = client("GET", clip)
            assert (status, body[:4]) == (200, b"fLaC")
            # libFLAC signs every file with "reference libFLAC" and its version.
            text = body[:200].decode("latin-1").replace("reference libFLAC", "")
            seen.append(json.dumps(headers) + text)
        _, asked = client.vote(asked)
        seen.append(json.dumps(asked))
    assert asked == {"rater": "ada", "kind": "meaningfulness", "done": 9, "of": 9}
    assert not [name for name in SECRETS for text in seen if name in text]
    assert len(book_of(tmp_path).votes["ada"]) == 9


def test_the_same_clip_has_another_word_each_time(client: Client) -> None:
    words = []
    for rater in ("ada", "ben", "eve"):
        _, asked = client.post("question", {"rater": rater})
        while "question" in asked:
            words += asked["clips"]
            _, asked = client.vote(asked)
    assert len(set(words)) == len(words) == 54


def test_a_listener_goes_on_where_they_stopped(client: Client) -> None:
    _, asked = client.post("question", {"rater": "ada"})
    _, following = client.vote(asked)
    assert client.post("question", {"rater": " ada "}) == (200, following)
    assert following["done"] == 1


def test_clips_are_served_in_parts(client: Client) -> None:
    _, asked = client.post("question", {"rater": "ada"})
    whole = client("GET", asked["clips"][0])[2]
    for asked_range, expected in (
        ("bytes=0-3", whole[:4]),
        ("bytes=10-", whole[10:]),
        ("bytes=-5", whole[-5:]),
        ("bytes=5-9999999", whole[5:]),
    ):
        status, headers, body = client("GET", asked["clips"][0], Range=asked_range)
        assert (status, body) == (206, expected)
        assert headers["Content-Range"].endswith(f"/{len(whole)}")
    assert client("GET", asked["clips"][0], Range="bytes=9999999-")[0] == 416
    assert client("GET", asked["clips"][0], Range="lines=1-2")[0] == 200


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"answer": "both"}, 400, "answer"),
        ({"answer": 3}, 400, "no answer to a question of preference"),
        ({"answer": True}, 400, "answer"),
        ({"heard": [0.0, 1.0]}, 400, "listen to every clip"),
        ({"heard": []}, 400, "listen to every clip"),
        ({"heard": [1.0]}, 400, "of each clip"),
        ({"heard": [1.0, float("nan")]}, 400, "the request|heard"),
        ({"seconds": -1}, 400, "seconds"),
        ({"question": "0" * 32}, 403, "nobody asked this"),
        ({"question": "ß"}, 403, "nobody asked this"),
        ({"rater": "ben"}, 403, "nobody called 'ben'"),
        ({"rater": ""}, 400, "printable"),
        ({"winner": "calm"}, 400, "winner"),
    ],
)
def test_malformed_and_forged_votes_are_refused(
    client: Client, tmp_path: Path, changes: dict[str, Any], status: int, message: str
) -> None:
    _, asked = client.post("question", {"rater": "ada"})
    found, body = client.vote(asked, **changes)
    assert found == status
    assert re.search(message, body["error"])
    assert "\n" not in body["error"]
    assert book_of(tmp_path).votes == {"ada": []}
    assert client.vote(asked)[0] == 200


def test_a_vote_counts_once_and_for_its_listener_alone(client: Client, tmp_path: Path) -> None:
    _, asked = client.post("question", {"rater": "ada"})
    _, other = client.post("question", {"rater": "ben"})
    assert client.vote(asked)[0] == 200
    status, body = client.vote(asked)
    assert (status, body["error"]) == (409, "this question was answered before; a vote counts once")
    assert client.vote(other, rater="ada")[0] == 403
    assert [len(votes) for votes in book_of(tmp_path).votes.values()] == [1, 0]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b"x" * 5000, {}, 413),
        ({"rater": "ada"}, {"Content_Type": "text/plain"}, 415),
        ({"rater": "ada"}, {"Origin": "http://evil.example"}, 403),
    ],
)
def test_malformed_requests_are_refused(
    client: Client, body: Any, headers: dict[str, str], status: int
) -> None:
    found, answer = client.post("question", body, **headers)
    assert found == status
    assert set(answer) == {"error"}


def test_many_browsers_at_once_lose_nothing(client: Client, tmp_path: Path) -> None:
    def take_part(name: str) -> None:
        _, asked = client.post("question", {"rater": name})
        while "question" in asked:
            _, asked = client.vote(asked)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(take_part, [f"r{i}" for i in range(6)]))
    assert [len(votes) for votes in book_of(tmp_path).votes.values()] == [9] * 6


def started(run: Path, *options: str) -> tuple[subprocess.Popen[str], Client]:
    # A test suite in the background ignores Ctrl-C, and what it starts would inherit that.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from calm_bench.cli.app import main; main()"
    command = [sys.executable, "-c", code, "listen", str(run), "--no-open", *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line.startswith("listen: "):
        server.kill()
        pytest.fail(f"no address in {line!r}: {server.communicate()[1]}")
    return server, Client(line.split()[1])


def vote_until_it_dies(client: Client, rater: str, acknowledged: list[str]) -> None:
    """Vote as fast as the server allows; what it has acknowledged is in the list."""
    try:
        for visit in range(1000):
            _, asked = client.post("question", {"rater": f"{rater}{visit}"})
            while "question" in asked:
                status, asked = client.vote(asked)
                acknowledged += [rater] * (status == 200)
    except (OSError, http.client.HTTPException, ValueError):
        return


@pytest.mark.slow
def test_a_killed_server_loses_no_vote_that_it_acknowledged(run_store: RunStore) -> None:
    path = run_store.root / "votes/meaningfulness.jsonl"
    before = 0
    for start in range(2):
        server, client = started(run_store.root)
        acknowledged: list[str] = []
        names = [f"start {start} listener {i}/" for i in range(3)]
        with ThreadPoolExecutor(3) as pool:
            for name in names:
                pool.submit(vote_until_it_dies, client, name, acknowledged)
            while len(acknowledged) < 20 and server.poll() is None:
                time.sleep(0.001)
            server.kill()  # SIGKILL, in the middle of what the three are doing
            server.communicate()
        assert server.returncode == -signal.SIGKILL
        kept = sum(len(votes) for votes in VoteBook.read(path).votes.values())
        # Of each listener one vote may be on disk whose acknowledgement never arrived.
        assert before + len(acknowledged) <= kept <= before + len(acknowledged) + len(names)
        before = kept
    assert before >= 40


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_ctrl_c_ends_it_in_order(run_store: RunStore) -> None:
    server, client = started(run_store.root, "--question", "quality", "--per-rater", "2")
    _, asked = client.post("question", {"rater": "ada"})
    assert client.vote(asked, answer=5)[0] == 200
    server.send_signal(signal.SIGINT)
    _, err = server.communicate(timeout=120)
    assert server.returncode == 0, err
    assert "1 votes; count them with: calm-bench elo" in err.replace("\n", "")


@pytest.mark.parametrize("digits", ["9" * 5000, "0" * 5000 + "9999999", "1" + "0" * 30])
def test_numbers_of_any_length_in_headers(client: Client, digits: str) -> None:
    _, asked = client.post("question", {"rater": "ada"})
    clip = asked["clips"][0]
    size = int(client("GET", clip)[1]["Content-Length"])
    assert client("POST", "vote", b"{}", Content_Length=digits)[0] == 413
    assert client("GET", clip, Range=f"bytes={digits}-")[0] == 416
    assert client("GET", clip, Range=f"bytes=0-{digits}")[:1] == (206,)
    status, headers, _ = client("GET", clip, Range=f"bytes=-{digits}")
    assert (status, int(headers["Content-Length"])) == (206, size)


def test_clients_that_hang_up_leave_the_terminal_alone(
    server: ListeningServer, client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    request = f"POST {client.root}vote HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n"
    body = "Content-Type: application/json\r\nContent-Length: 400\r\n\r\n{"
    for sent in ("", "GE", request, request + body):
        with socket.create_connection(("127.0.0.1", client.port)) as link:
            link.sendall(sent.encode())
            # Closed with a reset, as by a browser that was killed.
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert client("GET", "")[0] == 200
    server.handle_error(None, None)  # nothing is wrong, nothing is said
    assert capfd.readouterr() == ("", "")


def test_a_burst_of_listeners(client: Client) -> None:
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(lambda _: client("GET", "")[0], range(50)))
    assert found == [200] * 50
