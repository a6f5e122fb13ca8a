"""`calm-bench speed`: every system's time, memory and bytes, next to each other."""

import sys
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from calm_bench.cli import options
from calm_bench.cli.options import choice, one_of, whole_number
from calm_bench.cli.report import echo_json, say, show, show_plan


def _mode(value: str) -> str:
    from calm_bench.types import Mode

    return choice(value, get_args(Mode), "mode")


UNFIT = 3
PARTS = {
    "speech": "Speech: the RQ-Transformer against CALM.",
    "music": "Music: RQ-Transformers, CALM with TrigFlow and consistency heads, MusicGen.",
    "all": "Speech, then music, each a run of its own.",
}

EXAMPLES = options.examples(
    {
        "calm-bench speed speech": "both systems, in the plain and in the fast step",
        "calm-bench speed speech --mode plain eager --precision fp32 int8": "a row for each",
        "calm-bench speed music --batch 1 16 --frames 750": "30 s of music, and 16 clips at once",
        "calm-bench speed all --scale paper": "the paper's shapes with random weights",
    },
    "The same command again goes on where it stopped. Exit code 3: the machine was too restless.",
)

speed = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="How fast is every system: per stage, per batch, against the baseline and against what "
    "memory allows.",
    epilog=options.examples(
        {
            "calm-bench speed speech": "both systems, stage by stage",
            "calm-bench speed all --scale paper": "the shapes of the paper, with random weights",
        }
    ),
)


