"""Training a codec: reconstruct speech or music through the bottleneck.

VAE and RVQ share trunk, data, batches and reconstruction losses; only the bottleneck's own term
differs (paper section 4.1): KL to a unit Gaussian, summed over channels, or commitment.
Adversarial losses are optional, because on two CPU cores they cost more than they give at this
scale.

B batch, S samples, F frequency bins, T STFT frames.
"""

import math
import pkgutil
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from calm_bench.codecs.autoencoder import Autoencoder
from calm_bench.codecs.blocks import LOG_FLOOR
from calm_bench.codecs.rvq import AVERAGES, RvqCodec
from calm_bench.codecs.vae import VaeCodec
from calm_bench.core.audio import resample
from calm_bench.data.shards import Shards
from calm_bench.errors import InputError
from calm_bench.training.augment import Augment, change_crops, draw_changes
from calm_bench.training.objective import Objective, StepLoss, seeded, step_generator, step_rng
from calm_bench.training.spectral import SIZES, FftSize, SpectralLoss, frame_locked
from calm_bench.types import StrictModel

STD_FLOOR = 0.5  # of the median channel's standard deviation


Array = NDArray[Any]
Teacher = Callable[[Tensor, int], Tensor]
"""Audio [B, S] and its rate to features [B, T', E], T' frames over the same time."""


def load_teacher(target: str) -> Teacher:
    """The callable behind `package.module:attribute`.

    Raises:
        InputError: If it cannot be imported or called.
    """
    try:
        teacher = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"the teacher {target!r} cannot be loaded: {error}") from error
    if not callable(teacher):
        raise InputError(f"the teacher {target!r} is not callable")
    return teacher  # type: ignore[no-any-return]


