"""Our systems: generation is the training pass step by step, and each keeps its own promises."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from calm_bench.codecs.checkpoints import build_module, load_codec
from calm_bench.codecs.rvq import RvqCodec
from calm_bench.config import load_model_config
from calm_bench.errors import InputError
from calm_bench.numbers.parameters import parameters
from calm_bench.systems.base import Prompt
from calm_bench.systems.calm import CalmSystem
from calm_bench.systems.loading import build_system, load_system
from calm_bench.systems.musicgen import MusicGenSystem
from calm_bench.systems.rq import RqSystem
from calm_bench.systems.streaming import StreamingSystem
from calm_bench.types import SamplingParams, TimedWord

SPEECH = ["calm-debug", "rq-debug"]
NAMES = ["calm-music-debug", "trigflow-debug", "rq-levels-debug", "musicgen-debug"]
SAMPLING = SamplingParams(temperature=1.0, text_temperature=1.0)
GREEDY = SamplingParams(temperature=0.0, text_temperature=0.0)
NEW = 22  # more than twice the window of calm-music-debug's backbone


def load(name: str) -> StreamingSystem:
    system = load_system(name)
    assert isinstance(system, StreamingSystem)
    return system


def prompt(system: StreamingSystem, seed: int, frames: float) -> Prompt:
    samples = int(frames * system.codec.hop_length)
    wave = torch.randn(samples, generator=generator(seed)) * 0.1
    return Prompt(wave=wave, words=(TimedWord(word="Hi", start=0.0, end=0.1),))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stepped(
    system: StreamingSystem, prompts: list[Prompt], sampling: SamplingParams = SAMPLING
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Contexts [B, NEW, D], frames as they were drawn, all frames [B, T, ...], and all text."""
    generators = [generator(row) for row in range(len(prompts))]
    state = system.start(prompts, sampling, generators, NEW)
    contexts, drawn = [], []
    for _ in range(NEW):
        contexts.append(system.backbone_step(state))
        drawn.append(system.head_step(state, contexts[-1]))
        system.push(state, drawn[-1])
    return torch.stack(contexts, 1), torch.stack(drawn, 1), system.made(state), state.text


@pytest.mark.parametrize("name", [*SPEECH, *NAMES])
@torch.inference_mode()
def test_steps_see_what_training_sees_in_ragged_batches_too(name: str) -> None:
    system = load(name)
    counts = [7, 2, 4]
    prompts = [prompt(system, seed, count) for seed, count in enumerate(counts)]
    z, drawn, frames, text = stepped(system, prompts)
    for row, count in enumerate(counts):
        own = frames[row : row + 1, max(counts) - count :]  # without its padding
        said = None if text is None else text[row : row + 1, max(counts) - count :]
        new = torch.arange(count, own.shape[1])
        whole = system.frame_contexts(system.contexts(own, said), own, new)
        torch.testing.assert_close(z[row], whole, atol=1e-4, rtol=0)
        assert torch.equal(drawn[row], own[0, count:])


