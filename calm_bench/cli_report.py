"""`calm-bench report`, and how every command shows what a run found."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from calm_bench import options

if TYPE_CHECKING:
    from calm_bench.summary import Outcome

__all__ = ["report", "say", "show"]

FAILED_TRIALS = 4


def report(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run's id or folder.")],
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the listening page in a browser.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Rebuild a run's tables, plots and listening page from its records, and print the table."""
    from calm_bench.run import find_run, read_run

    show(read_run(find_run(run_id)), as_json, open_page=open_page)


def show(outcome: "Outcome", as_json: bool, *, open_page: bool = False) -> None:
    """Build the report, print it, and exit with 4 if clips are missing."""
    import webbrowser

    from rich.console import Console

    from calm_bench.report.build import build_report, print_table

    build_report(outcome.folder)
    page = outcome.folder / "page" / "index.html"
    if as_json:
        found = {"folder": str(outcome.folder), **outcome.results.model_dump(mode="json")}
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        print_table(outcome.results, Console())
        if page.is_file():
            typer.echo(f"listen: {page}")
        typer.echo(f"tables: {outcome.folder / 'tables'}")
    if open_page and not page.is_file():
        say(f"{outcome.folder} has no clips of its own, and no page to open")
    elif open_page and not webbrowser.open(page.resolve().as_uri()):
        say(f"no browser could be started: open {page} in one")
    if outcome.n_failed:
        say(f"{outcome.n_failed} clips could not be made; trials.jsonl says why", style="bold red")
        raise typer.Exit(FAILED_TRIALS)


def say(text: str, style: str = "") -> None:
    """A message on standard error, its lines not wrapped."""
    from rich.console import Console

    Console(stderr=True).print(text, style=style, markup=False, highlight=False, soft_wrap=True)
