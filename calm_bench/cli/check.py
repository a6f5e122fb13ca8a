"""`calm-bench check`: the gate for continuous integration."""

from pathlib import Path
from typing import Annotated

import typer

from calm_bench.cli import options
from calm_bench.cli.report import echo_json

EXAMPLES = options.examples(
    {
        "calm-bench check": "counts and ratios against benchmarks/speed_baseline.yaml",
        "calm-bench check --gates counts": "no clock: seconds, exact, on any machine",
        "calm-bench check --against origin/main": "this tree timed beside another version of it",
        "calm-bench check --update": "store what this tree gives now",
    },
    "Exit codes: 0 passed · 1 regressed · 2 usage · 3 inconclusive, or the machine is unfit.",
)


def check(
    against: Annotated[
        str | None,
        typer.Option(
            metavar="REF",
            help="Time this tree beside another commit of it (a branch, tag or hash), checked out "
            "in a temporary folder. Without it, ratios are compared with the stored ones.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Stored counts and ratios.",
            show_default="benchmarks/speed_baseline.yaml",
        ),
    ] = None,
    gates: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME [NAME …]",
            help="Only these. `counts` looks at no clock. Ratios: head_speedup, overall_speedup, "
            "calm_step, rq_step; with --against: calm_head, rq_head, calm_overall, rq_overall, "
            "head_speedup.",
            show_default="all",
        ),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Store what this tree gives now as the new baseline.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Fail if a frame costs more than it did: operators, FLOPs, bytes, and time by paired ratios.

    Counts are exact everywhere. Times are ratios of interleaved blocks on one thread.
    """
    from rich.console import Console

    from calm_bench.gate import check as gate
    from calm_bench.report.formats import print_tables

    request = gate.Request(against=against, baseline=baseline, gates=tuple(gates or ()))
    outcome = gate.update(request) if update else gate.check(request)
    gate.write_step_summary(outcome)
    if as_json:
        echo_json(outcome.as_json())
    else:
        print_tables(outcome.tables(), Console())
        typer.echo(f"check: {outcome.verdict}")
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)
