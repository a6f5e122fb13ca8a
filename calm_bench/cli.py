"""The command line: what a user types, and errors as one line with an exit code.

Exit codes: 0 done · 1 a check failed · 2 usage or input error · 3 unfit machine · 4 clips missing ·
70 an error of the program itself.
Nothing heavy is imported here; every command imports what it needs when it runs.
"""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from calm_bench import __version__, options, options_sweep, options_words
from calm_bench.cli_check import EXAMPLES as CHECK_EXAMPLES
from calm_bench.cli_check import check
from calm_bench.cli_data import data
from calm_bench.cli_listen import listening
from calm_bench.cli_paper import EXAMPLES, paper
from calm_bench.cli_report import EXAMPLES as REPORT_EXAMPLES
from calm_bench.cli_report import BenchGroup, report, say, show
from calm_bench.cli_score import EXAMPLES as SCORE_EXAMPLES
from calm_bench.cli_score import score
from calm_bench.cli_speed import speed
from calm_bench.cli_train import train

if TYPE_CHECKING:
    from calm_bench.plan import Plan
    from calm_bench.types import Precision

UNFIT = 3


app = typer.Typer(
    cls=BenchGroup,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    help="Are continuous audio language models better and faster than token-based ones?\n\n"
    "[cyan]calm-bench run speech --temps 0.8 1.0[/cyan] lets CALM and an RQ-Transformer "
    "continue the same spoken prompts, times them and prints the table.",
)
app.add_typer(data, name="data")
app.add_typer(speed, name="speed")


def main() -> None:
    """Run the command line."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"calm-bench {__version__}")
        raise typer.Exit


@app.callback()
def setup(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say more while working.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Set up logging, which goes to standard error."""
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler])


RUN_EXAMPLES = """[bold]Examples[/bold]

[cyan]calm-bench run speech --temps 0.8 1.0[/cyan]  both systems at two temperatures

[cyan]calm-bench run speech --prompts 8 --systems calm[/cyan]  a quick look at one system

[cyan]calm-bench run speech --prompt-audio mine/*.wav[/cyan]  your own voice continued

[cyan]calm-bench run music --head-steps 1 4 10 25 50 100[/cyan]  FAD against time per frame

[cyan]calm-bench run speech --precision fp32 int8 --no-latency[/cyan]  what int8 costs in quality

[cyan]calm-bench run speech --dry-run[/cyan]  what would be done

The same command again goes on where it stopped; a finished one prints its table at once.
"""


@app.command(cls=options.ListCommand, epilog=RUN_EXAMPLES)
def run(
    benchmark: options.Benchmark,
    temps: options.Temps = None,
    text_temp: options.TextTemp = None,
    head_steps: options_sweep.HeadSteps = None,
    seconds: options_sweep.Seconds = None,
    checkpoints: options_sweep.Checkpoints = False,
    precision: options_sweep.Precisions = None,
    systems: options.Systems = None,
    prompts: options.Prompts = None,
    prompt_audio: options.PromptAudio = None,
    seeds: options.Seeds = 1,
    no_latency: options_sweep.NoLatency = False,
    asr: options_words.Asr = None,
    language: options_words.Language = None,
    device: options.Device = "auto",
    out: options.Out = None,
    fresh: options.Fresh = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Generate, time, score and report: every system continues the same prompts.

    Writes results/runs/<id>/: clips, records, results.json, tables, plots and a listening page.
    """
    from calm_bench.plan import Overrides, expand

    overrides = Overrides(
        temperatures=tuple(temps or ()),
        text_temperature=text_temp,
        head_steps=tuple(head_steps or ()),
        seconds=seconds,
        checkpoints=checkpoints,
        precisions=cast("tuple[Precision, ...]", tuple(precision or ())),
        systems=tuple(systems or ()),
        n_prompts=prompts,
        prompt_audio=tuple(prompt_audio or ()),
        n_seeds=seeds,
        latency=not no_latency,
        asr=asr,
        language=language,
    )
    plan = expand(benchmark, overrides)
    if dry_run:
        _dry_run(plan, out, device=device, as_json=as_json)
    else:
        _run(plan, out, device=device, fresh=fresh, as_json=as_json)


def _run(plan: "Plan", out: Path | None, *, device: str, fresh: bool, as_json: bool) -> None:
    """Print the plan, do it, show what came of it."""
    from calm_bench import run as runs
    from calm_bench.codec_check import check_codecs
    from calm_bench.plan import plan_lines
    from calm_bench.store import RunStore

    folder = runs.run_folder(plan, out)
    plan = check_codecs(plan, RunStore(folder))
    say("\n".join([*plan_lines(plan), f"writes {folder}"]))
    command = ["calm-bench", *sys.argv[1:]]
    show(runs.run(plan, out=out, device=device, fresh=fresh, command=command), as_json)


def _dry_run(plan: "Plan", out: Path | None, *, device: str, as_json: bool) -> None:
    """Print the plan after checking what it needs."""
    from calm_bench.codec_check import check_codecs
    from calm_bench.environment import resolve_device
    from calm_bench.plan import check_prompts, plan_lines
    from calm_bench.run import run_folder
    from calm_bench.store import RunStore

    check_prompts(plan)
    folder = run_folder(plan, out)
    store = RunStore(folder)
    store.refuse_foreign()
    plan = check_codecs(plan, store)
    if device != "auto":  # which any machine has
        resolve_device(device)
    if as_json:
        typer.echo(json.dumps({**plan.as_json(), "folder": str(folder)}, ensure_ascii=False))
        return
    typer.echo("\n".join([*plan_lines(plan), f"would write {folder}"]))


app.command(cls=options.ListCommand, epilog=SCORE_EXAMPLES)(score)
app.command(epilog=REPORT_EXAMPLES)(report)
app.add_typer(listening)
app.command(cls=options.ListCommand)(train)
app.command(epilog=EXAMPLES)(paper)
app.command(cls=options.ListCommand, epilog=CHECK_EXAMPLES)(check)


@app.command("list")
def list_names(as_json: options.Json = False) -> None:
    """Everything that has a name: benchmarks, systems, models, metrics, embeddings, codecs."""
    from calm_bench.doctor import listing

    found = listing()
    if as_json:
        typer.echo(json.dumps({k: {e.name: e.summary for e in v} for k, v in found.items()}))
        return
    for kind, entries in found.items():
        typer.echo(kind)
        for entry in entries:
            typer.echo(f"  {entry.name:<22} {entry.summary}")


@app.command()
def doctor(as_json: options.Json = False) -> None:
    """Check packages, extras, weights, device and disk; say what to do about what is missing."""
    from calm_bench.doctor import collect, healthy

    checks = collect()
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], ensure_ascii=False))
    else:
        for check in checks:
            typer.echo(f"{check.status:<8} {check.name:<26} {check.detail}")
            if check.status != "ok" and check.remedy:
                typer.echo(f"{'':<8} {'':<26} → {check.remedy}")
    if not healthy(checks):
        raise typer.Exit(UNFIT)
