"""`calm-bench run`: generate, time, score and report."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from calm_bench.cli import options
from calm_bench.cli.report import FAILED_TRIALS, say, show, show_plan
from calm_bench.errors import InputError

if TYPE_CHECKING:
    from calm_bench.core.ranks import Ranks
    from calm_bench.plan.plan import Plan
    from calm_bench.types import KernelsOf, Precision


EXAMPLES = options.examples(
    {
        "calm-bench run speech --temps 0.8 1.0": "both systems at two temperatures",
        "calm-bench run speech --prompts 8 --systems calm": "a quick look at one system",
        "calm-bench run speech --prompt-audio mine/*.wav": "your own voice continued",
        "calm-bench run music --temps 1 --head-steps 1 4 10 25 50 100": "FAD against time",
        "calm-bench run speech --precision fp32 int8 --no-latency": "what int8 costs in quality",
        "calm-bench run speech --metrics wer fad --embedding mel": "these numbers alone",
        "calm-bench run speech --processes 2": "two processes share it",
        "calm-bench run speech --dry-run": "what would be done",
    },
    "The same command again goes on where it stopped; a finished one prints its table at once.",
)


def _number(value: str, what: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise InputError(f"{value!r} is no {what}") from error


def _seconds(value: str) -> float:
    from calm_bench.config import MAX_SECONDS

    number = _number(value, "length: give seconds, as in 30")
    if not 0 < number <= MAX_SECONDS:
        raise InputError(f"clips last more than 0 and at most {MAX_SECONDS:g} s, not {value} s")
    return number


def _temperature(value: str) -> float:
    from calm_bench.config import check_temperature

    number = _number(value, "temperature: give a number, as in 0.8")
    try:
        return check_temperature(number)
    except ValueError as error:
        raise InputError(str(error)) from error


def _text_temperature(value: str) -> float | None:
    return None if value == "same" else _temperature(value)


def _path(value: str) -> Path:
    from calm_bench.core.paths import expanded

    path = expanded(value, "--prompt-audio")
    if not path.exists():
        raise InputError(f"{value} does not exist")
    return path


def run(
    benchmark: Annotated[
        str,
        typer.Argument(
            help="Which benchmark: a name from `calm-bench list`, or the path of a YAML file of "
            "yours.",
            metavar="BENCHMARK",
            show_default=False,
        ),
    ],
    temps: Annotated[
        list[float] | None,
        typer.Option(
            parser=_temperature,
            metavar="T [T …]",
            help="Sampling temperatures; each makes one row per system. For CALM it scales the "
            "noise's variance (std = √T), for token models it divides the logits; 0 means no "
            "noise, argmax. Default: the benchmark's.",
            show_default=False,
        ),
    ] = None,
    text_temp: Annotated[
        float | None,
        typer.Option(
            parser=_text_temperature,
            metavar="same|T",
            help="Temperature of the text stream: `same` follows --temps, a number fixes it.",
            show_default="same",
        ),
    ] = None,
    head_steps: options.HeadSteps = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            parser=_seconds,
            metavar="S",
            help="Length of the clips, prompt included. Where they outlast the recordings, what is "
            "measured against these looks at as much as there is.",
            show_default="the benchmark's",
        ),
    ] = None,
    checkpoints: Annotated[
        bool,
        typer.Option(
            "--checkpoints",
            help="The weights that training kept (`train --set keep_every=STEPS`) in place of the "
            "final ones: a row for each, and quality against training step. Nothing is timed.",
        ),
    ] = False,
    precision: options.Precisions = None,
    trainings: Annotated[
        str | None,
        typer.Option(
            metavar="N|all|SEED,SEED",
            help="Several trainings of each system (`train --seed`): a row for each, and their "
            "mean with the least and the greatest below. As many as there are up to N, all, or "
            "those of these seeds.",
            show_default="its own weights",
        ),
    ] = None,
    systems: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME [NAME …]",
            help="Only these systems: a model's name or its first part (`calm`), a row's label, "
            "or a folder with a config.yaml. Reference rows always stay.",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="How many prompts: drawn from the benchmark's list or your recordings, always the "
            "same ones, from every group. Fewer are faster and widen every interval.",
            show_default="the benchmark's",
        ),
    ] = None,
    prompt_audio: Annotated[
        list[Path] | None,
        typer.Option(
            parser=_path,
            metavar="FILE|DIR|LIST …",
            help="Your own recordings in place of the benchmark's prompts: files, folders, or "
            "lists with texts (JSON lines of audio, text, words, or what `data folder` reads). "
            "What has no text is transcribed in its first seconds, because the text stream needs "
            "words; the rows say so.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            max=1000,
            metavar="N",
            help="Draws per prompt and row. Intervals resample prompts, so more prompts help more.",
        ),
    ] = 1,
    no_latency: Annotated[
        bool,
        typer.Option(
            "--no-latency",
            help="Time nothing. Without it, the same command times a run later, on the clips it "
            "has (but --fresh clears times and clips).",
        ),
    ] = False,
    metrics: options.Metrics = None,
    embedding: options.Embeddings = None,
    asr: options.Asr = None,
    language: options.Language = None,
    device: options.Device = "auto",
    kernels: options.Kernels = "fixed",
    processes: options.Processes = 1,
    out: options.Out = None,
    fresh: options.Fresh = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Generate, time, score and report: every system continues the same prompts.

    Writes results/runs/<id>/: clips, records, results.json, tables, plots and a listening page.
    """
    from calm_bench.core.progress import waiting
    from calm_bench.core.ranks import join
    from calm_bench.plan.overrides import Overrides
    from calm_bench.plan.plan import expand

    overrides = Overrides(
        temperatures=tuple(temps or ()),
        text_temperature=text_temp,
        head_steps=tuple(head_steps or ()),
        seconds=seconds,
        checkpoints=checkpoints,
        precisions=cast("tuple[Precision, ...]", tuple(precision or ())),
        systems=tuple(systems or ()),
        n_prompts=prompts,
        prompt_audio=tuple(prompt_audio or ()),
        trainings=trainings,
        n_seeds=seeds,
        latency=not no_latency,
        metrics=tuple(metrics or ()),
        embeddings=tuple(embedding or ()),
        asr=asr,
        language=language,
        kernels=cast("KernelsOf", kernels),
    )
    ranks = join(1 if dry_run else processes)
    with waiting("reading prompts and models"):
        plan = ranks.share(lambda: expand(benchmark, overrides))
    if not dry_run:
        _run(plan, out, ranks, device=device, fresh=fresh, as_json=as_json)
    elif ranks.is_first:
        _dry_run(plan, out, device=device, as_json=as_json)


