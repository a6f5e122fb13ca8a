"""Training a text model on the texts of a corpus, and what starts from one.

B batch, T tokens. The paper's text model, Helium, has read far more than its speech corpus
says. Here `stories` adds texts of our grammar that nobody speaks; none of them is a held-out one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from calm_bench.data.corpus import Item, Split, card_of, read_manifest
from calm_bench.data.folder import folder_command
from calm_bench.data.speech import Speech
from calm_bench.data.stories import more_texts
from calm_bench.errors import InputError
from calm_bench.seeds import content_hash
from calm_bench.systems.streaming import StreamingSystem
from calm_bench.systems.text import TextModel, load_text_model, text_logits
from calm_bench.training.objective import Objective, StepLoss, TrainingConfig, step_rng
from calm_bench.types import StrictModel

NONE = -100  # beyond a text's end: no token is expected
VALIDATION_BATCH = 32


class TextTraining(StrictModel):
    """What a text model reads.

    Attributes:
        tokens: Length of a row: a text whole, or a stretch of a longer one.
        stories: How many stories are told beside the corpus's training texts.
    """

    tokens: int = Field(default=128, gt=0, le=100_000)
    stories: int = Field(default=0, ge=0, le=10_000_000)


def text_of(item: Item, *, timed: bool = False) -> str:
    """What a recording says; empty where that is unknown, or has no times and needs them."""
    if item.words:
        return " ".join(word for word, _, _ in item.words)
    return "" if timed else item.text or ""


def texts_of(corpus: Path, split: Split, *, timed: bool = False) -> list[str]:
    """The texts of one split of a corpus, or those whose words are timed.

    Raises:
        InputError: If it has none.
    """
    items = [item for item in read_manifest(corpus) if item.split == split]
    texts = [text for item in items if (text := text_of(item, timed=timed))]
    if not texts:
        what = "timed words" if timed else "texts"
        heard = "a list that has them"
        if card_of(corpus).kind == "folder":
            heard = f"`{folder_command(corpus, transcribe='faster-whisper')}`"
        raise InputError(f"the {split} recordings of {corpus} have no {what}: {heard} gives them")
    return texts


def training_texts(corpus: Path, config: TextTraining, seed: int) -> list[str]:
    """A corpus's training texts, then stories that are no text of its other splits or of ours."""
    every = [text_of(item) for item in read_manifest(corpus)]
    known = {*every, *(story.text for story in Speech().stories())} if config.stories else set()
    return [*texts_of(corpus, "train"), *more_texts(config.stories, seed, known)]


class TokenTexts:
    """Texts as tokens, cut into rows on demand."""

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer) -> None:
        """Encode every text once, as the text stream does: a space before each word."""
        spaced = [" " + " ".join(text.split()) for text in texts]
        self.rows = [np.array(one.ids, np.int64) for one in tokenizer.encode_batch(spaced)]
        self.lengths = np.array([len(row) for row in self.rows])
        self.content_hash = content_hash(list(texts))

    def crops(self, picks: NDArray[Any], starts: NDArray[Any], length: int) -> Tensor:
        """Tokens [B, T] of texts from these starts on, NONE beyond their ends."""
        tokens = np.full((len(picks), length), NONE, np.int64)
        for row, (pick, start) in enumerate(zip(picks, starts, strict=True)):
            piece = self.rows[int(pick)][start : start + length]
            tokens[row, : len(piece)] = piece
        return torch.from_numpy(tokens)


def plain_text_loss(
    model: TextModel | StreamingSystem, texts: TokenTexts, length: int = 128
) -> float:
    """Mean cross-entropy of the beginnings of texts, each token counting alike."""
    every, device = np.arange(len(texts.rows)), model.text_table.weight.device
    total = counted = 0.0
    for first in range(0, len(every), VALIDATION_BATCH):
        picks = every[first : first + VALIDATION_BATCH]
        tokens = texts.crops(picks, np.zeros_like(picks), length).to(device)
        n = int((tokens != NONE).sum())
        total, counted = total + n * float(_loss(model, tokens).detach()), counted + n
    return total / counted


def _loss(model: TextModel | StreamingSystem, tokens: Tensor) -> Tensor:
    logits = text_logits(model, tokens.clamp_min(0)).float()
    return F.cross_entropy(logits.transpose(1, 2), tokens, ignore_index=NONE)


class TextObjective(Objective):
    """Next-token prediction."""

    def __init__(
        self,
        model: TextModel,
        config: TextTraining,
        recipe: TrainingConfig,
        splits: tuple[TokenTexts, TokenTexts],
    ) -> None:
        self.module = self.model = model
        self.config, self.recipe = config, recipe
        self.train, self.validation = splits

    def batch(self, step: int, size: int) -> Mapping[str, Tensor]:
        """Stretches of texts drawn by length; a text that fits is read from its first token."""
        rng = step_rng(self.recipe.seed, step, "texts")
        lengths = self.train.lengths
        picks = rng.choice(len(lengths), size, p=lengths / lengths.sum())
        free = np.maximum(0, lengths[picks] - self.config.tokens)
        starts = (rng.random(size) * (free + 1)).astype(int)
        return {"tokens": self.train.crops(picks, starts, self.config.tokens)}

    def loss(self, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        return StepLoss(_loss(self.model, batch["tokens"]), {})

    def validate(self) -> dict[str, float]:
        """The loss on the beginning of every held-out text."""
        return {"loss": plain_text_loss(self.model, self.validation, self.config.tokens)}

    def export(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())

    def facts(self) -> dict[str, Any]:
        return {
            "texts": len(self.train.rows),
            "of_these_beside_the_corpus": self.config.stories,
            "tokens": int(self.train.lengths.sum()),
            "text_hash": self.train.content_hash,
        }


def start_from(system: StreamingSystem, name: str, where: str) -> tuple[str, tuple[str, ...]]:
    """Give a system the backbone and the text tables of a trained text model.

    Returns:
        What it started from, with the weights' hash; and the names of the parameters it was given.

    Raises:
        InputError: If one does not fit the other.
        WeightsError: If the model has no weights.
    """
    model, sha256 = load_text_model(name)
    if misfit := _misfit(system, model):
        raise InputError(f"{where}: training.start_from: {name} has another {misfit}")
    given = model.state_dict()
    system.load_state_dict({**system.state_dict(), **given})
    return f"{name}, weights {sha256[:12]}", tuple(given)


def _misfit(system: StreamingSystem, model: TextModel) -> str | None:
    """What of a text model does not fit a system; dropout may differ."""
    own, its = system.backbone.config, model.config.backbone
    for field in type(own).model_fields.keys() - {"dropout"}:
        if getattr(own, field) != getattr(its, field):
            return f"backbone: {field} {getattr(its, field)}, not {getattr(own, field)}"
    if system.text_size != model.config.text.vocab_size:
        return f"vocabulary: {model.config.text.vocab_size} tokens, not {system.text_size or 0}"
    assert system.text_stream is not None
    if system.text_stream.tokenizer.to_str() != model.tokenizer.to_str():
        return "tokenizer"
    return None
