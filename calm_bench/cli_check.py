"""`calm-bench check`: the gate for continuous integration."""

import json
from typing import TYPE_CHECKING

import typer

from calm_bench import options, options_check

if TYPE_CHECKING:
    from calm_bench.gate.outcome import Outcome

EXAMPLES = """[bold]Examples[/bold]

[cyan]calm-bench check[/cyan]  counts and ratios against benchmarks/speed_baseline.yaml

[cyan]calm-bench check --gates counts[/cyan]  no clock: seconds, exact, on any machine

[cyan]calm-bench check --against origin/main[/cyan]  this tree timed beside another version of it

[cyan]calm-bench check --update[/cyan]  store what this tree gives now

Exit codes: 0 passed · 1 regressed · 2 usage · 3 inconclusive, or the machine is unfit.
"""


def check(
    against: options_check.Against = None,
    baseline: options_check.BaselineFile = None,
    gates: options_check.Gates = None,
    update: options_check.Update = False,
    as_json: options.Json = False,
) -> None:
    """Fail if a frame costs more than it did: operators, FLOPs, bytes, and time by paired ratios.

    Counts are exact everywhere. Times are ratios of interleaved blocks on one thread.
    """
    from calm_bench.gate import check as gate
    from calm_bench.gate.outcome import write_step_summary

    request = gate.Request(against=against, baseline=baseline, gates=tuple(gates or ()))
    outcome = gate.update(request) if update else gate.check(request)
    write_step_summary(outcome)
    if as_json:
        typer.echo(json.dumps(outcome.as_json(), ensure_ascii=False))
    else:
        _show(outcome)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def _show(outcome: "Outcome") -> None:
    from rich.console import Console

    from calm_bench.report.terminal import print_tables

    print_tables(outcome.tables(), Console())
    typer.echo(f"check: {outcome.verdict}")
