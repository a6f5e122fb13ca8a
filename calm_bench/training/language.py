"""Training a system on a codec's frames: the same crops in the same order for every system.

B batch, T frames, D width, C latent channels, K codebooks. A batch is a function of (seed, step)
and of the corpus alone, never of the system: whatever the codec, the same seconds of the same
recordings are seen. Objectives differ by head.

CALM's is trained by consistency or flow matching (paper sections 3.1 to 3.4), with noise in what
the backbone reads. Backbone, short context and head learn jointly; Z is computed once per frame and
the head runs on several copies of it, with times and noise of their own (the head-batch
multiplier); R counts the head's frames, or their copies.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.codecs.checkpoints import codec_key, load_codec
from calm_bench.data.shards import PackedArrays, Shards, prepare, write_frames
from calm_bench.errors import InputError
from calm_bench.nn.trigflow import (
    ConsistencyConfig,
    TimeLaw,
    consistency_terms,
    draw_times,
    flow_terms,
)
from calm_bench.seeds import derive_seed
from calm_bench.systems.calm import CalmSystem, inject_noise
from calm_bench.systems.monologue import PAD
from calm_bench.systems.musicgen import MusicGenSystem
from calm_bench.systems.rq import RqSystem
from calm_bench.systems.streaming import StreamingSystem
from calm_bench.training.objective import (
    Objective,
    StepLoss,
    TrainingConfig,
    step_generator,
    step_rng,
)
from calm_bench.training.text import TokenTexts, plain_text_loss, text_of
from calm_bench.types import StrictModel, timed


def code_loss(logits: Tensor, codes: Tensor) -> StepLoss:
    """Mean cross-entropy of codes [R, K] under logits [R, K, V]; codes of -100 do not count."""
    levels = logits.transpose(0, 1)  # [K, R, V], as a depth transformer has it in memory
    losses = F.cross_entropy(levels.float().flatten(0, 1), codes.T.flatten(), reduction="none")
    counted = (codes >= 0).sum(0)
    per_level = losses.view(len(levels), -1).sum(1) / counted.clamp_min(1)  # [K]
    logs = {"codes": float(per_level.detach().mean()), "code_1": float(per_level[0].detach())}
    return StepLoss(per_level.mean(), logs)


VALIDATION_STEP = -1  # the step whose generator validation draws from
VALIDATION_BATCH = 32


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
        head_frames: Share of a batch's real frames, drawn anew every step, that depth transformer
            or AdaLN head learn from, with the short context; backbone and text read all. The mean
            over them estimates that over all without bias: see `spread`. MusicGen's linear heads
            cost little and take all frames whatever is set; so does validation.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    frames: int = Field(default=150, ge=2, le=100_000)
    from_start: float = Field(default=0.5, ge=0, le=1)
    text_weight: float = Field(default=1.0, ge=0)
    pad_weight: float = Field(default=0.5, ge=0)
    hidden_frames: float = Field(default=0.0, ge=0.0, le=0.5)
    head_frames: float = Field(default=1.0, gt=0.0, le=1.0)
    consistency: ConsistencyConfig = ConsistencyConfig()
    flow: TimeLaw = TimeLaw()


def spread(count: int, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """A share of the numbers from 0 to `count` - 1, in order: one from each of n equal cells.

    Each number is expected n / count times, so a mean over what is drawn has the mean over all as
    its expectation; cells make every crop give its share, and ragged ones in proportion to their
    real frames. Where n does not divide `count`, a number on an edge may be drawn twice.
    """
    n = max(1, round(share * count))
    drawn = (np.arange(n) + rng.random(n)) * (count / n)
    return np.minimum(drawn.astype(np.int64), count - 1)


class FrameSplit:
    """One split's frames and text tokens, cropped on demand."""

    def __init__(self, shards: Shards, frames: PackedArrays, system: StreamingSystem) -> None:
        """Lay out the text stream of every recording once."""
        self.shards, self.frames, self.lead = shards, frames, system.lead
        self.width = system.frame_width  # C, or the first levels K that the system uses
        self.text: list[NDArray[np.int64]] | None = None
        if system.text_stream is not None:
            stream = system.text_stream
            self.text = [
                stream.encode(timed(item.words or ()), int(length) + self.lead)
                for item, length in zip(shards.items, frames.lengths, strict=True)
            ]

    def crops(self, picks: NDArray[Any], starts: NDArray[Any], length: int) -> dict[str, Tensor]:
        """Frames [B, T, ...], text [B, T + lead] and the mask of real frames [B, T]."""
        first = self.frames[0]
        dtype = np.float32 if np.issubdtype(first.dtype, np.floating) else np.int64
        frames = np.zeros((len(picks), length, self.width), dtype)
        text = np.full((len(picks), length + self.lead), PAD, np.int64)
        mask = np.zeros((len(picks), length), bool)
        for row, (pick, start) in enumerate(zip(picks, starts, strict=True)):
            piece = self.frames[int(pick)][start : start + length, : self.width]
            frames[row, : len(piece)] = piece
            mask[row, : len(piece)] = True
            if self.text is not None:
                tokens = self.text[int(pick)][start : start + length + self.lead]
                text[row, : len(tokens)] = tokens
        arrays = {"frames": frames, "mask": mask}
        if self.text is not None:
            arrays["text"] = text
        return {key: torch.from_numpy(value) for key, value in arrays.items()}


