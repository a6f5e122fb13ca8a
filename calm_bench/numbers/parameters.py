"""How many parameters the parts of a model have, counted from the shapes in its config.yaml.

Matrices without biases, but in the head; RMSNorm has a scale. Source of the shapes: the paper's
table of models; where it leaves one open, the models' cards say which was taken.
"""

from collections.abc import Mapping
from typing import Any

from calm_bench.config import load_model_config

PARTS = ("backbone", "short_context", "head", "depth")


def parameters(model: str, part: str) -> int | None:
    """The parameters of one of `PARTS` of a model; None if it has none.

    Raises:
        UnknownNameError: If there is no such model.
    """
    shapes = load_model_config(model)[0].architecture
    if part == "backbone":
        vocabulary = shapes["text"]["vocab_size"] if "text" in shapes else None
        tables = 0 if vocabulary is None else (2 * vocabulary + 1) * shapes["backbone"]["dim"]
        return _transformer(shapes["backbone"]) + tables
    if part == "short_context" and "short_context" in shapes:
        return _transformer(shapes["short_context"]["transformer"])
    if part == "head" and "head" in shapes:
        sizes = shapes["head"], shapes["latent_channels"], shapes["backbone"]["dim"]
        return _head(*sizes)
    if part == "depth" and "depth" in shapes:
        return _depth(shapes)
    return None


def _transformer(shape: Mapping[str, Any]) -> int:
    d, layers = int(shape["dim"]), int(shape["layers"])
    products = 3 if shape.get("gated") else 2
    return layers * (4 * d * d + products * d * int(shape["mlp_dim"])) + (2 * layers + 1) * d


def _head(shape: Mapping[str, Any], channels: int, condition: int) -> int:
    """MAR's SimpleMLPAdaLN with one embedder of 256 time features, which ends in RMSNorm."""
    w, blocks = int(shape["width"]), int(shape["blocks"])
    inputs = channels * w + w + condition * w + w
    time = 256 * w + w + w * w + w + w
    modulated = blocks * (5 * w * w + 7 * w) + 2 * w * w + 2 * w
    return inputs + time + modulated + w * channels + channels


def _depth(shapes: Mapping[str, Any]) -> int:
    """A depth transformer with its input matrices, tables of codes and text, and outputs."""
    depth, levels = shapes["depth"], len(shapes["depth"]["schedule"])
    d, layers, size = int(depth["dim"]), int(depth["layers"]), int(shapes["codebook_size"])
    one = layers * (4 * d * d + 3 * d * int(depth["mlp_dim"])) + shapes["backbone"]["dim"] * d
    weights = len(set(depth["schedule"])) * int(one)
    text = (int(shapes["text"]["vocab_size"]) + 1) * d if "text" in shapes else 0
    return weights + 2 * layers * d + text + levels * (2 * size + 1) * d
