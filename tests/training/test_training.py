"""The training loop on tiny corpora: it learns, resumes exactly, stops at what is no number."""

import itertools
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from clips import lay_corpus
from commands import call
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from calm_bench.codecs.checkpoints import load_codec
from calm_bench.config import kept_steps, load_model_config
from calm_bench.core import device, paths
from calm_bench.core.files import replace as replace_file
from calm_bench.errors import BenchError, InputError, MachineError, WeightsError
from calm_bench.seeds import file_hash
from calm_bench.store.curves import read_curve
from calm_bench.systems.loading import load_system
from calm_bench.systems.monologue import PAD
from calm_bench.systems.text import load_text_model
from calm_bench.training import train as module
from calm_bench.training.codec import Distillation, MultiScaleDiscriminator, hinge_discriminator
from calm_bench.training.language import LanguageObjective
from calm_bench.training.loop import RunLog, Trainer
from calm_bench.training.objective import Objective, StepLoss, TrainingConfig, TrainingError
from calm_bench.training.spectral import SpectralLoss
from calm_bench.training.train import (
    TrainOptions,
    build_objective,
    train_model,
    write_training,
    write_weights,
)

RATE = 1600
CPU = TrainOptions(accelerator="cpu", threads=1)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of tones with words, under a data home of its own."""
    monkeypatch.setenv("CALM_BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    recordings = []
    for index in range(6):
        t = np.arange(RATE * 3) / RATE
        wave = (0.3 * np.sin(2 * np.pi * (100 + 40 * index) * t)).astype(np.float32)
        first = "low" if index < 3 else "high"
        known = {"text": f"{first} tone", "words": [[first, 0.1, 0.4], ["tone", 0.5, 0.9]]}
        split = "train" if index < 5 else "validation"
        recordings.append((f"t{index}", split, wave, known))
    return lay_corpus(paths.home() / "data" / "tones", RATE, recordings)


def model(name: str, like: str, training: dict[str, Any], **changes: Any) -> str:
    """A model folder ./models/<name> with another's architecture and a short recipe."""
    config, _ = load_model_config(like)
    data = config.model_dump(mode="json", exclude_none=True) | changes
    recipe = {
        "corpus": "tones",
        "batch_size": 2,
        "learning_rate": 3e-3,
        "warmup": 2,
        "precision": "32-true",
        "log_every": 1,
        "validate_every": 100,
        "checkpoint_minutes": 0.0,
    }
    data["training"] = recipe | training
    folder = Path("models") / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    return name


def read_log(name: str) -> list[dict[str, Any]]:
    return RunLog(paths.home() / "training" / name).records()


def losses(name: str) -> list[float]:
    return [line["loss"] for line in read_log(name) if "loss" in line]


def kind(like: str, architecture: dict[str, Any] | None = None, **objective: Any) -> dict[str, Any]:
    """What `model` takes: a training of eight steps towards an objective."""
    changes = {} if architecture is None else {"architecture": architecture}
    return {"like": like, "training": {"steps": 8, "objective": objective}, **changes}


def architecture(like: str, **changes: Any) -> dict[str, Any]:
    """That of a model, with other fields."""
    return {**load_model_config(like)[0].architecture, **changes}


