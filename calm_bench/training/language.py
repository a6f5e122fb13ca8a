"""Training a speech system on a codec's frames: the same crops in the same order for every system.

B batch, T frames, D width, C latent channels, K codebooks. Frames are computed once per codec and
kept; a batch is a function of (seed, step) and of the corpus alone, never of the system.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.audio import write_flac
from calm_bench.codecs.loading import codec_key, load_codec
from calm_bench.config import ModelConfig, StrictModel, parse
from calm_bench.data.packed import PackedArrays
from calm_bench.data.shards import Shards, prepare, write_frames
from calm_bench.errors import InputError
from calm_bench.nn.consistency import ConsistencyConfig, consistency_terms, draw_times
from calm_bench.systems.base import Prompt
from calm_bench.systems.calm import CalmSystem
from calm_bench.systems.loading import build_system
from calm_bench.systems.rq import RqSystem
from calm_bench.systems.streaming import StreamingSystem
from calm_bench.systems.text import PAD, train_tokenizer
from calm_bench.training.objective import Objective, StepLoss, step_generator, step_rng
from calm_bench.training.recipe import TrainingConfig
from calm_bench.types import SamplingParams

__all__ = ["CalmObjective", "LanguageTraining", "RqObjective", "build_language_objective"]

VALIDATION_STEP = -1  # the step whose generator validation draws from


class LanguageTraining(StrictModel):
    """What all language models share.

    Attributes:
        frames: Length of a crop.
        from_start: Share of crops that begin where their recording begins, as every prompt does.
        text_weight: Weight of the text cross-entropy beside the head's loss.
        pad_weight: Weight of PAD targets within it (Moshi: one half).
        hidden_frames: Mean share of past frames that a crop hides from the backbone (the share of a
            crop is uniform up to twice that). What it cannot copy from its past it must take from
            the text; Tacotron's pre-net dropout (Shen et al. 2018) serves the same end.
    """

    frames: int = 150
    from_start: float = 0.5
    text_weight: float = 1.0
    pad_weight: float = 0.5
    hidden_frames: float = Field(default=0.0, ge=0.0, le=0.5)
    consistency: ConsistencyConfig = ConsistencyConfig()


class FrameSplit:
    """One split's frames and text tokens, cropped on demand."""

    def __init__(self, shards: Shards, frames: PackedArrays, system: StreamingSystem) -> None:
        """Lay out the text stream of every recording once."""
        self.shards, self.frames, self.lead = shards, frames, system.lead
        self.lengths = np.diff(np.asarray(frames.edges))
        self.text: list[NDArray[np.int64]] | None = None
        if system.text_stream is not None:
            stream = system.text_stream
            self.text = [
                stream.encode(item.words or (), int(length) + self.lead)
                for item, length in zip(shards.items, self.lengths, strict=True)
            ]

    def crops(self, picks: NDArray[Any], starts: NDArray[Any], length: int) -> dict[str, Tensor]:
        """Frames [B, T, ...], text [B, T + lead] and the mask of real frames [B, T]."""
        width = self.frames[0].shape[1:]
        first = self.frames[0]
        dtype = np.float32 if np.issubdtype(first.dtype, np.floating) else np.int64
        frames = np.zeros((len(picks), length, *width), dtype)
        text = np.full((len(picks), length + self.lead), PAD, np.int64)
        mask = np.zeros((len(picks), length), bool)
        for row, (pick, start) in enumerate(zip(picks, starts, strict=True)):
            piece = self.frames[int(pick)][start : start + length]
            frames[row, : len(piece)] = piece
            mask[row, : len(piece)] = True
            if self.text is not None:
                tokens = self.text[int(pick)][start : start + length + self.lead]
                text[row, : len(tokens)] = tokens
        arrays = {
            "frames": frames,
            "mask": mask,
            **({"text": text} if self.text is not None else {}),
        }
        return {key: torch.from_numpy(value) for key, value in arrays.items()}


