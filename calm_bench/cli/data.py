"""`calm-bench data`: corpora to train on, and the prompts that are cut from them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from calm_bench.cli import options
from calm_bench.cli.report import FAILED_TRIALS, say
from calm_bench.core.recordings import amount
from calm_bench.errors import InputError

if TYPE_CHECKING:
    from calm_bench.data.corpus import CorpusCard

data = typer.Typer(
    no_args_is_help=True,
    help="Corpora to train on: spoken stories and played music for the tiny models, or your own.",
    rich_markup_mode="rich",
    epilog=options.examples(
        {
            "calm-bench data music": "the corpus of the music models",
            "calm-bench data folder recordings --out corpus --transcribe": "your own as a corpus",
        }
    ),
)

Jobs = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Threads or processes.", show_default="one per core"),
]

Corpus = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The corpus folder.", show_default="user's home")
]


@data.command(
    epilog=options.examples(
        {"calm-bench data speech --train 64 --out small": "a small corpus to try with"}
    )
)
def speech(
    out: Corpus = None,
    train: Annotated[int, typer.Option(metavar="N", min=1, help="Stories to train on.")] = 2048,
    validation: Annotated[int, typer.Option(metavar="N", min=1, help="Stories to choose by.")] = 24,
    test: Annotated[
        int, typer.Option(metavar="N", min=1, help="Stories whose texts are in no other split.")
    ] = 160,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of words and voice.")] = 0,
    jobs: Jobs = None,
    as_json: options.Json = False,
) -> None:
    """Write stories and have Piper speak them, with exact word times. Needs the extra `data`."""
    from calm_bench.data.corpus import default_dir
    from calm_bench.data.speech import Speech, make_speech

    counts = Speech(train=train, validation=validation, test=test, seed=seed)
    folder = out or default_dir("speech")
    _show(make_speech(folder, counts, jobs=jobs), folder, as_json)


@data.command(
    epilog=options.examples({"calm-bench data voices": "what the speech codecs are trained on"})
)
def voices(
    out: Corpus = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of words and of Piper's noise.")] = 0,
    jobs: Jobs = None,
    as_json: options.Json = False,
) -> None:
    """Have seven voices speak stories and made-up words, for the speech codecs.

    Needs the extra `data`, and flite, which speaks with four of them.
    """
    from calm_bench.data.corpus import default_dir
    from calm_bench.data.voices import make_voices

    folder = out or default_dir("voices")
    _show(make_voices(folder, seed=seed, jobs=jobs), folder, as_json)


@data.command(
    epilog=options.examples(
        {"calm-bench data music --train 64 --out small": "a small corpus to try with"}
    )
)
def music(
    out: Corpus = None,
    train: Annotated[
        int, typer.Option(metavar="N", min=1, help="Recordings to train on, some 50 s each.")
    ] = 1200,
    validation: Annotated[
        int, typer.Option(metavar="N", min=1, help="Recordings of the few works for it, in turn.")
    ] = 72,
    test: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Recordings of as many works, in no other split."),
    ] = 72,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of instruments, keys, tempi and touch.")
    ] = 0,
    sample_rate: Annotated[
        int, typer.Option(metavar="N", min=1000, help="Samples a second.")
    ] = 16000,
    jobs: Jobs = None,
    as_json: options.Json = False,
) -> None:
    """Play real compositions on General MIDI instruments. Needs the extra `data`.

    The works are those of music21's corpus whose encodings may be used; each recording has its
    licence in the manifest. What is silent, clipped or too short is skipped and counted.
    """
    from calm_bench.data.corpus import default_dir
    from calm_bench.data.music import Music, make_music

    counts = Music(
        train=train, validation=validation, test=test, seed=seed, sample_rate=sample_rate
    )
    folder = out or default_dir("music")
    _show(make_music(folder, counts, jobs=jobs), folder, as_json)


class FolderCommand(TyperCommand):
    """A command whose `--transcribe` alone asks for the default recogniser."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the recogniser where a list ends or goes on with another option."""
        words = list[str]()
        for word, after in zip(args, [*args[1:], "--"], strict=True):
            words.append(word)
            if word == "--transcribe" and after.startswith("-"):
                words.append("faster-whisper")
        return super().parse_args(ctx, words)


