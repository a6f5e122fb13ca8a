"""The schedule of the time gates: crews of fresh processes, rounds in random order, one at a time.

Two processes of one and the same tree differ by a few percent, because memory falls differently;
within a process that never averages out. So the rounds are spread over several crews, each started
anew, and the control is a process of its own wherever the other side is one.
"""

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from calm_bench.core.progress import stage
from calm_bench.gate.rule import Round
from calm_bench.gate.workers import Worker, quietest_core
from calm_bench.seeds import derive_seed

CREWS = 3
ROUNDS = 8
FRAMES = 12
WARM_UP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A block of a round: which process makes it, of which of the systems it has loaded."""

    worker: str
    system: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Which processes there are, what each loads, and what a round consists of.

    Attributes:
        trees: The tree of each worker.
        systems: What each worker loads, {system: {"model": name, **options of load_system}}.
        groups: Arms by name; those of a group are compared, and so are timed next to each other.
    """

    title: str
    trees: Mapping[str, Path]
    systems: Mapping[str, Mapping[str, dict[str, str]]]
    groups: Sequence[Mapping[str, Arm]]


def timed_rounds(schedule: Schedule, length: int, notes: list[str]) -> list[Round]:
    """The blocks of `length` times the usual number of rounds; what workers say goes to `notes`."""
    rng = random.Random(derive_seed("check", schedule.title, length))
    found: list[Round] = []
    with stage(schedule.title, length * CREWS * ROUNDS) as advance:
        for _ in range(length * CREWS):
            with ExitStack() as stack:
                crew = _started(schedule, stack, notes)
                for _ in range(ROUNDS):
                    found.append(_round(schedule, crew, rng))
                    advance(1)
    return found


def _started(schedule: Schedule, stack: ExitStack, notes: list[str]) -> dict[str, Worker]:
    """A crew, warm, all on one core."""
    core = quietest_core()
    crew = {
        name: stack.enter_context(Worker(tree, name, schedule.systems[name], core))
        for name, tree in schedule.trees.items()
    }
    for name, worker in crew.items():  # they have been loading side by side
        notes.extend(note for note in worker.ready() if note not in notes)
        for system in schedule.systems[name]:
            for _ in range(WARM_UP):
                worker.block(system, FRAMES)
    return crew


def _round(schedule: Schedule, crew: Mapping[str, Worker], rng: random.Random) -> Round:
    times = {}
    for group in rng.sample(schedule.groups, len(schedule.groups)):
        for name in rng.sample(list(group), len(group)):
            arm = group[name]
            times[name] = crew[arm.worker].block(arm.system, FRAMES)
    return times
