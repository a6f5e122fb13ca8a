"""`calm-bench train NAME`: from a model folder's recipe to its weights."""

import json
import logging
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calm_bench.config import load_model_config
from calm_bench.core import paths
from calm_bench.core.allocator import keep_freed_memory
from calm_bench.core.files import disk_errors
from calm_bench.errors import InputError
from calm_bench.training.build import build_objective, with_settings, write_model
from calm_bench.training.card import Keeper, write_card
from calm_bench.training.loop import Trainer
from calm_bench.training.recipe import TrainingConfig
from calm_bench.training.sharding import sharded_strategy

logger = logging.getLogger(__name__)

STRATEGIES = ("auto", "ddp", "fsdp")

Report = Callable[[int, int, Mapping[str, float]], None]
"""Called with steps done, steps in all, and the mean logs of the last stretch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How to run, apart from the recipe in the model's config.yaml."""

    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    accelerator: str = "auto"
    threads: int | None = None
    until: int | None = None
    fresh: bool = False
    export: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)


def _fabric(recipe: TrainingConfig, options: TrainOptions) -> Any:
    import torch
    from lightning_fabric import Fabric

    if options.strategy not in STRATEGIES:
        raise InputError(f"--strategy {options.strategy}: choose one of {', '.join(STRATEGIES)}")
    if options.threads:
        torch.set_num_threads(options.threads)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    ranks = options.devices * options.num_nodes
    fabric = Fabric(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=sharded_strategy(ranks) if options.strategy == "fsdp" else options.strategy,
        precision=recipe.precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def train_model(name: str, options: TrainOptions, report: Report | None = None) -> Path | None:
    """Train a model, or go on where its last run stopped; write its folder when steps are done.

    Args:
        name: The model's name or folder; its config.yaml holds the recipe.
        options: Devices, threads and limits; `export` writes the model although steps are left.
        report: Called after every stretch of steps, for a progress bar.

    Returns:
        The model's folder if its weights were written, None if the run stopped before its
        last step.

    Raises:
        InputError: If the recipe or the corpus cannot be used.
        TrainingError: If a loss is not a number or the saved state belongs to another recipe.
    """
    keep_freed_memory()
    config, folder = load_model_config(name)
    config, recipe = with_settings(config, str(folder / "config.yaml"), options.overrides)
    fabric = _fabric(recipe, options)
    if options.strategy == "fsdp" and config.kind == "codec":
        raise InputError("--strategy fsdp is for systems; a codec fits on every device, use ddp")
    work = paths.home() / "training" / folder.name
    with fabric.rank_zero_first(local=True):  # one rank prepares data, the others find it
        objective = build_objective(config, recipe, str(folder / "config.yaml"))
        if options.fresh and fabric.local_rank == 0:
            _forget(work)
    work.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(objective, recipe, work, fabric)
    if recipe.keep_every:
        trainer.keep = Keeper(work, config, folder, writes=fabric.is_global_zero)
    if trainer.resume():
        logger.info("resuming %s at step %s of %s", name, trainer.progress.step, recipe.steps)
    for logs in trainer.train(until=options.until):
        if report is not None and fabric.is_global_zero:
            report(trainer.progress.step, recipe.steps, logs)
    done = trainer.progress.step >= recipe.steps
    if not (done or options.export):
        return None
    weights = trainer.exported()
    if not fabric.is_global_zero:
        return None
    command = _command(folder.name, recipe, options, trainer.progress.step)
    card = write_card(folder, config, trainer, fabric, command)
    write_model(folder, config, weights, card)
    return folder


def _forget(work: Path) -> None:
    """Remove all that an earlier training left: state, log, samples and kept checkpoints.

    One rename takes it out of the way, so that a kill leaves a whole training or none.
    """
    old = work.with_name(f".{work.name}.forgotten")
    with disk_errors(work):
        if old.exists():  # a kill came before it was gone
            shutil.rmtree(old)
        if work.exists():
            work.rename(old)
            shutil.rmtree(old)


def _command(name: str, recipe: TrainingConfig, options: TrainOptions, step: int) -> str:
    """The command that trains a model like this: the recipe's changes, the ranks, the steps."""
    values = recipe.model_dump(mode="json", include=set(options.overrides))
    words = ["calm-bench", "train", name]
    words += [word for k, v in values.items() for word in ("--set", f"{k}={json.dumps(v)}")]
    for option, count in (("--devices", options.devices), ("--num-nodes", options.num_nodes)):
        words += [option, str(count)] if count > 1 else []  # each rank adds a batch to a step
    words += ["--steps", str(step), "--export"] if step < recipe.steps else []
    return shlex.join(words)
