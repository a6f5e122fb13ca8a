import json
from collections.abc import Callable
from pathlib import Path

import pytest

from calm_bench.errors import BenchError, InputError
from calm_bench.listening.session import ClipFiles, Session, Wanted, plan_session
from calm_bench.listening.tally import join_run, rated, results_of
from calm_bench.listening.votes import Poll, VoteBook, clean_name, read_polls, vote_files
from calm_bench.report.columns import shown_columns
from calm_bench.seeds import content_hash
from calm_bench.store.records import TrialRecord
from calm_bench.store.results import Results
from calm_bench.store.run_store import RunStore

Fill = Callable[..., None]


@pytest.fixture
def book(tmp_path: Path, planned: tuple[Session, ClipFiles], fill: Fill) -> VoteBook:
    out = VoteBook.open(tmp_path / "votes.jsonl", planned[0])
    fill(out, raters=3)
    return out


@pytest.fixture
def quality(tmp_path: Path, run_store: RunStore, fill: Fill) -> VoteBook:
    planned, _ = plan_session(run_store, Wanted(question="quality", per_rater=9))
    out = VoteBook.open(tmp_path / "q.jsonl", planned)
    fill(out, raters=4)
    return out


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def forged(path: Path, line: int, **changes: object) -> None:
    """Change a vote and mend every checksum after it, as someone with the source would."""
    records = [json.loads(line)["record"] for line in lines(path)]
    records[line] |= changes
    check, out = "", []
    for record in records:
        body = json.dumps(record).encode()
        check = content_hash(check, body)
        out.append(b'{"check":"%b","record":%b}\n' % (check.encode(), body))
    path.write_bytes(b"".join(out))


def test_what_was_written_is_read(book: VoteBook) -> None:
    again = VoteBook.read(book.path)
    assert again.session == book.session
    assert again.votes == book.votes
    assert [len(votes) for votes in again.votes.values()] == [9, 9, 9]
    assert again.pending("listener 0") is None


def test_a_torn_last_line_is_no_vote_and_is_cut_off(book: VoteBook, fill: Fill) -> None:
    whole = book.path.read_bytes()
    book.path.write_bytes(whole[:-20])
    again = VoteBook.open(book.path, book.session)
    assert sum(map(len, again.votes.values())) == 26
    assert again.pending("listener 2") is not None
    fill(again, raters=3, seed=1)
    assert sum(map(len, VoteBook.read(book.path).votes.values())) == 27


@pytest.mark.parametrize("there", [b"hello", b'{"run_id": "a"}', b"\0"])
def test_someones_file_without_a_line_is_left_alone(
    tmp_path: Path, planned: tuple[Session, ClipFiles], there: bytes
) -> None:
    path = tmp_path / "notes" / "notes.txt"
    path.parent.mkdir()
    path.write_bytes(there)
    with pytest.raises(InputError, match="is no vote file"):
        VoteBook.open(path, planned[0])
    with pytest.raises(InputError, match="is no vote file"), VoteBook.locked(path):
        pass
    assert path.read_bytes() == there
    assert list(path.parent.iterdir()) == [path]
    path.write_bytes(b'{"check":"01')  # where the first line of ours was torn
    assert VoteBook.read(VoteBook.open(path, planned[0]).path).session == planned[0]


def test_fewer_votes_than_before_are_told(
    run_store: RunStore, book: VoteBook, caplog: pytest.LogCaptureFixture
) -> None:
    join_run(run_store.root, read_polls([book.path]))
    assert not caplog.messages
    whole = lines(book.path)
    book.path.write_bytes(b"".join(whole[:-4]) + whole[-4][:-20])
    join_run(run_store.root, read_polls([book.path]))
    torn, fewer = caplog.messages
    assert "ends in half a line" in torn
    assert "counted 27 votes on meaningfulness, and now 23" in fewer


