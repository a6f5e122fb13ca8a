"""`calm-bench speed`: every system's time, memory and bytes, next to each other."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from calm_bench import options, options_speed, options_sweep
from calm_bench.cli_peers import PEERS_EXAMPLES, peers
from calm_bench.cli_report import say

if TYPE_CHECKING:
    from calm_bench.speed.plan import SpeedPlan

UNFIT = 3
PARTS = {
    "speech": "Speech: the RQ-Transformer against CALM.",
    "music": "Music: RQ-Transformers, CALM with TrigFlow and consistency heads, MusicGen.",
    "all": "Speech, then music, each a run of its own.",
}

EXAMPLES = """[bold]Examples[/bold]

[cyan]calm-bench speed speech[/cyan]  both systems, in the plain and in the fast step

[cyan]calm-bench speed speech --mode plain eager --precision fp32 int8[/cyan]  a row for each

[cyan]calm-bench speed music --batch 1 16 --frames 750[/cyan]  30 s of music, and 16 clips at once

[cyan]calm-bench speed all --scale paper[/cyan]  the paper's shapes with random weights

The same command again goes on where it stopped. Exit code 3: the machine was too restless.
"""

speed = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="How fast is every system: per stage, per batch, against the baseline and against what "
    "memory allows.",
)


def time_systems(
    ctx: typer.Context,
    scale: options_speed.Scale = "tiny",
    mode: options_speed.Modes = None,
    precision: options_speed.Precisions = None,
    batch: options_speed.Batch = None,
    head_steps: options_sweep.HeadSteps = None,
    frames: options_speed.Frames = None,
    rounds: options_speed.Rounds = None,
    growth: options_speed.Growth = True,
    generation: options_speed.Generation = False,
    device: options.Device = "auto",
    threads: options_speed.Threads = None,
    clock: options_speed.Clock = "wall",
    spec: options_speed.SpeedFile = None,
    out: options.Out = None,
    fresh: options.Fresh = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Time the systems in interleaved rounds and say what they are worth."""
    from calm_bench.environment import resolve_device
    from calm_bench.speed.plan import Request, expand, plan_lines
    from calm_bench.speed.run import speed_folder
    from calm_bench.speed.spec import load_spec

    name = str(ctx.info_name)
    parts = list(load_spec(spec).parts) if name == "all" else [name]
    given: dict[str, Any] = {
        "scale": scale, "modes": tuple(mode or ()), "precisions": tuple(precision or ()),
        "batch": tuple(batch or ()), "head_steps": tuple(head_steps or ()),
        "frames": frames, "rounds": rounds, "growth": growth, "generation": generation,
        "device": resolve_device(device), "threads": threads, "clock": clock,
        "spec": spec,
    }  # fmt: skip
    plans = [expand(Request(part=part, **given)) for part in parts]
    folders = [out / part if out and len(parts) > 1 else out for part in parts]
    pairs = [(plan, speed_folder(plan, at)) for plan, at in zip(plans, folders, strict=True)]
    if dry_run:
        _dry_run(pairs, as_json)
        return
    for plan, folder in pairs:
        say("\n".join([*plan_lines(plan), f"writes {folder}"]))
    fit = [_run(plan, folder, fresh=fresh, as_json=as_json) for plan, folder in pairs]
    if not all(fit):
        say("the machine is unfit: the baseline differs from itself", style="bold red")
        raise typer.Exit(UNFIT)


def _dry_run(pairs: "list[tuple[SpeedPlan, Path]]", as_json: bool) -> None:
    from calm_bench.speed.plan import plan_lines

    for plan, folder in pairs:
        if as_json:
            typer.echo(json.dumps({**plan.as_json(), "folder": str(folder)}, ensure_ascii=False))
        else:
            typer.echo("\n".join([*plan_lines(plan), f"would write {folder}"]))


def _run(plan: "SpeedPlan", folder: Path, *, fresh: bool, as_json: bool) -> bool:
    """Time one part, show it, and say whether the machine was fit."""
    from rich.console import Console

    from calm_bench.report.build import build_report, print_table
    from calm_bench.speed.run import is_fit, run_speed

    command = ["calm-bench", *sys.argv[1:]]
    results = run_speed(plan, out=folder, fresh=fresh, command=command)
    build_report(folder)
    if as_json:
        found = {"folder": str(folder), **results.model_dump(mode="json")}
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        print_table(results, Console())
        typer.echo(f"tables: {folder / 'tables'}")
        typer.echo(f"plots: {folder / 'plots'}")
    return is_fit(results)


for _name, _help in PARTS.items():
    speed.command(_name, cls=options.ListCommand, help=_help, epilog=EXAMPLES)(time_systems)
speed.command("peers", cls=options.ListCommand, epilog=PEERS_EXAMPLES)(peers)
