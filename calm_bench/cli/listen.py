"""`calm-bench listen` and `calm-bench elo`: people judge clips, and what they say is counted."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calm_bench.cli import options
from calm_bench.cli.report import echo_json

if TYPE_CHECKING:
    from calm_bench.listening.session import ClipFiles
    from calm_bench.listening.votes import VoteBook

listening = typer.Typer()

LISTEN_EXAMPLES = options.examples(
    {
        "calm-bench listen speech-1a2b3c4d": "which of two clips is more meaningful speech?",
        "calm-bench listen music-1a2b3c4d --question enjoyment": "which of two is enjoyed more?",
        "calm-bench listen speech-1a2b3c4d --question quality --per-rater 20": "sound, from 1 to 5",
    },
    "The same command again goes on: every listener is asked what they have not answered.",
)


@listening.command(cls=options.ListCommand, epilog=LISTEN_EXAMPLES)
def listen(
    run_id: options.Run,
    question: Annotated[
        str,
        typer.Option(
            metavar="meaningfulness|enjoyment|quality",
            help="Two clips compared, or one clip's sound scored from 1 to 5.",
        ),
    ] = "meaningfulness",
    rows: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROW [ROW …]",
            help="Only these rows of the table, by label or id.",
            show_default="all systems and the reference",
        ),
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Only the first N prompts: fewer clips, each judged by more listeners, which is "
            "what tells how far they agree.",
            show_default="all",
        ),
    ] = None,
    per_rater: Annotated[int, typer.Option(metavar="N", min=1, help="Questions a listener.")] = 10,
    seed: Annotated[int, typer.Option(metavar="N", help="Decides order and sides.")] = 0,
    votes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where votes are collected.",
            show_default="RUN/votes/<question>.jsonl",
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=65535, help="Port of 127.0.0.1; 0 takes a free one."),
    ] = 0,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Do not open the page in a browser.")
    ] = False,
) -> None:
    """Serve a blind listening test of a run's clips on this machine, and collect the votes.

    Nobody else's machine can reach it; to listen from a phone or afar, forward the port over SSH.
    Each vote is on disk before it is acknowledged. `calm-bench elo` counts them.
    """
    from calm_bench.listening.session import Wanted, plan_session, vote_file
    from calm_bench.listening.votes import VoteBook
    from calm_bench.run import find_run
    from calm_bench.store.run_store import RunStore

    wanted = Wanted(
        question=question,  # type: ignore[arg-type]  # checked by Wanted
        rows=tuple(rows or ()),
        n_prompts=prompts,
        per_rater=per_rater,
        seed=seed,
    )
    folder = find_run(run_id)
    session, clips = plan_session(RunStore(folder), wanted)
    path = votes or vote_file(folder, wanted.question)
    with VoteBook.locked(path):
        _serve(VoteBook.open(path, session), clips, port=port, open_page=not no_open)


def _serve(book: "VoteBook", clips: "ClipFiles", *, port: int, open_page: bool) -> None:
    import webbrowser

    from calm_bench.listening.server import Desk, ListeningServer

    desk = Desk(book, clips)
    with ListeningServer(desk, port) as server:
        if clips.left_out:
            typer.echo(f"{clips.left_out} prompts lack a clip and are left out", err=True)
        typer.echo(f"listen: {server.address}")
        typer.echo(f"votes:  {book.path} ({desk.n_votes} so far); stop with Ctrl-C", err=True)
        if open_page:
            webbrowser.open(server.address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    typer.echo(f"{desk.n_votes} votes; count them with: calm-bench elo {book.path}", err=True)


ELO_EXAMPLES = options.examples(
    {
        "calm-bench elo results/runs/speech-1a2b3c4d": "all votes on a run",
        "calm-bench elo anna.jsonl ben.jsonl --run speech-1a2b3c4d": "votes of several machines",
    },
)


@listening.command(epilog=ELO_EXAMPLES)
def elo(
    votes: Annotated[
        list[Path],
        typer.Argument(metavar="VOTES…", help="Vote files, or a run's folder for all of its own."),
    ],
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="The run whose tables the numbers join.",
            show_default="where the votes lie",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Turn votes into Elo and mean opinion scores with intervals, which join the run's tables.

    Prints the paper's Bayesian Elo with its Gamma interval and that interval's measured coverage,
    our Elo with a bootstrap over listeners and prompts, and how far listeners agree.
    """
    from calm_bench.listening.tally import join_run, results_of
    from calm_bench.listening.votes import read_polls, vote_files
    from calm_bench.run import find_run

    is_file = (path.exists() or path.suffix == ".jsonl" for path in votes)
    named = [p if known else find_run(str(p)) for p, known in zip(votes, is_file, strict=True)]
    files = vote_files(named)
    polls = read_polls(files)
    results = results_of(polls)
    folder = find_run(run_id) if run_id else _run_of(files)
    if folder is not None:
        join_run(folder, polls)
    if as_json:
        found = {"folder": str(folder) if folder else None, **results.model_dump(mode="json")}
        echo_json(found)
        return
    from rich.console import Console

    from calm_bench.report.formats import print_table

    print_table(results, Console())
    if folder is not None:
        typer.echo(f"joined the tables of {folder}; to see them: calm-bench report {folder}")
    else:
        typer.echo("these votes lie in no run's folder: join one's tables with --run")


def _run_of(files: list[Path]) -> Path | None:
    for path in files:
        folder = path.resolve().parent.parent
        if path.resolve().parent.name == "votes" and (folder / "manifest.json").is_file():
            return folder
    return None