@pytest.mark.parametrize("change", ["edit", "drop", "copy", "swap", "rubbish"])
def test_every_damage_is_found_with_its_line(book: VoteBook, change: str) -> None:
    found = lines(book.path)
    if change == "edit":
        found[4] = found[4].replace(b'"seconds":5.0', b'"seconds":6.0')
    elif change == "drop":
        del found[4]
    elif change == "copy":
        found.insert(4, found[3])
    elif change == "swap":
        found[4], found[5] = found[5], found[4]
    else:
        found[4] = b"hello\n"
    book.path.write_bytes(b"".join(found))
    with pytest.raises(InputError, match=r"votes\.jsonl:5: (the checksum|not a line)"):
        VoteBook.read(book.path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": ["reference", "vae_round_trip"]}, "was not asked this"),
        ({"prompt_id": "owl"}, "was not asked this"),
        ({"number": 0}, "was answered before"),
        ({"number": 7}, "was not asked this"),
        ({"rater": "nobody"}, "nobody called 'nobody'"),
        ({"answer": 3}, "no answer to a question of preference"),
        ({"answer": "neither"}, "answer"),
        ({"heard": []}, "how much of it was played"),
        ({"extra": 1}, "extra"),
    ],
)
def test_votes_that_nobody_was_asked_for_are_refused(
    book: VoteBook, changes: dict[str, object], message: str
) -> None:
    forged(book.path, 5, **changes)
    with pytest.raises(InputError, match=message) as refused:
        VoteBook.read(book.path)
    assert "votes.jsonl:6: " in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_vote_file_is_one_line(tmp_path: Path, book: VoteBook) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(InputError, match="holds no votes"):
        VoteBook.read(empty)
    headless = tmp_path / "headless.jsonl"
    body = json.dumps({"kind": "rater", "rater": "x"}).encode()
    headless.write_bytes(b'{"check":"%b","record":%b}\n' % (content_hash("", body).encode(), body))
    with pytest.raises(InputError, match="does not begin with its session"):
        VoteBook.read(headless)


def test_another_session_does_not_mix_with_this_one(
    book: VoteBook, run_store: RunStore, planned: tuple[Session, ClipFiles]
) -> None:
    VoteBook.open(book.path, plan_session(run_store, Wanted())[0])
    with pytest.raises(InputError, match="another session \\(other seed\\)"):
        VoteBook.open(book.path, plan_session(run_store, Wanted(seed=1))[0])


def test_one_server_at_a_time_writes(book: VoteBook) -> None:
    with (
        VoteBook.locked(book.path),
        pytest.raises(BenchError, match="into another file with --votes"),
        VoteBook.locked(book.path),
    ):
        pass


def test_names_are_tidied_and_checked() -> None:
    assert clean_name("  Ada   Lovelace ") == "Ada Lovelace"
    for name in ("", "   ", "x" * 41, "a\x00b"):
        with pytest.raises(InputError, match="printable"):
            clean_name(name)


# -- what the votes say --------------------------------------------------------------------------


def values(results: Results, metric: str) -> dict[str, float | None]:
    return {row.cell_id: row.value for row in results.rows if row.metric == metric}


def test_preferences_become_elo_after_the_paper_and_with_our_interval(book: VoteBook) -> None:
    results = results_of(read_polls([book.path]))
    ours, theirs = (values(results, f"elo_meaningfulness{end}") for end in ("", "_paper"))
    best_first = sorted(ours, key=lambda cell: -(ours[cell] or 0))
    assert [cell.cell_id for cell in results.cells] == best_first
    assert best_first[0] == "reference"
    assert sum(v for v in ours.values() if v is not None) == pytest.approx(6000)
    gaps = [{c: v - found["reference"] for c, v in found.items()} for found in (ours, theirs)]
    assert gaps[0] == pytest.approx(gaps[1])
    for row in results.rows:
        assert row.n == 18
        assert row.low is not None
        assert row.high is not None
        assert row.low < row.value < row.high
    (recipe,) = results.recipes.values()
    assert (recipe["listeners"], recipe["votes"], recipe["prompts"]) == (3, 27, 3)
    assert 0.3 < recipe["gamma_interval_coverage"] < 1
    assert -1 <= recipe["krippendorff_alpha"] <= 1
    assert any("Gamma interval (paper), nominally 95 %, held the" in n for n in results.notes)


def test_scores_become_mean_opinions(quality: VoteBook) -> None:
    found = values(results_of(read_polls([quality.path])), "mos")
    for cell in found:
        scores = [v.answer for votes in quality.votes.values() for v in votes if v.cells == (cell,)]
        assert found[cell] == pytest.approx(sum(scores) / len(scores))
    assert found["reference"] > found["rq-t0.8"]


