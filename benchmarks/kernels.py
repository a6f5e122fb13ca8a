"""How much the choice of kernels costs: `python benchmarks/kernels.py [--precision P …] [MODEL …]`.

Of every shape that the models pack, at 1, 2, 4 and 12 rows: the time of the kernel that constants
choose, and of the one that measuring chooses, over the fastest candidate's. Choices are made first
and timed anew afterwards, on one thread by its processor time. Without names, all shipped and paper
systems; their shapes need no weights. A model's codec is packed in float32 whatever the precision.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import get_args

import torch

from calm_bench.codecs.checkpoints import load_codec
from calm_bench.config import Models, model_names
from calm_bench.nn.kernels import (
    COLD,
    COPIES,
    KERNELS,
    MEASURED,
    Bench,
    Choice,
    Kernels,
    Shape,
    candidates,
    fixed,
    measure,
)
from calm_bench.systems.loading import build_system
from calm_bench.types import Precision

SYSTEMS = ("-tiny", "-paper")
ROUNDS = 15


def shapes_of(name: str, precision: Precision, models: Models) -> list[Shape]:
    """What a system and its codec pack."""
    found: list[Shape] = []

    def note(shape: Shape) -> Choice:
        found.append(shape)
        return ((1, "dense"),)

    config, folder = models[name]
    with Kernels(note).choosing():
        codec = load_codec(str(config.codec), models=models, random_weights=True)
        codec.prepare()
        with torch.device("meta"):
            system = build_system(config, folder, codec)
        system.flat(precision, False)
    return found


def taken(choice: Choice, rows: int) -> str:
    """The kernel that a choice takes for so many rows."""
    return next(name for least, name in reversed(choice) if least <= rows)


def costs(shape: Shape) -> Iterator[tuple[float, float, float, str]]:
    """By rows: constants and measuring over the fastest, the usual over itself, and in words."""
    usual, chosen, names = fixed(shape), measure(shape), candidates(shape)
    weight = torch.randn(shape.outputs, shape.inputs) * shape.inputs**-0.5
    n = min(COPIES, max(1, COLD // (shape.size * sum(KERNELS[name].nbytes for name in names))))
    bench = Bench(
        {
            name: [KERNELS[name].make(weight.clone(), None, shape.inner) for _ in range(n)]
            for name in names
        }
    )
    for start, rows in MEASURED.items():
        x = torch.randn(rows, shape.inputs)
        own, other = taken(usual, start), taken(chosen, start)
        times: dict[str, list[int]] = {name: [] for name in [*names, ""]}
        for _ in range(ROUNDS):
            for name in bench.turns.sample([*times], len(times)):
                times[name].append(bench.time(name or own, x))
        least = {name: min(taken) for name, taken in times.items()}
        noise, best = least[own] / least[""], min(least, key=lambda name: least[name])
        ns = {name: least[name] // n for name in (own, other, best)}
        words = f"{shape}, {rows} rows: " + ", ".join(
            f"{name or own} {t}" for name, t in ns.items()
        )
        yield (
            min(least[own], least[""]) / least[best],
            least[other or own] / least[best],
            max(noise, 1 / noise),
            words,
        )


def main() -> None:
    """Print the costs by precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--precision", nargs="+", choices=get_args(Precision), default=["fp32"])
    parser.add_argument("--most", type=int, default=1 << 40, help="weights of a shape, at most")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    models = Models()
    names = asked.models or [
        name
        for name in model_names()
        if name.endswith(SYSTEMS) and models[name][0].kind == "system"
    ]
    with torch.inference_mode():
        for precision in asked.precision:
            shapes = {s for name in names for s in shapes_of(name, precision, models)}
            found = [
                cost
                for shape in sorted(shapes)
                if shape.size <= asked.most
                for cost in costs(shape)
            ]
            print(precision, f"{len(shapes)} shapes, {len(found)} with rows")  # noqa: T201
            for index, what in enumerate(("constants", "measured", "the usual over itself")):
                ratios = sorted(cost[index] for cost in found)
                worst = max(found, key=lambda cost: cost[index])
                over = sum(ratio > 1.05 for ratio in ratios) / len(ratios)
                high = ratios[int(0.95 * len(ratios))]
                line = f"worst {ratios[-1]:.2f}, 95 % below {high:.2f}, {over:.0%} above 1.05"
                print(f"  {what}: {line}; {worst[3]} ns")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
