import re
import webbrowser
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import call, refused

from calm_bench.listening.session import Wanted, plan_session, vote_file
from calm_bench.listening.votes import VoteBook
from calm_bench.store.run_store import RunStore


@pytest.fixture
def voted(run_store: RunStore, fill: Callable[..., None]) -> RunStore:
    for question in ("meaningfulness", "quality"):
        wanted = Wanted(question=question, per_rater=9)  # type: ignore[arg-type]
        path = vote_file(run_store.root, wanted.question)
        path.parent.mkdir(exist_ok=True)
        fill(VoteBook.open(path, plan_session(run_store, wanted)[0]), raters=4)
    return run_store


def test_elo_prints_the_table_and_joins_the_run(voted: RunStore) -> None:
    result = call("elo", voted.root)
    for text in (
        "meaningfulness Elo, Gamma interval (paper) ↑",
        "acoustic quality (MOS) ↑",
        "36 votes of 4 listeners",
        "held the truth in",
        "Krippendorff's alpha",
        f"joined the tables of {voted.root}",
    ):
        assert text in result.text, text
    joined = {row.metric for row in voted.read_results().rows}
    assert joined == {"elo_meaningfulness", "elo_meaningfulness_paper", "mos"}


def test_elo_of_one_listener_has_a_dash_for_its_interval_and_says_why(
    run_store: RunStore, fill: Callable[..., None], tmp_path: Path
) -> None:
    wanted = Wanted(question="meaningfulness", per_rater=9)
    book = VoteBook.open(tmp_path / "one.jsonl", plan_session(run_store, wanted)[0])
    fill(book, raters=1)
    printed = call("elo", book.path).out
    assert len(re.findall(r"\d ± — [a-z]", printed)) >= 3
    said = " ".join(printed.split())
    assert re.search(r"n = \d votes: an interval needs two listeners and two prompts", said)


def test_elo_as_json(voted: RunStore, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes(vote_file(voted.root, "quality").read_bytes())
    found = call("elo", moved, "--json").json
    assert found["folder"] is None
    assert [column["name"] for column in found["columns"]] == ["mos"]
    assert not (voted.root / "ratings.json").exists()
    call("elo", moved, "--run", voted.root)
    assert [row.metric for row in voted.read_results().rows] == ["mos"] * 3


def test_what_listeners_said_stands_in_the_runs_tables_and_page(
    voted: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: addresses.append(url) or True)
    call("elo", voted.root)
    assert "meaningfulness Elo ↑" in call("report", voted.root, "--open").out
    assert "meaningfulness Elo ↑" in (voted.root / "tables/speech.md").read_text()
    page = voted.root / "page/index.html"
    assert "acoustic quality" in page.read_text()
    assert addresses == [page.resolve().as_uri()]


def test_what_cannot_be_counted_is_one_line(voted: RunStore, tmp_path: Path) -> None:
    path = vote_file(voted.root, "meaningfulness")
    assert "would count twice" in refused("elo", path, voted.root)
    assert "unknown run 'speech-ffff'" in refused("elo", path, "--run", "speech-ffff")
    path.write_bytes(path.read_bytes().replace(b'"first"', b'"tie"', 1))
    assert "the checksum does not fit" in refused("elo", path)
    assert "does not exist" in refused("elo", tmp_path / "no.jsonl")
    assert "unknown run 'speech-ffff'" in refused("elo", "speech-ffff")


def test_a_test_that_cannot_begin_is_one_line(run_store: RunStore, tmp_path: Path) -> None:
    run = str(run_store.root)
    assert "unknown question 'beauty'" in refused("listen", run, "--question", "beauty")
    assert "unknown row 'CLAM'; did you mean CALM" in refused("listen", run, "--rows", "CLAM")
    assert "none does not exist" in refused("listen", tmp_path / "none")
    assert "is no run: a run's folder holds manifest.json" in refused("listen", tmp_path)
    (tmp_path / "x.jsonl").write_text("hello\n")
    assert "is no vote file" in refused(
        "listen", run, "--votes", str(tmp_path / "x.jsonl"), "--no-open"
    )


def test_ratings_of_another_run_are_refused(voted: RunStore) -> None:
    call("elo", voted.root)
    ratings = voted.read_ratings("speech-0123abcd")
    voted.write_json("ratings.json", ratings.model_copy(update={"run_id": "speech-ffff"}))
    assert "speaks of the run speech-ffff" in refused("report", voted.root)
