"""`calm-bench run`: generate, time, score and report."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from calm_bench.cli import options
from calm_bench.cli.report import FAILED_TRIALS, say, show, show_plan

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


def run(
    benchmark: options.Benchmark,
    temps: options.Temps = None,
    text_temp: options.TextTemp = None,
    head_steps: options.HeadSteps = None,
    seconds: options.Seconds = None,
    checkpoints: options.Checkpoints = False,
    precision: options.Precisions = None,
    trainings: options.Trainings = None,
    systems: options.Systems = None,
    prompts: options.Prompts = None,
    prompt_audio: options.PromptAudio = None,
    seeds: options.Seeds = 1,
    no_latency: options.NoLatency = False,
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
