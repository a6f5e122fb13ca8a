"""The options that several commands take, and the command class that reads lists.

A list option takes its values the way people write them: `--temps 0.8 1.0`, `--temps 0.8,1.0`,
`--temps=0.8 1.0` or `--temps 0.8 --temps 1.0`. The list ends at the next option, at `--`, or at a
word that cannot belong to it: `--temps 0.8 1.0 speech` runs the benchmark speech.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand

from calm_bench.errors import InputError, near_names

Asr = Annotated[
    str | None,
    typer.Option(
        metavar="RECOGNISER",
        help="Who hears the words: faster-whisper, faster-whisper:FOLDER_OR_HUB_NAME or "
        "openai-whisper:NAME_OR_PATH. Another one gives other columns.",
        show_default="the benchmark's",
    ),
]

Language = Annotated[
    str | None,
    typer.Option(
        metavar="CODE",
        help="What is spoken, as in de. Other languages than English need multilingual weights "
        "(--asr faster-whisper:base), take Whisper's basic normaliser, and have no perplexity "
        "under the trigram, which reads English.",
        show_default="en",
    ),
]


def examples(lines: Mapping[str, str], after: str = "") -> str:
    """What stands below a command's options: commands as they are typed and what they are for."""
    shown = [f"[cyan]{command}[/cyan]  {what}" for command, what in lines.items()]
    return "\n\n".join(["[bold]Examples[/bold]", *shown, after])


def choice(value: str, known: Sequence[str], what: str) -> str:
    """The word itself.

    Raises:
        InputError: If it is not among the known ones; near names are given.
    """
    if value in known:
        return value
    near = near_names(value, known) or known
    raise InputError(f"{value!r} is no {what}: did you mean {' or '.join(near)}?")


def precision(value: str) -> str:
    """A precision by name.

    Raises:
        InputError: For any other word.
    """
    from calm_bench.types import Precision

    return choice(value, get_args(Precision), "precision")


def one_of(what: str, *known: str) -> Callable[[str], str]:
    """A parser that takes these words alone."""
    return lambda value: choice(value, known, what)


def whole_number(what: str, most: int) -> Callable[[str], int]:
    """A parser of whole numbers from 1."""

    def parsed(value: str) -> int:
        if not value.isascii() or not value.isdecimal() or not 1 <= int(value) <= most:
            raise InputError(f"{value!r} is no {what}: give a whole number from 1 to {most}")
        return int(value)

    return parsed


HeadSteps = Annotated[
    list[int] | None,
    typer.Option(
        parser=whole_number("number of head steps", 1000),
        metavar="N [N …]",
        help="Head evaluations per frame, each a row of every system whose head takes any number "
        "(consistency, TrigFlow); the other systems keep their row.",
        show_default="the benchmark's",
    ),
]

Precisions = Annotated[
    list[str] | None,
    typer.Option(
        parser=precision,
        metavar="P [P …]",
        help="fp32, fp16, bf16 or int8: each a row of every system, compared with the first; what "
        "is timed as `plain` is fp32, on a GPU bf16 as well.",
        show_default="fp32; bf16 for times at paper scale",
    ),
]

# A minus sign followed by what float() reads is a value, however wrong, and not an option.
_VALUE = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ListOption:
    """How a list of values is read.

    Attributes:
        takes: Whether a further word can belong to the list, `bool` any; the first always does.
        commas: Whether commas separate values, too.
    """

    takes: Callable[[str], bool]
    commas: bool = True

    def split(self, word: str) -> list[str]:
        """The values in one word."""
        return word.split(",") if self.commas else [word]


def _is_benchmark(word: str) -> bool:
    from calm_bench.config import benchmark_names

    return word.endswith((".yaml", ".yml")) or word in benchmark_names()


def _are_numbers(word: str) -> bool:
    try:
        return bool([float(part) for part in word.split(",")])
    except ValueError:
        return False


def _is_measure(word: str) -> bool:
    """Whether a word is neither a folder, nor a run's id, nor a benchmark."""
    places = (Path(word), Path("results", "runs", word))
    return not (any(place.is_dir() for place in places) or _is_benchmark(word))


