"""The command line: what a user types, and errors as one line with an exit code.

Exit codes: 0 done · 1 a check failed · 2 usage or input error · 3 unfit machine · 4 clips failed
or recordings unreadable · 70 an error of the program itself.
Nothing heavy is imported here; every command imports what it needs when it runs.
"""

import logging
from dataclasses import asdict
from typing import Annotated

import typer

from calm_bench import __version__
from calm_bench.cli import (
    check,
    data,
    export,
    listen,
    options,
    paper,
    report,
    run,
    score,
    speed,
    train,
)
from calm_bench.cli.report import echo_json

VERIFY_EXAMPLES = {
    "calm-bench verify mine-debug": "a system or codec by a model of it, or the model's folder",
    "calm-bench verify mine": "a metric or an embedding by its entry point's name",
}
app = typer.Typer(
    cls=report.BenchGroup,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    help="Are continuous audio language models better and faster than token-based ones?\n\n"
    "[cyan]calm-bench run speech --temps 0.8 1.0[/cyan] lets CALM and an RQ-Transformer "
    "continue the same spoken prompts, times them and prints the table.",
)
app.add_typer(data.data, name="data")
app.add_typer(speed.speed, name="speed")


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


app.command(cls=options.ListCommand, epilog=run.EXAMPLES)(run.run)
app.command(cls=options.ListCommand, epilog=score.EXAMPLES)(score.score)
app.command(epilog=report.EXAMPLES)(report.report)
app.command(epilog=export.EXAMPLES)(export.export)
app.add_typer(listen.listening)
app.command(cls=options.ListCommand, epilog=train.EXAMPLES)(train.train)
app.command(epilog=paper.EXAMPLES)(paper.paper)
app.command(cls=options.ListCommand, epilog=check.EXAMPLES)(check.check)


@app.command("list", epilog=options.examples({"calm-bench list --json": "for a script"}))
def list_names(as_json: options.Json = False) -> None:
    """Everything that has a name: benchmarks, systems, models, metrics, embeddings, codecs."""
    from calm_bench.cli.doctor import listing

    found = listing()
    if as_json:
        echo_json(found)
        return
    for kind, entries in found.items():
        typer.echo(kind)
        for name, summary in entries.items():
            typer.echo(f"  {name:<22} {summary}")


@app.command(epilog=options.examples(VERIFY_EXAMPLES))
def verify(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A model or its folder, a metric or an embedding."),
    ],
    as_json: options.Json = False,
) -> None:
    """Check that a part does what its kind must: yours, a released checkpoint, or one of ours.

    Shapes, that the seed alone decides the clip, that a row does not depend on its batch, that
    streaming gives the whole clip's audio; of metrics, a number or a reason for any clip.
    """
    from calm_bench.core.progress import waiting

    with waiting("loading torch"):
        from calm_bench.contracts import verify as checks

    found = []
    for each in checks(name):
        found.append(each)
        if not as_json:
            text = each.sentence + (f": {each.fault}" if each.fault else "")
            typer.echo(f"{'FAILED' if each.fault else 'ok':<8} {text}")
    if as_json:
        echo_json([asdict(each) for each in found])
    if any(each.fault for each in found):
        raise typer.Exit(1)


@app.command(epilog=options.examples({"calm-bench doctor": "what is missing comes first"}))
def doctor(as_json: options.Json = False) -> None:
    """Check packages, extras, weights, device and disk; say what to do about what is missing."""
    from calm_bench.cli.doctor import collect, healthy

    checks = collect()
    if as_json:
        echo_json([asdict(check) for check in checks])
    else:
        order = ("broken", "missing", "ok")
        for check in sorted(checks, key=lambda check: order.index(check.status)):
            typer.echo(f"{check.status:<8} {check.name:<26} {check.detail}")
            if check.status != "ok" and check.remedy:
                typer.echo(f"{'':<8} {'':<26} → {check.remedy}")
    if not healthy(checks):
        raise typer.Exit(speed.UNFIT)
