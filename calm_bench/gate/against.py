"""This tree against another version of it: the same systems in both, timed in one run.

Every ratio is the other version's time over this tree's, so below 1 this tree is slower. What is
timed is what `load_system` gives by default in each tree, since that is what a user gets.
"""

from collections.abc import Sequence
from pathlib import Path

from calm_bench.gate.checkout import own_tree
from calm_bench.gate.rounds import Arm, Schedule, timed_rounds
from calm_bench.gate.rule import Judgement, Part, Quantity, judge, settle

MODELS = {"calm": "calm-speech-tiny", "rq": "rq-speech-tiny"}

SLACK = 0.07
"""Half of what must be found (15 %), in logarithms: as far from it as from equal trees."""

CONTROL_OFF = SLACK / 2
"""The usual 2 % is for one process against itself. Two of one tree differ by 1 to 3 %, and by half
the slack neither can equal trees look slower nor slower ones equal."""

THRESHOLD = 1 - SLACK
OURS, REFERENCE, CONTROL = "this tree", "reference", "reference again"


def _times(name: str, label: str, system: str, stage: str) -> Quantity:
    """A time of the reference over the same time of this tree."""
    return Quantity(
        name=name,
        label=label,
        above=(_part(REFERENCE, system, stage),),
        below=(_part(OURS, system, stage),),
        control_above=(_part(REFERENCE, system, stage),),
        control_below=(_part(CONTROL, system, stage),),
        threshold=THRESHOLD,
        slack=SLACK,
        control_off=CONTROL_OFF,
    )


def _part(worker: str, system: str, stage: str) -> Part:
    return f"{worker}/{system}", stage


def _speedup(name: str, label: str, stage: str) -> Quantity:
    """RQ over CALM in this tree, over the same in the reference."""

    def ratio(worker: str) -> tuple[Part, Part]:
        return _part(worker, "rq", stage), _part(worker, "calm", stage)

    (rq, calm), (base_rq, base_calm) = ratio(OURS), ratio(REFERENCE)
    control_rq, control_calm = ratio(CONTROL)
    return Quantity(
        name=name,
        label=label,
        above=(rq, base_calm),
        below=(calm, base_rq),
        control_above=(control_rq, base_calm),
        control_below=(control_calm, base_rq),
        threshold=THRESHOLD,
        slack=SLACK,
        control_off=CONTROL_OFF,
    )


AGAINST = (
    _times("calm_head", "CALM head", "calm", "head"),
    _times("rq_head", "RQ head", "rq", "head"),
    _times("calm_overall", "CALM overall", "calm", "total"),
    _times("rq_overall", "RQ overall", "rq", "total"),
    _speedup("head_speedup", "head speed-up, RQ / CALM", "head"),
)


def compare(
    reference: Path, name: str, quantities: Sequence[Quantity], notes: list[str]
) -> list[Judgement]:
    """The verdicts on this tree against the one in `reference`, which titles call `name`."""
    workers = {OURS: own_tree(), REFERENCE: reference, CONTROL: reference}
    schedule = Schedule(
        title=f"time against {name}",
        trees=workers,
        systems={w: {s: {"model": model} for s, model in MODELS.items()} for w in workers},
        groups=[
            {f"{worker}/{system}": Arm(worker=worker, system=system) for worker in workers}
            for system in MODELS
        ],
    )

    def measure(length: int) -> list[Judgement]:
        rounds = timed_rounds(schedule, length, notes)
        return [judge(quantity, rounds) for quantity in quantities]

    return settle(measure)
