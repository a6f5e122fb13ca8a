"""`calm-bench paper`: the same runs give the same files, and an altered verdict is caught."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from clips import contents
from commands import call
from stored_runs import music_results, stored

from calm_bench.errors import InputError
from calm_bench.report.paper import rebuild
from calm_bench.report.paper.claims import load_claims
from calm_bench.report.paper.ledger import Ledger
from calm_bench.report.paper.rebuild import build_paper, verify_paper
from calm_bench.report.paper.runs import StoredRun
from calm_bench.report.paper.verdicts import VERDICTS

Save = Callable[..., Path]


@pytest.fixture
def checkout(
    save: Save, music: StoredRun, ablations: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with results/ of two runs, and no time spent on drawing."""
    for run in (music, ablations):
        folder = save(run)
    drawn = {"fad_over_time.png": b"picture", "fad_over_time.svg": b"<svg/>"}
    monkeypatch.setattr(rebuild, "draw_figures", lambda runs: drawn)
    monkeypatch.chdir(folder.parent.parent)
    return folder.parent.parent


def test_the_same_runs_give_the_same_files(checkout: Path) -> None:
    build_paper([], checkout / "a")
    build_paper(["ablations-1", "music-1"], checkout / "b")
    found = contents(checkout / "a")
    assert found == contents(checkout / "b")
    assert {"ledger.md", "ledger.csv", "ledger.json", "README.md"} < set(found)
    assert {f"tables/music.{kind}" for kind in ("md", "csv", "tex")} < set(found)
    assert "figures/fad_over_time.png" in found


def test_ledger_and_index_begin_with_the_counts(checkout: Path) -> None:
    paper = build_paper([], checkout / "paper")
    counts = paper.ledger.counts
    assert set(counts) == set(VERDICTS)
    assert counts["reproduced"] > 0  # parameters, counted
    shown = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    line = f"{len(load_claims())} claims: {shown}"
    for name in ("ledger.md", "README.md"):
        text = (checkout / "paper" / name).read_text(encoding="utf-8")
        assert line in text.splitlines()[2], name


def test_what_is_stale_goes_and_what_is_not_drawn_is_listed(checkout: Path) -> None:
    out = checkout / "paper"
    build_paper([], out)
    (out / "figures" / "convergence.png").write_bytes(b"old")
    paper = build_paper([], out)
    assert not (out / "figures" / "convergence.png").exists()
    assert "convergence" in paper.not_drawn
    index = (out / "README.md").read_text(encoding="utf-8")
    assert "Convergence with and without the head-batch multiplier: not measured" in index
    assert "`calm-bench train calm-music-tiny && calm-bench train" in index


@pytest.mark.parametrize("name", ["ledger.csv", "ledger.md", "tables/music.tex", "figures/a.pdf"])
def test_someones_files_are_left_alone(checkout: Path, name: str) -> None:
    path = checkout / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(InputError, match="not ours"):
        build_paper([], checkout / "mine")
    assert contents(checkout / "mine") == {name: b"mine"}


def test_a_figure_of_another_kind_beside_ours_stays(checkout: Path) -> None:
    build_paper([], checkout / "paper")
    path = checkout / "paper/figures/training_music.pdf"
    path.write_text("mine")
    build_paper([], checkout / "paper")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["ledger.md", "ledger.csv", "tables/music.tex"])
def test_verify_catches_an_altered_text(checkout: Path, name: str) -> None:
    build_paper([], checkout / "paper")
    path = checkout / "paper" / name
    path.write_text(path.read_text(encoding="utf-8").replace("1", "2", 1), encoding="utf-8")
    (text,) = verify_paper([], checkout / "paper")
    assert name in text


def test_verify_without_a_ledger_is_one_line(checkout: Path) -> None:
    with pytest.raises(InputError, match="`calm-bench paper` writes it"):
        verify_paper([], checkout / "nothing")


