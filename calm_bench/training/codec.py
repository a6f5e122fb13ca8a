"""Training a codec: reconstruct speech or music through the bottleneck.

VAE and RVQ share trunk, data, batches and reconstruction losses; only the bottleneck's own term
differs (paper section 4.1): KL to a unit Gaussian, summed over channels, or commitment.
Adversarial losses are optional, because on two CPU cores they cost more than they give at this
scale.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from calm_bench.codecs.autoencoder import Autoencoder
from calm_bench.codecs.rvq import AVERAGES, RvqCodec
from calm_bench.codecs.vae import VaeCodec
from calm_bench.core.audio import write_flac
from calm_bench.data.shards import Shards
from calm_bench.errors import InputError
from calm_bench.training.losses import (
    Distillation,
    MultiScaleDiscriminator,
    SpectralLoss,
    Verdicts,
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    load_teacher,
)
from calm_bench.training.objective import Objective, StepLoss, seeded, step_generator, step_rng
from calm_bench.types import StrictModel

STD_FLOOR = 0.5  # of the median channel's standard deviation


class CodecTraining(StrictModel):
    """Clip length and loss weights (the lambdas of the paper's L_VAE, which it does not give).

    Attributes:
        level_dropout: Share of clips of which an RVQ codec keeps only the first levels.
        dropped_to: How many those keep, each number alike; empty: any.
    """

    seconds: float = 1.28
    spectral: float = 1.0
    time: float = 0.0
    kl: float = 0.01
    commitment: float = 0.25
    level_dropout: float = 0.25
    dropped_to: tuple[int, ...] = ()
    adversarial: float = 0.0
    feature: float = 0.0
    adversarial_start: int = 0
    discriminator_width: int = 16
    distillation: float = 0.0
    teacher: str | None = None


class CodecObjective(Objective):
    """Crops of recordings through a VAE or RVQ codec."""

    def __init__(
        self,
        codec: Autoencoder,
        config: CodecTraining,
        train: Shards,
        validation: Shards,
        seed: int,
    ) -> None:
        """`train` and `validation` hold audio at the codec's rate."""
        self.module: nn.Module = codec
        self.codec, self.config, self.seed = codec, config, seed
        self.distillation: Distillation | None = None
        if config.distillation > 0:
            if config.teacher is None:
                raise InputError(
                    "training.objective.distillation needs a teacher: package.module:attribute"
                )
            teacher = load_teacher(config.teacher)
            channels = codec.from_latent.in_features
            with seeded(seed):
                self.distillation = Distillation(teacher, codec.sample_rate, channels)
            self.module = nn.ModuleDict({"codec": codec, "distillation": self.distillation})
        self.train, self.validation = train, validation
        levels = getattr(codec, "n_codebooks", 0)
        if any(not 1 <= n <= levels for n in config.dropped_to):
            raise InputError(
                f"training.objective.dropped_to: {list(config.dropped_to)} of {levels} levels"
            )
        frames = round(config.seconds * codec.frame_rate)
        self.samples = frames * codec.hop_length
        self.spectral = SpectralLoss(codec.sample_rate)
        self.judges: MultiScaleDiscriminator | None = None
        if config.adversarial > 0:
            with seeded(seed):
                self.judges = MultiScaleDiscriminator(config.discriminator_width)
        self._last: tuple[Tensor, Tensor] | None = None

    @property
    def adversary(self) -> nn.Module | None:
        """The discriminators, if the config weighs them."""
        return self.judges

    def batch(self, step: int, size: int) -> Mapping[str, Tensor]:
        """Random crops [B, S], clips drawn by their length."""
        rng = step_rng(self.seed, step, "crops")
        lengths = np.array([item.samples for item in self.train.items])
        picks = rng.choice(len(lengths), size, p=lengths / lengths.sum())
        starts = (rng.random(size) * np.maximum(1, lengths[picks] - self.samples)).astype(int)
        waves = np.zeros((size, self.samples), np.float32)
        for row, (pick, start) in enumerate(zip(picks, starts, strict=True)):
            crop = self.train.read(int(pick), int(start), int(start) + self.samples)
            waves[row, : len(crop)] = crop
        return {"wave": torch.from_numpy(waves)}

    def loss(self, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """Reconstruction, bottleneck and adversarial terms of one batch."""
        wave, config = batch["wave"], self.config
        generator = step_generator(self.seed, step, "bottleneck", wave.device)
        latents, term, logs = self._bottleneck(wave, generator)
        output = self.codec.decode_latents(latents).float()
        self.spectral.to(wave.device)
        with torch.autocast(wave.device.type, enabled=False):
            spectral = self.spectral(output, wave)
            loss = config.spectral * spectral + term
            if self.distillation is not None:
                loss = loss + config.distillation * self.distillation(latents, wave)
            if config.time:
                loss = loss + config.time * (output - wave).abs().mean()
            if self.judges is not None and step >= config.adversarial_start:
                real, fake = self.judges(wave), self.judges(output)
                loss = loss + config.adversarial * hinge_generator(fake)
                loss = loss + config.feature * feature_matching(real, fake)
                self._last = (wave, output.detach())
        return StepLoss(loss, {"spectral": float(spectral.detach()), **logs})

    def _bottleneck(
        self, wave: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, dict[str, float]]:
        codec, config = self.codec, self.config
        if isinstance(codec, VaeCodec):
            mean, log_variance = (x.float() for x in codec.posterior(wave))
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()
            latents = mean + noise * (0.5 * log_variance).exp()
            noise_variance = log_variance.detach().exp().mean((0, 1))  # [C]
            share = noise_variance / (noise_variance + mean.detach().var((0, 1)))
            logs = {"kl": float(kl.detach()), "noise_share": float(share.mean())}
            return latents, config.kl * kl, logs
        assert isinstance(codec, RvqCodec)
        with torch.autocast(wave.device.type, enabled=False):
            return self._quantise(codec, wave, generator)

    def _quantise(
        self, codec: RvqCodec, wave: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, dict[str, float]]:
        B, K = len(wave), codec.n_codebooks
        with torch.autocast(
            wave.device.type, torch.bfloat16, enabled=torch.is_autocast_enabled(wave.device.type)
        ):
            vectors = codec.to_latent(codec.encoder(codec.pad(wave))).float()
        drop = torch.rand(B, generator=generator, device=wave.device) < self.config.level_dropout
        choices = torch.tensor(self.config.dropped_to or range(1, K + 1), device=wave.device)
        fewer = choices[torch.randint(len(choices), (B,), generator=generator, device=wave.device)]
        levels = torch.where(drop, fewer, K)
        latents, commitment = codec.quantiser.learn(vectors, levels, generator)
        used = (codec.quantiser.usage > codec.quantiser.revive_below).float().mean()
        logs = {"commitment": float(commitment.detach()), "codes_used": float(used)}
        return latents, self.config.commitment * commitment, logs

    def second_loss(self, batch: Mapping[str, Tensor], step: int) -> Tensor | None:
        """The discriminators' hinge loss on the last batch."""
        if self.judges is None or self._last is None:
            return None
        real, fake = self._last
        self._last = None
        verdicts: tuple[Verdicts, Verdicts] = (self.judges(real), self.judges(fake))
        return hinge_discriminator(*verdicts)

    def validate(self) -> dict[str, float]:
        """Spectral loss of encode then decode, as shipped, on the first 10 s of held-out clips.

        An RVQ codec's first levels alone, if it is trained for that, are measured too.
        """
        device = next(self.codec.parameters()).device
        spectral = self.spectral.to(device)
        losses: dict[str, list[float]] = {}
        for index in range(min(8, len(self.validation))):
            wave = torch.from_numpy(self.validation.read(index, 0, 10 * self.codec.sample_rate))
            wave = self.codec.pad(wave[None]).to(device)
            frames = self.codec.encode(wave)
            tried = {"spectral": frames}
            tried |= {f"spectral_{n}": frames[:, :n] for n in self.config.dropped_to}
            for name, kept in tried.items():
                losses.setdefault(name, []).append(float(spectral(self.codec.decode(kept), wave)))
        return {name: sum(values) / len(values) for name, values in losses.items()}

    def sample(self, folder: Path, step: int) -> None:
        """Write the round trip of one held-out clip."""
        folder.mkdir(parents=True, exist_ok=True)
        device = next(self.codec.parameters()).device
        wave = torch.from_numpy(self.validation.read(0, 0, 10 * self.codec.sample_rate))[None]
        output = self.codec.decode(self.codec.encode(wave.to(device)))[0].cpu().numpy()
        write_flac(folder / f"{step:07d}.flac", output, self.codec.sample_rate)

    def export(self) -> dict[str, Tensor]:
        """The codec's weights; for a VAE with the latent statistics of the training set."""
        if isinstance(self.codec, VaeCodec):
            self._measure_latents(self.codec)
        averages = {f"quantiser.{name}" for name in AVERAGES}
        return {k: v for k, v in self.codec.state_dict().items() if k not in averages}

    def _measure_latents(self, codec: VaeCodec, clips: int = 128) -> None:
        device = next(codec.parameters()).device
        codec.latent_mean.zero_()
        codec.latent_std.fill_(1.0)
        step = max(1, len(self.train) // clips)
        with torch.no_grad():
            latents = [
                codec.encode(torch.from_numpy(self.train.read(i))[None].to(device))[0]
                for i in range(0, len(self.train), step)
            ]
        every = torch.cat(latents).double()  # [sum T, C]
        std = every.std(0)
        # A channel that the KL term has all but closed is not blown up to unit variance:
        # it would take
        # a full share of the language model's loss and give the decoder next to nothing.
        codec.latent_mean.copy_(every.mean(0))
        codec.latent_std.copy_(std.clamp_min(STD_FLOOR * std.median()))

    def facts(self) -> dict[str, Any]:
        """Data behind the weights."""
        return {
            "train_hours": round(self.train.seconds / 3600, 2),
            "corpus_hash": self.train.content_hash,
        }
