"""`calm-bench paper`: the paper's claims, tables and figures from stored runs."""

from pathlib import Path
from typing import Annotated

import typer

from calm_bench.cli import options
from calm_bench.cli.report import echo_json

DIFFERS = 1

EXAMPLES = options.examples(
    {
        "calm-bench paper": "from every run kept in results/, into results/paper/",
        "calm-bench paper speech-1a2b3c4d --out mine": "from one run of yours",
        "calm-bench paper --verify": "do the committed verdicts still follow from the stored runs?",
    },
)


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
        Path, typer.Option(metavar="DIR", help="Where ledger, tables and figures are written.")
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
    from rich.console import Console

    from calm_bench.core.progress import waiting

    with waiting("loading what judges claims"):
        from calm_bench.report.formats import print_tables
        from calm_bench.report.paper.ledger import ledger_tables, remedy_lines
        from calm_bench.report.paper.rebuild import build_paper, verify_paper

    if verify:
        _verified(verify_paper(runs or (), out), out, as_json)
        return
    found = build_paper(runs or (), out)
    if as_json:
        listed = {"folder": str(found.folder), "not_drawn": list(found.not_drawn)}
        echo_json({**listed, **found.ledger.model_dump(mode="json")})
        return
    where = f"all in {found.folder / 'ledger.md'}"
    print_tables(ledger_tables(found.ledger, brief=True), Console(), where)
    for line in remedy_lines(found.ledger):
        typer.echo(line)
    for name in found.not_drawn:
        typer.echo(f"not drawn: {name}, no stored run has its data")
    typer.echo(f"ledger:  {found.folder / 'ledger.md'}")
    typer.echo(f"tables:  {found.folder / 'tables'}")
    typer.echo(f"figures: {found.folder / 'figures'}")


def _verified(changes: list[str], out: Path, as_json: bool) -> None:
    if as_json:
        echo_json({"folder": str(out), "differs": changes})
    else:
        typer.echo("\n".join(changes) or f"{out}: every verdict follows from the stored runs")
    if changes:
        raise typer.Exit(DIFFERS)