DROPS = {"dim": 16, "heads": 2, "dropout": 0.2}
JUDGED = {"seconds": 1.92, "adversarial": 1.0, "feature": 2.0, "adversarial_every": 2}
KINDS: dict[str, dict[str, Any]] = {
    "vae": kind("vae-debug", seconds=0.64),
    "vae sampled": kind("vae-debug", architecture("vae-debug", sampled=True), seconds=0.64),
    "rvq": kind("rvq-debug", seconds=0.64),
    "vae augmented": kind("vae-debug", seconds=0.64, augment={"clean": 0.0}),
    "vae judged": kind("vae-debug", **JUDGED, judged_seconds=0.64, discriminator_width=4),
    "calm": kind("calm-debug", frames=20),
    "rq": kind(
        "rq-debug",
        {
            "backbone": {**DROPS, "layers": 2, "mlp_dim": 32},
            "depth": {**DROPS, "layers": 1, "mlp_dim": 16, "schedule": [0, 1, 1]},
            "text": {"vocab_size": 258},
            "codebook_size": 16,
        },
        frames=20,
        hidden_frames=0.3,
        head_frames=0.5,
    ),
    "rvq levels": kind("rvq4-debug", seconds=0.64, dropped_to=[2]),
    "calm music": kind(
        "calm-music-debug", frames=20, head_frames=0.3, consistency={"multiplier": 2}
    ),
    "trigflow": kind("trigflow-debug", frames=20),
    "rq levels": kind("rq-levels-debug", frames=20),
    "musicgen": kind("musicgen-debug", frames=40),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_takes_the_steps_of_an_uninterrupted_one(corpus: Path, kind: str) -> None:
    whole, parts = model("whole", **KINDS[kind]), model("parts", **KINDS[kind])
    larger = {"batch_size": 3}  # than what a start is looked at with
    written = train_model(whole, replace(CPU, overrides=larger))
    assert written is not None
    assert written.resolve() == Path("models/whole").resolve()
    assert train_model(parts, replace(CPU, until=3, overrides=larger)) is None
    train_model(parts, replace(CPU, overrides=larger))
    assert len(losses(whole)) == 8
    assert losses(parts) == losses(whole)
    assert load_model_config(parts)[0].weights == load_model_config(whole)[0].weights
    assert_loads(whole)


def assert_loads(name: str) -> None:
    """What was trained can be loaded, and its card speaks of it."""
    is_codec = load_model_config(name)[0].kind == "codec"
    loaded = load_codec(name) if is_codec else load_system(name)
    card = Path(f"models/{name}/card.md").read_text()
    assert loaded.card.weights_sha256 is not None
    assert f"{loaded.card.n_parameters:,}" in card
    assert "8 of 8" in card


def test_the_card_of_a_model_names_the_terms_of_its_own_corpus(corpus: Path) -> None:
    path = corpus / "manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line, terms in zip(lines, ["CC0", "CC BY 4.0", "CC0", None, "CC0", "unused"], strict=True):
        line["licence"] = terms
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    train_model(model("mine", **KINDS["rvq"]), CPU)
    (row,) = [x for x in Path("models/mine/card.md").read_text().splitlines() if "| licence |" in x]
    assert "CC0 (3 recordings), CC BY 4.0 (1 recordings), not stated (1 recordings)" in row
    assert "MIT" not in row
    assert "unused" not in row  # a validation recording


def test_the_averaged_weights_are_shipped_and_not_the_last(corpus: Path) -> None:
    fast = {"steps": 8, "learning_rate": 0.05, "final_learning_rate": 0.05, "warmup": 0}
    name = model("mine", "rvq-debug", {**fast, "objective": {"seconds": 0.64}})
    train_model(name, CPU)
    state = torch.load(paths.home() / "training" / name / "state.pt", weights_only=True)
    key = "decoder.head.linear.weight"
    shipped, average, last = load_codec(name).state_dict()[key], state["average"], state["module"]
    assert (average[key] - last[key]).abs().max() > 0.02, "the two can be told apart"
    torch.testing.assert_close(shipped, average[key], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["vae", "vae sampled"])
def test_a_vae_ships_the_statistics_of_its_latents(corpus: Path, kind: str) -> None:
    name = model("mine", **KINDS[kind])
    train_model(name, CPU)
    codec = load_codec(name)
    t = torch.arange(RATE * 3) / RATE
    waves = [0.3 * torch.sin(2 * torch.pi * (100 + 40 * i) * t)[None] for i in range(5)]
    noise = torch.Generator().manual_seed(0)
    latents = torch.cat([codec.draw(wave, noise)[0] for wave in waves for _ in range(20)])
    off = 0.1 if kind == "vae" else 0.2  # statistics of 190 draws
    torch.testing.assert_close(latents.mean(0), torch.zeros(4), atol=off, rtol=0)
    raw = latents.std(0) * codec.latent_std
    # One, or less for a channel that is hardly used.
    expected = raw / raw.clamp_min(0.5 * raw.median())
    torch.testing.assert_close(latents.std(0), expected, atol=off, rtol=0)


def test_a_codec_learns_to_reconstruct(corpus: Path) -> None:
    recipe = {"steps": 120, "batch_size": 4, "log_every": 20, "learning_rate": 1e-2}
    name = model("mine", "vae-debug", {**recipe, "objective": {"seconds": 0.64, "kl": 0.001}})
    train_model(name, CPU)
    spectral = [line["spectral"] for line in read_log(name) if "spectral" in line]
    assert spectral[-1] < 0.6 * spectral[0]


DIES = """
import os, signal
from calm_bench.training.loop import Trainer
from calm_bench.training.train import TrainOptions, train_model

step = Trainer._follow_average

def dies(self, number):
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, number)

Trainer._follow_average = dies
train_model("mine", TrainOptions(accelerator="cpu", threads=1))
"""


def test_killed_training_goes_on(corpus: Path) -> None:
    name = model("mine", **KINDS["vae"])
    done = subprocess.run([sys.executable, "-c", DIES], check=False)
    assert done.returncode == -signal.SIGKILL
    state = torch.load(paths.home() / "training" / name / "state.pt", weights_only=True)
    assert state["step"] == 5
    train_model(name, replace(CPU, until=7))
    assert [line["step"] for line in read_log(name)] == list(range(1, 8))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_training_after_its_step(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    name = model("mine", "vae-debug", {**KINDS["vae"]["training"], "checkpoint_minutes": 60.0})
    follow = Trainer._follow_average

    def signalled(self: Trainer, step: int) -> None:
        if step == 5:
            os.kill(os.getpid(), number)
        follow(self, step)

    monkeypatch.setattr(Trainer, "_follow_average", signalled)
    assert "steps are left" in trained(name)
    state = torch.load(paths.home() / "training" / name / "state.pt", weights_only=True)
    assert state["step"] == 6
    assert read_log(name)[-1]["step"] == 6


def test_a_loss_that_is_not_a_number_stops_with_its_batch(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = model("mine", **KINDS["vae"])
    normal = SpectralLoss.both
    calls = iter(range(100))

    def broken(self: SpectralLoss, *waves: torch.Tensor, **options: bool) -> tuple[Any, Any]:
        value, phased = normal(self, *waves, **options)
        return value * float("nan") if next(calls) == 3 else value, phased

    monkeypatch.setattr(SpectralLoss, "both", broken)
    with pytest.raises(TrainingError, match=r"loss of step 3 is nan \(batch 3 of seed 0\)"):
        train_model(name, CPU)


RANKS = """
import sys
from calm_bench.training.train import TrainOptions, train_model

def train(name, strategy, **options):
    options = TrainOptions(accelerator="cpu", devices=2, strategy=strategy, threads=1, **options)
    train_model(name, options)

train("codec", "ddp")
train("replicated", "ddp")
train("sharded", "fsdp", until=3)
train("sharded", "fsdp")
train("shared", "ddp", global_batch=True)
"""


@pytest.mark.slow
def test_two_ranks_take_one_step_and_sharded_training_those_of_replicated(corpus: Path) -> None:
    recipe = KINDS["calm"] | {"training": {**KINDS["calm"]["training"], "validate_every": 4}}
    replicated, sharded = model("replicated", **recipe), model("sharded", **recipe)
    codec = model("codec", **KINDS["vae judged"])  # every other step, on both ranks
    two = {**KINDS["calm"]["training"], "accumulate": 2}
    shared, alone = (model(name, "calm-debug", two) for name in ("shared", "alone"))
    train_model(alone, CPU)
    Path("ranks.py").write_text(RANKS)
    subprocess.run([sys.executable, "ranks.py"], check=True, timeout=300)
    assert len(losses(codec)) == len(losses(sharded)) == 8
    assert load_codec(codec).card.weights_sha256 is not None
    np.testing.assert_allclose(losses(sharded), losses(replicated), rtol=1e-4)
    # Ranks that share a step's batches take the step of one process.
    np.testing.assert_allclose(losses(shared), losses(alone), rtol=1e-5)
    for pair in ((sharded, replicated), (shared, alone)):
        one, other = (load_system(name).state_dict() for name in pair)
        for key in other:
            torch.testing.assert_close(one[key], other[key], atol=2e-3, rtol=2e-3)


def test_what_ranks_do_to_a_step_is_said_or_refused(
    corpus: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calm_bench.training.train._fabric", None)
    two = TrainOptions(accelerator="cpu", devices=2)
    shared = TrainOptions(accelerator="cpu", devices=2, global_batch=True)
    codec, system = model("codec", **KINDS["vae"]), model("system", **KINDS["calm"])
    with pytest.raises(TypeError):
        train_model(system, two)
    assert "a step learns from 4 clips where one process learns from 2" in caplog.text
    with pytest.raises(InputError, match="judges and codebooks learn a batch at a time"):
        train_model(codec, shared)
    with pytest.raises(InputError, match="--set accumulate=2 batch_size=1 makes one"):
        train_model(system, shared)


def test_a_rank_that_others_speak_for_says_nothing(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calm_bench.training.train.speaks", lambda: False)
    assert trained(model("mine", **KINDS["vae"]), "--steps", "1") == ""


def test_strategies_that_do_not_fit_are_refused_in_one_line(corpus: Path) -> None:
    name = model("mine", **KINDS["vae"])
    with pytest.raises(InputError, match="choose one of auto, ddp, fsdp"):
        train_model(name, TrainOptions(accelerator="cpu", strategy="zero"))
    with pytest.raises(InputError, match="use ddp"):
        train_model(name, TrainOptions(accelerator="cpu", strategy="fsdp"))


def trained(*words: str) -> str:
    """What `calm-bench train` says, in this process and on one thread."""
    return call("train", *words, "--device", "cpu", "--threads", "1").out


def test_what_was_set_is_in_the_config_and_the_cards_command_trains_the_same(corpus: Path) -> None:
    name = model("mine", **KINDS["vae"])
    original = Path("models/mine/config.yaml").read_bytes()
    settings = ["steps=3", "learning_rate=2e-3", "betas=[0.8, 0.9]", "seed=4"]
    trained(name, *(word for setting in settings for word in ("--set", setting)))
    config, _ = load_model_config(name)
    wanted = {"steps": 3, "learning_rate": 0.002, "betas": [0.8, 0.9], "seed": 4}
    assert {key: config.training[key] for key in wanted} == wanted
    assert config.training["batch_size"] == 2
    card = Path("models/mine/card.md").read_text()
    rebuild = card.partition("Rebuild: `")[2].partition("`")[0].rpartition(" && ")[2]
    assert shlex.split(rebuild)[:5] == ["calm-bench", "train", name, "--set", "steps=3"]
    for before in (original, Path("models/mine/config.yaml").read_bytes()):
        Path("models/mine/config.yaml").write_bytes(before)
        trained(*shlex.split(rebuild)[2:], "--fresh")
        assert load_model_config(name)[0] == config


def test_the_card_of_a_system_has_the_commands_that_made_its_codec(corpus: Path) -> None:
    codec = model("codec", **KINDS["vae"])
    trained(codec, "--set", "steps=2")
    card = {}
    for name, changes in (("mine", {"codec": codec}), ("other", {"codec": f"{codec}@seed1"})):
        if changes["codec"] != codec:
            trained(codec, "--seed", "1")
        trained(model(name, **KINDS["calm"], **changes), "--set", "steps=1")
        text = Path(f"models/{name}/card.md").read_text()
        card[name] = text.partition("Rebuild: `")[2].partition("`")[0].split(" && ")
    data = card["mine"][0]
    assert data.startswith("calm-bench data ")
    own = "calm-bench train {} --set steps=1"
    assert card["mine"] == [data, "calm-bench train codec --set steps=2", own.format("mine")]
    assert card["other"] == [data, "calm-bench train codec --seed 1", own.format("other")]


def test_trainings_that_a_copied_config_names_are_told(
    corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = {"file": "trainings/{}.safetensors", "sha256": "0" * 64}
    named = {seed: {**spec, "file": spec["file"].format(seed)} for seed in (1, 2)}
    name = model("mine", **KINDS["vae"], trainings=named)
    train_model(name, replace(CPU, until=1))
    (said,) = (r.getMessage() for r in caplog.records if "what is not there" in r.getMessage())
    assert "config.yaml names under trainings: what is not there" in said
    assert "trainings/1.safetensors, trainings/2.safetensors; take it out" in said
    assert said.endswith("models/mine --seed 1)")
    caplog.clear()
    for seed in named:
        path = Path("models/mine/trainings", f"{seed}.safetensors")
        path.parent.mkdir(exist_ok=True)
        path.touch()
    train_model(name, replace(CPU, until=2))
    assert "not there" not in caplog.text


@pytest.mark.parametrize("kind", ["calm", "trigflow"])
def test_training_in_fewer_bits_warns_of_nothing(corpus: Path, kind: str) -> None:
    recipe = KINDS[kind]["training"] | {"steps": 1, "validate_every": 1}
    like = KINDS[kind]["like"]
    torch.set_warn_always(True)  # torch says most of its warnings once in a process
    try:
        train_model(model("mine", like, recipe | {"precision": "bf16-mixed"}), CPU)
    finally:
        torch.set_warn_always(False)


def test_the_cards_command_trains_what_was_exported_early(corpus: Path) -> None:
    name = model("mine", **KINDS["vae"])
    trained(name, "--steps", "3", "--export")
    assert f"calm-bench train {name} --steps 3 --export`" in Path("models/mine/card.md").read_text()


def test_a_further_seed_is_a_training_beside_the_models_own(corpus: Path) -> None:
    name, folder = model("mine", **KINDS["vae"]), Path("models/mine")
    trained(name, "--seed", "2", "--set", "keep_every=4")  # which changes no weights
    (folder / "notes.md").write_text("## Measured\n\nOf weights 0123abcd: nothing.\n")
    trained(name, "--seed", "0")  # the recipe's own
    before, _ = load_model_config(name)
    card = (folder / "card.md").read_text()
    assert before.weights is not None
    assert list(before.trainings) == [2]
    trained(name, "--seed", "1")
    config, _ = load_model_config(name)
    one, two = config.trainings[1], config.trainings[2]
    assert config == before.model_copy(update={"trainings": {1: one, 2: two}})
    assert file_hash(folder / "trainings/1.safetensors") == one.sha256
    assert len({one.sha256, two.sha256, before.weights.sha256}) == 3
    assert {spec.recipe for spec in (one, two, before.weights)} == {one.recipe}
    assert one.steps == two.steps == before.weights.steps == 8
    assert load_codec(f"{name}@seed1").card.weights_sha256 == one.sha256
    assert load_codec(f"{name}@seed0").card.weights_sha256 == before.weights.sha256
    assert kept_steps(f"{name}@seed2") == [4, 8]
    # Batches and initial weights are others, too, and the states of the seeds lie apart.
    firsts = {losses(at)[0] for at in (name, f"{name}@seed1", f"{name}@seed2")}
    assert len(firsts) == 3
    assert {point.seed for point in read_curve(folder)} == {0, 1, 2}
    now = (folder / "card.md").read_text()
    assert "| weights | release 1, sha256 " in now
    assert now.endswith("\n## Measured\n\nOf earlier weights 0123abcd: nothing.\n")
    lines = re.findall(r"^\| (\d) \| 8 \| 0.0\d h \| (\w{12}) \|$", now, re.MULTILINE)
    assert [seed for seed, _ in lines] == ["0", "1", "2"]
    assert [line for line in card.splitlines() if line not in now.splitlines()] == []


def test_a_further_training_keeps_to_the_recipe_and_repeats_exactly(corpus: Path) -> None:
    name = model("mine", **KINDS["calm"])
    with pytest.raises(InputError, match="it takes no --set batch_size"):
        train_model(name, replace(CPU, seed=1, overrides={"batch_size": 4}))
    with pytest.raises(InputError, match="its seed is given with --seed"):
        train_model(f"{name}@seed0", CPU)
    with pytest.raises(WeightsError, match="no training of seed 1, only of 0; calm-bench train"):
        load_system(f"{name}@seed1")
    train_model(name, replace(CPU, seed=1))
    first = load_model_config(name)[0].trainings[1]
    train_model(name, replace(CPU, seed=1, fresh=True))
    config, _ = load_model_config(name)
    assert config.trainings[1].sha256 == first.sha256
    assert config.weights is None
    # A model whose own seed it is comes to the same weights.
    other = model("other", **KINDS["calm"], seed=1)
    trained(other, "--set", "seed=1")
    assert load_system(other).card.weights_sha256 == first.sha256


def test_a_kill_leaves_no_training_that_does_not_fit_its_name(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, folder = model("mine", **KINDS["vae"]), Path("models/mine")
    weights = load_codec(name).state_dict()
    changed = {key: value + 1 for key, value in weights.items()}
    for last in range(4):
        write_training(folder, 1, weights, {})
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(module, "replace", dying_at(last, replace_file))
            write_training(folder, 1, changed, {})
        # The name is taken back before its weights are replaced, and given again after that.
        config, _ = load_model_config(name)
        assert (1 in config.trainings) == (last in (0, 3))
        if 1 in config.trainings:
            load_codec(f"{name}@seed1")


def test_a_fresh_training_forgets_all_of_the_one_before(corpus: Path) -> None:
    name = model("mine", **KINDS["vae"])
    trained(name, "--set", "keep_every=2", "--steps", "5")
    assert kept_steps(name) == [2, 4]
    trained(name, "--set", "keep_every=3", "seed=1", "--steps", "4", "--fresh")
    assert kept_steps(name) == [3]
    assert len(losses(name)) == 4


def test_a_kill_while_it_is_forgotten_leaves_a_whole_training_or_none(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = model("mine", **KINDS["vae"])
    trained(name, "--set", "keep_every=2", "--steps", "2")
    with monkeypatch.context() as patch:
        patch.setattr("calm_bench.training.train.shutil.rmtree", _killed)
        with pytest.raises(KeyboardInterrupt):
            train_model(name, replace(CPU, fresh=True))
    assert kept_steps(name) == []
    assert not (paths.home() / "training" / name).exists()
    trained(name, "--set", "keep_every=3", "--steps", "3", "--fresh")
    assert kept_steps(name) == [3]
    assert [path.name for path in (paths.home() / "training").iterdir()] == [name]


def _killed(*words: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def dying_at(
    moment: int, real: Callable[..., None], steps: Iterator[int] | None = None
) -> Callable[..., None]:
    """The real thing, but for the step at which the process is killed."""
    steps = itertools.count() if steps is None else steps

    def step(*words: Any, **options: Any) -> None:
        if next(steps) == moment:
            raise KeyboardInterrupt
        real(*words, **options)

    return step


@pytest.mark.parametrize("old", ["weights.safetensors", None], ids=["named by hand", "by content"])
@pytest.mark.parametrize("moment", range(3), ids=["weights", "config", "removal"])
def test_a_kill_leaves_a_config_that_fits_its_weights(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, moment: int, old: str | None
) -> None:
    name, folder = model("mine", **KINDS["vae"]), Path("models/mine")
    new = load_codec(name).state_dict()
    first = write_weights(folder, load_model_config(name)[0], {k: v + 1 for k, v in new.items()})
    named = load_model_config(name)[0].weights
    assert named is not None
    if old is not None:
        (folder / named.file).rename(folder / old)
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace(named.file, old))
    (folder / "weights-mine.safetensors").touch()  # the user's own, not to be removed
    steps = itertools.count()
    config, _ = load_model_config(name)
    with monkeypatch.context() as patch:
        patch.setattr(module, "replace", dying_at(moment, replace_file, steps))
        patch.setattr(Path, "unlink", dying_at(moment, Path.unlink, steps))
        with pytest.raises(KeyboardInterrupt):
            write_weights(folder, config, new)
    assert (load_codec(name).card.weights_sha256 == first) == (moment < 2)
    second = write_weights(folder, load_model_config(name)[0], new)
    assert load_codec(name).card.weights_sha256 == second != first
    left = {path.name for path in folder.glob("*.safetensors")}
    assert left == {f"weights-{second[:12]}.safetensors", "weights-mine.safetensors"}


def text_and_system(**recipe: Any) -> tuple[str, list[str]]:
    """A trained text model and two alike that start from it."""
    backbone = {"dim": 16, "layers": 2, "heads": 2, "mlp_dim": 32}
    text = {"vocab_size": 264, "tokenizer": "tokenizer.json"}
    shape = {"backbone": backbone, "text": text}
    kind = {"kind": "text", "type": "transformer", "codec": None, "architecture": shape}
    first = model("words", "rq-debug", {"steps": 3}, **kind)
    train_model(first, CPU)
    config, _ = load_model_config("rq-debug")
    own = {"steps": 6, "start_from": first, "objective": {"frames": 20}, **recipe}
    shape = config.architecture | {"backbone": backbone | {"dropout": 0.1}, "text": text}
    return first, [model(name, "rq-debug", own, architecture=shape) for name in ("whole", "parts")]


def test_what_starts_from_a_text_model_resumes_and_says_so(corpus: Path) -> None:
    first, (whole, parts) = text_and_system(start_rate=0.25)
    train_model(whole, CPU)
    train_model(parts, replace(CPU, until=2))
    train_model(parts, CPU)
    assert losses(parts) == losses(whole)
    card = Path(f"models/{whole}/card.md").read_text()
    weights = load_model_config(first)[0].weights
    assert weights is not None
    assert f"words, weights {weights.sha256[:12]}, trained at 0.25 times the rate" in card
    assert f"calm-bench train {first} && calm-bench train {whole}`" in card
    tokenizers = [Path(f"models/{name}/tokenizer.json").read_bytes() for name in (first, whole)]
    assert tokenizers[0] == tokenizers[1]


def test_a_start_that_was_trained_anew_is_another_training(corpus: Path) -> None:
    first, (whole, _) = text_and_system()
    train_model(whole, replace(CPU, until=2))
    trained(first, "--fresh", "--set", "seed=1")
    with pytest.raises(TrainingError, match="another training than this"):
        train_model(whole, CPU)


def test_a_start_rate_of_zero_leaves_what_was_given_as_it_was(corpus: Path) -> None:
    first, (whole, parts) = text_and_system(start_rate=0.0, learning_rate=1e-2)
    train_model(whole, CPU)
    trained(parts, "--steps", "1", "--export")
    given, _ = load_text_model(first)
    system, early = (load_system(name, mode="plain").state_dict() for name in (whole, parts))
    for key, value in given.state_dict().items():
        torch.testing.assert_close(system[key], value, atol=2e-3, rtol=2e-3)
    assert not torch.allclose(system["depth.inputs"], early["depth.inputs"], atol=2e-3)
    # So it reads plain text as the text model does.
    held_out = [RunLog(paths.home() / "training" / at).last_validation() for at in (first, whole)]
    assert held_out[1]["plain_text"] == pytest.approx(held_out[0]["loss"], rel=1e-2)


def test_state_of_another_recipe_other_recordings_or_another_shape_is_refused(corpus: Path) -> None:
    name = model("mine", **KINDS["trigflow"])
    train_model(name, replace(CPU, until=1))
    with pytest.raises(TrainingError, match="another training than this"):
        train_model(name, replace(CPU, overrides={"seed": 1}))
    config, written = Path("models/mine/config.yaml"), (corpus / "manifest.jsonl").read_text()
    before = config.read_text()
    changed = yaml.safe_load(before)
    changed["architecture"]["grid_spread"] = 0.5
    config.write_text(yaml.safe_dump(changed))
    with pytest.raises(TrainingError, match="shape"):
        train_model(name, CPU)
    config.write_text(before)
    lines = written.splitlines(keepends=True)
    (corpus / "manifest.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(TrainingError, match="other recordings"):
        train_model(name, CPU)
    (corpus / "manifest.jsonl").write_text(written)
    train_model(name, CPU)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"augment": {"low_pass": [0, 100]}}, "augment.low_pass"),
        ({"augment": {"speed": [1.25, 0.8]}}, "augment.speed: the least, 1.25, is more than"),
        ({"augment": {"gain": [0, 1e6]}}, "augment.gain"),
        ({"augment": {"snr": [15, float("inf")]}}, "augment.snr"),
        ({"complex": float("nan")}, "complex"),
        ({"spectral": -1}, "spectral"),
        ({"floor": float("inf")}, "floor"),
        ({"seconds": 0.001}, "training.objective.seconds: 0 s"),
        ({"adversarial": 1.0, "judged_seconds": 0.3}, "objective.judged_seconds: 0.3 s"),
        ({"adversarial": 1.0, "seconds": 0.24}, "objective.seconds: 0.24 s"),
        ({"adversarial": 1.0, "discriminator_sizes": []}, "discriminator_sizes"),
        (
            {"adversarial": 1.0, "discriminator_sizes": [128], "spectral_sizes": [8192]},
            "for an FFT of 8192",
        ),
    ],
)
@pytest.mark.usefixtures("corpus")
def test_an_objective_that_no_step_can_take_is_refused(
    objective: dict[str, Any], message: str
) -> None:
    name = model("mine", "vae-debug", {"steps": 2, "objective": {"seconds": 0.64, **objective}})
    with pytest.raises(InputError, match=re.escape(message)):
        train_model(name, CPU)


@pytest.mark.usefixtures("corpus")
def test_what_a_damaged_file_would_cost_is_said_before_the_steps() -> None:
    name = model("mine", "vae-debug", {"steps": 2, "objective": {"seconds": 0.64}})
    for file, data in {"card.md": b"\xff", "notes.md": b"\xff", "curve.jsonl": b"{"}.items():
        path = Path("models/mine") / file
        path.write_bytes(data)
        with pytest.raises(InputError, match=file):
            train_model(name, CPU)
        path.unlink()
    assert not (paths.home() / "training" / name / "log.jsonl").exists()
    train_model(name, replace(CPU, until=1))
    for file in ("log.jsonl", "state.pt"):
        path = paths.home() / "training" / name / file
        known = path.read_bytes()
        path.write_bytes(b"x\n")
        with pytest.raises(TrainingError, match=f"{file}.* is damaged.*--fresh"):
            train_model(name, CPU)
        path.write_bytes(known)
    assert train_model(name, CPU) is not None


@pytest.mark.usefixtures("corpus")
def test_a_training_is_the_work_of_one_process_at_a_time() -> None:
    name = model("mine", "vae-debug", {"steps": 2, "objective": {"seconds": 0.64}})

    def meddle(step: int, *_: object) -> None:
        train_model(name, replace(CPU, seed=1))  # another seed's is another training
        works = r"\(pid \d+\) is working on the training of mine; wait for it or"
        with pytest.raises(BenchError, match=works):
            train_model(name, replace(CPU, fresh=step == 2))

    assert train_model(name, CPU, meddle) is not None
    assert train_model(name, CPU) is not None


@pytest.mark.usefixtures("corpus")
def test_a_curve_leaves_out_what_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    name = model("mine", "vae-debug", {"steps": 2, "objective": {"seconds": 0.64}})
    found = {"spectral": float("nan"), "kl": 2.0}
    monkeypatch.setattr(module.CodecObjective, "validate", lambda _: found)
    for _ in range(2):  # the second reads what the first has written
        train_model(name, CPU)
    points = [point.validation for point in read_curve(Path("models/mine")) if point.validation]
    assert points == [{"kl": 2.0}]


def test_a_model_without_a_recipe_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALM_BENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no training section"):
        train_model("vae-debug", CPU)


def test_distillation_pulls_latents_towards_the_teacher(corpus: Path) -> None:
    name = model("none", "vae-debug", {"steps": 2, "objective": {"distillation": 1.0}})
    with pytest.raises(InputError, match="teacher"):
        train_model(name, CPU)
    torch.manual_seed(0)
    term = Distillation(lambda wave, rate: wave.unfold(1, 160, 160).abs()[..., :8], RATE, 4)
    wave, latents = torch.rand(2, 1600), torch.randn(2, 5, 4)
    loss = term(latents, wave)
    assert 0 < loss.item() < 2
    assert term.projection.out_features == 8


@pytest.mark.parametrize("like", ["calm-debug", "rq-debug", "vae-debug"])
def test_a_batch_that_cannot_fit_is_refused_before_its_first_step(
    corpus: Path, like: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = model("many", like, {"steps": 2, "batch_size": 10**6})
    monkeypatch.setattr(device, "memory_of", lambda _: 10**8)
    with pytest.raises(MachineError, match=r"batch of 1,000,000 .* GB of memory at least, and cpu"):
        train_model(name, CPU)
    assert not read_log(name)
    fits = replace(CPU, overrides={"batch_size": 4})
    assert train_model(name, fits) is not None


def test_learning_rate_warms_up_and_falls_to_its_end() -> None:
    config = TrainingConfig(
        corpus="x", steps=100, batch_size=1, learning_rate=1.0, warmup=10, final_learning_rate=0.1
    )
    rates = [config.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)


class Line(Objective):
    def __init__(self) -> None:
        self.module = torch.nn.Linear(4, 8, bias=False)

    def batch(self, step: int, size: int) -> dict[str, torch.Tensor]:
        return {"x": torch.ones(size, 4)}

    def loss(self, batch: Mapping[str, torch.Tensor], step: int) -> StepLoss:
        return StepLoss(self.module(batch["x"]).square().mean(), {})

    def validate(self) -> dict[str, float]:
        return {"loss": 0.0}

    def export(self) -> dict[str, torch.Tensor]:
        return {}


@pytest.mark.parametrize(
    ("precision", "dtype", "digits"),
    [
        ("bf16-mixed", torch.float32, torch.float32),
        ("32-true", torch.float32, torch.float32),
        ("64-true", torch.float64, torch.float32),
        ("bf16-true", torch.bfloat16, torch.bfloat16),
    ],
)
def test_a_loss_is_of_the_numbers_that_the_batch_has(
    tmp_path: Path, precision: Any, dtype: torch.dtype, digits: torch.dtype
) -> None:
    wave = torch.rand(3, 4)
    seen = []

    class Heard(Line):
        def batch(self, step: int, size: int) -> dict[str, torch.Tensor]:
            return {"x": wave, "words": torch.arange(3)}

        def loss(self, batch: Mapping[str, torch.Tensor], step: int) -> StepLoss:
            seen.append(batch)
            return super().loss(batch, step)

    recipe = TrainingConfig(
        corpus="none", steps=1, batch_size=2, learning_rate=0.1, precision=precision
    )
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    list(Trainer(Heard(), recipe, tmp_path, fabric).train())
    (batch,) = seen
    assert batch["x"].dtype == dtype
    torch.testing.assert_close(batch["x"], wave.to(digits).to(dtype), rtol=0, atol=0)
    assert torch.equal(batch["words"], torch.arange(3))


def test_the_flops_of_a_step_are_those_of_its_matrix_products(tmp_path: Path) -> None:
    recipe = TrainingConfig(
        corpus="none", steps=2, batch_size=5, learning_rate=0.1, accumulate=3, precision="32-true"
    )
    fabric = Fabric(accelerator="cpu", devices=1)
    trainer = Trainer(Line(), recipe, tmp_path, fabric)
    list(trainer.train())
    products = 2  # forwards, and the weights' gradient: the input needs none
    assert trainer.progress.flops == products * 3 * (2 * 5 * 4 * 8)


@pytest.mark.parametrize("large", [False, True], ids=["fits", "beyond float16"])
def test_a_scaled_gradient_is_clipped_at_its_own_size(tmp_path: Path, large: bool) -> None:
    recipe = TrainingConfig(
        corpus="none", steps=1, batch_size=2, learning_rate=0.1, warmup=0, clip=1e-3
    )
    stepped: dict[bool, tuple[float, torch.Tensor]] = {}
    for scaled in (False, True):
        plugins = [MixedPrecision("16-mixed", "cpu")] if scaled else None
        torch.manual_seed(0)
        trainer = Trainer(Line(), recipe, tmp_path, Fabric(accelerator="cpu", plugins=plugins))
        if scaled:
            trainer.fabric.strategy.precision.scaler = torch.amp.GradScaler(  # type: ignore[union-attr]
                "cpu", 2.0**60 if large else 256.0
            )
        before = trainer.objective.module.weight.detach().clone()
        logs = trainer.step()
        stepped[scaled] = logs["gradient"], trainer.objective.module.weight.detach() - before
    if large:  # the step is left out, and the next scale is smaller
        assert not math.isfinite(stepped[True][0])
        assert not stepped[True][1].any()
        return
    assert stepped[True][0] == pytest.approx(stepped[False][0], rel=1e-2)
    torch.testing.assert_close(stepped[True][1], stepped[False][1], atol=1e-3, rtol=1e-2)


def test_numbers_go_to_tensorboard_where_it_is_installed(corpus: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    name = model("mine", **KINDS["calm"])
    train_model(name, CPU)
    found = events.EventAccumulator(str(paths.home() / "training" / name / "tensorboard"))
    found.Reload()
    written = [point.value for point in found.Scalars("training/loss")]
    np.testing.assert_allclose(written, losses(name), rtol=1e-6)
    assert "validation/loss" in found.Tags()["scalars"]


def test_judges_prefer_what_they_were_taught() -> None:
    torch.manual_seed(0)
    judges = MultiScaleDiscriminator(4, (256,))
    real, fake = torch.sin(torch.arange(4000) * 0.3)[None], torch.randn(1, 4000) * 0.3
    optimizer = torch.optim.Adam(judges.parameters(), lr=1e-2)
    first = None
    for _ in range(25):
        loss = hinge_discriminator(judges(real), judges(fake))
        first = first if first is not None else loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * first


@pytest.mark.usefixtures("corpus")
def test_a_bit_of_the_state_that_flipped_is_found() -> None:
    name = model("mine", "vae-debug", {"steps": 4, "objective": {"seconds": 0.64}})
    train_model(name, replace(CPU, until=2))
    path = paths.home() / "training" / name / "state.pt"
    data, state = path.read_bytes(), torch.load(path, weights_only=True)
    weights = max(state["module"].values(), key=torch.Tensor.numel)
    for tensor in (weights, state["optimizer"]["state"][0]["exp_avg"]):
        place = data.find(tensor.numpy().tobytes())
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(TrainingError, match=r"state\.pt is damaged"):
            train_model(name, CPU)
    path.write_bytes(data)
    assert train_model(name, CPU) is not None


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"accelerator": "warp"}, "unknown device 'warp'"),
        ({"devices": 9999}, "--devices 9999: this machine can have"),
    ],
)
def test_devices_that_are_not_there_are_refused(options: dict[str, Any], said: str) -> None:
    name = model("mine", "vae-debug", {"steps": 2, "objective": {"seconds": 0.64}})
    with pytest.raises(InputError, match=said):
        train_model(name, replace(CPU, **options))


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [lines[0], lines[1].replace(b"0.5", b"0.4"), *lines[2:]],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [b'{"step": 1, "processor_seconds": 1.0, "loss": "x"}', *lines[1:]],
        lambda lines: [b'{"step": 1, "processor_seconds": 1.0, "validation": 7}', *lines[1:]],
        lambda lines: [b'{"step": 1}', *lines[1:]],
    ],
)
def test_a_log_line_that_is_not_what_was_written_is_named(
    tmp_path: Path, damage: Callable[[list[bytes]], list[bytes]]
) -> None:
    log = RunLog(tmp_path)
    for step in range(1, 5):
        log.add(step, {"processor_seconds": 1.0, "loss": 0.5})
    assert [record["step"] for record in log.records()] == [1, 2, 3, 4]
    lines = damage(log.path.read_bytes().splitlines())
    log.path.write_bytes(b"".join(line + b"\n" for line in lines))
    with pytest.raises(TrainingError, match=r"log\.jsonl:[12] is damaged"):
        log.records()


def test_a_log_goes_on_after_it_was_cut_and_after_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "processor_seconds": 1.0, "loss": 2.0}\n')
    for start in (2, 4):
        log = RunLog(tmp_path)
        log.cut(start - 1)
        for step in range(start, start + 4):
            log.add(step, {"processor_seconds": 1.0, "loss": 0.5})
    assert [record["step"] for record in RunLog(tmp_path).records()] == [*range(1, 8)]