@pytest.mark.parametrize("name", SPEECH)
def test_a_ragged_batch_gives_each_row_what_it_gets_alone(name: str) -> None:
    system = load(name)
    prompts = [prompt(system, seed, frames) for seed, frames in enumerate((6, 1.5, 3))]
    together = system.generate(prompts, SAMPLING, [generator(s) for s in range(3)], 7)
    assert together.words is not None
    for row, one in enumerate(prompts):
        alone = system.generate([one], SAMPLING, [generator(row)], 7)
        assert alone.words is not None
        assert together.words[row] == alone.words[0]
        assert together.prompt_frames[row] == alone.prompt_frames[0]
        tail = together.wave[row, -alone.wave.shape[1] :]
        torch.testing.assert_close(tail, alone.wave[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", SPEECH)
def test_prompt_words_are_kept_and_timed(name: str) -> None:
    system = load(name)
    made = system.generate([prompt(system, 0, 5)], SAMPLING, [generator(3)], 4)
    assert made.words is not None
    assert made.words[0][0].word.startswith("Hi")
    assert made.words[0][0].start == 0.0


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


@pytest.mark.parametrize("name", SPEECH)
@torch.inference_mode()
def test_a_hidden_frame_changes_what_comes_after_it_and_nothing_else(name: str) -> None:
    system = load(name)
    state = system.start([prompt(system, 0, 8)], SAMPLING, [generator(0)], 1)
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


@pytest.mark.parametrize("name", NAMES)
def test_clips_outlive_the_context_with_a_cache_that_does_not_grow(name: str) -> None:
    system = load(name)
    context = system.backbone.config.context
    with torch.inference_mode():
        state = system.start([prompt(system, 0, 3)], SAMPLING, [generator(0)], 200)
    held = state.cache.buffer.shape[4]
    assert held == (203 + system.lead if context is None else 2 * context)


@pytest.mark.parametrize(("name", "steps"), [("calm-music-debug", 1), ("trigflow-debug", 4)])
def test_any_number_of_head_steps_from_one_checkpoint(name: str, steps: int) -> None:
    system = load(name)
    assert system.default_head_steps == steps
    waves = []
    for n in (1, 2, 4, 10):
        sampling = SamplingParams(temperature=1.0, text_temperature=1.0, head_steps=n)
        assert system.nfe(sampling) == n
        waves.append(system.generate([prompt(system, 0, 3)], sampling, [generator(1)], 4).wave)
    assert all(torch.isfinite(wave).all() for wave in waves)
    assert len({tuple(wave.flatten().tolist()) for wave in waves}) == 4


def test_paper_defaults_of_the_samplers() -> None:
    steps = {}
    for name in ("calm-music-tiny", "trigflow-music-tiny"):
        config, folder = load_model_config(name)
        system = build_system(config, folder, load_codec(str(config.codec)))
        steps[name] = system.default_head_steps
    assert steps == {"calm-music-tiny": 1, "trigflow-music-tiny": 100}


@pytest.mark.parametrize("steps", [1, 4])
@torch.inference_mode()
def test_trigflow_temperature_is_the_variance_of_the_start(steps: int) -> None:
    system = load("trigflow-debug")
    draws = [
        system.draw(3, SamplingParams(temperature=t, text_temperature=1.0, head_steps=steps), g)
        for t, g in ((1.0, generator(0)), (0.25, generator(0)))
    ]
    assert draws[0].shape == (3, 1, 4), "one noise a frame, however many steps"
    torch.testing.assert_close(draws[1], 0.5 * draws[0])


@torch.inference_mode()
def test_no_noise_at_inference() -> None:
    # A system that was trained with injected noise, and one that was not, generate alike.
    config, folder = load_model_config("calm-music-debug")
    plain = config.model_copy(
        update={"architecture": {**config.architecture, "noise_injection": False}}
    )
    one, other = (
        build_system(spec, folder, load_codec("vae-debug")).eval() for spec in (config, plain)
    )
    assert one.config.noise_injection != other.config.noise_injection
    assert torch.equal(stepped(one, [prompt(one, 0, 5)])[2], stepped(other, [prompt(one, 0, 5)])[2])


@torch.inference_mode()
def test_a_system_of_first_levels_hears_and_speaks_those_only() -> None:
    system, codec = load("rq-levels-debug"), load_codec("rvq-debug")
    assert isinstance(codec, RvqCodec)
    assert codec.bits_per_second == pytest.approx(3 * 4 * 12.5)
    assert system.codec.bits_per_second == pytest.approx(2 * 4 * 12.5)
    made = system.generate([prompt(system, 0, 5)], SAMPLING, [generator(0)], 4)
    assert made.frames.shape == (1, 2, 9)
    known = codec.encode(prompt(system, 0, 5).wave[None])
    assert torch.equal(made.frames[..., :5], known[:, :2])
    torch.testing.assert_close(made.wave, codec.decode(made.frames))
    with pytest.raises(InputError, match="4 levels of a codec that has 3"):
        codec.use_levels(4)


def test_levels_are_stated_and_not_guessed() -> None:
    config, folder = load_model_config("rq-levels-debug")
    silent = {k: v for k, v in config.architecture.items() if k != "levels"}
    with pytest.raises(InputError, match="`levels` takes fewer"):
        build_system(
            config.model_copy(update={"architecture": silent}), folder, load_codec("rvq-debug")
        )
    config, folder = load_model_config("musicgen-debug")
    with pytest.raises(InputError, match="do not fit the codec"):
        build_system(config, folder, load_codec("rvq-debug"))


@torch.inference_mode()
def test_rq_codes_are_the_training_logits_best() -> None:
    system = load("rq-debug")
    _, _, frames, text = stepped(system, [prompt(system, 0, 4)], GREEDY)
    assert text is not None
    contexts = system.contexts(frames, text)
    z = contexts[0, system.lead + 4 :]
    logits = system.depth(z, frames[0, 4:], text[0, system.lead + 4 :])  # type: ignore[operator]
    assert torch.equal(logits.argmax(-1), frames[0, 4:])
    assert torch.equal(system.text_head(contexts[0, 4:]).argmax(-1), text[0, 4:])


@torch.inference_mode()
def test_musicgens_codes_are_the_training_logits_best() -> None:
    system = load("musicgen-debug")
    assert isinstance(system, MusicGenSystem)
    assert system.codec.frame_rate == 2 * load_codec("vae-debug").frame_rate
    _, _, frames, _ = stepped(system, [prompt(system, 0, 4)], GREEDY)
    logits = system.logits(system.contexts(frames, None))[0]  # [S, K, V]
    best = torch.stack([logits[d : d + 4 + NEW, k].argmax(-1) for k, d in enumerate((0, 1, 2, 3))])
    assert torch.equal(best.T[4:], frames[0, 4:])


@torch.inference_mode()
def test_a_frame_costs_one_backbone_pass_and_the_pattern_three_in_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = load_system("musicgen-debug", mode="plain")
    assert isinstance(system, StreamingSystem)
    calls: list[int] = []
    forward = system.backbone.forward
    monkeypatch.setattr(
        system.backbone,
        "forward",
        lambda x, cache: (calls.append(x.shape[1]), forward(x, cache))[1],
    )
    stepped(system, [prompt(system, 0, 4)])
    assert calls == [4] + [1] * (NEW + 3)
    assert system.nfe(SAMPLING) == 1


@pytest.mark.parametrize(
    ("name", "backbone", "part", "head"),
    [
        ("calm-speech-paper", 2_172_728_320, "mlp", 10_150_432),
        ("rq-speech-paper", 2_214_609_920, "depth", 701_387_776),
    ],
)
def test_speech_systems_have_the_papers_size(
    name: str, backbone: int, part: str, head: int
) -> None:
    system = on_meta(name)
    own = sum(p.numel() for key, p in system.named_parameters() if not key.startswith("codec."))
    # Beyond the published count: the stream's BOS vector and the weight w(t) used in training.
    assert 0 <= own - backbone - head < 5_000
    # As published: without what reads the audio.
    assert parameters(name, "backbone") == 2_172_646_400
    assert head in (parameters(name, "head"), parameters(name, "depth"))
    assert head == sum(p.numel() for p in getattr(system, part).parameters())


BACKBONE = 1_359_103_488  # 48 x 1536, plain 4x MLP, RMSNorm; the paper's 1.35B
PAPER = {
    # head 601,113,728 and short context 113,260,032 as published; input maps of 128 x 1536 each
    "calm-music-paper": BACKBONE + 601_113_728 + 113_260_032 + 2 * 196_608,
    "trigflow-music-paper": BACKBONE + 601_113_728 + 113_260_032 + 2 * 196_608,
    # The paper says 701M for the depth transformer. 8 weight sets over 32 levels come to these with
    # an input table per level (the last of which is never read: 2,098,176 less without it).
    "rq32-music-paper": BACKBONE + 742_435_840 + 2_098_176 + 32 * 2049 * 1536,
    "rq16-music-paper": BACKBONE + 675_310_592 + 2_098_176 + 16 * 2049 * 1536,
    "musicgen-music-paper": BACKBONE + 4 * (2049 + 2048) * 1536,
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_systems_have_the_papers_size(name: str) -> None:
    system = on_meta(name)
    sizes = {key: p.numel() for key, p in system.named_parameters() if not key.startswith("codec.")}
    # Beyond the published counts: the streams' start vectors and the weight w(t) of training.
    assert 0 <= sum(sizes.values()) - PAPER[name] < 5_000
    assert sum(n for key, n in sizes.items() if key.startswith("backbone.")) == BACKBONE
    assert pytest.approx(1.35e9, rel=0.01) == BACKBONE
    assert parameters(name, "backbone") == BACKBONE
    if isinstance(system, RqSystem):
        assert parameters(name, "depth") == sum(p.numel() for p in system.depth.parameters())
    if isinstance(system, CalmSystem):
        assert system.short is not None
        assert parameters(name, "short_context") == 113_260_032
        assert parameters(name, "head") == 601_113_728
        assert sum(p.numel() for p in system.mlp.parameters()) == 601_113_728
        short = sum(p.numel() for p in system.short.transformer.parameters())
        assert short == pytest.approx(113e6, rel=0.01)


TINY = ["calm", "trigflow", "rq32", "rq16", "musicgen"]
ABLATIONS = ["calm-music-none", "calm-music-no-short", "calm-music-no-noise"]
ABLATIONS += ["calm-music-no-multiplier"]


def test_tiny_systems_keep_their_budget_and_share_their_backbone() -> None:
    sizes, backbones = {}, set()
    for name in [f"{kind}-music-tiny" for kind in TINY] + [f"{name}-tiny" for name in ABLATIONS]:
        system = on_meta(name)
        own = {k: p.numel() for k, p in system.named_parameters() if not k.startswith("codec.")}
        sizes[name] = sum(own.values())
        if system.codec.frame_rate == 25:
            shape = system.backbone.config.model_copy(update={"dropout": 0.0})
            backbones.add(shape.model_dump_json())
    assert max(sizes.values()) <= 1_800_000, sizes
    assert len(backbones) == 1


@pytest.mark.parametrize("name", ["vae-music-tiny", "rvq-music-tiny", "rvq4-music-tiny"])
def test_tiny_codecs_keep_their_budget_and_rate(name: str) -> None:
    codec = codec_on_meta(name)
    assert sum(p.numel() for p in codec.parameters()) <= 3_000_000
    assert codec.frame_rate == (50 if name == "rvq4-music-tiny" else 25)
    assert codec.sample_rate == 16_000


def test_ablations_differ_in_what_they_name_and_in_nothing_else() -> None:
    ours, _ = load_model_config("calm-music-tiny")
    changed = {
        "none": {"noise_injection", "short_context", "multiplier"},
        "no-short": {"short_context"},
        "no-noise": {"noise_injection"},
        "no-multiplier": {"multiplier"},
    }
    for name, expected in changed.items():
        theirs, _ = load_model_config(f"calm-music-{name}-tiny")
        keys = set(ours.architecture) | set(theirs.architecture)
        found = {k for k in keys if ours.architecture.get(k) != theirs.architecture.get(k)}
        recipes = [deepcopy(spec.training) for spec in (ours, theirs)]
        heads = [recipe.pop("objective") for recipe in recipes]
        multipliers = [head["consistency"].pop("multiplier") for head in heads]
        found |= {"multiplier"} if multipliers[0] != multipliers[1] else set()
        assert found == expected, name
        assert heads[0] == heads[1]
        for recipe in recipes:
            recipe.pop("keep_every", None)
        assert recipes[0] == recipes[1]
        assert (ours.seed, ours.codec) == (theirs.seed, theirs.codec)


def codec_on_meta(name: str) -> Any:
    with torch.device("meta"):
        return build_module(*load_model_config(name))


def on_meta(name: str) -> StreamingSystem:
    config, folder = load_model_config(name)
    codec = codec_on_meta(str(config.codec))
    with torch.device("meta"):
        system: StreamingSystem = build_module(config, folder, codec=codec, folder=None)
    return system