@data.command(
    cls=FolderCommand,
    epilog=options.examples(
        {
            "calm-bench data folder recordings --out corpus": "recordings of yours as a corpus",
            "calm-bench data folder recordings --out corpus --transcribe": "with what is said",
        }
    ),
)
def folder(
    source: Annotated[
        Path, typer.Argument(metavar="DIR|LIST", help="Your recordings.", exists=True)
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The corpus folder.")],
    layout: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What it is read as: auto, manifest, nemo, kaldi, timit, commonvoice, seed-tts, "
            "audiofolder, librispeech, libritts, vctk, ljspeech or files.",
        ),
    ] = "auto",
    group_by: Annotated[
        str,
        typer.Option(
            metavar="auto|folder|none|PATTERN",
            help="What stays in one split: speakers and the like as the layout names them, the "
            "files of a folder, or what a pattern finds in a path.",
        ),
    ] = "auto",
    licence: Annotated[
        str | None,
        typer.Option(
            metavar="TERMS",
            help="On which terms you have the recordings, where their list does not say.",
            show_default=False,
        ),
    ] = None,
    min_seconds: Annotated[
        float, typer.Option(metavar="S", min=0.0, help="Skip shorter recordings.")
    ] = 1.0,
    transcribe: Annotated[
        str | None,
        typer.Option(
            metavar="[RECOGNISER]",
            help="Fill missing texts and word times in; alone it means faster-whisper.",
            show_default=False,
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            metavar="CODE",
            help="What --transcribe listens to, as in de. Other languages than English need "
            "multilingual weights (--transcribe faster-whisper:base).",
            show_default="en",
        ),
    ] = None,
    jobs: Jobs = None,
    as_json: options.Json = False,
) -> None:
    """List the usable recordings of a folder, a known corpus or a list.

    What is unreadable, silent, too short or there twice is skipped, counted and listed with its
    reason in corpus.json. Only what is unreadable or missing is a failure: the exit code is 4.
    Splits that the source names are kept; the rest is drawn, and no speaker is in two. Your files
    stay where they are.
    """
    from calm_bench.asr import listener
    from calm_bench.data.folder import FolderOptions, make_folder

    if language and not transcribe:
        raise InputError("--language says what --transcribe listens to: give both")
    chosen = FolderOptions(
        layout=layout,
        group_by=group_by,
        licence=licence,
        min_seconds=min_seconds,
        transcribe=listener(transcribe, language if transcribe else None),
    )
    _show(make_folder(source, out, chosen, jobs=jobs), out, as_json)


@data.command(
    epilog=options.examples(
        {"calm-bench data prompts corpus --out prompts": "prompts of its test split"}
    )
)
def prompts(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="A corpus folder.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The prompts folder of a benchmark.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="What the list is called.")] = "speech",
    n: Annotated[int, typer.Option(metavar="N", min=1, help="How many.")] = 32,
    seconds: Annotated[float, typer.Option(metavar="S", min=0.1, help="Length of a clip.")] = 12.0,
    per_recording: Annotated[
        int, typer.Option(metavar="N", min=1, help="At most so many of each recording.")
    ] = 1,
    offset: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Where a recording's first clip begins.",
            show_default="spread over the recording",
        ),
    ] = None,
    sample_rate: Annotated[
        int, typer.Option(metavar="N", min=1000, help="Samples a second.")
    ] = 16000,
    split: Annotated[
        Literal["test", "validation"],
        typer.Option(help="Choices are made on validation prompts, and judged on test prompts."),
    ] = "test",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Replace other prompts of this name.")
    ] = False,
) -> None:
    """Cut prompts with their real continuations from a corpus's held-out recordings.

    Clips of one recording do not overlap; the list says which recording each is of, and intervals
    resample them together. The same command writes the same prompts again; others of the same name
    are refused.
    """
    from calm_bench.data.cuts import Cuts, write_prompts

    cuts = Cuts(
        n=n,
        seconds=seconds,
        per_recording=per_recording,
        offset=offset,
        sample_rate=sample_rate,
        split=split,
    )
    index = write_prompts(corpus, out, name, cuts, fresh=fresh)
    typer.echo(f"wrote {index}")


def _show(card: "CorpusCard", folder: Path, as_json: bool) -> None:
    """Print what a corpus holds and what was left out; exit with 4 if files could not be read."""
    if as_json:
        typer.echo(card.model_dump_json())
    else:
        _print(card, folder)
    if failed := [skipped for skipped in card.skipped if skipped.failed]:
        say(f"{amount(len(failed), 'recording')} could not be read", style="bold red")
        raise typer.Exit(FAILED_TRIALS)


def _print(card: "CorpusCard", folder: Path) -> None:
    for name, count in card.counts.items():
        typer.echo(f"{name:<20} {count:g}")
    if card.kind == "folder":
        typer.echo("terms: " + ", ".join(f"{name} ({n})" for name, n in card.licences.items()))
    skipped = [f"skipped {one.audio}: {one.reason}" for one in card.skipped]
    for lines in (card.notes, skipped):
        for line in lines[:20]:
            typer.echo(line)
        if len(lines) > 20:
            typer.echo(f"… and {len(lines) - 20} more, all in {folder / 'corpus.json'}")
    typer.echo(f"corpus: {folder}")
