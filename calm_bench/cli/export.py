"""`calm-bench export`: a run's clips and numbers for other tools."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from calm_bench.cli import options

EXAMPLES = options.examples(
    {
        "calm-bench export speech-1a2b3c4d --to audiofolder": "clips for Hugging Face datasets",
        "calm-bench export results/speech-tiny --to parquet": "every number for pandas or duckdb",
    },
)


def export(
    run: options.Run,
    to: Annotated[
        Literal["audiofolder", "parquet"],
        typer.Option(
            help="`audiofolder`: clips with what is known of each in metadata.jsonl. `parquet`: "
            "one table of all numbers, of rows and of clips."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A folder, or a file, that is not there yet.",
            show_default="<id>-audiofolder or <id>.parquet",
        ),
    ] = None,
) -> None:
    """Write a finished run as an audiofolder that `datasets` loads, or as one Parquet table.

    Parquet needs the extra `export`. Lines name `task_name`, `model`, `metric`, `value`, `stderr`,
    `ci_lower`, `ci_upper` and `n_samples`; `level` is `row` or `clip`.
    """
    from calm_bench.report.export import export as write
    from calm_bench.run import find_run

    path, n = write(find_run(run), to, out)
    typer.echo(f"{path}: {n} {'clips' if to == 'audiofolder' else 'lines'}")
