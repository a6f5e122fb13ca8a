import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import Said, call

from calm_bench.errors import BenchError, InputError
from calm_bench.gate import baseline, crews, ratios
from calm_bench.gate.baseline import (
    Baseline,
    Change,
    Counted,
    read_baseline,
    stored,
    write_baseline,
)
from calm_bench.gate.check import Outcome, Request, write_step_summary
from calm_bench.gate.check import check as run_check
from calm_bench.gate.check import update as run_update
from calm_bench.gate.crews import Worker, quietest_core
from calm_bench.gate.rule import Judgement
from calm_bench.types import Estimate


def judged(verdict: Any, name: str = "calm_head", note: str = "") -> Judgement:
    estimate = Estimate(value=0.85, low=0.83, high=0.87, n=24)
    control = Estimate(value=1.0, low=0.99, high=1.01, n=24)
    found = {"ratio": estimate, "control": control, "wall": estimate, "verdict": verdict}
    return Judgement(name=name, label="CALM head", threshold=0.93, note=note, **found)


NAMES = [quantity.name for quantity in ratios.RATIOS]
GROWN = Change(system="calm-debug", stage="head", count="bytes_read", before=1000, after=1100)
FELL = replace(GROWN, stage="total", after=900)


def outcome(*verdicts: str, counted: Counted | None = None) -> Outcome:
    found, notes = [judged(verdict) for verdict in verdicts], ("something to know",)
    return Outcome(title="Time", counted=counted, judged=found, notes=notes, environment={})


@pytest.mark.parametrize(
    ("verdicts", "expected", "code"),
    [
        (["pass", "not gated"], "pass", 0),
        (["pass", "inconclusive"], "inconclusive", 3),
        (["unfit", "pass"], "unfit", 3),
        (["unfit", "regressed", "inconclusive"], "regressed", 1),
        (["not gated"], "not gated", 3),
        ([], "not gated", 3),
    ],
)
def test_the_worst_verdict_decides(verdicts: list[str], expected: str, code: int) -> None:
    found = outcome(*verdicts)
    assert (found.verdict, found.exit_code) == (expected, code)


def test_a_grown_count_fails_whatever_the_clock_says() -> None:
    grown = Counted(grown=(GROWN,), fallen=(FELL,), compared=10, notes=())
    assert outcome("inconclusive", counted=grown).exit_code == 1
    fell = Counted(grown=(), fallen=(FELL,), compared=10, notes=())
    assert outcome("pass", counted=fell).exit_code == 0


def test_the_step_summary_is_markdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    counted = Counted(grown=(GROWN,), fallen=(FELL,), compared=10, notes=("a note",))
    write_step_summary(outcome("regressed", counted=counted))
    text = path.read_text()
    assert text.startswith("before\n## calm-bench check: regressed\n")
    assert "| calm-debug | head | bytes read | 1,000 | 1,100 | +100 (+10.0 %) | regressed |" in text
    assert "| CALM head | 0.85 | 0.83 to 0.87 | ≥ 0.93 | 1.00 | 0.85 | 24 | regressed |" in text
    assert "a note" in text
    assert "something to know" in text


def test_no_summary_is_written_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    write_step_summary(outcome("pass"))


