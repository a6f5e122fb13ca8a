"""How often a ledger errs and what it can see, by simulation through the product's own rule.

    python tests/report/paper/prove.py            (five minutes of one core)

Each claim is a difference between two systems on the same 32 prompts. A training shifts it by
N(0, spread²) and each prompt by N(0, 32): a share of that is the same in all trainings (what makes
a prompt hard for one of the systems), the rest is drawn anew in each. The standard error over
prompts of one training is 1, and all sizes are in that unit. Of the shares 0, a half and 1 a table
shows the worst.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

from calm_bench.core.inference import ALPHA, Effect, detectable, holm, over_trainings, quantile
from calm_bench.report.paper.claims import MOST_HEADLINES
from calm_bench.report.paper.verdicts import AGAINST, SHOWN, judge

N_PROMPTS = 32
SPREADS, TRAININGS, SHARED = (0.5, 1.0, 2.0), (3, 5, 10), (0.0, 0.5, 1.0)
LINKS = 5
DELTA = 5.0

Floats = NDArray[np.float64]
COLUMNS = (
    "trainings",
    "spread",
    "false verdict among six null headlines",
    "the same, each by one training's interval",
    f"false verdict on an order of {LINKS} null links",
    "detectable effect",
    "shown there",
    f"equivalent within {DELTA:g}, truth 0",
    f"truth {DELTA:g}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """How differences come about."""

    k: int
    spread: float
    shared: float

    def draw(self, rng: np.random.Generator, n: int) -> list[Effect]:
        """What a ledger makes of n claims without an effect."""
        own = rng.standard_normal((n, self.k, N_PROMPTS)) * math.sqrt(1 - self.shared)
        common = rng.standard_normal((n, 1, N_PROMPTS)) * math.sqrt(self.shared)
        shift = rng.standard_normal((n, self.k, 1)) * self.spread
        return [effect_of(one) for one in (own + common) * math.sqrt(N_PROMPTS) + shift]

    @property
    def detectable(self) -> float:
        """The effect that should be shown in four of five cases."""
        seen = math.sqrt(self.spread**2 + 1 - self.shared)
        return detectable(seen, math.sqrt(self.shared), self.k, N_PROMPTS)


def effect_of(prompts: Floats) -> Effect:
    """One claim's trainings, [k, N_PROMPTS], as the ledger pools them."""
    reach = quantile(1 - ALPHA / 2, N_PROMPTS - 1)
    errors = prompts.std(axis=1, ddof=1) / math.sqrt(N_PROMPTS)
    effects = [
        Effect(value=m, low=m - reach * s, high=m + reach * s, n=N_PROMPTS, df=N_PROMPTS - 1)
        for m, s in zip(prompts.mean(axis=1).tolist(), errors.tolist(), strict=True)
    ]
    error = prompts.mean(axis=0).std(ddof=1) / math.sqrt(N_PROMPTS)
    return over_trainings(effects, float(error))


def moved(effect: Effect, by: float) -> Effect:
    """The same draw of a claim that has an effect."""
    return replace(effect, value=effect.value + by, low=effect.low + by, high=effect.high + by)


def chunks(effects: Sequence[Effect], size: int) -> Iterable[Sequence[Effect]]:
    """So many at a time."""
    return (effects[i : i + size] for i in range(0, len(effects), size))


def errs(ledger: Sequence[Effect]) -> bool:
    """Whether any of a ledger's null headlines has a verdict for or against it."""
    judged = [judge([effect], "above", 0.0) for effect in ledger]
    corrected = holm([p for _, p in judged])
    return any(
        verdict in (*SHOWN, *AGAINST) and p <= ALPHA
        for (verdict, _), p in zip(judged, corrected, strict=True)
    )


def decided(links: Sequence[Effect]) -> bool:
    """Whether an order of these links has a verdict for or against it."""
    return judge(links, "above", 0.0)[0] != "inconclusive"


def level(effect: Effect) -> bool:
    """Whether it is found equivalent to nothing."""
    return judge([effect], "level", 0.0, (-DELTA, DELTA))[0] == "equivalent"


def measured(world: World, rng: np.random.Generator, n_ledgers: int) -> list[float]:
    """The columns of a world, from the third on."""
    effects = world.draw(rng, MOST_HEADLINES * n_ledgers)
    alone = replace(world, k=1).draw(rng, MOST_HEADLINES * n_ledgers)
    found = world.detectable
    return [
        share(errs, chunks(effects, MOST_HEADLINES)),
        share(errs, chunks(alone, MOST_HEADLINES)),
        share(decided, chunks(effects, LINKS)),
        found,
        share(lambda e: judge([moved(e, found)], "above", 0.0)[0] in SHOWN, effects[:n_ledgers]),
        share(level, effects[:n_ledgers]),
        share(lambda e: level(moved(e, DELTA)), effects),
    ]


def share(of: Callable[[Any], bool], cases: Iterable[Any]) -> float:
    """In per cent."""
    return 100 * float(np.mean([of(case) for case in cases]))


def main() -> None:
    """Print the table of docs/claims.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ledgers", type=int, default=2000, help="simulated for every row")
    n_ledgers = parser.parse_args().ledgers
    rng = np.random.default_rng(0)
    typer.echo(f"| {' | '.join(COLUMNS)} |\n|{' --: |' * len(COLUMNS)}")
    for k in TRAININGS:
        for spread in SPREADS:
            worlds = [World(k=k, spread=spread, shared=shared) for shared in SHARED]
            parts = zip(*(measured(world, rng, n_ledgers) for world in worlds), strict=True)
            false, alone, order, effect, shown, same, at = parts
            cells = [f"{max(x):.1f} %" for x in (false, alone, order)]
            cells += [f"{max(effect):.1f}", f"{min(shown):.0f} %"]
            cells += [f"{min(same):.0f} %", f"{max(at):.1f} %"]
            typer.echo(f"| {k} | {spread:g} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
