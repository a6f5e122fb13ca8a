"""The card of a trained model: what it is, how it came about, what it can and cannot do."""

import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calm_bench.config import ModelConfig
from calm_bench.data.corpus import licences, read_manifest
from calm_bench.training.build import corpus_dir, write_weights
from calm_bench.training.loop import Trainer


class Keeper:
    """Writes the weights of a step as a model."""

    def __init__(self, work: Path, config: ModelConfig, folder: Path, *, writes: bool) -> None:
        """Below the run's folder `work`, for the model in `folder`; one rank of many `writes`."""
        self.work, self.config, self.folder, self.writes = work, config, folder, writes

    def __call__(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Write one model."""
        if not self.writes:
            return
        target = self.work / "kept" / f"{self.folder.name}-{step:07d}"
        tokenizer = (self.config.architecture.get("text") or {}).get("tokenizer")
        if tokenizer is not None:  # first: a folder with a config.yaml is a whole model
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / tokenizer, target / tokenizer)
        write_weights(target, self.config, weights)


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


def _flops(count: int) -> str:
    """What a run counted; one that was trained before runs counted them has none."""
    return f"{count:.2g} FLOPs in matrix products" if count else "FLOPs not counted"


def _device(fabric: Any) -> str:
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


def write_card(
    folder: Path, config: ModelConfig, trainer: Trainer, fabric: Any, command: str
) -> str:
    """The text of card.md, from what the run recorded; `notes.md` beside it is appended.

    Args:
        folder: The model's.
        config: The model.
        trainer: The run, at its last step.
        fabric: Where it ran.
        command: The words that train this model so.
    """
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
