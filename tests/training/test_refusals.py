"""What cannot be trained is refused before anything is built or allocated, in one line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import yaml
from clips import lay_corpus

from calm_bench.codecs.checkpoints import build_module, refuse_too_large, shape_of
from calm_bench.config import Models, is_shipped, load_model_config, parse
from calm_bench.core import device
from calm_bench.data.corpus import low_rates, read_manifest
from calm_bench.errors import BenchError, InputError, MachineError, WeightsError
from calm_bench.systems.loading import build_system, load_codec, load_system
from calm_bench.training.objective import TrainingConfig
from calm_bench.training.train import TrainOptions, train_model, write_weights


def changed(like: str, change: str, value: Any) -> Path:
    """A model folder with one field of another's config changed, by its path with dots."""
    config, _ = load_model_config(like)
    data = config.model_dump(mode="json", exclude_none=True)
    part = data
    *way, last = change.split(".")
    for name in way:
        part = part[name]
    part[last] = value
    folder = Path("models") / "changed"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    return folder


NO_SHAPES: dict[str, dict[str, list[Any]]] = {
    "calm-debug": {
        "seed": [2**64, -1],
        "architecture.backbone.dim": [0, -16],
        "architecture.backbone.heads": [3, 16],
        "architecture.backbone.layers": [10**9],
        "architecture.backbone.mlp_dim": [10**12],
        "architecture.backbone.rope_base": [0],
        "architecture.head.width": [0],
        "architecture.text.lead": [10**9],
        "architecture.text.vocab_size": [0],
        "architecture.text.tokenizer": ["../../secret.json"],
    },
    "rq-debug": {"architecture.depth.schedule": [[], [0, 10**9]], "architecture.depth.heads": [5]},
    "musicgen-debug": {"architecture.delays": [[10**9]]},
    "rvq-debug": {"architecture.n_codebooks": [0], "architecture.codebook_size": [2**40]},
    "vae-debug": {
        "architecture.trunk.ratios": [[0]],
        "architecture.trunk.encoder_dims": [[8]],
        "architecture.trunk.sample_rate": [0],
        "architecture.trunk.expansion": [0],
    },
}