@pytest.mark.usefixtures("corpus")
def test_what_was_logged_before_anything_was_saved_is_not_logged_twice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def killed(_: Trainer) -> None:
        raise KeyboardInterrupt

    name = model("mine", "vae-debug", {"steps": 2, "objective": {"seconds": 0.64}})
    with monkeypatch.context() as broken:
        broken.setattr(Trainer, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train_model(name, CPU)
    assert [line["step"] for line in read_log(name)] == [1]
    train_model(name, CPU)
    assert [line["step"] for line in read_log(name)] == [1, 2, 2]  # the last is the validation
    assert sum("the training begins anew" in message for message in caplog.messages) == 1


def test_a_rank_that_has_ended_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    monkeypatch.setattr(module, "tells_of_loss", lambda error: "reset" in str(error))
    with pytest.raises(RuntimeError, match="reset by peer"), module._others(fabric):
        raise RuntimeError("reset by peer")
    monkeypatch.setattr(Fabric, "world_size", 2)
    with pytest.raises(BenchError, match="another rank has ended"), module._others(fabric):
        raise RuntimeError("reset by peer")
    with pytest.raises(RuntimeError, match="shapes"), module._others(fabric):
        raise RuntimeError("shapes do not fit")


@pytest.mark.usefixtures("corpus")
def test_a_log_that_has_lost_its_end_is_named_and_one_that_was_deleted_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = model("mine", "vae-debug", {"steps": 3, "objective": {"seconds": 0.64}})
    train_model(name, replace(CPU, until=2))
    path = paths.home() / "training" / name / "log.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TrainingError, match=r"log\.jsonl has 1 of 2 lines: restore it, delete"):
        train_model(name, CPU)
    path.unlink()
    train_model(name, CPU)
    assert f"{path} is gone: going on without its losses" in caplog.messages
    assert [line["step"] for line in read_log(name)] == [3, 3]


def test_the_text_loss_ends_with_the_recording(corpus: Path) -> None:
    config, _ = load_model_config("calm-debug")
    recipe = TrainingConfig(corpus="tones", steps=1, batch_size=1, learning_rate=1e-3)
    objective = build_objective(config, recipe, "here")
    assert isinstance(objective, LanguageObjective)
    whole, short = 20, 12
    text = torch.randint(258, (2, whole + objective.system.lead))
    text[:, short + objective.system.lead :] = PAD
    z = torch.randn(*text.shape, objective.system.config.backbone.dim)
    mask = torch.arange(whole).expand(2, whole) < short
    cut = (part[:, : short + objective.system.lead] for part in (z, text))
    torch.testing.assert_close(
        objective.text_loss(z, text, mask), objective.text_loss(*cut, mask[:, :short])
    )
