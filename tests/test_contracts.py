"""What every registered system, codec, metric and embedding must do, checked at debug size.

A new one is covered the moment its line stands in the registry. B batch, T frames, S samples.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from calm_bench import registry
from calm_bench.asr import is_silent
from calm_bench.codecs.base import Codec
from calm_bench.codecs.checkpoints import load_codec
from calm_bench.config import load_model_config, model_names
from calm_bench.core.stats import compare, summarise
from calm_bench.errors import BenchError, MissingExtraError, WeightsError
from calm_bench.metrics.base import Metric
from calm_bench.seeds import content_hash
from calm_bench.systems.base import Generation, Prompt, System
from calm_bench.systems.loading import load_system
from calm_bench.types import Clip, MetricResult, SamplingParams, TimedWord, Transcript, Wave

N_FRAMES = 5


def debug_models(kind: str) -> dict[str, str]:
    """The debug models of a kind, and the registered type of each."""
    debug = [name for name in model_names() if name.endswith("-debug")]
    specs = {name: load_model_config(name)[0] for name in debug}
    return {name: spec.type for name, spec in specs.items() if spec.kind == kind}


@cache
def system_of(name: str) -> System:
    """The system; a test is skipped where it needs a package that is not installed."""
    try:
        return load_system(name)
    except BenchError as error:
        if "is not installed" not in str(error):
            raise
        pytest.skip(str(error))


@cache
def codec_of(name: str) -> Codec:
    return load_codec(name)


def noise(n_samples: int, seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))


def prompts_for(system: System) -> list[Prompt]:
    """Three prompts of different lengths, none of them a whole number of frames."""
    hop, rate = system.codec.hop_length, system.codec.sample_rate
    words = (TimedWord(word="once", start=0.0, end=hop / rate),)
    return [Prompt(wave=noise(n * hop - 7, seed=n), words=words) for n in (2, 4, 3)]


def generate(
    system: System, prompts: Sequence[Prompt], seeds: Sequence[int], temperature: float = 1.0
) -> Generation:
    sampling = SamplingParams(temperature=temperature, text_temperature=temperature)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return system.generate(prompts, sampling, generators, N_FRAMES)


def row(system: System, generation: Generation, index: int) -> torch.Tensor:
    """The frames of one row without its padding, time first."""
    frames = generation.frames[index]
    T = generation.prompt_frames[index] + N_FRAMES
    return frames[-T:] if system.codec.continuous else frames[:, -T:].transpose(0, 1)


@pytest.mark.parametrize(
    ("kind", "registered"), [("system", registry.SYSTEMS), ("codec", registry.CODECS)]
)
def test_every_registered_type_has_a_debug_model(kind: str, registered: dict[str, str]) -> None:
    missing = set(registered) - set(debug_models(kind).values())
    assert missing == set(), f"add models/NAME-debug for each {kind} named"


@pytest.mark.parametrize("name", registry.SYSTEMS)
def test_what_a_plan_reads_of_a_class_is_what_the_class_says(name: str) -> None:
    cls = registry.load("system", name)
    for attribute in ("any_head_steps", "own_text"):
        assert registry.declares("system", name, attribute) == getattr(cls, attribute), attribute


@pytest.mark.parametrize("name", debug_models("system"))
class TestSystem:
    def test_shapes(self, name: str) -> None:
        system = system_of(name)
        made = generate(system, prompts_for(system), seeds=[0, 1, 2])
        T = 4 + N_FRAMES
        assert made.prompt_frames == (2, 4, 3)
        assert made.frames.shape[0] == 3
        assert made.frames.shape[1 if system.codec.continuous else 2] == T
        assert made.frames.is_floating_point() == system.codec.continuous
        assert made.wave.shape == (3, T * system.codec.hop_length)
        assert torch.isfinite(made.wave).all()
        assert made.words is None or len(made.words) == 3

    def test_prompts_stand_at_the_head_unchanged(self, name: str) -> None:
        system = system_of(name)
        prompts = prompts_for(system)
        made = generate(system, prompts, seeds=[0, 1, 2])
        for i, prompt in enumerate(prompts):
            given = system.codec.encode(prompt.wave[None])[0]
            given = given if system.codec.continuous else given.transpose(0, 1)
            torch.testing.assert_close(row(system, made, i)[: len(given)], given)

    def test_the_seed_decides_the_clip(self, name: str) -> None:
        system = system_of(name)
        prompts = prompts_for(system)[:1]
        first = generate(system, prompts, seeds=[1])
        torch.manual_seed(99)  # the global generator must not matter
        again, other = (generate(system, prompts, seeds=[s]) for s in (1, 2))
        assert torch.equal(first.wave, again.wave)
        assert not torch.equal(first.wave, other.wave)

    def test_temperature_zero_ignores_the_seed(self, name: str) -> None:
        system = system_of(name)
        prompts = prompts_for(system)[:1]
        one, two = (generate(system, prompts, seeds=[s], temperature=0.0) for s in (1, 2))
        assert torch.equal(one.wave, two.wave)

    def test_a_row_does_not_depend_on_its_batch(self, name: str) -> None:
        system = system_of(name)
        prompts = prompts_for(system)
        together = generate(system, prompts, seeds=[5, 6, 7])
        backwards = generate(system, prompts[::-1], seeds=[7, 6, 5])
        for i, prompt in enumerate(prompts):
            alone = row(system, generate(system, [prompt], seeds=[5 + i]), 0)
            for batch, at in ((together, i), (backwards, 2 - i)):
                torch.testing.assert_close(row(system, batch, at), alone, atol=1e-4, rtol=1e-4)

    def test_streaming_decodes_the_same_audio(self, name: str) -> None:
        system = system_of(name)
        sampling = SamplingParams(temperature=0.0, text_temperature=0.0)
        prompt, generator = prompts_for(system)[1], torch.Generator().manual_seed(0)
        with torch.inference_mode():
            state = system.start([prompt], sampling, [generator], N_FRAMES)
            decoder, heard = system.start_decoding(1), []
            given = system.codec.encode(prompt.wave[None])
            for frame in given.unbind(1 if system.codec.continuous else 2):
                heard.append(system.decode_step(frame, decoder))
            for _ in range(N_FRAMES):
                frame = system.head_step(state, system.backbone_step(state))
                heard.append(system.decode_step(frame, decoder))
                system.push(state, frame)
            whole = system.finish(state).wave
        torch.testing.assert_close(torch.cat(heard, dim=1), whole, atol=1e-4, rtol=1e-4)

    def test_it_says_how_it_samples(self, name: str) -> None:
        system = system_of(name)
        sampling = SamplingParams(temperature=1.0, text_temperature=1.0, head_steps=2)
        assert system.nfe(sampling) >= 1
        assert system.default_head_steps >= 1
        assert system.temperature_kind in ("noise_variance", "softmax_divisor", "none")


@pytest.mark.parametrize("name", debug_models("codec"))
class TestCodec:
    def test_whole_clips(self, name: str) -> None:
        codec = codec_of(name)
        frames = codec.encode(torch.stack([noise(4 * codec.hop_length + 1, s) for s in (0, 1)]))
        assert frames.shape[0] == 2
        assert frames.shape[1 if codec.continuous else 2] == 5  # the last frame is padded
        assert codec.decode(frames).shape == (2, 5 * codec.hop_length)
        assert (codec.bits_per_second is None) == codec.continuous

    def test_frame_by_frame_sounds_the_same(self, name: str) -> None:
        codec = codec_of(name)
        frames = codec.encode(noise(6 * codec.hop_length, 0)[None])
        state = codec.start_decoding(1)
        steps = frames.unbind(1 if codec.continuous else 2)
        streamed = torch.cat([codec.decode_step(frame, state) for frame in steps], dim=1)
        torch.testing.assert_close(streamed, codec.decode(frames), atol=1e-4, rtol=1e-4)

    def test_it_is_causal(self, name: str) -> None:
        codec = codec_of(name)
        wave = noise(6 * codec.hop_length, 0)[None]
        changed = wave.clone()
        changed[:, 4 * codec.hop_length :] = 0
        axis = 1 if codec.continuous else 2
        before, after = (codec.encode(w).narrow(axis, 0, 4) for w in (wave, changed))
        torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


RATE = 16_000
PROMPT_SECONDS = 3.04
STORY = "once there was a small brown dog who lived near the river and liked to swim"


def speechlike(seconds: float, seed: int) -> Wave:
    """A few gliding harmonics under syllables and some noise: no metric takes it for silence."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t + seed)) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * 3 * t + rng.uniform(0, 6)), 0, 1)
    wave = 0.1 * voice * syllables + 0.003 * rng.standard_normal(len(t))
    return wave.astype(np.float32)