def frame_split(
    corpus: Path, split: Literal["train", "validation"], codec_name: str, system: StreamingSystem
) -> FrameSplit:
    """One split of a corpus in the frames of a codec, with all its levels."""
    codec = load_codec(codec_name)  # the system's own may have been told to use fewer levels
    shards = prepare(corpus, codec.sample_rate, split)

    @torch.inference_mode()
    def encode(wave: NDArray[np.float32]) -> NDArray[Any]:
        generator = torch.Generator().manual_seed(derive_seed(wave.tobytes()))
        frames = codec.draw(torch.from_numpy(wave)[None], generator)
        frames = frames if codec.continuous else frames.transpose(1, 2)
        return np.asarray(frames[0].numpy())

    frames = write_frames(shards, codec_key(codec), encode, continuous=codec.continuous)
    return FrameSplit(shards, frames, system)


def real_frames(batch: Mapping[str, Tensor]) -> Tensor:
    """The flat numbers b T + t of a batch's real frames, [R]."""
    return batch["mask"].flatten().nonzero().squeeze(1)


def head_frames(batch: Mapping[str, Tensor]) -> Tensor:
    """The flat numbers b T + t of the frames that the head learns from, [R]: chosen ones or all."""
    return batch["chosen"] if "chosen" in batch else real_frames(batch)