class Distillation(nn.Module):
    """One minus the cosine between projected latents and the teacher's features."""

    def __init__(self, teacher: Teacher, sample_rate: int, channels: int) -> None:
        """Ask the teacher for its width with a tenth of a second of silence."""
        super().__init__()
        self.teacher, self.sample_rate = teacher, sample_rate
        with torch.no_grad():
            width = teacher(torch.zeros(1, sample_rate // 10), sample_rate).shape[-1]
        self.projection = nn.Linear(channels, width)

    def forward(self, latents: Tensor, wave: Tensor) -> Tensor:
        """Mean loss of latents [B, T, C] for audio [B, S], features pooled to the frame rate."""
        with torch.no_grad():
            features = self.teacher(wave, self.sample_rate).float()  # [B, T', E]
        pooled = F.adaptive_avg_pool1d(features.transpose(1, 2), latents.shape[1]).transpose(1, 2)
        return 1 - F.cosine_similarity(self.projection(latents.float()), pooled, dim=-1).mean()


class StftDiscriminator(nn.Module):
    """A small convolutional judge of one complex STFT (EnCodec, Defossez et al. 2022)."""

    window: Tensor

    def __init__(self, n_fft: int, width: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        shapes = [(2, (1, 1), 1), (width, (2, 1), 1), (width, (2, 1), 2), (width, (2, 1), 4)]
        self.convs = nn.ModuleList(
            nn.Conv2d(c, width, (5, 3), stride=stride, dilation=(1, d), padding=(2, d))
            for c, stride, d in shapes
        )
        self.last = nn.Conv2d(width, 1, (3, 3), padding=1)

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits and the features of each layer for audio [B, S]."""
        spectrum = torch.stft(
            wave,
            self.n_fft,
            self.n_fft // 4,
            window=self.window,
            normalized=True,
            return_complex=True,
        )
        x = torch.view_as_real(spectrum).permute(0, 3, 1, 2)  # [B, 2, F, T]
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
            features.append(x)
        return self.last(x), features


Verdicts = list[tuple[Tensor, list[Tensor]]]


class MultiScaleDiscriminator(nn.Module):
    """One STFT discriminator per resolution."""

    def __init__(self, width: int, n_ffts: tuple[int, ...]) -> None:
        super().__init__()
        self.judges = nn.ModuleList(StftDiscriminator(n, width) for n in n_ffts)

    def forward(self, wave: Tensor) -> Verdicts:
        """Each judge's logits and features."""
        return [judge(wave) for judge in self.judges]


def hinge_discriminator(real: Verdicts, fake: Verdicts) -> Tensor:
    """The judges' loss: real above 1, fake below -1."""
    losses = [
        F.relu(1 - r).mean() + F.relu(1 + f).mean()
        for (r, _), (f, _) in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()


def hinge_generator(fake: Verdicts) -> Tensor:
    """The codec's adversarial loss: its output should be taken for real."""
    return torch.stack([-logits.mean() for logits, _ in fake]).mean()


def feature_matching(real: Verdicts, fake: Verdicts) -> Tensor:
    """Relative L1 between the judges' features of real and decoded audio."""
    losses = [
        (f - r.detach()).abs().mean() / r.detach().abs().mean().clamp_min(1e-6)
        for (_, reals), (_, fakes) in zip(real, fake, strict=True)
        for r, f in zip(reals, fakes, strict=True)
    ]
    return torch.stack(losses).mean()


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Nats [B, T] of Gaussians [B, T, C] over the unit Gaussian, summed over channels."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_OF_RVQ = ("commitment", "dropped_to", "level_dropout", "unquantised")


class CodecTraining(StrictModel):
    """Clip length and loss weights (the lambdas of the paper's L_VAE, which it does not give).

    Attributes:
        spectral_sizes: FFT sizes of the spectral loss. The longer, the nearer the notes that it
            tells apart: a bin of 8192 is 2 Hz wide at 16 kHz.
        complex: Weight of the difference of complex spectra, in which phase counts.
        level_dropout: Share of clips of which an RVQ codec keeps only the first levels.
        dropped_to: How many those keep, each number alike; empty: any.
        unquantised: Share of clips whose vectors pass an RVQ bottleneck as they are, so that trunk
            and decoder learn what codebooks only approach (Defossez et al. 2024, Mimi: half).
        adversarial_start: The step from which judges are trained and heard.
        adversarial_every: Of the steps from then on, every how many.
        judged_seconds: Length of the stretch that they hear, drawn anew each time; None: all.
        discriminator_sizes: FFT sizes of the judges, one each.
        augment: How crops are made to differ as recordings do; None leaves them as they are.
        floor: The least mel magnitude that the spectral loss tells from silence.
    """

    seconds: float = Field(default=1.28, gt=0, le=600)
    spectral: Weight = 1.0
    complex: Weight = 0.0
    time: Weight = 0.0
    kl: Weight = 0.01
    commitment: Weight = 0.25
    level_dropout: float = Field(default=0.25, ge=0, le=1)
    dropped_to: tuple[int, ...] = ()
    unquantised: float = Field(default=0.0, ge=0, lt=1)
    adversarial: Weight = 0.0
    feature: Weight = 0.0
    adversarial_start: int = Field(default=0, ge=0)
    adversarial_every: int = Field(default=1, ge=1)
    judged_seconds: float | None = Field(default=None, gt=0, le=600)
    discriminator_width: int = Field(default=16, ge=1, le=1024)
    discriminator_sizes: tuple[FftSize, ...] = Field(default=(1024, 512, 256), min_length=1)
    distillation: Weight = 0.0
    teacher: str | None = None
    augment: Augment | None = None
    spectral_sizes: tuple[FftSize, ...] = Field(default=SIZES, min_length=1)
    floor: float = Field(default=LOG_FLOOR, gt=0, allow_inf_nan=False)


def refuse_other_bottleneck(codec: Autoencoder, config: CodecTraining, where: str) -> None:
    """Refuse settings that say nothing to a codec, before any audio is prepared.

    Raises:
        InputError: If one is there; `where` is what settings stand in.
    """
    kind, others = ("VAE", _OF_RVQ) if codec.continuous else ("RVQ codec", ("kl",))
    for name in sorted(config.model_fields_set.intersection(others)):
        raise InputError(f"{where}.{name} says nothing to a {kind}: leave it out")
    levels, dropped_to = getattr(codec, "n_codebooks", 0), config.dropped_to
    if any(not 1 <= n <= levels for n in dropped_to):
        raise InputError(f"{where}.dropped_to: {list(dropped_to)} of {levels} levels")


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
        frames = round(config.seconds * codec.frame_rate)
        self.samples = frames * codec.hop_length
        heard = round((config.judged_seconds or config.seconds) * codec.sample_rate)
        self.judged = min(self.samples, heard)
        self._refuse_short()
        self.spectral = SpectralLoss(codec.sample_rate, config.floor, config.spectral_sizes)
        if config.adversarial > 0:
            with seeded(seed):
                self.adversary = MultiScaleDiscriminator(
                    config.discriminator_width, config.discriminator_sizes
                )
        self._last: tuple[Tensor, Tensor] | None = None

    def _refuse_short(self) -> None:
        """Refuse stretches no longer than half an FFT, at which spectra reflect them."""
        needed = [(min(self.config.spectral_sizes), "seconds", self.samples)]
        if self.config.adversarial > 0:
            which = "seconds" if self.config.judged_seconds is None else "judged_seconds"
            needed.append((max(self.config.discriminator_sizes), which, self.judged))
        for n_fft, name, samples in sorted(needed, reverse=True):
            if samples <= n_fft // 2:
                rate = self.codec.sample_rate
                raise InputError(
                    f"training.objective.{name}: {samples / rate:g} s at {rate} Hz are too short "
                    f"for an FFT of {n_fft}: give more than {n_fft / 2 / rate:g} s"
                )

    @property
    def device(self) -> torch.device:
        """Where the codec lies."""
        return next(self.codec.parameters()).device

    def batch(self, step: int, size: int) -> Mapping[str, Tensor]:
        """Random crops `wave` [B, S], clips drawn by their length, and what is `heard` of them."""
        rng = step_rng(self.seed, step, "crops")
        lengths = self.train.audio.lengths
        picks = rng.choice(len(lengths), size, p=lengths / lengths.sum())
        places = rng.random(size)
        if self.config.augment is None:
            waves = self._crops(picks, places, np.ones(size))
            return {"wave": torch.from_numpy(waves)}
        rng = step_rng(self.seed, step, "augment")
        changes = draw_changes(self.config.augment, size, rng)
        waves = self._crops(picks, places, changes.speed)
        heard, target = change_crops(waves, changes, self.codec.sample_rate, rng)
        return {"wave": torch.from_numpy(target), "heard": torch.from_numpy(heard)}

    def _crops(self, picks: Array, places: Array, speeds: Array) -> NDArray[np.float32]:
        """Crops [B, S] of the picked clips, beginning at a place in [0, 1) of what they offer."""
        waves = np.zeros((len(picks), self.samples), np.float32)
        for wave, pick, place, speed in zip(waves, picks, places, speeds, strict=True):
            length = round(self.samples * float(speed))
            start = int(place * max(1, int(self.train.audio.lengths[pick]) - length))
            crop = self.train.read(int(pick), start, start + length)
            if length != self.samples:
                crop = resample(crop, length, self.samples)[: self.samples]
            wave[: len(crop)] = crop
        return waves

    def loss(self, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """Reconstruction, bottleneck and adversarial terms of one batch."""
        wave, config = batch["wave"], self.config
        heard = batch.get("heard", wave)
        generator = step_generator(self.seed, step, "bottleneck", wave.device)
        latents, term, logs = self._bottleneck(heard, generator)
        output = self.codec.decode_latents(latents).float()
        self.spectral.to(wave.device)
        with torch.autocast(wave.device.type, enabled=False):
            spectral, phased = self.spectral.both(output, wave, weigh_phase=config.complex > 0)
            loss = config.spectral * spectral + term
            if config.complex:
                loss = loss + config.complex * phased
                logs["complex"] = float(phased.detach())
            if self.distillation is not None:
                loss = loss + config.distillation * self.distillation(latents, wave)
            if config.time:
                loss = loss + config.time * (output - wave).abs().mean()
            since = step // self.batches - config.adversarial_start
            if self.adversary is not None and since >= 0 and since % config.adversarial_every == 0:
                loss = loss + self._judged(self.adversary, wave, output, generator)
        return StepLoss(loss, {"spectral": float(spectral.detach()), **logs})

    def _judged(
        self,
        judges: nn.Module,
        wave: Tensor,
        output: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """The adversarial terms of one stretch, the same of all clips; the judges learn nothing."""
        samples = self.judged
        places = self.samples - samples + 1
        start = int(torch.randint(places, (), generator=generator, device=wave.device))
        stretch = slice(start, start + samples)
        wave, output = wave[:, stretch], output[:, stretch]
        with torch.no_grad():
            real = judges(wave)
        judges.requires_grad_(False)
        fake = judges(output)
        judges.requires_grad_(True)
        self._last = (wave, output.detach())
        terms = self.config.adversarial * hinge_generator(fake)
        return terms + self.config.feature * feature_matching(real, fake)

    def _bottleneck(
        self, wave: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, dict[str, float]]:
        codec, config = self.codec, self.config
        if isinstance(codec, VaeCodec):
            mean, log_variance = (x.float() for x in codec.posterior(wave))
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            kl = divergence(mean, log_variance).mean()
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
        vectors = codec.to_latent(codec.encoder(codec.pad(wave))).float()
        drop = torch.rand(B, generator=generator, device=wave.device) < self.config.level_dropout
        choices = torch.tensor(self.config.dropped_to or range(1, K + 1), device=wave.device)
        fewer = choices[torch.randint(len(choices), (B,), generator=generator, device=wave.device)]
        levels = torch.where(drop, fewer, K)
        latents, commitment = codec.quantiser.learn(vectors, levels, generator)
        if self.config.unquantised:
            free = torch.rand(B, generator=generator, device=wave.device) < self.config.unquantised
            latents = torch.where(free[:, None, None], vectors, latents)
        used = (codec.quantiser.usage > codec.quantiser.revive_below).float().mean()
        logs = {"commitment": float(commitment.detach()), "codes_used": float(used)}
        return latents, self.config.commitment * commitment, logs

    def second_loss(self) -> Tensor | None:
        """The discriminators' hinge loss on the last batch."""
        if self.adversary is None or self._last is None:
            return None
        real, fake = self._last
        self._last = None
        return hinge_discriminator(self.adversary(real), self.adversary(fake))

    def validate(self) -> dict[str, float]:
        """Spectral loss of encode then decode, as shipped, on the first 10 s of held-out clips.

        An RVQ codec's first levels alone, if it is trained for that, are measured too. Beside it
        stands what a frame may say in bits: an RVQ codec's codes, a VAE's divergence; and how much
        of what comes back, and of what went in, is locked to multiples of the frame rate.
        """
        spectral, codec = self.spectral.to(self.device), self.codec
        losses: dict[str, list[float]] = {}
        for index in range(min(8, len(self.validation))):
            wave = torch.from_numpy(self.validation.read(index, 0, 10 * self.codec.sample_rate))
            wave = F.pad(wave, (0, max(0, 1 + min(spectral.sizes) // 2 - len(wave))))
            wave = codec.pad(wave[None]).to(self.device)
            frames = codec.encode(wave)
            tried = {"spectral": frames}
            tried |= {f"spectral_{n}": frames[:, :n] for n in self.config.dropped_to}
            outputs = {name: codec.decode(kept) for name, kept in tried.items()}
            found = {name: float(spectral(output, wave)) for name, output in outputs.items()}
            if isinstance(codec, VaeCodec):
                nats = float(divergence(*codec.posterior(wave)).mean())
                found["bits_per_frame"] = nats / math.log(2)
            else:
                found["bits_per_frame"] = codec.n_codebooks * math.log2(codec.codebook_size)
            for name, sound in {"locked": outputs["spectral"], "locked_recording": wave}.items():
                found[name] = float(frame_locked(sound, codec.sample_rate, codec.frame_rate))
            for name, value in found.items():
                losses.setdefault(name, []).append(value)
        return {name: sum(values) / len(values) for name, values in losses.items()}

    def export(self) -> dict[str, Tensor]:
        """The codec's weights; for a VAE with the latent statistics of the training set."""
        if isinstance(self.codec, VaeCodec):
            self._measure_latents(self.codec)
        averages = {f"quantiser.{name}" for name in AVERAGES}
        return {k: v for k, v in self.codec.state_dict().items() if k not in averages}

    def _measure_latents(self, codec: VaeCodec) -> None:
        codec.latent_mean.zero_()
        codec.latent_std.fill_(1.0)
        step, noise = max(1, len(self.train) // 128), torch.Generator().manual_seed(0)
        with torch.no_grad():
            latents = [
                codec.draw(torch.from_numpy(self.train.read(i))[None].to(self.device), noise)[0]
                for i in range(0, len(self.train), step)
            ]
        every = torch.cat(latents).double()  # [sum T, C]
        std = every.std(0)
        # A channel that the KL term has all but closed is not blown up to unit variance: it would
        # take a full share of the language model's loss and give the decoder next to nothing.
        codec.latent_mean.copy_(every.mean(0))
        codec.latent_std.copy_(std.clamp_min(STD_FLOOR * std.median()))

    def facts(self) -> dict[str, Any]:
        return self.train.facts