def test_the_command_writes_prints_and_verifies(checkout: Path) -> None:
    done = call("paper")
    assert "Claims by verdict" in done.text
    assert "music-fad-consistency-4" in done.text
    assert "not drawn: convergence" in done.text
    lines = [line.split("  would measure ") for line in done.out.splitlines()]
    counts = {line[0].strip(): int(line[1].split()[0]) for line in lines if len(line) == 2}
    ledger = json.loads((checkout / "results/paper/ledger.json").read_text(encoding="utf-8"))
    absent = [e["command"] for e in ledger["lines"] if e["verdict"] == "not measured"]
    assert counts["calm-bench run speech"] == absent.count("calm-bench run speech") > 1
    assert not [command for command in counts if "RUN" in command or "then" in command]
    assert f"says what {len(absent) - sum(counts.values())} more claims need" in done.text
    call("paper", "--verify")
    path = checkout / "results" / "paper" / "ledger.json"
    entry = next(e for e in ledger["lines"] if e["verdict"] == "inconclusive")
    entry["verdict"] = "reproduced"
    path.write_text(json.dumps(ledger), encoding="utf-8")
    said = call("paper", "--verify", code=1)
    told = f"{entry['claim']}: committed as reproduced, the stored runs say inconclusive"
    assert said.text.count("committed as") == said.text.count(told) == 1


def test_json_is_one_object(checkout: Path) -> None:
    found = call("paper", "music-1", "--out", "mine", "--json").json
    assert found["runs"] == ["music-1"]
    assert {line["verdict"] for line in found["lines"]} >= {"direction holds", "not measured"}
    assert (checkout / "mine" / "ledger.json").is_file()


def ledger_of_both(checkout: Path) -> Ledger:
    """What the command makes of two runs of music."""
    call("paper", "music-1", "music-2", "--out", "mine")
    return Ledger.model_validate_json((checkout / "mine/ledger.json").read_bytes())


def test_other_weights_of_a_model_are_named_and_have_columns_of_their_own(
    checkout: Path, save: Save
) -> None:
    later = {"created": "2031-01-01", "releases": {"calm-music-tiny": 2}}
    save(stored(music_results("music-2"), weights={"calm-music-tiny": "f" * 64}, **later))
    ledger = ledger_of_both(checkout)
    lines = {line.claim: line.evidence for line in ledger.lines}
    fads = lines["music-fad-consistency-4"]
    assert {one.run for one in fads} == {"music-1", "music-2"}
    for one in fads:
        assert (one.run == "music-2") == ("weights of music-2" in (one.by or ""))
    (speed,) = lines["music-overall-1"]
    assert speed.run == "music-1, music-2"
    notes = "\n".join(ledger.notes)
    assert "calm-music-tiny release 2 ffffffff" in notes
    assert "music-2: calm-music-tiny ffffffff has other weights than in an older run" in notes
    table = (checkout / "mine/tables/music.md").read_text(encoding="utf-8")
    head = next(line for line in table.splitlines() if line.startswith("| from |"))
    assert "weights of music-2)" in head


def test_a_run_scored_by_other_code_joins_and_its_scores_are_named(
    checkout: Path, save: Save
) -> None:
    code = {"clips": "1" * 16, "times": "2" * 16, "scores": "3" * 16}
    save(stored(music_results(), environment={"code": code}))
    save(stored(music_results("music-2"), environment={"code": code | {"scores": "9" * 16}}))
    ledger = ledger_of_both(checkout)
    lines = {line.claim: line.evidence for line in ledger.lines}
    (speed,) = lines["music-overall-1"]
    assert speed.run == "music-1, music-2"
    assert {(e.run, e.by) for e in lines["music-fad-consistency-4"]} >= {
        ("music-1", "mel"), ("music-2", "mel, scores by code 99999999"),
    }  # fmt: skip
    assert [note for note in ledger.notes if "other code" in note] == [
        "music-2: other code than that of music-1 made its scores: what that decides is named, "
        "and no verdict mixes both"
    ]
    lines = (checkout / "mine/tables/music.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("|")]
    named = rows[0].index("FAD ↓ (ours: FAD∞) (mel, scores by code 99999999)")
    plain = rows[0].index("FAD ↓ (ours: FAD∞) (mel)")
    speeds = rows[0].index("overall")
    by_run = {row[1].partition(",")[0]: row for row in rows if row[2].startswith("RQ-T")}
    assert by_run["music-1"][speeds] == by_run["music-2"][speeds] == "×1.5 ± 0.0"
    assert by_run["music-1"][plain].startswith("11.4")
    assert by_run["music-1"][named].startswith("—")
    assert by_run["music-2"][named].startswith("11.4")
    assert by_run["music-2"][plain].startswith("—")


def test_what_is_committed_follows_from_the_committed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[3]
    if not (root / "results" / "paper").is_dir():
        pytest.skip("results/paper is not in this checkout")
    monkeypatch.chdir(root)
    assert verify_paper([], Path("results/paper")) == []
