"""Ratios within this tree, against those stored for the processor: RQ over CALM, plain over fast.

A ratio of two systems that are timed together carries from run to run and from day to day where
milliseconds do not; still it belongs to a processor, and to one thread.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from calm_bench.core.device import device_name
from calm_bench.gate.baseline import KNOWN_SLACK, Baseline, Machine, Reference
from calm_bench.gate.crews import Arm, Schedule, own_tree, timed_rounds
from calm_bench.gate.rule import Judgement, Quantity, Quotient, judge, settle

MODELS = {"calm": "calm-speech-tiny", "rq": "rq-speech-tiny"}
SLACK = 0.07
"""Half of what must be found (15 %), in logarithms: as far from it as from equal trees."""
CONTROL_OFF = SLACK / 2
"""The usual 2 % is for one process against itself. Two of one tree differ by 1 to 3 %, and by half
the slack neither can equal trees look slower nor slower ones equal."""
OURS, REFERENCE, CONTROL = "this tree", "reference", "reference again"
AGAIN = " again"


def _against(name: str, label: str, stage: str, system: str, other: str | None = None) -> Quantity:
    """A time of the reference over the same of this tree.

    With `other`, the ratio of two systems: `system` over `other` in this tree, over the same in the
    reference.
    """

    def quotient(own: str) -> Quotient:
        mine, theirs = (f"{own}/{system}", stage), (f"{REFERENCE}/{system}", stage)
        if other is None:
            return Quotient((theirs,), (mine,))
        below, above = ((f"{tree}/{other}", stage) for tree in (own, REFERENCE))
        return Quotient((mine, above), (below, theirs))

    return Quantity(
        name=name,
        label=label,
        ratio=quotient(OURS),
        control=quotient(CONTROL),
        threshold=1 - SLACK,
        slack=SLACK,
        control_off=CONTROL_OFF,
    )


AGAINST = (
    _against("calm_head", "CALM head", "head", "calm"),
    _against("rq_head", "RQ head", "head", "rq"),
    _against("calm_overall", "CALM overall", "total", "calm"),
    _against("rq_overall", "RQ overall", "total", "rq"),
    _against("head_speedup", "head speed-up, RQ / CALM", "head", "rq", "calm"),
)


def _within(name: str, label: str, stage: str, slow: str, fast: str) -> Quantity:
    """Time of one system over that of another; the slow one is its own control."""
    group = f"{slow} / {fast}: "
    slower = ((group + slow, stage),)
    return Quantity(
        name=name,
        label=label,
        ratio=Quotient(slower, ((group + fast, stage),)),
        control=Quotient(((group + slow + AGAIN, stage),), slower),
        threshold=0.0,
        slack=0.0,
    )


RATIOS = (
    _within("head_speedup", "head, RQ / CALM", "head", "rq", "calm"),
    _within("overall_speedup", "overall, RQ / CALM", "total", "rq", "calm"),
    _within("calm_step", "CALM step, plain / eager", "step", "calm plain", "calm"),
    _within("rq_step", "RQ step, plain / eager", "step", "rq plain", "rq"),
)
PAIRS = (("rq", "calm"), ("calm plain", "calm"), ("rq plain", "rq"))


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
            {f"{worker}/{system}": Arm(worker, system) for worker in workers} for system in MODELS
        ],
    )
    return _settled(schedule, quantities, notes)


def compare_stored(
    references: Mapping[str, Reference], quantities: Sequence[Quantity], notes: list[str]
) -> list[Judgement]:
    """The verdicts on this tree's ratios; those without a reference are left out and said so."""
    gated = []
    for quantity in quantities:
        if found := references.get(quantity.name):
            threshold = found.value * (1 - found.slack)
            gated.append(replace(quantity, threshold=threshold, slack=found.slack))
        elif references:
            notes.append(f"{quantity.label} is not gated: no reference is stored for it")
    if not gated:
        return []
    return _settled(_schedule("ratios against the stored ones"), gated, notes)


def _settled(
    schedule: Schedule, quantities: Sequence[Quantity], notes: list[str]
) -> list[Judgement]:
    def measure(length: int) -> list[Judgement]:
        rounds = timed_rounds(schedule, length, notes)
        return [judge(quantity, rounds) for quantity in quantities]

    return settle(measure)


def _schedule(title: str) -> Schedule:
    """The systems of this tree in pairs, the slow one of each a second time."""
    systems = {}
    for name, model in MODELS.items():
        systems[name] = {"model": model, "mode": "eager"}
        systems[f"{name} plain"] = {"model": model, "mode": "plain"}
    groups = [
        {
            f"{slow} / {fast}: {name}": Arm(OURS, name.removesuffix(AGAIN))
            for name in (slow, fast, slow + AGAIN)
        }
        for slow, fast in PAIRS
    ]
    return Schedule(title=title, trees={OURS: own_tree()}, systems={OURS: systems}, groups=groups)


def measured_ratios(baseline: Baseline, notes: list[str]) -> tuple[Baseline, list[Judgement]]:
    """The baseline with this processor's ratios measured now; as it was on an unfit machine.

    Slacks that were set by hand are kept.
    """
    own = device_name("cpu")
    before = baseline.ratios[own].references if own in baseline.ratios else {}
    rounds = timed_rounds(_schedule("ratios to be stored"), 2, notes)
    # Whatever comes out reaches a threshold of 0, unless the control says that it means nothing.
    judged = [judge(replace(quantity, slack=0.5), rounds) for quantity in RATIOS]
    if any(found.verdict != "pass" for found in judged):
        return baseline, judged
    references = {}
    for found in judged:
        assert found.ratio.value is not None
        slack = before[found.name].slack if found.name in before else KNOWN_SLACK
        references[found.name] = Reference(value=round(found.ratio.value, 3), slack=slack)
    machine = Machine(torch=metadata.version("torch"), references=references)
    ratios = dict(sorted({**baseline.ratios, own: machine}.items()))
    return baseline.model_copy(update={"ratios": ratios}), judged
