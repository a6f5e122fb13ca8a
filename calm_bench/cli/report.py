"""`calm-bench report`, and how every command ends: by what a run found, or by one line."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from calm_bench.cli import options
from calm_bench.core import progress
from calm_bench.errors import BenchError, InputError, UnwritableError, blame, describe

if TYPE_CHECKING:
    from calm_bench.plan.plan import Plan
    from calm_bench.score.summary import Outcome
    from calm_bench.speed.timetable import SpeedPlan

FAILED_TRIALS = 4
UNEXPECTED = 70
INTERRUPTED = 130
ROWS = 8

EXAMPLES = options.examples(
    {
        "calm-bench report speech-1a2b3c4d --open": "its tables, plots and page anew",
        "calm-bench report speech-1a2b3c4d --json": "its numbers for a script",
        "calm-bench report results/speech results/music --out site": "one page of two runs",
        "calm-bench report results/speech --out site --clips 4": "a small page to publish",
        "calm-bench report results/speech --out page.html": "one file to send",
    },
    "With --out, clips are copied as Opus, some 7 kB a second, or 9 kB in one file. The page "
    "needs no server and nothing else; nothing is written into the runs.",
)


def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN…", help="A run's id or folder; several with --out.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE.html",
            help="Write a listening page that stands alone into this folder, or with all that it "
            "plays and shows into this one file, a section for each run in the order given. An "
            "earlier page there is replaced.",
            show_default=False,
        ),
    ] = None,
    clips: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="How many prompts (rows of players) of each run that page shows, spread over the "
            "run's.",
            show_default=str(ROWS),
        ),
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the listening page in a browser.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Rebuild a run's intervals, tables, plots and page from its records, or a page of several."""
    from calm_bench.core.progress import waiting

    if out is None and len(runs) > 1:
        raise InputError("several runs make one page that stands alone: name it with --out")
    if out is None and clips is not None:
        raise InputError("--clips is for a page that stands alone: name it with --out")
    if out is not None and as_json:
        raise InputError("--json prints the numbers of one run: leave out --out")
    with waiting("reading the run"):
        from calm_bench.run import find_run, read_run

        folders = [find_run(run) for run in runs]
        outcome = None if out else read_run(folders[0])
    if outcome:
        show(outcome, as_json, open_page=open_page)
    elif out:
        _site(folders, out, clips or ROWS, open_page=open_page)


def _site(folders: Sequence[Path], out: Path, n_rows: int, *, open_page: bool) -> None:
    from calm_bench.report.build import build_file, build_site

    is_file = out.suffix == ".html" and not out.is_dir()
    n_bytes = (build_file if is_file else build_site)(folders, out, n_rows)
    page = out if is_file else out / "index.html"
    typer.echo(f"listen: {page} ({n_bytes / 1e6:.1f} MB with all that it plays)")
    if open_page:
        _open(page)


def echo_json(found: Any) -> None:
    """What was found, as one line of JSON on standard output."""
    typer.echo(json.dumps(found, ensure_ascii=False))


def show_plan(plan: "Plan | SpeedPlan", lines: Sequence[str], folder: Path, as_json: bool) -> None:
    """What a dry run says of a plan."""
    if as_json:
        echo_json({**plan.as_json(), "folder": str(folder)})
    else:
        typer.echo("\n".join([*lines, f"would write {folder}"]))


def show(
    outcome: "Outcome", as_json: bool, *, open_page: bool = False, plots: bool = False
) -> None:
    """Build the report, print it, and exit with 4 if clips are missing."""
    from rich.console import Console

    from calm_bench.core.recordings import amount
    from calm_bench.report.build import build_report
    from calm_bench.report.formats import print_table

    build_report(outcome.folder)
    page = outcome.folder / "page" / "index.html"
    if as_json:
        echo_json({"folder": str(outcome.folder), **outcome.results.model_dump(mode="json")})
    else:
        print_table(outcome.results, Console(), f"all in {outcome.folder / 'tables'}")
        if page.is_file():
            typer.echo(f"listen: {page}")
        typer.echo(f"tables: {outcome.folder / 'tables'}")
        if plots:
            typer.echo(f"plots: {outcome.folder / 'plots'}")
    if open_page and not page.is_file():
        say(f"{outcome.folder} has no clips of its own, and no page to open")
    elif open_page:
        _open(page)
    if outcome.n_failed:
        lost = outcome.results.unusable
        clips = [f"{amount(n, 'clip')} failed" for n in [outcome.n_failed - lost] if n]
        files = [f"{amount(lost, 'recording')} could not be used"] if lost else []
        said = " and ".join([*clips, *files])
        say(f"{said}; the notes of the table say why", style="bold red")
        raise typer.Exit(FAILED_TRIALS)