@pytest.mark.parametrize(
    ("like", "change", "value"),
    [(like, k, v) for like, changes in NO_SHAPES.items() for k, vs in changes.items() for v in vs],
)
def test_a_shape_that_cannot_be_is_refused_when_it_is_read(
    like: str, change: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = changed(like, change, value)
    with pytest.raises(InputError) as caught:
        shape_of(*load_model_config(str(folder)))
    assert "config.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("like", "change", "value", "said"),
    [
        ("calm-debug", "architecture.latent_channels", 5, "do not fit the codec, which has 4"),
        ("calm-debug", "architecture.text.vocab_size", 100, "has 258 tokens, more than"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused_when_they_are_built(
    like: str, change: str, value: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, folder = load_model_config(str(changed(like, change, value)))
    with pytest.raises(InputError, match=said):
        build_system(config, folder, load_codec("vae-debug"))


def test_a_model_that_cannot_fit_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = changed("calm-debug", "architecture.backbone.layers", 1000)
    config, _ = load_model_config(str(folder))
    monkeypatch.setattr(device, "memory_of", lambda _: 5 * 10**6)
    with pytest.raises(MachineError) as caught:
        build_module(config, folder, codec=None)
    numbers = 1000 * 16 * (4 * 16 + 2 * 32) + 5 * 16**2 + 2 * 258 * 16
    assert f"{numbers:,} parameters at least: to load it takes" in str(caught.value)
    assert f"{4 * numbers / 1e9:,.1f} GB of memory at least, and cpu has 0.0" in str(caught.value)
    monkeypatch.setattr(device, "memory_of", lambda _: 19 * numbers)
    refuse_too_large(config, folder)
    with pytest.raises(MachineError, match="to train it takes"):
        refuse_too_large(config, folder, each=20, doing="train")


def test_no_shipped_shape_is_larger_than_what_is_built_of_it() -> None:
    for name in ("calm-debug", "rq-debug", "musicgen-debug", "vae-debug", "rvq-debug"):
        config, folder = load_model_config(name)
        parts = {"codec": load_codec(str(config.codec))} if config.codec else {}
        module = build_module(config, folder, **parts)
        tensors: Mapping[str, torch.Tensor] = module.state_dict()
        built = sum(t.numel() for key, t in tensors.items() if not key.startswith("codec."))
        assert 0 < shape_of(config, folder)[1].numbers <= built


RECIPE = {"corpus": "tones", "steps": 8, "batch_size": 2, "learning_rate": 1e-3}


NO_RECIPES: dict[str, list[Any]] = {"learning_rate": [float("nan"), float("inf")]}
NO_RECIPES |= {"steps": [10**30], "batch_size": [10**12], "seed": [-1, 2**63], "corpus": [""]}
NO_RECIPES |= {"log_every": [0], "validate_every": [0], "warmup": [-1], "precision": ["fp3"]}
NO_RECIPES |= {"betas": [[0.9, 1.0]], "ema": [2.0], "clip": [0.0]}


@pytest.mark.parametrize(("field", "value"), [(k, v) for k, vs in NO_RECIPES.items() for v in vs])
def test_a_recipe_that_cannot_be_is_refused(field: str, value: Any) -> None:
    parse(TrainingConfig, RECIPE, "config.yaml: training")
    with pytest.raises(InputError, match=f"config.yaml: training: {field}"):
        parse(TrainingConfig, {**RECIPE, field: value}, "config.yaml: training")


def own_model(folder: Path, like: str, **changes: Any) -> None:
    """A model folder, and an empty file in the place of weights that it names."""
    config, _ = load_model_config(like)
    data = config.model_dump(mode="json", exclude_none=True) | changes
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    if "weights" in data:
        (folder / "weights.safetensors").touch()


@pytest.fixture
def tones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder: a corpus of tones without words at 8 kHz, and recordings beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALM_BENCH_HOME", str(tmp_path / "home"))
    Path("recordings").mkdir()
    waves = [np.random.default_rng(n).normal(0, 0.1, 8000).astype(np.float32) for n in range(2)]
    splits = ("train", "validation")
    told = [(f"t{n}", splits[n], wave, {}) for n, wave in enumerate(waves)]
    return lay_corpus(Path("my-corpus"), 8000, told)


RECIPE = {"corpus": "my-corpus", "steps": 1, "batch_size": 1, "learning_rate": 0.1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"corpus": "my-corpsu"},
            r"did you mean my-corpus\? .*data folder RECORDINGS --out my-cor",
        ),
        ({"corpus": "recordings"}, r"no corpus: `calm-bench data folder recordings --out CORPUS`"),
        ({"corpus": "music"}, r"no corpus 'music' here .*`calm-bench data music` makes it"),
        ({}, r"no timed words: `calm-bench data folder RECORDINGS .* --transcribe faster-whisper`"),
        ({"codec": "my-vea"}, r"unknown model 'my-vea'; did you mean my-vae"),
        ({"codec": "new"}, r"its codec new has random weights: `calm-bench train new` comes first"),
    ],
)
def test_what_is_missing_is_one_line_with_the_command_that_comes_next(
    tones: Path, changes: dict[str, str], said: str
) -> None:
    own_model(Path("models/my-vae"), "vae-debug")
    own_model(Path("models/new"), "vae-debug", training=RECIPE)
    text = {"vocab_size": 300, "lead": 2, "tokenizer": "tokenizer.json"}
    shapes = {**load_model_config("calm-debug")[0].architecture, "text": text}
    recipe = {**RECIPE, **{k: v for k, v in changes.items() if k == "corpus"}}
    codec = changes.get("codec", "my-vae")
    own_model(Path("models/mine"), "calm-debug", codec=codec, architecture=shapes, training=recipe)
    with pytest.raises(BenchError, match=said) as caught:
        train_model("mine", TrainOptions(accelerator="cpu"))
    assert "\n" not in str(caught.value)


def test_a_system_that_heard_other_codec_weights_is_refused(tones: Path) -> None:
    weights = [{"sha256": name * 64} for name in "ab"]
    own_model(Path("models/my-vae"), "vae-debug", weights=weights[0])
    heard = {**weights[1], "codec": "c" * 64}
    own_model(Path("models/mine"), "calm-debug", codec="my-vae", weights=heard)
    with pytest.raises(WeightsError, match="`calm-bench train mine --fresh` trains it on these"):
        Models().identity("mine", "system")


def forgotten(name: str, like: str) -> tuple[Path, str]:
    """A model whose config.yaml has lost the name of its weights, and what it said of them."""
    config, _ = load_model_config(like)
    module = load_codec(like) if config.kind == "codec" else load_system(like)
    folder = Path("models") / name
    write_weights(folder, config, module.state_dict())
    data = yaml.safe_load((folder / "config.yaml").read_text())
    named = data.pop("weights")
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    return folder, f"weights: {{file: {named['file']}, sha256: {named['sha256']}}}"


@pytest.mark.usefixtures("tones")
@pytest.mark.parametrize(("like", "kind"), [("vae-debug", "codec"), ("calm-debug", "system")])
def test_weights_that_no_config_names_are_not_replaced_by_random_ones(
    like: str, kind: Literal["codec", "system"]
) -> None:
    load = load_codec if kind == "codec" else load_system
    folder, lost = forgotten("mine", like)
    for use in (lambda: Models().identity("mine", kind), lambda: load("mine")):
        with pytest.raises(WeightsError, match="names no weights, and weights-") as caught:
            use()
        assert f"`{lost}`" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert load("mine", random_weights=True).card.weights_sha256 is None
    with (folder / "config.yaml").open("a") as file:
        file.write(f"{lost}\n")
    assert Models().identity("mine", kind)
    assert load("mine").card.weights_sha256 in lost


@pytest.mark.usefixtures("tones")
def test_a_codec_that_lost_the_name_of_its_weights_teaches_no_system() -> None:
    forgotten("my-vae", "vae-debug")
    own_model(Path("models/mine"), "calm-debug", codec="my-vae", training=RECIPE)
    with pytest.raises(WeightsError, match="lies beside it: name them"):
        train_model("mine", TrainOptions(accelerator="cpu"))


@pytest.mark.usefixtures("tones")
def test_a_model_that_is_trained_needs_no_name_of_its_weights() -> None:
    folder, lost = forgotten("my-vae", "vae-debug")
    with (folder / "config.yaml").open("a") as file:
        file.write(yaml.safe_dump({"training": {**RECIPE, "objective": {"seconds": 0.64}}}))
    train_model("my-vae", TrainOptions(accelerator="cpu", threads=1))
    config, _ = load_model_config("my-vae")
    assert config.weights is not None
    assert config.weights.sha256 not in lost
    assert load_codec("my-vae").card.weights_sha256 == config.weights.sha256


def test_recordings_below_the_models_rate_are_counted(tones: Path) -> None:
    note = low_rates(read_manifest(tones), 16000)
    assert note is not None
    assert note.startswith("2 of 2 recordings have fewer than 16000 samples a second (8000 the")
    assert note.endswith("nothing above 4 kHz")
    assert low_rates(read_manifest(tones), 8000) is None


def test_a_readers_model_in_the_checkout_is_not_one_of_ours() -> None:
    config, folder = load_model_config("vae-speech-tiny")
    assert is_shipped(config, folder)
    assert is_shipped(*load_model_config("calm-debug"))
    own = config.model_copy(update={"training": {**config.training, "corpus": "my-corpus"}})
    assert not is_shipped(own, folder.parent / "my-vae")