def _run(
    plan: "Plan", out: Path | None, ranks: "Ranks", *, device: str, fresh: bool, as_json: bool
) -> None:
    from calm_bench import run as runs
    from calm_bench.generate.codec_check import check_codecs
    from calm_bench.plan.plan import plan_lines
    from calm_bench.store.run_store import RunStore

    folder = runs.run_folder(plan, out)
    plan = ranks.share(lambda: check_codecs(plan, RunStore(folder)))
    say("\n".join([*plan_lines(plan), f"writes {folder}"]))
    command = ["calm-bench", *sys.argv[1:]]
    outcome = runs.run(plan, out=out, device=device, fresh=fresh, command=command, ranks=ranks)
    if ranks.is_first:
        show(outcome, as_json)


def _dry_run(plan: "Plan", out: Path | None, *, device: str, as_json: bool) -> None:
    from calm_bench.core.device import resolve_device
    from calm_bench.generate.codec_check import check_codecs
    from calm_bench.plan.plan import check_prompts, plan_lines
    from calm_bench.run import run_folder
    from calm_bench.store.run_store import RunStore

    check_prompts(plan)
    folder = run_folder(plan, out)
    store = RunStore(folder)
    store.refuse_foreign()
    store.refuse_unwritable()
    plan = check_codecs(plan, store)
    if device != "auto":  # which any machine has
        resolve_device(device)
    show_plan(plan, plan_lines(plan), folder, as_json)
    if plan.unusable:
        raise typer.Exit(FAILED_TRIALS)
