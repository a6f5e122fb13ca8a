"""`calm-bench score`: a finished run again, or any folders of audio."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from calm_bench.cli import options
from calm_bench.cli.report import show
from calm_bench.errors import InputError

EXAMPLES = options.examples(
    {
        "calm-bench score my_clips --reference originals": "FAD, KAD, DNSMOS, loudness of a folder",
        "calm-bench score my_clips --reference originals --metrics fad kad": "these two alone",
        "calm-bench score my_clips --reference originals --pair-by '{}_gen'": "a_gen.wav of a.wav",
        "calm-bench score cuts --reference songs --group-by folder": "a folder is one recording",
        "calm-bench score speech-1a2b3c4d": "a finished run, after an extra was installed",
        "calm-bench score speech-1a2b3c4d --metrics mine": "a finished run by one metric more",
    },
)


def score(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|DIR", help="A run's id or folder, or any folder of sound files."
        ),
    ],
    reference: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of real recordings to measure against."),
    ] = None,
    pair_by: Annotated[
        str | None,
        typer.Option(
            metavar="path|stem|TEMPLATE",
            help="What makes a clip a version of a reference file: the same path below the folder, "
            "the same stem in any folder, or a template of the stem such as '{}_gen' for "
            "a_gen.wav of a.wav, '{}_gen=orig_{}' for a_gen.wav of orig_a.wav; * is anything, and "
            "with a slash it is a template of the path. Suffixes never count.",
            show_default="path",
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="folder|PATTERN",
            help="Which clips were cut from one recording and are resampled together: those of a "
            "folder, or those in whose path a pattern finds the same, in its first (…) or all of "
            "it: '^(.+)_\\d+' for song_1.wav and song_2.wav. A clip that pairs goes by the path of "
            "its original.",
            show_default="each for itself",
        ),
    ] = None,
    metrics: options.Metrics = None,
    embedding: options.Embeddings = None,
    asr: options.Asr = None,
    language: options.Language = None,
    processes: options.Processes = 1,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Score a finished run again, or two plain folders of audio.

    Folders are compared by every metric that needs no text. Files that pair (--pair-by) are taken
    for versions of one recording. Hidden files are left out, and so is a folder of one side that
    lies in the other's; what is left out, what does not pair and what cannot be read is named. Of
    folders, tables and plots are written and no listening page: their files stay where they are.
    """
    from calm_bench.core.ranks import join
    from calm_bench.run import find_run, is_run, score_run

    if not is_run(target) and Path(target).is_dir():
        if processes > 1:
            raise InputError("--processes shares the scoring of runs; folders take one process")
        from calm_bench.asr import listener
        from calm_bench.score.folders import FolderScores, score_folders

        found = score_folders(
            Path(target),
            reference,
            FolderScores(
                metrics=tuple(metrics or ()),
                embeddings=tuple(embedding or ()),
                pair_by=pair_by,
                group_by=group_by,
                asr=listener(asr, language),
            ),
            out=out,
            command=["calm-bench", *sys.argv[1:]],
        )
        show(found, as_json)
        return
    if Path(target).is_file():
        raise InputError(f"{target} is a file: score takes the folder that it lies in")
    folder = find_run(target)
    if reference or pair_by or group_by or asr or language or out:
        raise InputError(
            "--reference, --pair-by, --group-by, --asr, --language and --out are for folders of "
            f"audio; {folder} is a run, which has its own"
        )
    ranks = join(processes)
    outcome = score_run(folder, ranks, metrics=metrics or (), embeddings=embedding or ())
    if ranks.is_first:
        show(outcome, as_json)
