"""Checkpoints kept in training, each one a model folder: what takes a model takes them.

<home>/training/<name>/kept/<name>-<step>/ holds config.yaml, float16 weights and what else lies in
the model's folder that it needs. Quality against training step is measured on these.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from calm_bench import paths
from calm_bench.config import ModelConfig
from calm_bench.errors import InputError
from calm_bench.training.build import write_weights

__all__ = ["Keeper", "kept_models"]


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
        write_weights(target, self.config, weights)
        tokenizer = (self.config.architecture.get("text") or {}).get("tokenizer")
        if tokenizer is not None:
            shutil.copyfile(self.folder / tokenizer, target / tokenizer)


def kept_models(name: str) -> list[tuple[int, Path]]:
    """The steps of a training run whose weights were kept, and the model folder of each.

    Raises:
        InputError: If none were.
    """
    kept = paths.home() / "training" / name / "kept"
    folders = sorted(path.parent for path in kept.glob("*/config.yaml"))
    if not folders:
        raise InputError(
            f"{name} kept no checkpoints in {kept}: train it with `--set keep_every=STEPS`"
        )
    return [(int(folder.name.rsplit("-", 1)[1]), folder) for folder in folders]
