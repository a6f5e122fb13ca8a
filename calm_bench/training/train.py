"""`calm-bench train NAME`: from a model folder's recipe to its weights and its card.

The card says what a model is, how it came about, what it can and cannot do.
"""

import json
import logging
import platform
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from calm_bench.config import ModelConfig, load_model_config
from calm_bench.core import paths
from calm_bench.core.allocator import keep_freed_memory
from calm_bench.core.files import disk_errors, replace
from calm_bench.data.corpus import licences, read_manifest
from calm_bench.errors import InputError
from calm_bench.training.build import build_objective, corpus_dir, with_settings, write_weights
from calm_bench.training.loop import Trainer
from calm_bench.training.objective import TrainingConfig
from calm_bench.training.sharding import sharded_strategy

logger = logging.getLogger(__name__)

TEMPLATE = """# {name}

{description}

| | |
|---|---|
| kind | {kind}, `{type}` |
| parameters | {parameters:,} |
| steps | {step:,} of {steps:,}, batch {batch} |
| optimiser | AdamW, rate {rate:g} cosine, betas {betas}, weight decay {decay:g}, EMA {ema:g} |
| cost | {flops}; {hours:.2f} h on {device}, torch {torch} |
| data | {data} |
| licence | {licence} |

Last validation: {validation}.

Rebuild: `calm-bench data {data_words} && {command}`
"""
MADE_OF = {
    "speech": "speech made by this project",
    "music": "scores rendered by this project, whose licences the corpus card names",
}
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


def _fabric(recipe: TrainingConfig, options: TrainOptions) -> Fabric:
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
        trainer.keep = partial(_keep, work, config, folder)
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
    card = _card(folder, config, trainer, command)
    write_weights(folder, config, weights)
    replace(folder / "card.md", card.encode())
    return folder


def _keep(
    work: Path, config: ModelConfig, folder: Path, step: int, weights: Mapping[str, Tensor]
) -> None:
    """Write the weights of a step as a model below the run's folder `work`."""
    target = work / "kept" / f"{folder.name}-{step:07d}"
    tokenizer = (config.architecture.get("text") or {}).get("tokenizer")
    if tokenizer is not None:  # first: a folder with a config.yaml is a whole model
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / tokenizer, target / tokenizer)
    write_weights(target, config, weights)


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


def _flops(count: int) -> str:
    """What a run counted; one that was trained before runs counted them has none."""
    return f"{count:.2g} FLOPs in matrix products" if count else "FLOPs not counted"


def _device(fabric: Fabric) -> str:
    if fabric.device.type == "cuda":
        return torch.cuda.get_device_name(fabric.device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


def _licence(corpus: str) -> str:
    """On which terms the weights are given, and those of what they were trained on."""
    if corpus in MADE_OF:
        return f"MIT; trained on {MADE_OF[corpus]}"
    trained = [item for item in read_manifest(corpus_dir(corpus)) if item.split == "train"]
    terms = ", ".join(f"{name} ({n} recordings)" for name, n in licences(trained).items())
    return f"for whoever gives them on to state; trained on: {terms}"


def _card(folder: Path, config: ModelConfig, trainer: Trainer, command: str) -> str:
    """The text of card.md, from what the run recorded; `notes.md` beside it is appended."""
    fabric = trainer.fabric
    recipe = trainer.config
    known = recipe.corpus in MADE_OF
    validation = trainer.log.last_validation()
    text = TEMPLATE.format(
        name=folder.name,
        description=config.description,
        kind=config.kind,
        type=config.type,
        parameters=sum(
            p.numel()
            for key, p in trainer.objective.module.named_parameters()
            if not key.startswith("codec.")
        ),
        step=trainer.progress.step,
        steps=recipe.steps,
        batch=recipe.batch_size * recipe.accumulate * fabric.world_size,
        rate=recipe.learning_rate,
        betas=recipe.betas,
        decay=recipe.weight_decay,
        ema=recipe.ema,
        flops=_flops(trainer.progress.flops * trainer.progress.step),
        hours=trainer.progress.seconds / 3600,
        device=_device(fabric),
        torch=torch.__version__,
        data=", ".join(f"{k.replace('_', ' ')} {v}" for k, v in trainer.objective.facts().items()),
        validation=", ".join(f"{k} {v:.4g}" for k, v in validation.items()) or "none yet",
        data_words=recipe.corpus if known else f"folder RECORDINGS --out {recipe.corpus}",
        command=command,
        licence=_licence(recipe.corpus),
    )
    notes = folder / "notes.md"
    return text + ("\n" + notes.read_text(encoding="utf-8") if notes.is_file() else "")