def time_systems(
    ctx: typer.Context,
    scale: Annotated[
        str,
        typer.Option(
            parser=one_of("scale", "tiny", "paper"),
            metavar="tiny|paper",
            help="`tiny`: the shipped models. `paper`: the paper's shapes with random weights, a "
            "handful of frames on a processor.",
            show_default="tiny",
        ),
    ] = "tiny",
    mode: Annotated[
        list[str] | None,
        typer.Option(
            parser=_mode,
            metavar="MODE [MODE …]",
            help="How the step runs, each a row: `plain` (the modules in fp32), `eager` (the flat "
            "step), `graph` (captured, on a GPU), `compile`.",
            show_default="plain eager; eager at paper scale; graph too on a GPU",
        ),
    ] = None,
    precision: options.Precisions = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            parser=whole_number("batch size", 1024),
            metavar="N [N …]",
            help="Clips that share a step. Batch 1 is always timed.",
            show_default="1 4 16; 1 at paper scale on a processor",
        ),
    ] = None,
    head_steps: options.HeadSteps = None,
    codec_frames: Annotated[
        list[int] | None,
        typer.Option(
            parser=whole_number("number of frames", 1024),
            metavar="N [N …]",
            help="Frames that the codec decodes at a time, each number a row: the first frame "
            "alone, then so many a call, with what that makes frames wait. 1 is always timed.",
            show_default="1",
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Frames of a generation, at the baseline's frame rate: 375 are 30 s of speech, "
            "750 of music.",
            show_default="40 of speech, 20 of music; 4 at paper scale on a processor",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="How often every row is timed; intervals shrink with its root.",
            show_default="20 of speech, 12 of music; 5 at paper scale on a processor",
        ),
    ] = None,
    no_growth: Annotated[
        bool,
        typer.Option(
            "--no-growth",
            help="Do not time frames along a generation of two minutes, and draw nothing that "
            "grows.",
        ),
    ] = False,
    generation: Annotated[
        bool,
        typer.Option(
            "--generation",
            help="Also time whole generations of 16 clips as `run` makes them, five of each row: "
            "prompts encoded, frames drawn, clips decoded. Half a minute for speech, four for "
            "music.",
        ),
    ] = False,
    device: options.Device = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Threads of a processor, for systems and for memory's bandwidth.",
            show_default="as many as torch takes",
        ),
    ] = None,
    clock: Annotated[
        str,
        typer.Option(
            parser=one_of("clock", "wall", "cpu"),
            metavar="wall|cpu",
            help="`cpu` counts the processor time of one thread, for machines that others use as "
            "well; it needs --threads 1.",
            show_default="wall",
        ),
    ] = "wall",
    kernels: options.Kernels = "measured",
    spec: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Your own systems: a YAML file in the form of benchmarks/speed.yaml.",
            show_default=False,
        ),
    ] = None,
    out: options.Out = None,
    fresh: options.Fresh = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Time the systems in interleaved rounds and say what they are worth."""
    from calm_bench.core.device import resolve_device
    from calm_bench.run import run_folder, run_speed
    from calm_bench.speed.timetable import Request, expand, load_spec, plan_lines
    from calm_bench.store.run_store import RunStore

    name = str(ctx.info_name)
    parts = list(load_spec(spec).parts) if name == "all" else [name]
    given: dict[str, Any] = {
        "scale": scale, "modes": tuple(mode or ()), "precisions": tuple(precision or ()),
        "batch": tuple(batch or ()), "head_steps": tuple(head_steps or ()),
        "codec_frames": tuple(codec_frames or ()),
        "frames": frames, "rounds": rounds, "growth": not no_growth, "generation": generation,
        "device": resolve_device(device), "threads": threads, "clock": clock,
        "kernels": kernels, "spec": spec,
    }  # fmt: skip
    plans = [expand(Request(part=part, **given)) for part in parts]
    folders = [out / part if out and len(parts) > 1 else out for part in parts]
    pairs = [(plan, run_folder(plan, at)) for plan, at in zip(plans, folders, strict=True)]
    for plan, folder in pairs:
        if dry_run:
            RunStore(folder).refuse_foreign()
            RunStore(folder).refuse_unwritable()
            show_plan(plan, plan_lines(plan), folder, as_json)
        else:
            say("\n".join([*plan_lines(plan), f"writes {folder}"]))
    if dry_run:
        return
    unfit = False
    for plan, folder in pairs:
        command = ["calm-bench", *sys.argv[1:]]
        outcome = run_speed(plan, out=folder, fresh=fresh, command=command)
        show(outcome, as_json, plots=True)
        unfit |= outcome.results.is_unfit
    if unfit:
        say("the machine is unfit: the baseline differs from itself", style="bold red")
        raise typer.Exit(UNFIT)


PEERS_EXAMPLES = options.examples(
    {
        "benchmarks/peers.sh": "prepare an environment with the packages; it says how to go on",
        "calm-bench speed peers": "all pairs whose packages are here, on one thread",
        "calm-bench speed peers --pairs pocket --rounds 8": "a quick look at Pocket TTS",
    },
    "The same command again goes on where it stopped; a finished one prints its table at once.",
)


def peers(
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME [NAME …]",
            help="Only these: pocket-english, pocket-18m, moshi, moshi-3000, mimi, musicgen, or "
            "what such names begin with.",
            show_default="all",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            parser=options.precision,
            metavar="P [P …]",
            help="Of our side: fp32, fp16, bf16 or int8, each a row. The package runs at fp32, and "
            "in its own int8 where it has one.",
            show_default="all four",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=2, metavar="N", help="How often every arm is timed.")
    ] = 24,
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="Threads of both sides.")] = 1,
    kernels: options.Kernels = "measured",
    out: options.Out = None,
    fresh: options.Fresh = False,
    as_json: options.Json = False,
) -> None:
    """Time Pocket TTS, Moshi, Mimi and MusicGen through their own packages and through ours.

    Our side holds the packages' own random weights and gives their outputs. Exit code 2 where no
    package is installed.
    """
    from rich.console import Console

    from calm_bench.report.formats import print_tables
    from calm_bench.speed.peers.comparison import run_peers
    from calm_bench.speed.peers.items import choose_pairs
    from calm_bench.speed.peers.table import build_tables
    from calm_bench.speed.peers.worker import PeerRequest
    from calm_bench.types import KernelsOf, Precision

    request = PeerRequest(
        pairs=tuple(choose_pairs(pairs or ())),
        precisions=tuple(dict.fromkeys(precision or get_args(Precision))),
        rounds=rounds,
        threads=threads,
        kernels=cast("KernelsOf", kernels),
        command=("calm-bench", *sys.argv[1:]),
    )
    folder = run_peers(request, out, fresh=fresh)
    table, rows = build_tables(folder)
    if as_json:
        echo_json({"folder": str(folder), "rows": [row.as_json() for row in rows]})
        return
    print_tables([table], Console())
    typer.echo(f"tables: {folder / 'tables'}")


for _name, _help in PARTS.items():
    speed.command(_name, cls=options.ListCommand, help=_help, epilog=EXAMPLES)(time_systems)
speed.command("peers", cls=options.ListCommand, epilog=PEERS_EXAMPLES)(peers)