# -- the command, with a few debug systems in place of all -------------------------------------


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of one system, and the baseline of its counts."""
    folder = next(f for f in baseline.counted_systems() if f.name == "calm-debug")
    path = tmp_path_factory.mktemp("baselines") / "mine.yaml"
    write_baseline(path, stored(baseline.count_systems([folder]), Baseline()))
    return folder, path.read_text()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, counted: tuple[Path, str]) -> Path:
    """A baseline of one system, which is all that is counted."""
    folder, text = counted
    monkeypatch.setattr("calm_bench.gate.check.counted_systems", lambda: [folder])
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def invoke(*words: object, code: int = 0) -> Said:
    return call("check", *words, code=code)


def test_counts_alone_pass_and_fail(few: Path) -> None:
    invoke("--gates", "counts", "--baseline", few)
    text = few.read_text()
    before = read_baseline(few).dispatched.popitem()[1]["calm-debug"]["head"].operators
    few.write_text(text.replace(f"operators: {before},", f"operators: {before - 3},"))
    found = invoke("--gates", "counts", "--baseline", few, "--json", code=1).json
    assert found["verdict"] == "regressed"
    (grown,) = found["counts"]["grown"]
    assert (grown["stage"], grown["count"]) == ("head", "operators")
    assert grown["after"] - grown["before"] == 3
    assert found["ratios"] == []


def test_update_stores_counts_and_then_they_pass(few: Path) -> None:
    few.unlink()
    assert "--update" in invoke("--gates", "counts", "--baseline", few, code=2).text
    invoke("--gates", "counts", "--baseline", few, "--update")
    invoke("--gates", "counts", "--baseline", few)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gates", "calm_haed", "--against", "HEAD"], "did you mean calm_head"),
        (["--gates", "calm_head"], "unknown gate 'calm_head'"),
        (["--gates", "calm_head", "--against", "no-such-branch"], "is no commit"),
        (["--gates", "calm_head", "--against", "--output=x"], "is no commit"),
        (["--update", "--against", "HEAD"], "leave --against out"),
        (["--update", "--gates", "head_speedup"], "all ratios together"),
    ],
)
def test_what_cannot_be_done_is_one_line(words: list[str], message: str) -> None:
    assert message in invoke(*words, code=2).text


# -- processes ----------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One crew of debug systems, two rounds of two frames."""
    monkeypatch.setattr(crews, "CREWS", 1)
    monkeypatch.setattr(crews, "ROUNDS", 2)
    monkeypatch.setattr(crews, "FRAMES", 2)


in_git = pytest.mark.skipif(
    not (crews.own_tree() / ".git").exists(), reason="this is no git checkout"
)


