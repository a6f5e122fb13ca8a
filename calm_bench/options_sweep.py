"""The options of `run` that are about more than a benchmark names: steps, length, training."""

from typing import Annotated

import typer

from calm_bench.choices import precision
from calm_bench.errors import InputError

MAX_HEAD_STEPS = 1000
MAX_SECONDS = 600.0


def _head_steps(value: str) -> int:
    if not value.isascii() or not value.isdecimal() or not 1 <= int(value) <= MAX_HEAD_STEPS:
        raise InputError(
            f"{value!r} is no number of head steps: give a whole number from 1 to {MAX_HEAD_STEPS}"
        )
    return int(value)


def _seconds(value: str) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise InputError(f"{value!r} is no length: give seconds, as in 30") from error
    if not 0 < number <= MAX_SECONDS:
        raise InputError(f"clips last more than 0 and at most {MAX_SECONDS:g} s, not {value} s")
    return number


HeadSteps = Annotated[
    list[int] | None,
    typer.Option(
        "--head-steps",
        parser=_head_steps,
        metavar="N [N …]",
        help="Head evaluations per frame, each a row of every system whose head takes any number "
        "(consistency, TrigFlow); the other systems keep their row.",
        show_default="the benchmark's",
    ),
]

Seconds = Annotated[
    float | None,
    typer.Option(
        "--seconds",
        parser=_seconds,
        metavar="S",
        help="Length of the clips, prompt included. Where they outlast the recordings, what is "
        "measured against these looks at as much as there is.",
        show_default="the benchmark's",
    ),
]

Checkpoints = Annotated[
    bool,
    typer.Option(
        "--checkpoints",
        help="The weights that training kept (`train --set keep_every=STEPS`) in place of the "
        "final ones: a row for each, and quality against training step. Nothing is timed.",
    ),
]

Precisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        parser=precision,
        metavar="P [P …]",
        help="fp32, fp16, bf16 or int8: each a row of every system, compared with the first.",
        show_default="fp32",
    ),
]

NoLatency = Annotated[
    bool,
    typer.Option(
        "--no-latency",
        help="Time nothing. A run with times is another run; scores are shared between them.",
    ),
]