LISTS = {
    "--temps": ListOption(_are_numbers),
    "--head-steps": ListOption(_are_numbers),
    "--systems": ListOption(lambda word: not _is_benchmark(word)),
    "--prompt-audio": ListOption(
        lambda word: Path(word).exists() or not _is_benchmark(word), commas=False
    ),
    "--pairs": ListOption(bool),
    "--metrics": ListOption(_is_measure),
    "--embedding": ListOption(_is_measure),
    "--rows": ListOption(lambda word: not Path(word).is_dir(), commas=False),
    "--gates": ListOption(bool),
    "--mode": ListOption(bool),
    "--precision": ListOption(lambda word: not _is_benchmark(word)),
    "--batch": ListOption(bool),
    "--codec-frames": ListOption(bool),
    "--set": ListOption(lambda word: "=" in word, commas=False),
}


def spread_values(args: Sequence[str], lists: Mapping[str, ListOption]) -> list[str]:
    """Rewrite `--flag a b` as `--flag a --flag b` for the flags that take a list.

    Args:
        args: The words after the command's name.
        lists: The list options among the command's, by flag.

    Raises:
        InputError: If a list option is given no value.
    """
    out: list[str] = []
    flag, empty = "", False
    for i, word in enumerate(args):
        if not word.startswith("-") or _VALUE.match(word):
            known = flag in lists and (empty or lists[flag].takes(word) or _named(word, out))
            out += _repeat(flag, lists[flag].split(word)) if known else [word]
            flag, empty = (flag, False) if known else ("", False)
            continue
        _refuse_empty(flag, empty)
        if word == "--":
            return out + list(args[i:])
        name, equals, value = word.partition("=")
        flag, empty = (name, not equals) if name in lists else ("", False)
        if not flag:
            out.append(word)
        elif equals:
            out += _repeat(flag, lists[flag].split(value))
    _refuse_empty(flag, empty)
    return out


def _named(word: str, out: Sequence[str]) -> bool:
    """Whether a benchmark's name cannot end the list, because a benchmark was named before it."""
    return _is_benchmark(word) and any(_is_benchmark(earlier) for earlier in out)


def _repeat(flag: str, values: Sequence[str]) -> list[str]:
    given = [value for value in values if value] or [""]
    return [item for value in given for item in (flag, value)]


def _refuse_empty(flag: str, empty: bool) -> None:
    if empty:
        raise InputError(f"{flag} needs at least one value")


class ListCommand(TyperCommand):
    """A command whose list options accept several values after one flag."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Spread the lists, then parse as usual."""
        flags = {flag for param in self.params for flag in param.opts}
        own = {flag: rule for flag, rule in LISTS.items() if flag in flags}
        return super().parse_args(ctx, spread_values(args, own))


Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda",
        help="Where systems run. `auto` takes a GPU if there is one. Clips depend on the device "
        "type, so a run never goes on under another.",
    ),
]

Kernels = Annotated[
    str,
    typer.Option(
        parser=one_of("choice of kernels", "fixed", "measured"),
        metavar="fixed|measured",
        help="Which kernels multiply packed weights on a processor: those of constants, or the "
        "fastest as timed once on this machine. The latter may change a clip's last digits, as a "
        "precision does, and so what is drawn of it.",
    ),
]

Processes = Annotated[
    int,
    typer.Option(
        min=1,
        max=256,
        metavar="N",
        help="Processes on this machine that share the clips, recognition and scoring of a run, "
        "and the machine's cores. The results are those of one process with as many threads as "
        "each of them has. On several machines torchrun or srun starts them: docs/cluster.md.",
    ),
]

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id or folder.")]

Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The run's folder. The same folder and command continue a run that was stopped.",
        show_default="results/runs/<id>",
    ),
]

Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start over: remove what this run has written so far.")
]

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan, check its inputs and stop.")
]

Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output in place of tables.")
]

Metrics = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME [NAME …]",
        help="Only these metrics; where a run is scored again, these beside its own. Default: the "
        "benchmark's, and of folders all that can be computed.",
        show_default=False,
    ),
]

Embeddings = Annotated[
    list[str] | None,
    typer.Option(
        "--embedding",
        metavar="NAME [NAME …]",
        help="What FAD, KAD and the like look through, each in columns of its own; where a run is "
        "scored again, beside its own.",
        show_default="the benchmark's; whisper",
    ),
]
