"""Text models: what they read, what they learn, and what starts from one."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from calm_bench.codecs.checkpoints import load_codec
from calm_bench.config import load_model_config
from calm_bench.core import paths
from calm_bench.data.speech import Speech
from calm_bench.errors import InputError, WeightsError
from calm_bench.store.curves import read_curve
from calm_bench.systems.loading import build_system
from calm_bench.systems.monologue import train_tokenizer
from calm_bench.systems.streaming import StreamingSystem
from calm_bench.systems.text import TextModel, TextModelConfig, load_text_model, text_logits
from calm_bench.training.curve import STRETCHES
from calm_bench.training.loop import RunLog
from calm_bench.training.objective import TrainingConfig
from calm_bench.training.text import (
    NONE,
    TextObjective,
    TextTraining,
    TokenTexts,
    start_from,
    training_texts,
)
from calm_bench.training.train import TrainOptions, build_objective, train_model, write_weights

CPU = TrainOptions(accelerator="cpu", threads=1)
BACKBONE = {"dim": 32, "layers": 2, "heads": 4, "mlp_dim": 64}
TEXT = {"vocab_size": 300, "tokenizer": "tokenizer.json"}
CLOSE = {"atol": 2e-2, "rtol": 1e-2}  # weights are kept as float16
TALES = ["a cat saw a dog", "a dog saw a cat", "the cat ran", "the dog ran"]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of texts whose recordings do not exist, under a data home of its own."""
    monkeypatch.setenv("CALM_BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = paths.home() / "data" / "tales"
    folder.mkdir(parents=True)
    silent = {"audio": "none.flac", "sample_rate": 1600, "channels": 1, "seconds": 3.0}
    lines = [
        {**silent, "id": f"t{n}", "split": "train", "sha256": "0", "text": text}
        for n, text in enumerate([*TALES, "a cat ran"])
    ]
    lines[-1]["split"] = "validation"
    (folder / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def text_model(name: str, **training: Any) -> Path:
    recipe = {"corpus": "tales", "steps": 8, "batch_size": 4, "learning_rate": 3e-3, "warmup": 2}
    recipe |= {"precision": "32-true", "log_every": 1, "objective": {"tokens": 6}}
    data = {
        "kind": "text",
        "type": "transformer",
        "description": "a text model",
        "architecture": {"backbone": BACKBONE, "text": TEXT},
        "training": recipe | training,
    }
    folder = Path("models") / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    return folder


def built(folder: Path) -> TextObjective:
    config, _ = load_model_config(str(folder))
    recipe = TrainingConfig.model_validate(config.training)
    objective = build_objective(config, recipe, str(folder / "config.yaml"))
    assert isinstance(objective, TextObjective)
    return objective


def untrained(folder: Path) -> TextModel:
    """A text model with its drawn weights as if they had been trained."""
    objective = built(folder)
    config, _ = load_model_config(str(folder))
    write_weights(folder, config, objective.export())
    return objective.model


def rq(folder: Path, text: Mapping[str, Any] = TEXT, **backbone: Any) -> StreamingSystem:
    config, _ = load_model_config("rq-debug")
    shape = {"backbone": BACKBONE | backbone, "text": dict(text)}
    config = config.model_copy(update={"architecture": config.architecture | shape})
    system = build_system(config, folder, load_codec("rvq-debug"))
    assert isinstance(system, StreamingSystem)
    return system


def test_a_resumed_training_takes_the_same_steps_and_reports_its_cost(corpus: Path) -> None:
    text_model("whole"), text_model("parts")
    folder = train_model("whole", CPU)
    assert train_model("parts", TrainOptions(accelerator="cpu", threads=1, until=3)) is None
    train_model("parts", CPU)
    whole, parts = (RunLog(paths.home() / "training" / name) for name in ("whole", "parts"))
    losses = [[r["loss"] for r in log.records() if "loss" in r] for log in (whole, parts)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 8
    model, sha256 = load_text_model("whole")
    assert load_text_model("parts")[1] == sha256
    assert folder is not None
    card = (folder / "card.md").read_text()
    size = sum(p.numel() for p in model.parameters())
    for said in (f"{size:,}", "h of processor time", "texts 4", "seed 0", "drawn at random"):
        assert said in card


def test_the_curve_holds_every_validation_and_means_of_stretches(corpus: Path) -> None:
    folder = text_model("mine", steps=60, validate_every=20)
    assert train_model("mine", TrainOptions(accelerator="cpu", threads=1, until=31)) is None
    assert train_model("mine", CPU) is not None
    records = RunLog(paths.home() / "training" / "mine").records()
    points = read_curve(folder)
    assert {point.seed for point in points} == {0}
    held_out = [(p.step, p.validation["loss"]) for p in points if p.validation]
    logged = [(r["step"], r["validation"]["loss"]) for r in records if "validation" in r]
    assert [step for step, _ in held_out] == [20, 40, 60]
    assert held_out == [(step, pytest.approx(loss, rel=1e-4)) for step, loss in logged]
    trained = [point for point in points if point.training]
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(trained) == 20 <= STRETCHES
    assert trained[1].step == 6
    assert trained[1].training["loss"] == pytest.approx(np.mean(losses[3:6]), rel=1e-4)
    seconds = [point.processor_seconds for point in points]
    assert seconds == sorted(seconds)
    assert seconds[-1] > 0


def test_it_learns_its_texts(corpus: Path) -> None:
    folder = text_model("mine", steps=150, validate_every=50, learning_rate=1e-2)
    train_model("mine", CPU)
    log = RunLog(paths.home() / "training" / "mine").records()
    found = [record["loss"] for record in log if "loss" in record]
    assert found[0] > 4.0
    assert found[-1] < 1.2  # four texts alike of 3 to 5 words: what is left is which of them it is
    model, _ = load_text_model(str(folder))
    ids = model.tokenizer.encode(" the cat").ids
    with torch.no_grad():
        next_one = model.eval()(torch.tensor([[*ids, 0]]))[0, len(ids)].argmax()
    assert model.tokenizer.decode([int(next_one)]).strip() == "ran"


def test_the_loss_of_even_logits_is_that_of_chance(corpus: Path) -> None:
    objective = built(text_model("mine"))
    torch.nn.init.zeros_(objective.model.text_head.weight)
    chance = math.log(300 - 2)  # PAD and EPAD are no text
    assert objective.loss(objective.batch(0, 3), 0).loss.item() == pytest.approx(chance)
    assert objective.validate()["loss"] == pytest.approx(chance)


def test_no_token_sees_itself_or_what_follows(corpus: Path) -> None:
    model = built(text_model("mine")).model.eval()
    tokens = torch.tensor([[5, 6, 7, 8]])
    other = torch.tensor([[5, 6, 9, 8]])
    with torch.no_grad():
        one, two = model(tokens), model(other)
    torch.testing.assert_close(one[:, :3], two[:, :3])
    assert not torch.allclose(one[:, 3], two[:, 3])


def test_rows_are_texts_from_their_first_token_or_stretches_of_longer_ones(corpus: Path) -> None:
    tokenizer = train_tokenizer(TALES, 300)
    texts = TokenTexts(["the cat", "a cat saw a dog"], tokenizer)
    rows = texts.crops(np.array([0, 1]), np.array([0, 1]), 3)
    words = [tokenizer.decode([t for t in row if t != NONE]).split() for row in rows.tolist()]
    assert words == [["the", "cat"], ["cat", "saw", "a"]]
    assert rows[0, 2] == NONE
    objective = built(text_model("mine", objective={"tokens": 2}))
    starts = {int(row[0]) for step in range(20) for row in objective.batch(step, 4)["tokens"]}
    assert len(starts) > 2, "stretches begin anywhere"
    again = objective.batch(3, 4)["tokens"]
    assert torch.equal(again, objective.batch(3, 4)["tokens"])


def test_stories_beside_the_corpus_are_new_and_none_is_held_out(corpus: Path) -> None:
    texts = training_texts(corpus, TextTraining(stories=500), seed=0)
    assert texts[: len(TALES)] == TALES
    assert len(set(texts)) == len(texts) == len(TALES) + 500
    assert not set(texts) & {story.text for story in Speech().stories()}
    assert "a cat ran" not in texts
    assert training_texts(corpus, TextTraining(stories=200), seed=0) == texts[:204]
    assert training_texts(corpus, TextTraining(stories=200), seed=1)[4:] != texts[4:204]
    known = texts[10]
    lines = (corpus / "manifest.jsonl").read_text()
    more = json.dumps(json.loads(lines.splitlines()[-1]) | {"text": known})
    (corpus / "manifest.jsonl").write_text(f"{lines}{more}\n")
    assert known not in training_texts(corpus, TextTraining(stories=500), seed=0)


def test_a_system_starts_with_the_text_models_weights_and_no_others(corpus: Path) -> None:
    folder = text_model("tales-model")
    model = untrained(folder)
    system = rq(folder, dropout=0.1)
    before = {key: value.clone() for key, value in system.state_dict().items()}
    origin, given = start_from(system, str(folder), "here")
    assert origin.startswith(str(folder))
    for key, value in system.state_dict().items():
        wanted = model.state_dict()[key] if key in given else before[key]
        torch.testing.assert_close(value, wanted, atol=1e-3, rtol=1e-3)
    assert {key.partition(".")[0] for key in given} == {"backbone", "text_table", "text_head"}
    # Without audio, its text stream is the text model.
    torch.nn.init.zeros_(system.audio_start)
    tokens = torch.tensor([[5, 6, 7, 8, 9, 10]])
    frames = torch.zeros(1, 4, 3, dtype=torch.long)
    with torch.no_grad():
        z = system.eval().contexts(frames, tokens, torch.zeros(1, 4, dtype=torch.bool))
        logits = model.eval()(tokens)
        assert (logits[..., :2] == -torch.inf).all()
        torch.testing.assert_close(system.text_head(z)[..., 2:], logits[..., 2:], **CLOSE)
        torch.testing.assert_close(text_logits(system, tokens), logits, **CLOSE)


@pytest.mark.parametrize(
    ("text", "backbone", "said"),
    [
        (TEXT, {"heads": 2}, "another backbone: heads 4, not 2"),
        ({**TEXT, "vocab_size": 301}, {}, "another vocabulary: 300 tokens, not 301"),
        ({"vocab_size": 300}, {}, "another tokenizer"),
    ],
)
def test_what_does_not_fit_is_one_line(
    corpus: Path, text: dict[str, Any], backbone: dict[str, Any], said: str
) -> None:
    folder = text_model("tales-model")
    untrained(folder)
    with pytest.raises(InputError, match=f"here: training.start_from: .* has {said}"):
        start_from(rq(folder, text, **backbone), "tales-model", "here")


def test_a_start_needs_a_trained_text_model(corpus: Path) -> None:
    folder = text_model("tales-model")
    untrained(folder)  # makes the tokenizer, too
    system = rq(folder)
    with pytest.raises(InputError, match="rvq-debug is a codec; a text model is needed"):
        start_from(system, "rvq-debug", "here")
    text_model("untrained")
    with pytest.raises(WeightsError, match="calm-bench train untrained makes them"):
        start_from(system, "untrained", "here")
    with pytest.raises(InputError, match="start_from is for systems, not for a text"):
        built(text_model("again", start_from="tales-model"))


def test_a_tokenizer_of_more_tokens_than_the_table_is_refused(tmp_path: Path) -> None:
    train_tokenizer(TALES, 300).save(str(tmp_path / "tokenizer.json"))
    config = {"backbone": BACKBONE, "text": {**TEXT, "vocab_size": 259}}
    with pytest.raises(InputError, match=r"tokenizer\.json has \d+ tokens, more than .* 259"):
        TextModel(TextModelConfig.model_validate(config), tmp_path)
