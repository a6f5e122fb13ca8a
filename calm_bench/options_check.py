"""The options of `check`."""

from pathlib import Path
from typing import Annotated

import typer

Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="REF",
        help="Time this tree beside another commit of it (a branch, tag or hash), checked out in a "
        "temporary folder. Without it, ratios are compared with the stored ones.",
        show_default=False,
    ),
]

BaselineFile = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        metavar="FILE",
        help="Stored counts and ratios.",
        show_default="benchmarks/speed_baseline.yaml",
    ),
]

Gates = Annotated[
    list[str] | None,
    typer.Option(
        "--gates",
        metavar="NAME [NAME …]",
        help="Only these. `counts` looks at no clock. Ratios: head_speedup, overall_speedup, "
        "calm_step, rq_step; with --against: calm_head, rq_head, calm_overall, rq_overall, "
        "head_speedup.",
        show_default="all",
    ),
]

Update = Annotated[
    bool,
    typer.Option("--update", help="Store what this tree gives now as the new baseline."),
]
