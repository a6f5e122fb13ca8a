import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from commands import refused

from calm_bench.errors import BenchError, InputError
from calm_bench.report.formats import to_latex, to_markdown
from calm_bench.speed import frames
from calm_bench.speed.peers import comparison, items, worker
from calm_bench.speed.peers.comparison import Machine, run_peers
from calm_bench.speed.peers.items import (
    choose_pairs,
    load_peers,
)
from calm_bench.speed.peers.sides import Side
from calm_bench.speed.peers.table import build_tables, rows_of
from calm_bench.speed.peers.worker import Block, PeerRequest, time_pair
from calm_bench.store.run_store import RunStore

PAIRS, ITEMS = load_peers().pairs, load_peers().items
STEP = ITEMS["pocket-english/step"]


def block(arm: str, number: int, ms: float) -> Block:
    ns = round(ms * 1e6 * STEP.calls)
    return Block(
        item=STEP.key, arm=arm, round=number, order=0, calls=STEP.calls, frames=STEP.calls,
        wall_ns=2 * ns, cpu_ns=ns,
    )  # fmt: skip


def blocks(factor: float) -> list[Block]:
    """Ten rounds on a machine that gets slower all the time; ours is `factor` times faster."""
    found = []
    for number in range(10):
        package = 40.0 * 1.05**number
        found += [block("package", number, package), block("ours int8", number, package / factor)]
    return found


def machine(**changes: Any) -> Machine:
    given: dict[str, Any] = {
        "processor": "a processor", "cores": 2, "threads": 1, "python": "3.11",
        "versions": {"torch": "2.13.0", "moshi": None}, "calm_bench": "0", "commit": None,
        "command": (), "started": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return Machine(**given | changes)


class TestRatios:
    def test_drift_cancels_within_a_round(self) -> None:
        package, ours = rows_of(blocks(4.0))
        assert (package.arm, ours.arm) == ("package", "ours int8")
        assert ours.cpu.value == pytest.approx(4.0)
        assert ours.cpu.low == pytest.approx(4.0)
        assert ours.wall.value == pytest.approx(4.0)
        assert ours.wall_ms == pytest.approx(2 * ours.cpu_ms)
        assert package.cpu.value == pytest.approx(1.0)

    def test_several_clips_at_once_count_by_the_clip(self) -> None:
        found = [
            b.model_copy(update={"frames": 8 * b.frames}) if b.arm == "ours int8" else b
            for b in blocks(0.5)
        ]
        package, ours = rows_of(found)
        assert ours.cpu.value == pytest.approx(0.5 * 8)
        assert ours.cpu_ms == pytest.approx(package.cpu_ms / 4)

    @pytest.mark.parametrize(("factor", "verdict"), [(4.0, "met"), (2.0, "missed")])
    def test_a_goal_needs_the_whole_interval(self, factor: float, verdict: str) -> None:
        assert rows_of(blocks(factor))[1].verdict == verdict

    def test_an_interval_around_the_goal_is_open(self) -> None:
        found = [block("package", n, 35.0) for n in range(10)]
        found += [block("ours int8", n, 7.0 if n % 2 else 14.0) for n in range(10)]
        assert rows_of(found)[1].verdict == "open"

    def test_rounds_without_the_package_do_not_count(self) -> None:
        found = rows_of([*blocks(3.0), block("ours int8", 99, 1.0)])
        assert found[1].n == 10

    def test_the_table_in_every_format(self, tmp_path: Path) -> None:
        store = RunStore(tmp_path)
        store.write_json("machine.json", machine())
        store.append(*blocks(0.5))
        table, rows = build_tables(tmp_path)
        text = (tmp_path / "tables" / "peers.md").read_text()
        assert text == to_markdown(table)
        assert "0.50 \\[0.50, 0.50\\]" in text  # slower is said as it is
        assert "missed" in text
        assert "128 frames are in the cache" in text
        assert "a processor, 2 cores, 1 thread" in text
        assert "without moshi" in text
        assert "not measured: Mimi" in text
        assert (tmp_path / "tables" / "peers.tex").read_text() == to_latex(table, "peers")
        csv = (tmp_path / "tables" / "peers.csv").read_text().splitlines()
        assert len(csv) == 1 + len(rows) == 3
        assert json.loads(json.dumps(rows[1].as_json()))["cpu_ratio"] == pytest.approx(0.5)

    def test_an_empty_folder_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="calm-bench speed peers"):
            build_tables(tmp_path)


class TestPairs:
    def test_names_and_what_they_begin_with(self) -> None:
        assert [pair.name for pair in choose_pairs(["pocket", "mimi"])] == [
            "pocket-english", "pocket-18m", "mimi",
        ]  # fmt: skip
        assert [pair.name for pair in choose_pairs(["moshi"])] == ["moshi"]
        assert choose_pairs([]) == list(PAIRS.values())

    def test_every_pair_has_items_and_every_goal_an_arm(self) -> None:
        assert {item.pair for item in ITEMS.values()} == set(PAIRS)
        for item in ITEMS.values():
            assert set(item.goals) <= set(item.precisions)


