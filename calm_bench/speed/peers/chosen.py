"""Which pairs were asked for, and whether their packages are here. No torch: plans read this."""

from collections.abc import Sequence
from importlib import metadata

from calm_bench.errors import BenchError, UnknownNameError
from calm_bench.speed.peers.items import PAIRS, Pair


def choose_pairs(wanted: Sequence[str]) -> list[Pair]:
    """The pairs of these names, or whose names begin so; all if none is named.

    Raises:
        UnknownNameError: If a name fits none.
    """
    chosen: dict[str, Pair] = {}
    for name in wanted or ("",):
        hits = [pair for pair in PAIRS.values() if pair.name == name]
        hits = hits or [pair for pair in PAIRS.values() if pair.name.startswith(name)]
        if not hits:
            raise UnknownNameError("pair", name, PAIRS)
        chosen |= {pair.name: pair for pair in hits}
    return list(chosen.values())


def missing_package(pair: Pair) -> str | None:
    """Why a pair cannot be timed here; None if it can."""
    try:
        metadata.version(pair.distribution)
    except metadata.PackageNotFoundError:
        return (
            f"the package {pair.distribution} is not installed: benchmarks/peers.sh prepares an "
            "environment with all of them"
        )
    return None


def refuse_if_none(pairs: Sequence[Pair]) -> None:
    """Raise if not one pair can be timed.

    Raises:
        BenchError: With the reason for the first.
    """
    reasons = [missing_package(pair) for pair in pairs]
    if reasons and all(reasons):
        raise BenchError(f"speed peers: {reasons[0]}")
