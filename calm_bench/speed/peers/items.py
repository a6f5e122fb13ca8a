"""benchmarks/peers.yaml: which packages are timed, and what is timed of each. No torch here."""

from collections.abc import Sequence
from functools import cache
from typing import get_args

from pydantic import Field

from calm_bench.config import parse, read_yaml
from calm_bench.core import paths
from calm_bench.core.code import version_of
from calm_bench.errors import BenchError, UnknownNameError
from calm_bench.types import Precision, StrictModel

PACKAGE, CONTROL = "package", "package again"
"""The package as it comes, and the same a second time in each round, which shows what the machine
adds to a ratio."""
PACKAGE_INT8, PACKAGE_SINGLE = "package int8", "package single"
"""The package's own int8 mode; and, where a call makes several frames, one call for each."""


def ours(precision: str) -> str:
    """The arm of our code at a precision."""
    return f"ours {precision}"


def is_ours(arm: str) -> bool:
    """Whether an arm is our code."""
    return arm.startswith(ours(""))


class Pair(StrictModel):
    """A package's model and its twin, timed in a process of their own."""

    name: str = ""
    distribution: str
    title: str
    shape: str


class Item(StrictModel):
    """One thing that is timed; the file says what its fields mean."""

    key: str = Field(default="", description="what records name it by: pair/name")
    title: str
    inside: str
    calls: int
    frames: int = 1
    rows: int = 1
    modes: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = get_args(Precision)
    goals: dict[Precision, float] = Field(default_factory=dict)

    @property
    def pair(self) -> str:
        """Whose model it is of."""
        return self.key.split("/")[0]

    @property
    def name(self) -> str:
        """Its name among those of the pair."""
        return self.key.split("/")[1]

    def arms(self, precisions: Sequence[str]) -> list[str]:
        """The package, the package again, its own modes where they matter, and ours."""
        own = [ours(precision) for precision in precisions if precision in self.precisions]
        return [PACKAGE, CONTROL, *self.modes, *own]


class Peers(StrictModel):
    """All pairs by name, and all items by key."""

    pairs: dict[str, Pair]
    items: dict[str, Item]

    def of(self, pair: str) -> list[Item]:
        """What is timed of a pair."""
        return [item for item in self.items.values() if item.pair == pair]


@cache
def load_peers() -> Peers:
    """The shipped list, each of its entries knowing its name."""
    path = paths.benchmarks_dir() / "peers.yaml"
    found = parse(Peers, read_yaml(path), str(path))
    return Peers(
        pairs={k: pair.model_copy(update={"name": k}) for k, pair in found.pairs.items()},
        items={k: item.model_copy(update={"key": k}) for k, item in found.items.items()},
    )


def choose_pairs(wanted: Sequence[str]) -> list[Pair]:
    """The pairs of these names, or whose names begin so; all if none is named.

    Raises:
        UnknownNameError: If a name fits none.
    """
    pairs = load_peers().pairs
    chosen: dict[str, Pair] = {}
    for name in wanted or ("",):
        hits = [name] if name in pairs else [known for known in pairs if known.startswith(name)]
        if not hits:
            raise UnknownNameError("pair", name, pairs)
        chosen |= {hit: pairs[hit] for hit in hits}
    return list(chosen.values())


def missing_package(pair: Pair) -> str | None:
    """Why a pair cannot be timed here; None if it can."""
    if version_of(pair.distribution) is not None:
        return None
    return (
        f"the package {pair.distribution} is not installed: benchmarks/peers.sh prepares an "
        "environment with all of them"
    )


def refuse_if_none(pairs: Sequence[Pair]) -> None:
    """Raise if not one pair can be timed.

    Raises:
        BenchError: With the reason for the first.
    """
    reasons = [missing_package(pair) for pair in pairs]
    if reasons and all(reasons):
        raise BenchError(f"speed peers: {reasons[0]}")
