"""Text and audio streams: generation step by step is the training pass, one frame at a time."""

import numpy as np
import pytest
import torch

from calm_bench.codecs.checkpoints import build_module
from calm_bench.config import load_model_config
from calm_bench.numbers.parameters import parameters
from calm_bench.systems.base import Prompt
from calm_bench.systems.loading import load_system
from calm_bench.systems.streaming import StreamingSystem
from calm_bench.types import SamplingParams, TimedWord

NAMES = ["calm-debug", "rq-debug"]
SAMPLING = SamplingParams(temperature=1.0, text_temperature=1.0)


def load(name: str) -> StreamingSystem:
    system = load_system(name)
    assert isinstance(system, StreamingSystem)
    return system


def prompt(seed: int, frames: float) -> Prompt:
    wave = torch.randn(int(frames * 128), generator=torch.Generator().manual_seed(seed)) * 0.1
    return Prompt(wave=wave, words=(TimedWord(word="Hi", start=0.0, end=0.1),))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_generation_sees_what_training_sees(name: str) -> None:
    system = load(name)
    state = system.start([prompt(0, 4)], SAMPLING, [generator(0)], 9)
    contexts = []
    for _ in range(9):
        z = system.backbone_step(state)
        contexts.append(z)
        system.push(state, system.head_step(state, z))
    assert state.text is not None
    whole = system.contexts(state.frames, state.text)  # [B, T + lead, D]
    stepped = torch.stack(contexts, 1)
    torch.testing.assert_close(stepped, whole[:, system.lead + 4 :], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_rq_codes_are_the_training_logits_best() -> None:
    system = load("rq-debug")
    greedy = SamplingParams(temperature=0.0, text_temperature=0.0)
    state = system.start([prompt(0, 4)], greedy, [generator(0)], 6)
    for _ in range(6):
        system.push(state, system.head_step(state, system.backbone_step(state)))
    assert state.text is not None
    z = system.contexts(state.frames, state.text)[0, system.lead + 4 :]
    logits = system.depth(z, state.frames[0, 4:], state.text[0, system.lead + 4 :])  # type: ignore[operator]
    assert torch.equal(logits.argmax(-1), state.frames[0, 4:])
    text = system.text_head(system.contexts(state.frames, state.text)[0, 4:])
    assert torch.equal(text.argmax(-1), state.text[0, 4:])


@pytest.mark.parametrize("name", NAMES)
def test_the_words_of_a_row_are_its_own_and_begin_with_its_prompts(name: str) -> None:
    system = load(name)
    prompts = [prompt(0, 6), prompt(1, 1.5), prompt(2, 3)]
    together = system.generate(prompts, SAMPLING, [generator(s) for s in range(3)], 7)
    assert together.words is not None
    for row, one in enumerate(prompts):
        alone = system.generate([one], SAMPLING, [generator(row)], 7)
        assert alone.words is not None
        assert together.words[row] == alone.words[0]
        assert alone.words[0][0].word.startswith("Hi")
        assert alone.words[0][0].start == 0.0


def test_text_stream_reads_back_what_it_wrote() -> None:
    stream = load("calm-debug").text_stream
    assert stream is not None
    words = [
        TimedWord(word="Anna", start=0.4, end=0.7),
        TimedWord(word="had", start=1.6, end=1.8),
        TimedWord(word="three.", start=1.68, end=2.2),  # begins before "had" is written out
    ]
    tokens = stream.encode(words, 40)
    read = stream.decode(tokens.tolist())
    assert [word.word for word in read] == ["Anna", "had", "three."]
    assert read[0].start == pytest.approx(0.4)
    assert read[1].start == pytest.approx(1.6)
    assert read[2].start > read[1].start
    assert tokens[4] == 1
    assert np.count_nonzero(tokens == 1) == 2


@pytest.mark.parametrize(
    ("name", "backbone", "part", "head"),
    [
        ("calm-speech-paper", 2_172_728_320, "mlp", 10_150_432),
        ("rq-speech-paper", 2_214_609_920, "depth", 701_387_776),
    ],
)
def test_paper_systems_have_the_papers_size(name: str, backbone: int, part: str, head: int) -> None:
    config, folder = load_model_config(name)
    with torch.device("meta"):
        codec = build_module(*load_model_config(str(config.codec)))
        system = build_module(config, folder, codec=codec, folder=None)
    own = sum(p.numel() for key, p in system.named_parameters() if not key.startswith("codec."))
    # Beyond the published count: the stream's BOS vector and the weight w(t) used in training.
    assert 0 <= own - backbone - head < 5_000
    # As published: without what reads the audio.
    assert parameters(name, "backbone") == 2_172_646_400
    assert head in (parameters(name, "head"), parameters(name, "depth"))
    assert head == sum(p.numel() for p in getattr(system, part).parameters())


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_a_hidden_frame_changes_what_comes_after_it_and_nothing_else(name: str) -> None:
    system = load(name)
    state = system.start([prompt(0, 8)], SAMPLING, [generator(0)], 1)
    frames, text = state.frames[:, :8], state.text[:, : 8 + system.lead]  # type: ignore[index]
    seen = torch.ones(1, 8, dtype=torch.bool)
    full = system.contexts(frames, text)
    assert torch.equal(system.contexts(frames, text, seen), full)
    seen[0, 3] = False
    other = frames.clone()
    other[0, 3] = other[0, 4]
    hidden = system.contexts(frames, text, seen)
    assert torch.equal(hidden, system.contexts(other, text, seen)), "its content is not read"
    changed = (hidden != full).any(-1)[0].tolist()
    assert changed == [False] * (3 + system.lead + 1) + [True] * (8 - 3 - 1)
