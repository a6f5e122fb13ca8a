"""Checkpoints kept in training, each one a model folder: what takes a model takes them.

<home>/training/<name>/kept/<name>-<step>/ holds config.yaml, float16 weights and what else lies in
the model's folder that it needs. Quality against training step is measured on these.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from calm_bench.config import ModelConfig
from calm_bench.training.build import write_weights


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
