"""`calm-bench train`: from a model folder's recipe to its weights."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from calm_bench.cli import options
from calm_bench.errors import InputError
from calm_bench.seeds import MAX_SEED

EXAMPLES = options.examples(
    {
        "calm-bench train calm-speech-tiny --seed 1": "another training of a shipped model",
        "calm-bench train models/mine": "a model of yours, by its folder; again, it goes on",
    }
)


def train(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model's name or folder; its config.yaml holds the recipe."
        ),
    ],
    devices: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Devices on each node; each is a rank with a batch of its own, so that two double "
            "what a step learns from.",
            show_default="1, or what torchrun or srun started",
        ),
    ] = None,
    num_nodes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Nodes.", show_default="1, or as started")
    ] = None,
    global_batch: Annotated[
        bool,
        typer.Option(
            "--global-batch",
            help="Ranks share the recipe's batches (`accumulate` counts them) in place of having "
            "one each: the step of one process, within rounding. Not for codecs.",
        ),
    ] = False,
    strategy: Annotated[
        str, typer.Option(metavar="auto|ddp|fsdp", help="How devices share the work.")
    ] = "auto",
    device: options.Device = "auto",
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processor threads.", show_default=False)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Stop after this step; the same command goes on from there."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_SEED,
            help="Where initial weights, batches and noise come from. Another than the recipe's "
            "makes a further training: MODEL/trainings/SEED.safetensors, for `run --trainings`.",
            show_default="the recipe's",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE [KEY=VALUE …]",
            help="Other values for the recipe, as in `--set batch_size=8`.",
            show_default=False,
        ),
    ] = None,
    export: Annotated[
        bool, typer.Option("--export", help="Write the model although steps are left.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget the steps and kept checkpoints of before.")
    ] = False,
) -> None:
    """Train a model by its recipe, and write its weights and card when the steps are done.

    Ctrl-C or SIGTERM stops it after the step in hand. Stopped or killed, it goes on from its last
    checkpoint when the command is repeated.
    """
    from calm_bench.core.ranks import launched
    from calm_bench.training.train import TrainOptions, speaks, train_model

    here, nodes = launched()
    chosen = TrainOptions(
        devices=devices or here,
        num_nodes=num_nodes or nodes,
        global_batch=global_batch,
        strategy=strategy,
        accelerator=device,
        threads=threads,
        until=steps,
        fresh=fresh,
        export=export,
        seed=seed,
        overrides=_settings(settings or []),
    )
    with ExitStack() as stack:
        folder = train_model(name, chosen, _reporter(name, stack))
    if not speaks():
        return
    if folder is None:
        typer.echo(f"{name}: steps are left; the same command goes on")
    else:
        typer.echo(f"{name}: written to {folder}\n\n{(folder / 'card.md').read_text()}")


def _reporter(name: str, stack: ExitStack) -> Callable[[int, int, Mapping[str, float]], None]:
    """A progress bar that begins with the first report, whose step a resumed run decides."""
    from calm_bench.core.progress import stage

    advance: Callable[[int], None] | None = None
    last = 0

    def report(step: int, total: int, logs: Mapping[str, float]) -> None:
        nonlocal advance, last
        if advance is None:
            advance, last = stack.enter_context(stage(f"training {name}", total, step)), step
        advance(step - last)
        last = step

    return report


def _settings(pairs: list[str]) -> dict[str, Any]:
    from calm_bench.config import yaml_value

    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise InputError(f"--set takes key=value, not {pair!r}")
        found[key] = yaml_value(value, f"--set {key}")
    return found