def test_votes_that_are_all_alike_have_no_interval(quality: VoteBook) -> None:
    votes = [(name, vote) for name, cast in quality.votes.items() for vote in cast]
    alike = tuple((name, vote.model_copy(update={"answer": 3})) for name, vote in votes)
    (row, *_) = rated(Poll(session=quality.session, votes=alike)).rows
    assert (row.value, row.low) == (3.0, None)
    assert row.reason == "an interval needs votes that differ"


def test_nobody_has_voted_yet(tmp_path: Path, planned: tuple[Session, ClipFiles]) -> None:
    VoteBook.open(tmp_path / "none.jsonl", planned[0])
    with pytest.raises(InputError, match="nobody has voted yet"):
        results_of(read_polls([tmp_path / "none.jsonl"]))


def test_a_question_without_votes_says_so_beside_one_that_has_some(
    tmp_path: Path, run_store: RunStore, book: VoteBook
) -> None:
    for question in ("enjoyment", "quality"):
        planned = plan_session(run_store, Wanted(question=question))[0]  # type: ignore[arg-type]
        VoteBook.open(tmp_path / f"{question}.jsonl", planned)
    files = [book.path, tmp_path / "enjoyment.jsonl", tmp_path / "quality.jsonl"]
    results = results_of(read_polls(files))
    for metric in ("elo_enjoyment", "mos"):
        rows = [row for row in results.rows if row.metric == metric]
        assert {(row.value, row.reason) for row in rows} == {(None, "nobody has judged this row")}


def test_votes_of_several_machines_are_pooled_once(
    tmp_path: Path, run_store: RunStore, book: VoteBook, fill: Fill
) -> None:
    other = VoteBook.open(tmp_path / "other.jsonl", plan_session(run_store, Wanted(seed=7))[0])
    fill(other, raters=2)
    (poll,) = read_polls([book.path, other.path])
    assert (poll.n_raters, len(poll.votes)) == (5, 45)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(book.path.read_bytes())
    with pytest.raises(InputError, match="would count twice"):
        read_polls([book.path, copy])
    rows = plan_session(run_store, Wanted(rows=("CALM", "Reference")))[0]
    VoteBook.open(tmp_path / "rows.jsonl", rows)
    with pytest.raises(InputError, match="judge different rows"):
        read_polls([book.path, tmp_path / "rows.jsonl"])
    elsewhere = rows.model_copy(update={"run_id": "speech-ffff"})
    VoteBook.open(tmp_path / "elsewhere.jsonl", elsewhere)
    with pytest.raises(InputError, match="different runs cannot be pooled"):
        read_polls([book.path, tmp_path / "elsewhere.jsonl"])


def test_ratings_join_the_runs_results_and_stay_apart(
    run_store: RunStore, book: VoteBook, quality: VoteBook
) -> None:
    before = run_store.read_results()
    join_run(run_store.root, read_polls([book.path]))
    join_run(run_store.root, read_polls([quality.path]))
    joined = run_store.read_results()
    elo = "elo_meaningfulness"
    assert {row.metric for row in joined.rows} == {elo, f"{elo}_paper", "mos"}
    voted = [one for one in shown_columns(joined) if one.column.name in {"mos", "elo_quality"}]
    assert voted
    assert not any(shown.is_speed for shown in voted)
    assert run_store.read_json(Results, "results.json") == before
    join_run(run_store.root, read_polls([book.path]))
    assert len(run_store.read_results().rows) == len(joined.rows)


def test_votes_on_clips_that_have_changed_do_not_join(run_store: RunStore, book: VoteBook) -> None:
    clip = book.session.clips["calm-t0.8"][0]
    (trial,) = (t for t in run_store.read(TrialRecord) if t.clip_id == clip)
    run_store.append(trial.model_copy(update={"clip_id": "0" * 16}))
    with pytest.raises(InputError, match="no longer those"):
        join_run(run_store.root, read_polls([book.path]))
    other = {"run_id": "other"}
    run_store.write_results(run_store.read_results().model_copy(update=other))
    run_store.write_manifest(run_store.read_manifest().model_copy(update=other))
    with pytest.raises(InputError, match="is the run other"):
        join_run(run_store.root, read_polls([book.path]))


def test_a_folder_stands_for_all_of_its_votes(run_store: RunStore, book: VoteBook) -> None:
    with pytest.raises(InputError, match="holds no votes"):
        vote_files([run_store.root])
    target = run_store.path("votes/meaningfulness.jsonl")
    target.write_bytes(book.path.read_bytes())
    assert vote_files([run_store.root, book.path]) == [target, book.path]
