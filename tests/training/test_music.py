"""Objectives of the music systems: what is noised, what is masked, what every system sees alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from clips import lay_corpus
from torch.nn import functional as F

from calm_bench.codecs.checkpoints import load_codec
from calm_bench.config import kept_steps, load_model_config
from calm_bench.core import paths
from calm_bench.data.shards import Shards
from calm_bench.errors import InputError
from calm_bench.nn.trigflow import TimeLaw, consistency_terms
from calm_bench.systems.calm import CalmSystem
from calm_bench.systems.loading import load_system
from calm_bench.systems.musicgen import MusicGenSystem
from calm_bench.training.codec import CodecObjective
from calm_bench.training.language import (
    CalmObjective,
    Copies,
    FlowObjective,
    LanguageObjective,
    LatentObjective,
    MusicGenObjective,
    RqObjective,
    real_frames,
    spread,
)
from calm_bench.training.objective import Objective, TrainingConfig
from calm_bench.training.train import TrainOptions, build_objective, train_model

RATE = 1600


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tones of different lengths, without words, under a data home of its own."""
    monkeypatch.setenv("CALM_BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    recordings = []
    for index in range(5):
        t = np.arange(RATE * (4 + index)) / RATE
        wave = (0.3 * np.sin(2 * np.pi * (100 + 40 * index) * t)).astype(np.float32)
        recordings.append((f"t{index}", "train" if index < 4 else "validation", wave, {}))
    return lay_corpus(paths.home() / "data" / "tones", RATE, recordings)


def built_of(name: str, objective: dict[str, Any]) -> Objective:
    config, _ = load_model_config(name)
    recipe = TrainingConfig(
        corpus="tones", steps=4, batch_size=3, learning_rate=1e-3, objective=objective
    )
    return build_objective(config, recipe, "here")


def objective(name: str, **extra: Any) -> LanguageObjective:
    built = built_of(name, extra)
    assert isinstance(built, LanguageObjective)
    return built


def codec_objective(name: str = "rvq4-debug", **extra: Any) -> CodecObjective:
    built = built_of(name, extra)
    assert isinstance(built, CodecObjective)
    return built


def test_every_system_has_its_objective_and_sees_the_same_seconds(corpus: Path) -> None:
    kinds = {
        "calm-music-debug": CalmObjective,
        "trigflow-debug": FlowObjective,
        "rq-levels-debug": RqObjective,
        "musicgen-debug": MusicGenObjective,
    }
    masks = {}
    for name, kind in kinds.items():
        frames = 60 if name == "musicgen-debug" else 30
        built = objective(name, frames=frames, from_start=0.0)
        assert isinstance(built, kind)
        crops = [built.batch(step, 3) for step in range(4)]
        masks[name] = torch.cat([crop["mask"].sum(1) for crop in crops])
        assert "text" not in crops[0]
    assert torch.equal(masks["calm-music-debug"], masks["rq-levels-debug"])
    assert torch.equal(masks["calm-music-debug"], masks["trigflow-debug"])
    assert torch.equal(masks["calm-music-debug"] * 2, masks["musicgen-debug"])


def test_a_system_of_first_levels_is_trained_on_them(corpus: Path) -> None:
    built = objective("rq-levels-debug", frames=30)
    codes = built.batch(0, 2)["frames"]
    assert codes.shape == (2, 30, 2)
    codec = load_codec("rvq-debug")  # all three levels
    wave = torch.from_numpy(built.train.shards.read(0))[None]
    known = codec.encode(wave)[0, :2].T
    crop = built.train.crops(np.array([0]), np.array([0]), 30)["frames"][0]
    assert torch.equal(crop, known[:30])


@pytest.mark.parametrize("name", ["calm-music-debug", "trigflow-debug"])
def test_noise_is_injected_in_training_and_nowhere_else(corpus: Path, name: str) -> None:
    built = objective(name, frames=30)
    frames = built.batch(0, 3)["frames"]
    built.module.train()
    read = built.read(frames, 5)
    assert not torch.equal(read, frames)
    assert torch.equal(read, built.read(frames, 5)), "a step's noise is the step's own"
    assert not torch.equal(read, built.read(frames, 6))
    built.module.eval()
    assert torch.equal(built.read(frames, 5), frames)


def test_the_short_context_and_the_head_read_clean_latents(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = objective("calm-music-debug", frames=30)
    system = built.module
    assert isinstance(system, CalmSystem)
    assert system.short is not None
    heard: dict[str, torch.Tensor] = {}
    contexts, short = system.contexts, system.short.forward
    monkeypatch.setattr(
        system, "contexts", lambda x, *rest: (heard.update(long=x), contexts(x, *rest))[1]
    )
    monkeypatch.setattr(
        system.short, "forward", lambda x, *rest: (heard.update(short=x), short(x, *rest))[1]
    )
    system.train()
    batch = built.batch(0, 3)
    loss = built.loss(batch, 0).loss
    assert torch.equal(heard["short"], batch["frames"])
    assert not torch.equal(heard["long"], batch["frames"])
    loss.backward()
    assert all(p.grad is not None for p in system.short.parameters())


@pytest.mark.parametrize(
    ("count", "share"), [(12, 0.5), (12, 0.25), (11, 0.5), (30, 0.3), (1, 0.1)]
)
def test_what_is_spread_over_frames_expects_each_equally_often(count: int, share: float) -> None:
    n = max(1, round(share * count))
    rng, rounds = np.random.default_rng(0), 4000
    drawn = np.stack([spread(count, share, rng) for _ in range(rounds)])
    assert drawn.shape == (rounds, n)
    edges = np.arange(n + 1) * count / n
    assert (drawn >= np.floor(edges[:-1])).all()
    assert (drawn < np.ceil(edges[1:])).all()
    often = np.bincount(drawn.ravel(), minlength=count) / rounds
    np.testing.assert_allclose(often, n / count, atol=0.04)


FOR_HEADS = ["rq-levels-debug", "calm-music-debug", "trigflow-debug"]


@pytest.mark.parametrize("name", FOR_HEADS)
def test_the_gradient_from_a_share_of_frames_is_unbiased(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    built = objective(name, frames=30, from_start=0.0)
    system = built.module
    batch = built.batch(0, 3)
    batch["mask"][1, 11:] = False  # a crop that its recording ended
    real = real_frames(batch)
    assert len(real) == 71
    if isinstance(built, LatentObjective):  # each frame keeps its times and noise, however drawn
        law = built.config.flow if isinstance(built, FlowObjective) else built.config.consistency
        known = built.copies(batch, 0, law)
        at = torch.full((90,), -1)
        at[real] = torch.arange(71)

        def copies(batch: dict[str, torch.Tensor], step: int, law: TimeLaw) -> Copies:
            rows = at[batch["chosen"]] + 71 * torch.arange(law.multiplier)[:, None]
            return Copies(*(each[rows.flatten()] for each in known))

        monkeypatch.setattr(built, "copies", copies)

    def gradient(chosen: torch.Tensor) -> dict[str, torch.Tensor]:
        system.zero_grad(set_to_none=True)
        built.loss({**batch, "chosen": chosen}, 3).loss.backward()
        return {key: p.grad for key, p in system.named_parameters() if p.grad is not None}

    whole = gradient(real)
    assert {"backbone", "depth" if "rq" in name else "mlp"} <= {key.split(".")[0] for key in whole}
    if name == "calm-music-debug":
        assert "short.start" in whole
    # 18 of 71 frames in cells of 71 / 18: every choice has others that share 18 times 71 evenly.
    family = [gradient(real[(np.arange(18) * 71 + shift) // 18]) for shift in range(71)]
    for key, expected in whole.items():
        mean = torch.stack([one[key] for one in family]).mean(0)
        torch.testing.assert_close(mean, expected, atol=1e-6, rtol=1e-4)
        assert expected.abs().max() == 0 or not torch.equal(family[0][key], expected)


@pytest.mark.parametrize("name", FOR_HEADS)
def test_only_chosen_frames_go_through_the_head(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole, half = (objective(name, frames=30, head_frames=share) for share in (1.0, 0.5))
    seen: list[int] = []
    for built in (whole, half):
        head_loss = built.head_loss
        monkeypatch.setattr(
            built,
            "head_loss",
            lambda z, *rest, to=head_loss: (seen.append(len(z)), to(z, *rest))[1],
        )
        batch = built.batch(5, 3)
        real = int(batch["mask"].sum())
        built.loss(batch, 5)
        with torch.no_grad():
            built.validate()
    assert seen == [real, 30, real // 2, 30]
    again = objective("rq-levels-debug", frames=30, head_frames=0.5).batch(5, 3)["chosen"]
    assert torch.equal(batch["chosen"], again), "every system chooses alike"
    assert not torch.equal(batch["chosen"], half.batch(6, 3)["chosen"])


def test_musicgens_loss_counts_every_real_code_once(corpus: Path) -> None:
    built = objective("musicgen-debug", frames=40)
    system = built.module
    assert isinstance(system, MusicGenSystem)
    batch = built.batch(0, 3)
    batch["mask"][1, 25:] = False
    loss, logs = built.loss(batch, 0)
    z = system.contexts(batch["frames"], None)
    logits = system.logits(z)  # [B, S, K, V]
    per_level = []
    for k, delay in enumerate(system.pattern.delays):
        picked = logits[:, delay : delay + 40, k][batch["mask"]]
        per_level.append(F.cross_entropy(picked, batch["frames"][..., k][batch["mask"]]))
    torch.testing.assert_close(loss, torch.stack(per_level).mean())
    assert logs["code_1"] == pytest.approx(per_level[0].item(), rel=1e-5)


def test_kept_checkpoints_are_models(corpus: Path) -> None:
    config, _ = load_model_config("calm-music-debug")
    data = config.model_dump(mode="json", exclude_none=True)
    recipe = {"steps": 5, "batch_size": 2, "learning_rate": 1e-2, "warmup": 1, "keep_every": 2}
    data["training"] = {"corpus": "tones", "precision": "32-true", **recipe}
    data["training"]["objective"] = {"frames": 20, "consistency": {"multiplier": 1}}
    Path("models/mine").mkdir(parents=True)
    Path("models/mine/config.yaml").write_text(yaml.safe_dump(data))
    assert kept_steps("mine") == []
    train_model("mine", TrainOptions(accelerator="cpu", threads=1))
    assert kept_steps("mine") == [2, 4]
    first, second = (load_system(f"mine@{step}") for step in (2, 4))
    assert first.card.weights_sha256 != second.card.weights_sha256
    last = load_system("mine")
    assert not torch.equal(second.mlp.input.weight, last.mlp.input.weight)  # type: ignore[union-attr]
    (weights,) = (paths.home() / "training/mine/kept/mine-0000002").glob("*.safetensors")
    assert weights.stat().st_size < 2.5 * sum(p.numel() for p in last.parameters())


def test_what_warms_up_or_is_judged_counts_steps_however_many_batches_make_one(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = objective("calm-music-debug", frames=20, consistency={"warmup": 10})
    judged = codec_objective("vae-debug", adversarial=1.0, adversarial_start=1, adversarial_every=2)
    ramps: list[float] = []
    monkeypatch.setattr(
        "calm_bench.training.language.consistency_terms",
        lambda *known: (ramps.append(known[-1]), consistency_terms(*known))[1],
    )
    built.batches = judged.batches = 4
    for index in (0, 8, 40, 400):
        built.loss(built.batch(index, 2), index)
    assert ramps == [0.0, 0.2, 1.0, 1.0]
    heard = []
    for index in range(16):
        judged.loss(judged.batch(index, 1), index)
        heard.append(judged.second_loss() is not None)
    assert heard == [False] * 4 + [True] * 4 + [False] * 4 + [True] * 4


def test_level_dropout_keeps_the_levels_it_is_told_to(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = codec_objective(seconds=0.64, level_dropout=0.5, dropped_to=[2])
    quantiser, seen = built.codec.quantiser, []  # type: ignore[union-attr]
    learn = quantiser.learn  # type: ignore[union-attr]
    monkeypatch.setattr(quantiser, "learn", lambda x, n, g: (seen.append(n), learn(x, n, g))[1])
    for step in range(12):
        built.loss(built.batch(step, 4), step)
    assert sorted(set(torch.cat(seen).tolist())) == [2, 4]
    with torch.no_grad():
        found = built.validate()
    locked = {"locked", "locked_recording"}
    assert set(found) == {"spectral", "spectral_2", "bits_per_frame", *locked}
    assert all(0 < found[name] < 1 for name in locked)
    assert found["bits_per_frame"] == 4 * 4
    with pytest.raises(InputError, match="of 4 levels"):
        codec_objective(dropped_to=[5])


def test_a_held_out_recording_shorter_than_every_spectrum_is_validated_with_silence_after_it(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = codec_objective(seconds=3, spectral_sizes=[8192])
    read = Shards.read
    monkeypatch.setattr(Shards, "read", lambda self, i, start, stop: read(self, i, start, 1000))
    with torch.no_grad():
        assert built.validate()["spectral"] > 0


@pytest.mark.parametrize(("name", "other"), [("vae-debug", "unquantised"), ("rvq-debug", "kl")])
def test_what_is_of_the_other_bottleneck_is_refused(corpus: Path, name: str, other: str) -> None:
    with pytest.raises(InputError, match=f"here: training.objective.{other} says nothing to a"):
        codec_objective(name, **{other: 0.5})
    assert not list(corpus.rglob("shards")), "nothing is prepared for what is refused"


@pytest.mark.parametrize(
    ("name", "other", "head"),
    [
        ("calm-music-debug", "flow", "a flow matching head"),
        ("trigflow-debug", "consistency", "a consistency head"),
        ("rq-levels-debug", "consistency", "a consistency head"),
        ("musicgen-debug", "flow", "a flow matching head"),
    ],
)
def test_what_is_of_another_head_is_refused(corpus: Path, name: str, other: str, head: str) -> None:
    said = f"training.objective.{other} is of {head} alone: leave it out"
    with pytest.raises(InputError, match=said):
        objective(name, frames=20, **{other: {"multiplier": 2}})


def test_unquantised_clips_reach_the_decoder_as_they_are(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = codec_objective(seconds=0.64, level_dropout=0.0, unquantised=0.5)
    decoder, quantiser = built.codec, built.codec.quantiser  # type: ignore[union-attr]
    learn, decode = quantiser.learn, decoder.decode_latents  # type: ignore[union-attr]
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    decoded: list[torch.Tensor] = []

    def learning(x: torch.Tensor, *rest: object) -> object:
        found = learn(x, *rest)
        pairs.append((x.detach(), found[0].detach()))
        return found

    monkeypatch.setattr(quantiser, "learn", learning)
    monkeypatch.setattr(
        decoder, "decode_latents", lambda z: (decoded.append(z.detach()), decode(z))[1]
    )
    for step in range(12):
        built.loss(built.batch(step, 4), step)
    free = 0
    for (vectors, quantised), latents in zip(pairs, decoded, strict=True):
        for x, q, z in zip(vectors, quantised, latents, strict=True):
            assert torch.equal(z, x) != torch.equal(z, q)
            free += torch.equal(z, x)
    assert 12 < free < 36  # of 48, each with even odds
