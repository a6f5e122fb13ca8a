"""A system's configuration to the objective that trains it."""

from pathlib import Path

from calm_bench.codecs.loading import load_codec
from calm_bench.config import ModelConfig, parse
from calm_bench.data.shards import prepare
from calm_bench.errors import InputError
from calm_bench.systems.calm import CalmSystem
from calm_bench.systems.loading import build_system
from calm_bench.systems.musicgen import MusicGenSystem
from calm_bench.systems.rq import RqSystem
from calm_bench.systems.text import train_tokenizer
from calm_bench.training.calm import CalmObjective, FlowObjective
from calm_bench.training.frames import frame_split
from calm_bench.training.language import LanguageObjective, LanguageTraining
from calm_bench.training.recipe import TrainingConfig
from calm_bench.training.tokens import MusicGenObjective, RqObjective


def _ensure_tokenizer(config: ModelConfig, folder: Path, corpus: Path) -> None:
    text = config.architecture.get("text") or {}
    name = text.get("tokenizer")
    if name is None or (folder / name).is_file():
        return
    shards = prepare(corpus, load_codec(str(config.codec)).sample_rate, "train")
    texts = [" ".join(w.word for w in item.words) for item in shards.items if item.words]
    if not texts:
        raise InputError(
            f"{corpus} has no words: a system with a text stream cannot be trained on it"
        )
    tokenizer = train_tokenizer(texts, text["vocab_size"])
    tokenizer.save(str(folder / name))


def build_language_objective(
    config: ModelConfig, recipe: TrainingConfig, where: str, corpus: Path
) -> LanguageObjective:
    """The objective of a system: frames encoded by its codec, tokenizer made if there is none."""
    folder = Path(where).parent
    _ensure_tokenizer(config, folder, corpus)
    system = build_system(config, folder, load_codec(str(config.codec)))
    extra = parse(LanguageTraining, recipe.objective, f"{where}: training.objective")
    objective = objective_of(system)
    if objective is None:
        raise InputError(
            f"{where}: there is no training objective for systems of type {config.type!r}"
        )
    codec = str(config.codec)
    train = frame_split(corpus, "train", codec, system)
    return objective(
        system, extra, recipe, (train, frame_split(corpus, "validation", codec, system))
    )


def objective_of(system: object) -> type[LanguageObjective] | None:
    """The objective for a system's head."""
    if isinstance(system, CalmSystem):
        return FlowObjective if system.config.sampler == "trigflow" else CalmObjective
    if isinstance(system, RqSystem):
        return RqObjective
    return MusicGenObjective if isinstance(system, MusicGenSystem) else None
