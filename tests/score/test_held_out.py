import dataclasses
import math
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

from calm_bench.config import Models
from calm_bench.data.prompts import LoadedPrompt
from calm_bench.generate.clips import Studio
from calm_bench.plan.overrides import Overrides
from calm_bench.plan.plan import Plan, expand
from calm_bench.plan.rows import opened_as
from calm_bench.run import prompts_of
from calm_bench.score.held_out import HeldOut, held_out_scores, text_losses
from calm_bench.store.records import ScoreRecord, TrialRecord
from calm_bench.store.run_store import RunStore
from calm_bench.systems.loading import OpenModels, load_system
from calm_bench.systems.monologue import EPAD, PAD
from calm_bench.systems.streaming import StreamingSystem
from calm_bench.types import TimedWord

WORDS = tuple(
    TimedWord(word=word, start=start, end=start + 0.1)
    for word, start in (("one", 0.05), ("a", 0.32), ("be", 0.64))
)


@pytest.fixture(scope="module")
def system() -> StreamingSystem:
    found = load_system("calm-debug")
    assert isinstance(found, StreamingSystem)
    return found


def prompt(seconds: float, words: tuple[TimedWord, ...] = WORDS) -> LoadedPrompt:
    rng = np.random.default_rng(0)
    wave = rng.normal(0, 0.1, round(seconds * 1600)).astype(np.float32)
    text = {"words": words, "text_source": "given"}
    return LoadedPrompt(id="p", wave=wave, sample_rate=1600, sha256="", **text)  # type: ignore[arg-type]


def test_a_stream_that_knows_nothing_loses_the_logarithm_of_its_vocabulary() -> None:
    system = load_system("calm-debug")
    assert isinstance(system, StreamingSystem)
    torch.nn.init.zeros_(system.text_head.weight)
    (row,) = text_losses(system, [prompt(0.96)], 0.24)
    uniform = math.log(system.text_head.out_features)
    # " a" and " be" by bytes; "one" began in the prompt, so the prompt decides it.
    assert row["word_tokens"] == 2 + 3
    assert row["stream_tokens"] == 12 - 4  # " one" fills four frames, one more than the prompt has
    assert row["word_nats"] == pytest.approx(5 * uniform, rel=1e-6)
    assert row["stream_nats"] == pytest.approx(8 * uniform, rel=1e-6)


def test_losses_are_those_of_drawing_the_true_tokens_one_by_one(system: StreamingSystem) -> None:
    (row,) = text_losses(system, [prompt(0.96)], 0.24)
    assert system.text_stream is not None
    tokens = torch.from_numpy(system.text_stream.encode(WORDS, 12 + system.lead))
    latents = system.codec.encode(torch.from_numpy(prompt(0.96).wave)[None])
    with torch.inference_mode():
        z = system.contexts(latents, tokens[None])
        logs = system.text_head(z)[0].log_softmax(-1)
    losses = [-float(logs[step, tokens[step]]) for step in range(4, 12)]
    words = [loss for step, loss in enumerate(losses, 4) if tokens[step] not in (PAD, EPAD)]
    assert row["stream_nats"] == pytest.approx(sum(losses), rel=1e-5)
    assert row["word_nats"] == pytest.approx(sum(words), rel=1e-5)


def test_a_longer_neighbour_changes_nothing(system: StreamingSystem) -> None:
    (alone,) = text_losses(system, [prompt(0.8)], 0.24)
    together, _ = text_losses(system, [prompt(0.8), prompt(1.6)], 0.24)
    assert together == pytest.approx(alone, rel=1e-5)
    assert alone["stream_tokens"] == 10 - 4


def hold_out(plan: Plan, store: RunStore, opened: OpenModels) -> None:
    for _, rows in groupby(plan.rows, key=opened_as):
        HeldOut(plan, store, opened, prompts_of(plan)).record(list(rows))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return expand("smoke", Overrides())


@pytest.fixture(scope="module")
def made(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    store = RunStore(tmp_path_factory.mktemp("held-out"))
    opened = OpenModels(plan.models, "cpu")
    Studio(plan, store, opened, prompts_of(plan)).make(plan.rows)
    hold_out(plan, store, opened)
    return store


def test_temperatures_share_a_systems_loss_and_systems_differ(plan: Plan, made: RunStore) -> None:
    (scores,) = held_out_scores(plan.rows, made, plan.models)
    rows = {
        cell: sorted(v["word_nats"] or 0.0 for v in result.clips.values())
        for cell, result in scores.results.items()
    }
    assert rows["calm-debug-t0.8"] == rows["calm-debug-t1"] != rows["rq-debug-t1"]
    assert "no text stream" in scores.reasons["reference"]


def test_the_loss_is_that_of_float32_alone(made: RunStore) -> None:
    cells = expand("smoke", Overrides(precisions=("fp32", "int8"))).rows
    exact = [cell for cell in expand("smoke", Overrides()).rows if cell.kind == "system"]
    rough = [cell for cell in cells if cell.precision == "int8"]
    (scores,) = held_out_scores([*exact, *rough], made, Models())
    assert scores.reasons == {c.cell_id: "predicted in float32 alone" for c in rough}


def test_what_is_recorded_is_not_measured_again(
    plan: Plan, made: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made.read(ScoreRecord)
    assert len(before) == sum(t.cell_id.startswith(("calm", "rq")) for t in made.read(TrialRecord))
    monkeypatch.setattr("calm_bench.systems.loading.load_system", None)
    hold_out(plan, made, OpenModels(plan.models, "cpu"))
    assert made.read(ScoreRecord) == before


def test_losses_of_another_tokenizer_are_not_taken(
    plan: Plan, made: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = HeldOut(plan, made, OpenModels(plan.models, "cpu"), prompts_of(plan))
    key = held_out._key("calm-debug")
    monkeypatch.setattr("calm_bench.score.held_out._recipe", lambda *_: {"tokenizer": "another"})
    assert held_out._key("calm-debug") != key


def test_a_recording_without_known_words_says_so(
    plan: Plan, made: RunStore, tmp_path: Path
) -> None:
    store = RunStore(tmp_path)
    store.append(*made.read(TrialRecord))
    bare = tuple(prompt.model_copy(update={"words": None}) for prompt in plan.prompts)
    bare_plan = dataclasses.replace(plan, prompts=bare)
    hold_out(bare_plan, store, OpenModels(plan.models, "cpu"))
    (scores,) = held_out_scores(plan.rows, store, plan.models)
    result = scores.results["calm-debug-t1"]
    assert set(result.notes.values()) == {"the recording's words are not known"}
    assert all(values["word_nats"] is None for values in result.clips.values())
