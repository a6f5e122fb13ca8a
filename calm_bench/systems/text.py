"""A language model of text alone: what the common backbone can be before it meets audio.

B batch, T tokens, D width, V vocabulary. The paper's speech backbone begins as Helium, trained on
text, and then meets Moshi's two streams. So here: next-token prediction on plain text, without the
padding that lays words on a time axis. Its parameters are called as in `StreamingSystem`, which
copies them (`start_from`); audio then comes as one more summand of the backbone's input.
"""

from pathlib import Path
from typing import ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from calm_bench.codecs.checkpoints import build_module, fill_weights
from calm_bench.config import load_model_config, refuse_unnamed_weights
from calm_bench.errors import InputError, WeightsError
from calm_bench.nn.transformer import Transformer, TransformerConfig
from calm_bench.systems.monologue import SPECIALS, load_tokenizer
from calm_bench.systems.streaming import StreamingSystem, Vocabulary, text_layers, text_numbers
from calm_bench.types import Shape, StrictModel


def text_logits(model: "TextModel | StreamingSystem", tokens: Tensor) -> Tensor:
    """Logits [B, T, V] of plain text [B, T], each token's from those before it; no PAD, no EPAD.

    A system reads it without audio.
    """
    bos = tokens.new_full((len(tokens), 1), model.text_table.num_embeddings - 1)
    x = model.text_table(torch.cat([bos, tokens[:, :-1]], dim=1))
    logits: Tensor = model.text_head(model.backbone(x))
    logits[..., : len(SPECIALS)] = -torch.inf
    return logits


class TextModelConfig(Shape):
    """The backbone, and the text that it reads."""

    backbone: TransformerConfig
    text: Vocabulary

    @property
    def own_numbers(self) -> int:
        return text_numbers(self.text, self.backbone)


class TextModel(nn.Module):
    """A backbone between the tables of a text stream."""

    Architecture: ClassVar[type[StrictModel]] = TextModelConfig

    def __init__(self, config: TextModelConfig, folder: Path) -> None:
        """Build the shapes; the tokenizer file lies in the model's `folder`.

        Raises:
            InputError: If the config names none, or one of more tokens.
            WeightsError: If it cannot be read.
        """
        super().__init__()
        if config.text.tokenizer is None:
            raise InputError(f"{folder / 'config.yaml'}: architecture.text.tokenizer: name a file")
        self.config = config
        path = folder / config.text.tokenizer
        self.tokenizer: Tokenizer = load_tokenizer(path)
        if (tokens := self.tokenizer.get_vocab_size()) > config.text.vocab_size:
            raise InputError(
                f"{path} has {tokens} tokens, more than the vocab_size {config.text.vocab_size} "
                f"of {folder / 'config.yaml'}"
            )
        self.backbone = Transformer(config.backbone)
        layers = text_layers(config.text.vocab_size, config.backbone.dim)
        self.text_table, self.text_head = layers

    def forward(self, tokens: Tensor) -> Tensor:
        """`text_logits` of tokens [B, T]."""
        return text_logits(self, tokens)


def load_text_model(name: str) -> tuple[TextModel, str]:
    """A trained text model by name or folder, and the sha256 of its weights.

    Raises:
        UnknownNameError: If there is no such model.
        InputError: If it is a model of another kind.
        WeightsError: If its weights are not there or cannot be used.
    """
    config, folder = load_model_config(name)
    if config.kind != "text":
        raise InputError(f"{name} is a {config.kind}; a text model is needed here")
    refuse_unnamed_weights(config, folder)
    if config.weights is None:
        raise WeightsError(f"{name} has no weights: calm-bench train {name} makes them")
    model: TextModel = build_module(config, folder, folder=folder)
    sha256 = fill_weights(model, config, folder)
    assert sha256 is not None
    return model, sha256