def worktrees() -> set[str]:
    """The folders that git takes for worktrees of this repository."""
    command = ["git", "-C", str(crews.own_tree()), "worktree", "list", "--porcelain"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {line for line in said.splitlines() if line.startswith("worktree ")}


@pytest.mark.slow
@in_git
def test_another_commit_is_timed_and_leaves_nothing(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ratios, "MODELS", {"calm": "calm-debug", "rq": "rq-debug"})
    before = worktrees()
    found = run_check(Request(against="HEAD", gates=("calm_head", "head_speedup")))
    assert worktrees() <= before
    assert found.counted is None
    assert [one.name for one in found.judged] == ["calm_head", "head_speedup"]
    for one in found.judged:
        assert one.verdict == "not gated"  # two frames of a debug head take no time
        assert one.ratio.value is not None
        assert one.ratio.value > 0


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> list[crews.Schedule]:
    """Every block takes 1 s on any clock; what schedules were asked for."""
    asked: list[crews.Schedule] = []

    def timed(schedule: crews.Schedule, length: int, notes: list[str]) -> list[Any]:
        asked.append(schedule)
        stages = dict.fromkeys(("backbone", "head", "step", "codec", "total"), 10**9)
        times = {"cpu": stages, "wall": stages}
        return [{arm: times for group in schedule.groups for arm in group} for _ in range(6)]

    monkeypatch.setattr(ratios, "timed_rounds", timed)
    return asked


def test_a_fit_machine_stores_its_ratios_and_keeps_slacks(
    instant: list[crews.Schedule], few: Path
) -> None:
    assert run_update(Request(baseline=few, gates=NAMES)).exit_code == 0
    (machine,) = read_baseline(few).ratios.values()
    stored_now = {name: (r.value, r.slack) for name, r in machine.references.items()}
    assert stored_now == dict.fromkeys(NAMES, (1.0, 0.1))
    few.write_text(few.read_text().replace("slack: 0.1}", "slack: 0.2}"))
    run_update(Request(baseline=few, gates=NAMES))
    (machine,) = read_baseline(few).ratios.values()
    assert {r.slack for r in machine.references.values()} == {0.2}


def test_ratios_are_judged_by_what_is_stored(instant: list[crews.Schedule], few: Path) -> None:
    run_update(Request(baseline=few, gates=NAMES))
    assert run_check(Request(baseline=few, gates=NAMES)).verdict == "pass"
    few.write_text(few.read_text().replace("value: 1.0", "value: 1.2"))
    found = run_check(Request(baseline=few, gates=["head_speedup"]))
    assert found.verdict == "regressed"
    assert found.judged[0].threshold == pytest.approx(1.2 * 0.9)


def test_a_ratio_without_a_reference_is_said_and_passes_nothing(
    instant: list[crews.Schedule], few: Path
) -> None:
    found = run_check(Request(baseline=few, gates=["head_speedup"]))
    assert (found.judged, found.exit_code) == ([], 3)
    assert found.tables()[0].rows[0][0].text == "not gated"
    assert any("no ratio is gated" in note for note in found.notes)
    run_update(Request(baseline=few, gates=NAMES))
    few.write_text(few.read_text().replace("head_speedup", "old_ratio"))
    found = run_check(Request(baseline=few, gates=["head_speedup"]))
    assert any(note.endswith("no reference is stored for it") for note in found.notes)


def test_compared_arms_stand_in_one_group_and_exist(
    instant: list[crews.Schedule], few: Path
) -> None:
    run_update(Request(baseline=few, gates=NAMES))
    (schedule,) = instant
    for group in schedule.groups:
        for arm in group.values():
            assert arm.system in schedule.systems[arm.worker]
            assert arm.worker in schedule.trees
    for quantity in ratios.RATIOS:
        parts = (*quantity.ratio.above, *quantity.ratio.below, *quantity.control.above)
        assert any({arm for arm, _ in parts} <= group.keys() for group in schedule.groups)


def test_an_unfit_machine_stores_nothing(
    instant: list[crews.Schedule], few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ratios, "judge", lambda quantity, found: judged("unfit", quantity.name))
    assert run_update(Request(baseline=few, gates=NAMES)).exit_code == 3
    assert read_baseline(few).ratios == {}


@in_git
def test_a_cancelled_job_leaves_no_checkout() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped, crews.checked_out("HEAD") as tree:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 143
    assert not tree.exists()
    assert signal.getsignal(signal.SIGTERM) == handler


def test_a_worker_that_cannot_load_says_why() -> None:
    systems = {"calm": {"model": "calm-debg"}}
    with (
        Worker(crews.own_tree(), "this tree", systems, None) as worker,
        pytest.raises(BenchError, match="this tree cannot be timed: UnknownNameError"),
    ):
        worker.ready()


def test_a_worker_that_breaks_off_says_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "calm_bench").mkdir()
    (tmp_path / "calm_bench" / "__init__.py").write_text("import os\nos._exit(3)\n")
    with (
        Worker(tmp_path, "reference", {"calm": {"model": "calm-debug"}}, None) as worker,
        pytest.raises(BenchError, match="timing reference broke off"),
    ):
        worker.ready()


def test_a_tree_without_its_weights_is_timed_with_random_ones(tmp_path: Path) -> None:
    root = crews.own_tree()
    (tmp_path / "pyproject.toml").touch()  # what makes a folder a checkout to `paths`
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "calm_bench", tmp_path / "calm_bench", ignore=ignored)
    for name in ("calm-debug", "vae-debug"):
        (tmp_path / "models" / name).mkdir(parents=True)
        text = (root / "models" / name / "config.yaml").read_text()
        (tmp_path / "models" / name / "config.yaml").write_text(text + "weights: {sha256: x}\n")
    with Worker(tmp_path, "reference", {"calm": {"model": "calm-debug"}}, None) as worker:
        assert worker.ready() == ["reference: calm-debug: random weights, its own are missing"]
        times = worker.block("calm", 3)
    for clock in ("cpu", "wall"):
        own = times[clock]
        assert own["step"] == own["backbone"] + own["head"]
        assert 0 < own["step"] + own["codec"] <= own["total"] * 1.000001


def test_no_checkout_no_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "own_tree", lambda: tmp_path)
    with pytest.raises(InputError, match="needs a git checkout"), crews.checked_out("HEAD"):
        pass


def test_the_quietest_core_is_one_that_may_be_used() -> None:
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {None}
    assert quietest_core() in allowed