def clip_of(wave: Wave, index: int) -> Clip:
    """A clip with timed words, of which the recogniser is taken to have heard all but one."""
    seconds = len(wave) / RATE
    spoken = STORY.split()
    step = seconds / len(spoken)
    words = tuple(
        TimedWord(word=w, start=i * step, end=(i + 0.9) * step) for i, w in enumerate(spoken)
    )
    silent = is_silent(wave)
    heard = () if silent else words[: index % 5] + words[index % 5 + 1 :]
    transcript = Transcript(
        text=" ".join(w.word for w in heard),
        words=heard,
        flags=("silent",) if silent else (),
    )
    return Clip(
        clip_id=content_hash(wave.tobytes(), index),
        prompt_id=f"p{index:02d}",
        seed_index=0,
        wave=wave,
        sample_rate=RATE,
        prompt_seconds=PROMPT_SECONDS,
        words=words,
        transcript=transcript,
    )


@cache
def reference() -> tuple[Clip, ...]:
    return tuple(clip_of(speechlike(6.0, seed), seed) for seed in range(2))


def shifted(clip: Clip) -> Clip:
    return replace(clip, wave=np.roll(clip.wave, RATE // 10), clip_id=f"{clip.clip_id}-shifted")


def silent(clip: Clip) -> Clip:
    return clip_of(np.zeros_like(clip.wave), int(clip.prompt_id[1:]))


def one_frame(clip: Clip) -> Clip:
    end = round(PROMPT_SECONDS * RATE) + 1280
    return clip_of(clip.wave[:end], int(clip.prompt_id[1:]))


def nothing_known(clip: Clip) -> Clip:
    return replace(clip, words=None, transcript=None, clip_id=f"{clip.clip_id}-unknown")


CELLS = {
    "identical": lambda clip: clip,
    "shifted": shifted,
    "silent": silent,
    "one_frame": one_frame,
    "nothing_known": nothing_known,
}


@cache
def metric_of(name: str) -> Metric:
    metric: Metric = registry.load("metric", name)()
    return metric


@cache
def missing_part(name: str) -> str | None:
    """The extra or the weights that a metric lacks here; `offline` and what it brings never are."""
    try:
        metric_of(name).score(reference()[:1], reference())
    except (MissingExtraError, WeightsError) as error:
        if getattr(error, "extra", "") == "offline":
            raise
        return str(error)
    return None


@pytest.fixture
def metric(name: str) -> Metric:
    if reason := missing_part(name):
        pytest.skip(reason)
    return metric_of(name)


def check_result(metric: Metric, clips: Sequence[Clip], result: MetricResult) -> None:
    """Finite numbers, or None and a reason; nothing in between."""
    ids = {clip.clip_id for clip in clips}
    assert set(result.clips) <= ids
    assert set(result.notes) <= ids
    for clip_id in ids if metric.scope == "clip" else ():
        values = result.clips.get(clip_id, {})
        assert all(v is None or math.isfinite(v) for v in values.values()), values
        needed = {f for c in metric.columns for f in c.fields}
        if any(values.get(field) is None for field in needed):
            assert result.notes.get(clip_id), f"{clip_id} lacks values and says not why: {values}"
    for estimate in result.estimates.values():
        for number in (estimate.value, estimate.low, estimate.high):
            assert number is None or math.isfinite(number)
        assert estimate.value is not None or estimate.reason
    assert all(math.isfinite(count) for count in result.counts.values())


@pytest.mark.parametrize("name", registry.METRICS)
class TestMetric:
    @pytest.mark.parametrize("cell", CELLS)
    def test_any_clip_gives_a_number_or_a_reason(self, metric: Metric, cell: str) -> None:
        clips = [CELLS[cell](clip) for clip in reference()]
        result = metric.score(clips, reference())
        check_result(metric, clips, result)
        set_columns = {c.name for c in metric.columns if c.aggregate == "set"}
        assert set(result.estimates) == set_columns
        by_pair = {clip.pair_key: result.clips.get(clip.clip_id, {}) for clip in clips}
        for column in metric.columns:
            if column.name not in set_columns:
                for estimate in (
                    summarise(column, by_pair, 0),
                    compare(column, by_pair, by_pair, 0),
                ):
                    assert estimate.value is not None or estimate.reason

    def test_no_clips_and_no_reference_are_no_crash(self, metric: Metric) -> None:
        check_result(metric, [], metric.score([], reference()))
        check_result(metric, reference(), metric.score(reference(), []))

    def test_it_measures_the_same_twice(self, metric: Metric) -> None:
        assert content_hash(metric.recipe) == content_hash(metric.recipe)
        clips = [shifted(clip) for clip in reference()[:1]]
        assert metric.score(clips, reference()) == metric.score(clips, reference())

    def test_its_columns_and_recipe_are_complete(self, name: str) -> None:
        metric = metric_of(name)
        assert metric.name == name
        columns = [column.name for column in metric.columns]
        assert len(set(columns)) == len(columns)
        fields = {
            "mean": 1,
            "share": 1,
            "exp_mean": 1,
            "ratio": 2,
            "exp_ratio": 2,
            "median": 1,
            "set": 0,
        }
        assert [c.name for c in metric.columns if len(c.fields) != fields[c.aggregate]] == []


def test_no_two_metrics_share_a_column() -> None:
    columns = [c.name for name in registry.METRICS for c in metric_of(name).columns]
    assert sorted(set(columns)) == sorted(columns)


# The embeddings of `fad` have an environment of their own and tests that need it.
@pytest.mark.parametrize("name", ["mel", "whisper"])
class TestEmbedding:
    def test_vectors_have_the_declared_shape_and_ignore_the_batch(self, name: str) -> None:
        embedding = registry.load("embedding", name)()
        n = math.ceil(embedding.min_seconds * embedding.sample_rate)
        waves = [0.1 * np.ones(n, np.float32), speechlike(6.0, 0)[: n + 4000]]
        together = embedding.embed(waves)
        for wave, vectors in zip(waves, together, strict=True):
            N, E = vectors.shape
            assert N >= 1
            assert embedding.dim == E
            assert vectors.dtype == np.float32
            np.testing.assert_allclose(embedding.embed([wave])[0], vectors, atol=1e-4)

    def test_a_constant_offset_is_not_described(self, name: str) -> None:
        embedding = registry.load("embedding", name)()
        wave = speechlike(3.0, 0)
        plain, moved = embedding.embed([wave, wave + np.float32(0.01)])
        assert np.linalg.norm(moved - plain) < 0.03 * np.linalg.norm(plain)