class TestWorker:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        log: list[str] = []

        def opened(item: items.Item, arm: str) -> Side:
            return Side(lambda: log.append(arm), lambda: log.append(f"reset {arm}"))

        monkeypatch.setattr(worker, "_open", opened)
        monkeypatch.setattr(frames.gc, "collect", lambda: 0)  # a test process holds much to look at
        return log

    def test_every_arm_once_a_round_and_only_what_is_missing(
        self, tmp_path: Path, calls: list[str]
    ) -> None:
        task = PeerRequest(pairs=(), precisions=("fp32", "int8"), rounds=3)
        assert PeerRequest.model_validate_json(task.model_dump_json()) == task
        time_pair(tmp_path, "mimi", task)
        found = RunStore(tmp_path).read(Block)
        for item in (item for item in ITEMS.values() if item.pair == "mimi"):
            arms = item.arms(task.precisions)
            assert "ours int8" not in arms  # codecs are float32
            own = [b for b in found if b.item == item.key]
            assert sorted((b.round, b.arm) for b in own) == sorted(
                (n, arm) for n in range(3) for arm in arms
            )
            assert {b.frames for b in own} == {item.calls * item.frames}
        assert calls.count("reset ours fp32") == 3 * (3 + worker.WARM_UP_BLOCKS)
        calls.clear()
        time_pair(tmp_path, "mimi", task)
        assert calls == []
        time_pair(tmp_path, "mimi", task.model_copy(update={"rounds": 4}))
        assert calls.count("reset ours fp32") == 3 * (1 + worker.WARM_UP_BLOCKS)

    def test_the_order_changes_from_round_to_round(self, tmp_path: Path, calls: list[str]) -> None:
        task = PeerRequest(pairs=(), precisions=("fp32", "bf16"), rounds=8)
        time_pair(tmp_path, "moshi", task)
        first = {b.arm for b in RunStore(tmp_path).read(Block) if b.order == 0}
        assert len(first) > 2


class TestRun:
    @pytest.fixture
    def started(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Workers that are not started; the pairs that they were asked for."""
        pairs: list[str] = []

        def fake(command: list[str], env: dict[str, str], **more: Any) -> Any:
            pairs.append(command[-2])
            threads = PeerRequest.model_validate_json(command[-1]).threads
            assert env["NO_TORCH_COMPILE"] == "1"
            assert env["OMP_NUM_THREADS"] == str(threads)
            codes = count()
            return type("Done", (), {"returncode": next(codes)})()

        monkeypatch.setattr(comparison.subprocess, "run", fake)
        monkeypatch.setattr(comparison, "missing_package", lambda pair: None)
        monkeypatch.setattr(comparison, "refuse_if_none", lambda pairs: None)
        monkeypatch.setattr(
            comparison,
            "describe_environment",
            lambda device: {"device_name": "it", "commit": None},
        )
        return pairs

    def request_of(self, **changes: Any) -> PeerRequest:
        return PeerRequest(pairs=tuple(choose_pairs(["pocket"])), **changes)

    def test_a_process_for_each_pair(self, tmp_path: Path, started: list[str]) -> None:
        run_peers(self.request_of(rounds=5), tmp_path / "out")
        assert started == ["pocket-english", "pocket-18m"]
        assert comparison.read_machine(tmp_path / "out").threads == 1
        run_peers(self.request_of(), tmp_path / "out")  # the same machine: it goes on

    def test_other_threads_are_not_mixed_in(self, tmp_path: Path, started: list[str]) -> None:
        run_peers(self.request_of(), tmp_path / "out")
        with pytest.raises(InputError, match="begun with other threads"):
            run_peers(self.request_of(threads=2), tmp_path / "out")
        run_peers(self.request_of(threads=2), tmp_path / "out", fresh=True)
        assert comparison.read_machine(tmp_path / "out").threads == 2

    def test_a_pair_that_failed_is_named(
        self, tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = type("Done", (), {"returncode": 7})()
        monkeypatch.setattr(comparison.subprocess, "run", lambda *args, **more: done)
        with pytest.raises(BenchError, match="timing pocket-english failed with exit code 7"):
            run_peers(self.request_of(), tmp_path / "out")


class TestCommand:
    def test_unknown_names(self) -> None:
        assert "did you mean mimi" in refused("speed", "peers", "--pairs", "mimmi")
        assert "'fp8' is no precision" in refused("speed", "peers", "--precision", "fp8")

    def test_no_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(items, "version_of", lambda distribution: None)
        line = refused("speed", "peers", "--pairs", "pocket", "mimi")
        assert "pocket-tts is not installed: benchmarks/peers.sh prepares" in line
