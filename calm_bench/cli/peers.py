"""`calm-bench speed peers`: other people's packages and ours, the same shapes in the same run."""

import json
import sys
from typing import Annotated, get_args

import typer

from calm_bench.cli import options
from calm_bench.cli.options import precision as known_precision

PEERS_EXAMPLES = """[bold]Examples[/bold]

[cyan]benchmarks/peers.sh[/cyan]  prepare an environment with the packages; it says how to go on

[cyan]calm-bench speed peers[/cyan]  all pairs whose packages are here, on one thread

[cyan]calm-bench speed peers --pairs pocket --rounds 8[/cyan]  a quick look at Pocket TTS

The same command again goes on where it stopped; a finished one prints its table at once.
"""


def peers(
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "--pairs",
            metavar="NAME [NAME …]",
            help="Only these: pocket-english, pocket-18m, moshi, moshi-3000, mimi, musicgen, or "
            "what such names begin with.",
            show_default="all",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            parser=known_precision,
            metavar="P [P …]",
            help="Of our side: fp32, fp16, bf16 or int8, each a row. The package runs at fp32, and "
            "in its own int8 where it has one.",
            show_default="all four",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=2, metavar="N", help="How often every arm is timed.")
    ] = 24,
    threads: Annotated[
        int, typer.Option("--threads", min=1, metavar="N", help="Threads of both sides.")
    ] = 1,
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
    from calm_bench.types import Precision

    request = PeerRequest(
        pairs=tuple(choose_pairs(pairs or ())),
        precisions=tuple(dict.fromkeys(precision or get_args(Precision))),
        rounds=rounds,
        threads=threads,
        command=("calm-bench", *sys.argv[1:]),
    )
    folder = run_peers(request, out, fresh=fresh)
    table, rows = build_tables(folder)
    if as_json:
        found = {"folder": str(folder), "rows": [row.as_json() for row in rows]}
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    print_tables([table], Console())
    typer.echo(f"tables: {folder / 'tables'}")