class LanguageObjective(Objective):
    """Text cross-entropy plus a head's loss on every frame."""

    def __init__(
        self,
        system: StreamingSystem,
        config: LanguageTraining,
        recipe: TrainingConfig,
        splits: tuple[FrameSplit, FrameSplit],
    ) -> None:
        """`splits` are training and validation."""
        self.module: nn.Module = system
        self.system, self.config, self.recipe = system, config, recipe
        self.train, self.validation = splits

    def batch(self, step: int, size: int) -> Mapping[str, Tensor]:
        """Crops of recordings drawn by length, a share of them from the recording's start."""
        rng = step_rng(self.recipe.seed, step, "crops")
        lengths = self.train.lengths
        picks = rng.choice(len(lengths), size, p=lengths / lengths.sum())
        free = np.maximum(0, lengths[picks] - self.config.frames)
        starts = (rng.random(size) * (free + 1)).astype(int)
        starts[rng.random(size) < self.config.from_start] = 0
        crops = self.train.crops(picks, starts, self.config.frames)
        if self.config.hidden_frames:
            rng = step_rng(self.recipe.seed, step, "hidden")
            share = rng.uniform(0, 2 * self.config.hidden_frames, (size, 1))
            seen = rng.random((size, self.config.frames)) >= share
            crops["seen"] = torch.from_numpy(seen)
        return crops

    def text_loss(self, z: Tensor, text: Tensor) -> Tensor:
        """Cross-entropy of the text stream, PAD weighing less."""
        logits = self.system.text_head(z).float()
        losses = F.cross_entropy(logits.transpose(1, 2), text, reduction="none")  # [B, T + lead]
        weights = torch.where(text == PAD, self.config.pad_weight, 1.0)
        return (losses * weights).sum() / weights.sum()

    @abstractmethod
    def head_loss(self, z: Tensor, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """The head's loss from contexts of real frames, z [R, D]."""

    def loss(self, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """Both losses of one batch."""
        text = batch.get("text")
        z = self.system.contexts(batch["frames"], text, batch.get("seen"))  # [B, T + lead, D]
        loss, logs = self.head_loss(z[:, self.system.lead :][batch["mask"]], batch, step)
        if text is not None:
            text_loss = self.text_loss(z, text)
            loss = loss + self.config.text_weight * text_loss
            logs["text"] = float(text_loss.detach())
        return StepLoss(loss, logs)

    def validate(self) -> dict[str, float]:
        """Losses on the beginning of every held-out recording."""
        picks = np.arange(len(self.validation.lengths))
        batch = self.validation.crops(picks, np.zeros_like(picks), self.config.frames)
        device = self.system.audio_start.device
        batch = {key: value.to(device) for key, value in batch.items()}
        loss, logs = self.loss(batch, VALIDATION_STEP)
        return {"loss": float(loss.detach()), **logs}

    def sample(self, folder: Path, step: int) -> None:
        """Continue the first held-out recordings and write what is heard and what was meant."""
        folder.mkdir(parents=True, exist_ok=True)
        codec, shards = self.system.codec, self.validation.shards
        seconds = 38 / codec.frame_rate
        prompts, generators = [], []
        for index in range(min(4, len(shards))):
            wave = torch.from_numpy(shards.read(index, 0, round(seconds * codec.sample_rate)))
            words = tuple(w for w in shards.items[index].words or () if w.start < seconds)
            prompts.append(Prompt(wave=wave, words=words))
            generators.append(torch.Generator().manual_seed(index))
        sampling = SamplingParams(temperature=0.8, text_temperature=0.8)
        made = self.system.generate(prompts, sampling, generators, 112)
        for index, wave in enumerate(made.wave):
            write_flac(folder / f"{step:07d}-{index}.flac", wave.cpu().numpy(), codec.sample_rate)
            if made.words is not None:
                line = " ".join(word.word for word in made.words[index])
                (folder / f"{step:07d}-{index}.txt").write_text(line + "\n", encoding="utf-8")

    def export(self) -> dict[str, Tensor]:
        """The system's own weights, without its codec's."""
        state = self.system.state_dict()
        return {key: value for key, value in state.items() if not key.startswith("codec.")}

    def facts(self) -> dict[str, Any]:
        """Data behind the weights."""
        hours = self.train.shards.seconds / 3600
        return {"train_hours": round(hours, 2), "corpus_hash": self.train.shards.content_hash}


class CalmObjective(LanguageObjective):
    """Consistency training of the head (paper section 3.2), jointly with the backbone."""

    system: CalmSystem

    def head_loss(self, z: Tensor, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """Mean consistency loss over frames and head-batch copies.

        The tangent is taken in float32: bfloat16 noise in it would be normalised to full size.
        """
        config = self.config.consistency
        x = batch["frames"][batch["mask"]]  # [R, C]
        N = config.multiplier
        generator = step_generator(self.recipe.seed, step, "head", z.device)
        t = draw_times(N * len(x), config, generator)
        noise = torch.randn(N * len(x), x.shape[1], generator=generator, device=z.device)
        ramp = 1.0 if step < 0 else min(1.0, step / max(1, config.warmup * self.recipe.accumulate))
        mlp = self.system.mlp
        embedded = mlp.embed_context(z).float().repeat(N, 1)
        held = embedded.detach()

        def velocity(x_t: Tensor, time: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                return mlp.velocity(x_t, time, embedded)
            with torch.autocast(z.device.type, enabled=False):
                return mlp.velocity(x_t, time, held)

        terms = consistency_terms(
            velocity, self.system.time_weight, x.repeat(N, 1), t, noise, config, ramp
        )
        logs = {"flow": float(terms.flow_error.mean()), "tangent": float(terms.tangent.mean())}
        if step == VALIDATION_STEP:
            logs |= self._one_step(z, x, noise[: len(x)])
        return StepLoss(terms.loss.mean(), logs)

    def _one_step(self, z: Tensor, x: Tensor, noise: Tensor) -> dict[str, float]:
        """Error and spread of one-step samples: the loss itself says nothing of convergence."""
        t = torch.full((len(x),), torch.pi / 2, device=x.device)
        drawn = -self.system.mlp(noise, t, z.float())
        return {"one_step_mse": float(F.mse_loss(drawn, x)), "one_step_var": float(drawn.var())}


class RqObjective(LanguageObjective):
    """Cross-entropy over all codebooks, equally weighted (paper section 3.1)."""

    system: RqSystem

    def head_loss(self, z: Tensor, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """Mean cross-entropy per code, all codebooks at once."""
        mask = batch["mask"]
        codes = batch["frames"][mask]  # [R, K]
        text = batch["text"][:, self.system.lead :][mask] if "text" in batch else None
        logits = self.system.depth(z, codes, text).float()  # [R, K, V]
        losses = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none")
        per_level = losses.view_as(codes).mean(0)
        logs = {"codes": float(per_level.detach().mean()), "code_1": float(per_level[0].detach())}
        return StepLoss(per_level.mean(), logs)


def _split(corpus: Path, split: str, system: StreamingSystem, config: ModelConfig) -> FrameSplit:
    codec = system.codec
    shards = prepare(corpus, codec.sample_rate, split)  # type: ignore[arg-type]

    @torch.inference_mode()
    def encode(wave: NDArray[np.float32]) -> NDArray[Any]:
        frames = codec.encode(torch.from_numpy(wave)[None])
        frames = frames if codec.continuous else frames.transpose(1, 2)
        return np.asarray(frames[0].numpy())

    return FrameSplit(shards, write_frames(shards, codec_key(codec), encode), system)


def _ensure_tokenizer(config: ModelConfig, folder: Path, corpus: Path) -> None:
    text = config.architecture.get("text") or {}
    name = text.get("tokenizer")
    if name is None or (folder / name).is_file():
        return
    shards = prepare(corpus, load_codec(str(config.codec)).sample_rate, "train")
    texts = [" ".join(w.word for w in item.words) for item in shards.items if item.words]
    if not texts:
        raise InputError(
            f"{corpus} has no words: a system with a text stream cannot be trained on it"
        )
    tokenizer = train_tokenizer(texts, text["vocab_size"])
    tokenizer.save(str(folder / name))


def build_language_objective(
    config: ModelConfig, recipe: TrainingConfig, where: str, corpus: Path
) -> LanguageObjective:
    """The objective of a system: frames encoded by its codec, tokenizer made if there is none."""
    folder = Path(where).parent
    _ensure_tokenizer(config, folder, corpus)
    system = build_system(config, folder, load_codec(str(config.codec)))
    extra = parse(LanguageTraining, recipe.objective, f"{where}: training.objective")
    splits = (_split(corpus, "train", system, config), _split(corpus, "validation", system, config))
    if isinstance(system, CalmSystem):
        return CalmObjective(system, extra, recipe, splits)
    if isinstance(system, RqSystem):
        return RqObjective(system, extra, recipe, splits)
    raise InputError(f"{where}: there is no training objective for systems of type {config.type!r}")
