"""`calm-bench paper`: the paper's claims, tables and figures from stored runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calm_bench.cli import options

if TYPE_CHECKING:
    from calm_bench.report.paper.build import Paper

DIFFERS = 1

EXAMPLES = """[bold]Examples[/bold]

[cyan]calm-bench paper[/cyan]  from every run kept in results/, into results/paper/

[cyan]calm-bench paper speech-1a2b3c4d --out mine[/cyan]  from one run of yours

[cyan]calm-bench paper --verify[/cyan]  do the committed verdicts still follow from the stored runs?
"""


def paper(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN…]",
            help="Ids or folders of finished runs; each needs its results.json and manifest.json.",
            show_default="every run kept in results/",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Where ledger, tables and figures are written."),
    ] = Path("results/paper"),
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Write nothing; recompute every verdict and exit with 1 if one in --out differs.",
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Rebuild the paper's tables and figures, and judge each of its claims by stored runs."""
    from calm_bench.report.paper.build import build_paper, verify_paper

    if verify:
        _verified(verify_paper(runs or (), out), out, as_json)
        return
    found = build_paper(runs or (), out)
    if as_json:
        listed = {"folder": str(found.folder), "not_drawn": list(found.not_drawn)}
        ledger = found.ledger.model_dump(mode="json")
        typer.echo(json.dumps({**listed, **ledger}, ensure_ascii=False))
        return
    _show(found)


def _verified(changes: list[str], out: Path, as_json: bool) -> None:
    """Say what differs, and exit with 1 if anything does."""
    if as_json:
        typer.echo(json.dumps({"folder": str(out), "differs": changes}, ensure_ascii=False))
    else:
        typer.echo("\n".join(changes) or f"{out}: every verdict follows from the stored runs")
    if changes:
        raise typer.Exit(DIFFERS)


def _show(found: "Paper") -> None:
    from rich.console import Console

    from calm_bench.report.formats import print_tables
    from calm_bench.report.paper.ledger import ledger_tables, remedy_lines

    print_tables(ledger_tables(found.ledger, brief=True), Console())
    for line in remedy_lines(found.ledger):
        typer.echo(line)
    for name in found.not_drawn:
        typer.echo(f"not drawn: {name}, no stored run has its data")
    typer.echo(f"ledger:  {found.folder / 'ledger.md'}")
    typer.echo(f"tables:  {found.folder / 'tables'}")
    typer.echo(f"figures: {found.folder / 'figures'}")
