"""The options of what is timed: modes, precisions, batches, and how long to look."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from calm_bench.choices import choice, precision
from calm_bench.errors import InputError

MAX_BATCH = 1024


def _mode(value: str) -> str:
    from calm_bench.types import Mode

    return choice(value, get_args(Mode), "mode")


def _scale(value: str) -> str:
    return choice(value, ("tiny", "paper"), "scale")


def _clock(value: str) -> str:
    return choice(value, ("wall", "cpu"), "clock")


def _batch(value: str) -> int:
    if not value.isascii() or not value.isdecimal() or not 1 <= int(value) <= MAX_BATCH:
        raise InputError(f"{value!r} is no batch size: give a whole number from 1 to {MAX_BATCH}")
    return int(value)


Scale = Annotated[
    str,
    typer.Option(
        "--scale",
        parser=_scale,
        metavar="tiny|paper",
        help="`tiny`: the shipped models. `paper`: the paper's shapes with random weights, a "
        "handful of frames on a processor.",
        show_default="tiny",
    ),
]

Modes = Annotated[
    list[str] | None,
    typer.Option(
        "--mode",
        parser=_mode,
        metavar="MODE [MODE …]",
        help="How the step runs, each a row: `plain` (the modules in fp32), `eager` (the flat "
        "step), `graph` (captured, on a GPU), `compile`.",
        show_default="plain eager; eager at paper scale; graph too on a GPU",
    ),
]

Precisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        parser=precision,
        metavar="P [P …]",
        help="fp32, fp16, bf16 or int8, each a row of every mode but `plain`.",
        show_default="fp32; bf16 at paper scale",
    ),
]

Batch = Annotated[
    list[int] | None,
    typer.Option(
        "--batch",
        parser=_batch,
        metavar="N [N …]",
        help="Clips that share a step. Batch 1 is always timed.",
        show_default="1 4 16; 1 at paper scale on a processor",
    ),
]

Frames = Annotated[
    int | None,
    typer.Option(
        "--frames",
        min=1,
        metavar="N",
        help="Frames of a generation, at the baseline's frame rate: 375 are 30 s of speech, 750 of "
        "music.",
        show_default="40 of speech, 20 of music; 4 at paper scale on a processor",
    ),
]

Rounds = Annotated[
    int | None,
    typer.Option(
        "--rounds",
        min=2,
        metavar="N",
        help="How often every row is timed; intervals shrink with its root.",
        show_default="20 of speech, 12 of music; 5 at paper scale on a processor",
    ),
]

Growth = Annotated[
    bool,
    typer.Option(
        "--growth/--no-growth",
        help="Also time frames along a generation of two minutes, and draw what grows.",
    ),
]

Generation = Annotated[
    bool,
    typer.Option(
        "--generation/--no-generation",
        help="Also time whole generations of 16 clips as `run` makes them, five of each row: "
        "prompts encoded, frames drawn, clips decoded. Half a minute for speech, four for music.",
    ),
]

Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        help="Threads of a processor, for systems and for memory's bandwidth.",
        show_default="as many as torch takes",
    ),
]

Clock = Annotated[
    str,
    typer.Option(
        "--clock",
        parser=_clock,
        metavar="wall|cpu",
        help="`cpu` counts the processor time of one thread, for machines that others use as well; "
        "it needs --threads 1.",
        show_default="wall",
    ),
]

SpeedFile = Annotated[
    Path | None,
    typer.Option(
        "--spec",
        metavar="FILE",
        help="Your own systems: a YAML file in the form of benchmarks/speed.yaml.",
        show_default=False,
    ),
]