def _open(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        say(f"no browser could be started: open {page} in one")


def say(text: str, style: str = "") -> None:
    """A message on standard error, its lines not wrapped; where another rank speaks, none."""
    from rich.console import Console

    if progress.silenced:
        return
    Console(stderr=True).print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class BenchGroup(TyperGroup):
    """The commands; an error that the user can mend is one red line on standard error."""

    def __init__(self, **settings: Any) -> None:
        """Take the commands; the lines of their docstrings flow, as a terminal is wide."""
        super().__init__(**settings)
        _let_flow(self)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take words that any file and terminal takes."""
        _bare_flags(self.params)  # those that came late, too
        for word in args:
            if not word.isascii() and word != word.encode(errors="replace").decode():
                raise typer.BadParameter(f"{word!a} is no UTF-8 text: rename it")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BenchError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            line = describe(error) + _instead(error, command)
            say(f"error: {line}", style="bold red")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            say("stopped; the same command goes on from here", style="bold")
            raise typer.Exit(INTERRUPTED) from error
        except Exception as error:
            if _is_typers(error):
                raise
            if (said := _refusal(error) or (blame(error) and describe(error))) is not None:
                say(f"error: {said}", style="bold red")
                raise typer.Exit(BenchError.exit_code) from error
            say(
                f"error: {describe(error)} (calm-bench did not expect this; with BENCH_DEBUG=1 the "
                "command shows where it came from)",
                style="bold red",
            )
            raise typer.Exit(UNEXPECTED) from error


def _instead(error: BenchError, command: Any) -> str:
    """Where else a command can write what it could not, by options that it has."""
    if not isinstance(error, UnwritableError):
        return ""
    from calm_bench.core.paths import home

    words = {name for one in _commands(command) for param in one.params for name in param.opts}
    given = "--out" in words and any(word.startswith("--out") for word in sys.argv)
    if not given and error.path.absolute().is_relative_to(home().absolute()):
        return "; CALM_BENCH_HOME names another place"
    if "--out" in words:
        return "; choose another folder with --out"
    return "; --votes names another file" if "--votes" in words else "; make it writable"


def _commands(command: Any) -> list[Any]:
    """A command, or those of a group."""
    return list(getattr(command, "commands", {"": command}).values()) if command else []


_NO_MEMORY = re.compile("allocate .*memory|not enough memory|out of memory", re.IGNORECASE)


def _refusal(error: Exception) -> str | None:
    """What the machine refused, which the user can mend; None of an error of a program."""
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return f"there is not enough memory ({describe(error).splitlines()[0]})"
    if not isinstance(error, OSError) or error.errno is None:  # a library's own, of no system
        return None
    return f"{error.filename}: {error.strerror}" if error.filename else describe(error)


def _let_flow(command: Any) -> None:
    """Join the lines of each paragraph of a command's help, and show flags without a type."""
    paragraphs = (command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(lines.split()) for lines in paragraphs)
    _bare_flags(command.get_params(command.context_class(command)))
    for one in getattr(command, "commands", {}).values():
        _let_flow(one)


def _bare_flags(params: Sequence[Any]) -> None:
    """Show flags without a type."""
    for option in params:
        if getattr(option, "is_flag", False):
            option.metavar = ""


def _is_typers(error: Exception) -> bool:
    """Whether an error is a way to end a command: usage, exit, or a reader that has gone."""
    package = type(error).__module__.partition(".")[0]
    return package in ("click", "typer") or isinstance(error, BrokenPipeError)