class LanguageObjective(Objective):
    """Text cross-entropy plus a head's loss on frames: all, or a share of them.

    Attributes:
        of_head: Which of `OF_HEADS` says something to the head.
    """

    of_head: ClassVar[str | None] = None

    def __init__(
        self,
        system: StreamingSystem,
        config: LanguageTraining,
        recipe: TrainingConfig,
        splits: tuple[FrameSplit, FrameSplit],
    ) -> None:
        self.module: nn.Module = system
        self.system, self.config, self.recipe = system, config, recipe
        self.train, self.validation = splits
        self.plain: TokenTexts | None = None
        if system.text_stream is not None:
            texts = [text_of(item, timed=True) for item in self.validation.shards.items]
            self.plain = TokenTexts([text for text in texts if text], system.text_stream.tokenizer)

    def batch(self, step: int, size: int) -> Mapping[str, Tensor]:
        """Crops of recordings drawn by length, a share of them from the recording's start."""
        rng = step_rng(self.recipe.seed, step, "crops")
        lengths, samples = self.train.frames.lengths, self.train.shards.audio.lengths
        picks = rng.choice(len(lengths), size, p=samples / samples.sum())
        free = np.maximum(0, lengths[picks] - self.config.frames)
        starts = (rng.random(size) * (free + 1)).astype(int)
        starts[rng.random(size) < self.config.from_start] = 0
        crops = self.train.crops(picks, starts, self.config.frames)
        if self.config.hidden_frames:
            rng = step_rng(self.recipe.seed, step, "hidden")
            share = rng.uniform(0, 2 * self.config.hidden_frames, (size, 1))
            seen = rng.random((size, self.config.frames)) >= share
            crops["seen"] = torch.from_numpy(seen)
        if self.config.head_frames < 1:
            real = real_frames(crops)
            rng = step_rng(self.recipe.seed, step, "head frames")
            crops["chosen"] = real[
                torch.from_numpy(spread(len(real), self.config.head_frames, rng))
            ]
        return crops

    def text_loss(self, z: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy of the text stream up to where its frames [B, T] end, PAD weighing less."""
        logits = self.system.text_head(z).float()
        losses = F.cross_entropy(logits.transpose(1, 2), text, reduction="none")  # [B, T + lead]
        real = F.pad(mask, (self.system.lead, 0), value=True)
        weights = torch.where(text == PAD, self.config.pad_weight, 1.0) * real
        return (losses * weights).sum() / weights.sum()

    def read(self, frames: Tensor, step: int) -> Tensor:
        """What the backbone reads of true frames [B, T, ...]: the frames themselves."""
        return frames

    @abstractmethod
    def head_loss(self, z: Tensor, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """The head's loss from contexts of the frames `head_frames` names, z [R, D]."""

    def loss(self, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """Both losses of one batch."""
        text, frames = batch.get("text"), batch["frames"]
        z = self.system.contexts(self.read(frames, step), text, batch.get("seen"))
        contexts = self.system.frame_contexts(z, frames, head_frames(batch))  # [R, D]
        loss, logs = self.head_loss(contexts, batch, step)
        if text is not None:
            text_loss = self.text_loss(z, text, batch["mask"])
            loss = loss + self.config.text_weight * text_loss
            logs["text"] = float(text_loss.detach())
        return StepLoss(loss, logs)

    def validate(self) -> dict[str, float]:
        """Losses on the beginning of every held-out recording, weighted by their frames.

        And, as `plain_text`, the loss on their texts without audio: it shows what is left of the
        text model that the system started from.
        """
        every = np.arange(len(self.validation.frames))
        sums: dict[str, float] = {}
        total = 0
        for first in range(0, len(every), VALIDATION_BATCH):
            picks = every[first : first + VALIDATION_BATCH]
            batch = self.validation.crops(picks, np.zeros_like(picks), self.config.frames)
            frames = int(batch["mask"].sum())
            batch = {key: value.to(self.system.device) for key, value in batch.items()}
            loss, logs = self.loss(batch, VALIDATION_STEP)
            for key, value in {"loss": float(loss.detach()), **logs}.items():
                sums[key] = sums.get(key, 0.0) + frames * value
            total += frames
        means = {key: value / total for key, value in sums.items()}
        if self.plain is not None and self.plain.rows:
            means["plain_text"] = plain_text_loss(self.system, self.plain)
        return means

    def export(self) -> dict[str, Tensor]:
        """The system's own weights, without its codec's."""
        state = self.system.state_dict()
        return {key: value for key, value in state.items() if not key.startswith("codec.")}

    def facts(self) -> dict[str, Any]:
        return self.train.shards.facts


OF_HEADS = {"consistency": "a consistency head", "flow": "a flow matching head"}
"""Settings that are of one head alone, and of which."""


def refuse_other_head(
    objective: type[LanguageObjective], config: LanguageTraining, where: str
) -> None:
    """Refuse settings of another head, which would change nothing.

    Raises:
        InputError: If one is there; `where` is what settings stand in.
    """
    for name in sorted(config.model_fields_set & OF_HEADS.keys() - {objective.of_head}):
        raise InputError(f"{where}.{name} is of {OF_HEADS[name]} alone: leave it out")


class RqObjective(LanguageObjective):
    """All codebooks of a frame at once, each given the codes before it."""

    system: RqSystem

    def head_loss(self, z: Tensor, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        frames, text = head_frames(batch), None
        codes = batch["frames"].flatten(0, 1)[frames]  # [R, K]
        if "text" in batch:
            text = batch["text"][:, self.system.lead :].flatten()[frames]
        return code_loss(self.system.depth(z, codes, text), codes)


class MusicGenObjective(LanguageObjective):
    """All codebooks of a step at once, each of a frame of its own."""

    system: MusicGenSystem

    def loss(self, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """Mean cross-entropy per code, over every step of the delayed stream."""
        pattern, frames = self.system.pattern, batch["frames"]
        targets = pattern.apply(frames.masked_fill(~batch["mask"][..., None], -100), -100)
        z = self.system.contexts(frames, None, batch.get("seen"))  # [B, S, D]
        return self.head_loss(z.flatten(0, 1), {"targets": targets.flatten(0, 1)}, step)

    def head_loss(self, z: Tensor, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        return code_loss(self.system.logits(z), batch["targets"])


class Copies(NamedTuple):
    """The head's batch: clean latents and noise [R, C], times [R]."""

    x: Tensor
    t: Tensor
    noise: Tensor


class LatentObjective(LanguageObjective):
    """What both heads share."""

    system: CalmSystem

    def read(self, frames: Tensor, step: int) -> Tensor:
        """Noised latents if the system is trained so, in training only; the head's stay clean."""
        if not (self.system.config.noise_injection and self.system.training):
            return frames
        seed = self.recipe.seed
        return inject_noise(frames, step_generator(seed, step, "injection", frames.device))

    def copies(self, batch: Mapping[str, Tensor], step: int, law: TimeLaw) -> Copies:
        """The head's frames `law.multiplier` times, each with a time and noise of its own."""
        x = batch["frames"].flatten(0, 1)[head_frames(batch)].repeat(law.multiplier, 1)
        generator = step_generator(self.recipe.seed, step, "head", x.device)
        t = draw_times(len(x), law, generator)
        return Copies(x, t, torch.randn(x.shape, generator=generator, device=x.device))


class CalmObjective(LatentObjective):
    """Consistency training of the head (paper section 3.2)."""

    of_head = "consistency"

    def head_loss(self, z: Tensor, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """Mean consistency loss over frames and head-batch copies.

        One pass gives F and its tangent, so in mixed precision both have bfloat16's noise. On the
        shipped weights it is 0.9 % of the tangent at most, and moves the mean gradient by 2.4 % of
        its norm (music) and 0.3 % (speech), where a step's own noise is 62 and 23 %.
        """
        config, mlp = self.config.consistency, self.system.mlp
        x, t, noise = self.copies(batch, step, config)
        ramp = 1.0 if step < 0 else min(1.0, step / max(1, config.warmup * self.batches))
        embedded = mlp.condition(z).repeat(config.multiplier, 1)

        def velocity(x_t: Tensor, time: Tensor) -> Tensor:
            return mlp.velocity(x_t, time, embedded).float()

        terms = consistency_terms(velocity, self.system.time_weight, x, t, noise, config, ramp)
        logs = {"flow": float(terms.flow_error.mean()), "tangent": float(terms.tangent.mean())}
        if step == VALIDATION_STEP:  # the loss itself says nothing of convergence
            start = torch.full((len(z),), torch.pi / 2, device=z.device)
            drawn = -mlp(noise[: len(z)], start, z.float())
            logs["one_step_mse"] = float(F.mse_loss(drawn, x[: len(z)]))
            logs["one_step_var"] = float(drawn.var())
        return StepLoss(terms.loss.mean(), logs)


class FlowObjective(LatentObjective):
    """Flow matching of the head on TrigFlow's path (paper section 3.1)."""

    of_head = "flow"

    def head_loss(self, z: Tensor, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        law, mlp = self.config.flow, self.system.mlp
        x, t, noise = self.copies(batch, step, law)
        embedded = mlp.condition(z).repeat(law.multiplier, 1)
        terms = flow_terms(
            lambda x_t, time: mlp.velocity(x_t, time, embedded),
            self.system.time_weight,
            x,
            t,
            noise,
        )
        return StepLoss(terms.loss.mean(), {"flow": float(terms.flow_error.mean())})
