"""Ratios within this tree, against those stored for the processor: RQ over CALM, plain over fast.

A ratio of two systems that are timed together carries from run to run and from day to day where
milliseconds do not; still it belongs to a processor, and to one thread.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from calm_bench.core.device import device_name
from calm_bench.gate.baseline import Baseline, Machine, Reference
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


OURS = "this tree"
OURS, REFERENCE, CONTROL = "this tree", "reference", "reference again"
AGAINST = (
    _times("calm_head", "CALM head", "calm", "head"),
    _times("rq_head", "RQ head", "rq", "head"),
    _times("calm_overall", "CALM overall", "calm", "total"),
    _times("rq_overall", "RQ overall", "rq", "total"),
    _speedup("head_speedup", "head speed-up, RQ / CALM", "head"),
)
AGAIN = " again"


def _ratio(name: str, label: str, slow: str, fast: str, stage: str) -> Quantity:
    """Time of one system over that of another; the slow one is its own control."""
    group = f"{slow} / {fast}: "
    slower, again = (group + slow, stage), (group + slow + AGAIN, stage)
    return Quantity(
        name=name,
        label=label,
        above=(slower,),
        below=((group + fast, stage),),
        control_above=(again,),
        control_below=(slower,),
        threshold=0.0,
        slack=0.0,
    )


RATIOS = (
    _ratio("head_speedup", "head, RQ / CALM", "rq", "calm", "head"),
    _ratio("overall_speedup", "overall, RQ / CALM", "rq", "calm", "total"),
    _ratio("calm_step", "CALM step, plain / eager", "calm plain", "calm", "step"),
    _ratio("rq_step", "RQ step, plain / eager", "rq plain", "rq", "step"),
)
PAIRS = (("rq", "calm"), ("calm plain", "calm"), ("rq plain", "rq"))
SYSTEMS = {name: {"model": model, "mode": "eager"} for name, model in MODELS.items()}
SYSTEMS |= {f"{name} plain": {"model": model, "mode": "plain"} for name, model in MODELS.items()}


def _schedule(title: str) -> Schedule:
    groups: list[dict[str, Arm]] = []
    for slow, fast in PAIRS:
        arms = {slow: slow, fast: fast, slow + AGAIN: slow}
        groups.append(
            {
                f"{slow} / {fast}: {name}": Arm(worker=OURS, system=system)
                for name, system in arms.items()
            }
        )
    return Schedule(title=title, trees={OURS: own_tree()}, systems={OURS: SYSTEMS}, groups=groups)


def compare_stored(
    references: Mapping[str, Reference], quantities: Sequence[Quantity], notes: list[str]
) -> list[Judgement]:
    """The verdicts on this tree's ratios; those without a reference are left out and said so."""
    gated = []
    for quantity in quantities:
        if quantity.name not in references:
            if references:
                notes.append(f"{quantity.label} is not gated: no reference is stored for it")
            continue
        reference = references[quantity.name]
        threshold = reference.value * (1 - reference.slack)
        gated.append(replace(quantity, threshold=threshold, slack=reference.slack))
    if not gated:
        return []
    schedule = _schedule("ratios against the stored ones")

    def measure(length: int) -> list[Judgement]:
        rounds = timed_rounds(schedule, length, notes)
        return [judge(quantity, rounds) for quantity in gated]

    return settle(measure)


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
        value = round(found.ratio.value, 3)
        old = before.get(found.name)
        references[found.name] = (
            Reference(value=value) if old is None else Reference(value=value, slack=old.slack)
        )
    machine = Machine(torch=metadata.version("torch"), references=references)
    ratios = dict(sorted({**baseline.ratios, own: machine}.items()))
    return baseline.model_copy(update={"ratios": ratios}), judged
