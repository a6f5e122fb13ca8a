"""What cannot be trained is refused before anything is built or allocated, in one line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from calm_bench.codecs.checkpoints import build_module, refuse_too_large, shape_of
from calm_bench.config import load_model_config, parse
from calm_bench.core import device
from calm_bench.errors import InputError, MachineError
from calm_bench.systems.loading import build_system, load_codec
from calm_bench.training.objective import TrainingConfig


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
    like: str,
    change: str,
    value: Any,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
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
