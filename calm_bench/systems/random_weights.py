"""Systems of any size with random weights, straight in the precision they will run at.

Time does not depend on the values of weights, so a paper-scale model needs none to be timed. Its
shapes are built without memory (on the meta device), then filled: the 2.2B speech model never
exists in float32.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from calm_bench.types import Precision

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


BLOCK = 4_194_301
"""Numbers drawn, and repeated over all matrices: drawing billions would take minutes. A prime, so
that no two rows of a matrix are the same."""


def fill_at_random(
    module: nn.Module, seed: int, device: str, precision: Precision, exact: tuple[str, ...]
) -> None:
    """Give every parameter that has none its values, drawn from the seed.

    Args:
        module: With parameters on the meta device.
        seed: Decides the values.
        device: Where they go.
        precision: Matrices are made in bfloat16 if they will be packed for fewer than 32 bits.
        exact: Beginnings of the names of matrices that are float32 at every precision.
    """
    generator = torch.Generator(device).manual_seed(seed)
    narrow = torch.float32 if precision == "fp32" else torch.bfloat16
    block = torch.randn(BLOCK, generator=generator, device=device)
    used = 0
    for prefix, part in module.named_modules():
        for name, parameter in list(part.named_parameters(prefix, recurse=False)):
            if not parameter.is_meta:
                continue
            wide = parameter.ndim < 2 or name.startswith(exact)
            dtype = torch.float32 if wide else narrow
            if parameter.ndim < 2:
                values = torch.zeros if name.endswith("bias") else torch.ones
                filled = values(parameter.shape, dtype=dtype, device=device)
            else:
                scaled = (block.roll(-used) * parameter.shape[-1] ** -0.5).to(dtype)
                filled = _repeated(scaled, parameter.shape)
                used = (used + parameter.numel()) % BLOCK
            own = name.removeprefix(prefix).removeprefix(".")
            setattr(part, own, nn.Parameter(filled, requires_grad=False))


def _repeated(block: Tensor, shape: torch.Size) -> Tensor:
    """A tensor of this shape that holds the block again and again."""
    filled = block.new_empty(shape)
    flat = filled.view(-1)
    for start in range(0, len(flat), len(block)):
        part = flat[start : start + len(block)]
        part.copy_(block[: len(part)])
    return filled
