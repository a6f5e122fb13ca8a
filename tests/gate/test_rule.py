import math
import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest

from calm_bench.gate.crews import CREWS, ROUNDS
from calm_bench.gate.ratios import AGAINST, CONTROL, OURS, REFERENCE
from calm_bench.gate.rule import Judgement, Quantity, Round, judge, settle

CALM_HEAD, RQ_HEAD, CALM_OVERALL, RQ_OVERALL, SPEEDUP = AGAINST
HEAD = ("calm", "head")

STAGES = {"calm": {"backbone": 45.0, "head": 24.0, "codec": 65.0}}
STAGES["rq"] = {"backbone": 45.0, "head": 80.0, "codec": 65.0}


@dataclass
class Machine:
    """A machine on which three workers time both systems.

    Attributes:
        noise: Standard deviation of the logarithm of a block's time.
        outliers: Share of blocks that take half as long again.
        process: Standard deviation by which one process differs from another, in logarithms.
        drift: How much slower everything is at the end than at the beginning.
        slower: Factors on this tree's times, by system and stage.
        waits: Factors on this tree's wall times alone.
    """

    seed: int = 0
    noise: float = 0.02
    outliers: float = 0.03
    process: float = 0.015
    drift: float = 0.05
    control: float = 1.0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.slower: dict[tuple[str, str], float] = {}
        self.waits: dict[tuple[str, str], float] = {}

    def rounds(self, length: int) -> list[Round]:
        """As many rounds as the schedule of `--against` has."""
        found = []
        total = length * CREWS * ROUNDS
        for _ in range(length * CREWS):
            bias = {w: self._factor(self.process) for w in (OURS, REFERENCE, CONTROL)}
            bias[CONTROL] *= self.control
            for _ in range(ROUNDS):
                drift = 1 + self.drift * len(found) / total
                found.append(
                    {
                        f"{worker}/{system}": self._block(worker, system, drift * bias[worker])
                        for worker in bias
                        for system in STAGES
                    }
                )
        return found

    def _block(self, worker: str, system: str, factor: float) -> dict[str, dict[str, int]]:
        factor *= self._factor(self.noise)
        if self.rng.random() < self.outliers:
            factor *= 1.5
        cpu: dict[str, float] = {}
        wall: dict[str, float] = {}
        for stage, ms in STAGES[system].items():
            key = (system, stage)
            slower = self.slower.get(key, 1.0) if worker == OURS else 1.0
            cpu[stage] = 1e6 * ms * factor * slower
            wall[stage] = cpu[stage] * (self.waits.get(key, 1.0) if worker == OURS else 1.0)
        return {
            name: {**{s: round(ns) for s, ns in times.items()}, "total": round(sum(times.values()))}
            for name, times in (("cpu", cpu), ("wall", wall))
        }

    def _factor(self, deviation: float) -> float:
        return math.exp(self.rng.gauss(0.0, deviation))


def verdict(machine: Machine, quantity: Quantity = CALM_HEAD) -> str:
    return settle(lambda length: [judge(quantity, machine.rounds(length))])[0].verdict


def verdicts(n: int, slower: float = 1.0, **machine: float) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in range(n):
        one = Machine(seed=seed, **machine)  # type: ignore[arg-type]
        one.slower[HEAD] = slower
        found[verdict(one)] += 1
    return found


# The operating curve; with more draws and slowdowns: `python tests/gate/prove.py curve`.


def test_equal_trees_pass() -> None:
    found = verdicts(30)
    assert found["regressed"] == 0
    assert found["pass"] >= 28


def test_fifteen_percent_in_the_head_is_found() -> None:
    found = verdicts(30, slower=1.15)
    assert found["pass"] == 0
    assert found["regressed"] >= 28


@pytest.mark.parametrize("noise", [0.06, 0.2, 0.5])
def test_a_busy_machine_never_fails_equal_trees(noise: float) -> None:
    assert verdicts(25, noise=noise, outliers=0.2)["regressed"] == 0


def test_a_busy_machine_never_passes_a_slower_head() -> None:
    assert verdicts(25, slower=1.15, noise=0.06, outliers=0.1)["pass"] <= 1


def test_what_is_under_the_slack_passes_or_stays_open() -> None:
    assert verdicts(20, slower=1.03)["regressed"] == 0


def test_processes_that_differ_as_much_as_the_slack_fail_nothing() -> None:
    assert verdicts(25, process=0.04)["regressed"] <= 1


def test_a_faster_tree_passes() -> None:
    assert verdicts(10, slower=0.7) == {"pass": 10}


def test_a_reference_that_differs_from_itself_makes_the_machine_unfit() -> None:
    found = judge(CALM_HEAD, Machine(control=1.06).rounds(1))
    assert found.verdict == "unfit"
    assert "differs from itself" in found.note
    assert found.control.value == pytest.approx(1 / 1.06, abs=0.02)


def test_a_slower_codec_is_overall_and_not_head() -> None:
    machine = Machine()
    machine.slower["calm", "codec"] = 1.4
    rounds = machine.rounds(1)
    found = {q.name: judge(q, rounds).verdict for q in AGAINST}
    assert found == dict.fromkeys(found, "pass") | {"calm_overall": "regressed"}


def test_a_faster_rq_head_lowers_the_speedup_alone() -> None:
    machine = Machine()
    machine.slower["rq", "head"] = 0.8
    rounds = machine.rounds(1)
    assert [q.name for q in AGAINST if judge(q, rounds).verdict == "regressed"] == ["head_speedup"]
    assert judge(SPEEDUP, rounds).ratio.value == pytest.approx(0.8, abs=0.03)


def test_ratios_are_the_references_time_over_ours() -> None:
    machine = Machine(noise=0.0, outliers=0.0, process=0.0)
    machine.slower[HEAD] = 1.25
    found = judge(CALM_HEAD, machine.rounds(1))
    assert found.ratio.value == pytest.approx(0.8)
    assert found.control.value == pytest.approx(1.0)


def test_waiting_longer_is_found_in_wall_time_and_short_blocks_are_not_gated() -> None:
    machine = Machine()
    machine.waits[HEAD] = 1.3
    found = judge(CALM_HEAD, machine.rounds(1))
    assert found.verdict == "regressed"
    assert "wall time" in found.note
    assert found.ratio.value == pytest.approx(1.0, abs=0.02)
    machine.slower[HEAD] = 0.05
    found = judge(CALM_HEAD, machine.rounds(1))
    assert found.verdict == "not gated"
    assert "too short" in found.note


def test_only_what_did_not_pass_is_judged_again() -> None:
    rounds = Machine().rounds(1)
    passed = judge(CALM_HEAD, rounds)
    assert passed.verdict == "pass"
    doubtful = replace(passed, name="rq_head", verdict="inconclusive")
    asked = []

    def measure(length: int) -> list[Judgement]:
        asked.append(length)
        if length == 1:
            return [passed, doubtful]
        return [replace(passed, verdict="regressed"), replace(doubtful, verdict="regressed")]

    first, second = settle(measure)
    assert asked == [1, 2]
    assert first == passed
    assert second.verdict == "regressed"


def test_a_regression_that_does_not_come_back_is_none() -> None:
    passed = judge(CALM_HEAD, Machine().rounds(1))
    failed = replace(passed, verdict="regressed")
    final = settle(lambda length: [failed if length == 1 else passed])[0]
    assert final.verdict == "pass"
    assert "first regressed" in final.note
