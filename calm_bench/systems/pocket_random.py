"""Pocket TTS in any of its shapes with random weights: no network, and no files that stay."""

import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

END_THRESHOLD = 1e9  # no clip ends before its time


def shipped_names() -> list[str]:
    """The package's configurations."""
    import pocket_tts

    folder = Path(pocket_tts.__file__).parent / "config"
    return sorted(path.stem for path in folder.glob("*.yaml"))


def shipped_config(name: str) -> dict[str, Any]:
    """A shipped configuration of the package without weights, tokenizer path left open."""
    import pocket_tts

    path = Path(pocket_tts.__file__).parent / "config" / f"{name}.yaml"
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["weights_path"] = config["weights_path_without_voice_cloning"] = None
    return config


def at_random(config: dict[str, Any], *, quantize: bool = False) -> Any:
    """The package's TTSModel with random weights: no network, no files that stay.

    Args:
        config: As `shipped_config` gives it, shapes changed at will.
        quantize: Its own int8 mode: dynamic linears in attention and MLP of the backbone.
    """
    from pocket_tts import TTSModel

    with tempfile.TemporaryDirectory() as folder:
        table = config["flow_lm"]["lookup_table"]
        table["tokenizer"] = "tokenizers"
        table["tokenizer_path"] = _tokenizer(Path(folder) / "tokenizer.json", table["n_bins"])
        path = Path(folder) / "model.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        threads = torch.get_num_threads()
        logging.getLogger("pocket_tts").setLevel(logging.ERROR)  # random weights are on purpose
        model = TTSModel.load_model(config=path, eos_threshold=END_THRESHOLD, quantize=quantize)
        torch.set_num_threads(threads)  # importing the package sets one
    return model.requires_grad_(False).eval()


def _tokenizer(path: Path, size: int) -> str:
    """A tokenizer of letters and as many made-up words as the package's table has rows."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<unk>", *map(chr, range(32, 127))]
    words = [*words, *(f"w{i}" for i in range(size))][:size]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(path))
    return str(path)
