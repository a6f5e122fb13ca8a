"""What every registered system, codec, metric and embedding must do: checked on made-up audio.

Each check is a function of one loaded part that raises `AssertionError` where the part does not;
its docstring is what `calm-bench verify` says of it. Tests run them on all that is registered, at
debug size. B batch, T frames, S samples.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calm_bench import registry
from calm_bench.asr.recognizer import is_silent
from calm_bench.codecs.base import Codec
from calm_bench.codecs.checkpoints import load_codec
from calm_bench.config import Models, model_names
from calm_bench.core.progress import waiting
from calm_bench.core.stats import compare, summarise
from calm_bench.embeddings.base import Embedding
from calm_bench.errors import BenchError, InputError, UnknownNameError, blame, called, describe
from calm_bench.metrics.base import Metric, score_row
from calm_bench.seeds import content_hash
from calm_bench.systems.base import Generation, Prompt, System
from calm_bench.systems.loading import load_system
from calm_bench.types import Clip, SamplingParams, TimedWord, Transcript, Wave

close = partial(torch.testing.assert_close, atol=1e-4, rtol=1e-4)
N_FRAMES = 5
RATE = 16_000
PROMPT_SECONDS = 3.04
STORY = "once there was a small brown dog who lived near the river and liked to swim"


@dataclass(frozen=True, slots=True)
class Found:
    """What a check says of a part: a sentence, and why it does not hold if it does not."""

    sentence: str
    fault: str | None


def verify(name: str) -> Iterator[Found]:
    """Every check of the part of this name: a model, a model's folder, a metric or an embedding.

    Raises:
        UnknownNameError: If nothing has the name.
        BenchError: If the part cannot be loaded.
    """
    kind, load = found(name)
    with waiting(f"loading {name}"):
        part = load()
    for check in CHECKS[kind]:
        fault = None
        try:
            with waiting(f"checking: {sentence(check)}"):
                check(part)
        except BenchError:
            raise
        except (Exception, SystemExit) as error:  # a plug-in may end the process, or try to
            fault = fault_of(error)
            if not (isinstance(error, AssertionError) or blame(error)):
                fault = called(part) + f": {fault}"  # its code was not reached, or is no function
        yield Found(sentence(check), fault)


def fault_of(error: BaseException) -> str:
    """Why a check does not hold, in one line."""
    if isinstance(error, AssertionError):  # to which pytest, where it runs us, adds what it saw
        error.args = (str(error).partition("\nassert ")[0],)
    return describe(error).removeprefix("AssertionError: ")


def sentence(check: Callable[..., None]) -> str:
    """What a check says of a part, by its docstring."""
    return " ".join(str(check.__doc__).split()).rstrip(".")


def found(name: str) -> tuple[str, Callable[[], Any]]:
    """What kind of part has a name, and what loads it, once.

    Raises:
        UnknownNameError: If nothing has the name.
        BenchError: If nothing can be verified under it.
    """
    models = Models()
    if name in registry.names("metric"):
        return "metric", cache(lambda: registry.load("metric", name)())
    if name in registry.names("embedding"):
        return "embedding", cache(lambda: registry.load("embedding", name)())
    if name not in model_names() and not Path(name).is_dir():
        types = {*registry.names("system"), *registry.names("codec")}
        own = [model for model in model_names() if models[model][0].type == name]
        if name in types and not own:
            raise InputError(f"no model is of the type {name}: verify needs a folder with one")
        if not own:
            known = [*types, *model_names(), *registry.names("metric")]
            raise UnknownNameError("system, codec, metric or embedding", name, known)
        name = next((model for model in own if model.endswith("-debug")), own[0])
    kind = models[name][0].kind
    if kind not in CHECKS:
        raise InputError(f"{name} is a {kind}: only systems and codecs of models are verified")
    return kind, cache(partial(load_system if kind == "system" else load_codec, name))


def noise(n_samples: int, seed: int) -> Tensor:
    """White noise [S]."""
    return 0.1 * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))


def prompts_for(system: System) -> list[Prompt]:
    """Three prompts of different lengths, none of them a whole number of frames."""
    hop, rate = system.codec.hop_length, system.codec.sample_rate
    words = (TimedWord(word="once", start=0.0, end=hop / rate),)
    return [Prompt(wave=noise(n * hop - 7, seed=n), words=words) for n in (2, 4, 3)]


def generate(
    system: System, prompts: Sequence[Prompt], seeds: Sequence[int], temperature: float = 1.0
) -> Generation:
    """A short continuation of each prompt."""
    sampling = SamplingParams(temperature=temperature, text_temperature=temperature)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return system.generate(prompts, sampling, generators, N_FRAMES)


def row(system: System, generation: Generation, index: int) -> Tensor:
    """The frames of one row without its padding, time first."""
    frames = generation.frames[index]
    T = generation.prompt_frames[index] + N_FRAMES
    return frames[-T:] if system.codec.continuous else frames[:, -T:].transpose(0, 1)


def shapes(system: System) -> None:
    """Frames, audio and counts have the declared shapes, and the audio is finite."""
    made = generate(system, prompts_for(system), seeds=[0, 1, 2])
    axis, T = (1 if system.codec.continuous else 2), 4 + N_FRAMES
    found = tuple(made.prompt_frames), made.frames.shape[0], made.frames.shape[axis]
    assert found == ((2, 4, 3), 3, T), f"prompt frames, rows, frames: {found}"
    assert made.frames.is_floating_point() == system.codec.continuous, made.frames.dtype
    assert made.wave.shape == (3, T * system.codec.hop_length), tuple(made.wave.shape)
    assert torch.isfinite(made.wave).all(), "not all samples are finite"
    assert made.words is None or len(made.words) == 3, "words are not one tuple a row"


def prompts_stay(system: System) -> None:
    """Prompts stand at the head of their clips unchanged."""
    prompts = prompts_for(system)
    made = generate(system, prompts, seeds=[0, 1, 2])
    for i, prompt in enumerate(prompts):
        given = system.codec.encode(prompt.wave[None])[0]
        given = given if system.codec.continuous else given.transpose(0, 1)
        close(row(system, made, i)[: len(given)], given)


def seed_decides(system: System) -> None:
    """The seed decides the clip, and nothing global is read or changed."""
    prompts = prompts_for(system)[:1]
    first = generate(system, prompts, seeds=[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        before = torch.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002
        again, other = (generate(system, prompts, seeds=[s]) for s in (1, 2))
        after = torch.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002
    assert torch.equal(before[0], after[0]), "torch's global generator was drawn from"
    assert before[1] == after[1], "numpy's global generator was drawn from"
    assert torch.equal(first.wave, again.wave), "one seed gave two clips"
    assert not torch.equal(first.wave, other.wave), "two seeds gave one clip"


def cold_is_fixed(system: System) -> None:
    """Temperature 0 ignores the seed, where there is a temperature."""
    if system.temperature_kind == "none":
        return
    prompts = prompts_for(system)[:1]
    one, two = (generate(system, prompts, seeds=[s], temperature=0.0) for s in (1, 2))
    assert torch.equal(one.wave, two.wave), "two seeds gave two clips"


def rows_are_alone(system: System) -> None:
    """A row does not depend on its batch."""
    prompts = prompts_for(system)
    together = generate(system, prompts, seeds=[5, 6, 7])
    backwards = generate(system, prompts[::-1], seeds=[7, 6, 5])
    for i, prompt in enumerate(prompts):
        alone = row(system, generate(system, [prompt], seeds=[5 + i]), 0)
        for batch, at in ((together, i), (backwards, 2 - i)):
            close(row(system, batch, at), alone)


def streams_the_same(system: System) -> None:
    """Streaming decodes the audio of the whole clip."""
    sampling = SamplingParams(temperature=0.0, text_temperature=0.0)
    prompt, generator = prompts_for(system)[1], torch.Generator().manual_seed(0)
    with torch.inference_mode():
        state = system.start([prompt], sampling, [generator], N_FRAMES)
        decoder, heard = system.start_decoding(1), []
        given = system.codec.encode(prompt.wave[None])
        for frame in given.unbind(1 if system.codec.continuous else 2):
            heard.append(system.decode_step(frame, decoder).clone())
        for _ in range(N_FRAMES):
            frame = system.head_step(state, system.backbone_step(state))
            heard.append(system.decode_step(frame, decoder).clone())
            system.push(state, frame)
        whole = system.finish(state).wave
    close(torch.cat(heard, dim=1), whole)


def says_how_it_samples(system: System) -> None:
    """It says how many head evaluations and steps a frame takes, and whether it has weights."""
    sampling = SamplingParams(temperature=1.0, text_temperature=1.0, head_steps=2)
    least = 0 if system.weight_free else 1
    has_some = any(not name.startswith("codec.") for name, _ in system.named_parameters())
    assert has_some != system.weight_free, f"weight_free is {system.weight_free}"
    assert system.nfe(sampling) >= least, f"nfe is {system.nfe(sampling)}"
    assert system.default_head_steps >= 1, f"default_head_steps is {system.default_head_steps}"


def whole_clips(codec: Codec) -> None:
    """Whole clips have the declared shapes; the last frame is padded."""
    frames = codec.encode(torch.stack([noise(4 * codec.hop_length + 1, s) for s in (0, 1)]))
    found = frames.shape[0], frames.shape[1 if codec.continuous else 2]
    assert found == (2, 5), f"clips, frames: {found}"
    wave = codec.decode(frames)
    assert wave.shape == (2, 5 * codec.hop_length), tuple(wave.shape)
    assert (codec.bits_per_second is None) == codec.continuous, "latents have no bit rate"


def frame_by_frame(codec: Codec) -> None:
    """Decoding frame by frame, or several at a time, gives the audio of the whole clip."""
    frames = codec.encode(noise(6 * codec.hop_length, 0)[None])
    state, whole = codec.start_decoding(1), codec.decode(frames)
    steps = frames.unbind(1 if codec.continuous else 2)
    close(torch.cat([codec.decode_step(frame, state) for frame in steps], dim=1), whole)
    state = codec.start_decoding(1)
    first = codec.decode_step(steps[0], state)
    rest = torch.split(torch.stack(steps[1:], 1), 3, 1)
    close(torch.cat([first, *(codec.decode_steps(part, state) for part in rest)], dim=1), whole)


def is_causal(codec: Codec) -> None:
    """A frame does not depend on the audio after it."""
    wave = noise(6 * codec.hop_length, 0)[None]
    changed = wave.clone()
    changed[:, 4 * codec.hop_length :] = 0
    axis = 1 if codec.continuous else 2
    before, after = (codec.encode(w).narrow(axis, 0, 4) for w in (wave, changed))
    close(before, after)


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
    spoken = STORY.split()
    step = len(wave) / RATE / len(spoken)
    words = tuple(
        TimedWord(word=w, start=i * step, end=(i + 0.9) * step) for i, w in enumerate(spoken)
    )
    silent = is_silent(wave)
    heard = () if silent else words[: index % 5] + words[index % 5 + 1 :]
    text = " ".join(w.word for w in heard)
    return Clip(
        clip_id=content_hash(wave.tobytes(), index),
        prompt_id=f"p{index:02d}",
        seed_index=0,
        wave=wave,
        sample_rate=RATE,
        prompt_seconds=PROMPT_SECONDS,
        words=words,
        transcript=Transcript(text=text, words=heard, flags=("silent",) if silent else ()),
    )


@cache
def reference() -> tuple[Clip, ...]:
    """Two recordings."""
    return tuple(clip_of(speechlike(6.0, seed), seed) for seed in range(2))


def shifted(clip: Clip) -> Clip:
    """A clip a tenth of a second later."""
    return replace(clip, wave=np.roll(clip.wave, RATE // 10), clip_id=f"{clip.clip_id}-shifted")


ODD: dict[str, Callable[[Clip], Clip]] = {
    "identical": lambda clip: clip,
    "shifted": shifted,
    "silent": lambda clip: clip_of(np.zeros_like(clip.wave), int(clip.prompt_id[1:])),
    "one frame": lambda clip: clip_of(
        clip.wave[: round(PROMPT_SECONDS * RATE) + 1280], int(clip.prompt_id[1:])
    ),
    "unknown": lambda clip: replace(
        clip, words=None, transcript=None, clip_id=f"{clip.clip_id}-unknown"
    ),
}
"""What a metric must cope with, made of a recording."""


def _result(metric: Metric, clips: Sequence[Clip], others: Sequence[Clip]) -> Any:
    """What a metric finds, if all of it is a number or a reason."""
    found = metric.score(clips, others)
    checked, _ = score_row(metric, clips, others)
    unsaid = {key: note for key, note in checked.notes.items() if note != found.notes.get(key)}
    assert not unsaid, next(iter(unsaid.values()))
    return found


def numbers_or_reasons(metric: Metric) -> None:
    """Any clip gives a number or a reason: identical, shifted, silent, one frame, unknown."""
    for odd in ODD.values():
        clips = [odd(clip) for clip in reference()]
        found = _result(metric, clips, reference())
        by_pair = {clip.pair_key: found.clips.get(clip.clip_id, {}) for clip in clips}
        for column in metric.columns:
            if column.aggregate != "set":
                for number in (
                    summarise(column, by_pair, 0),
                    compare(column, by_pair, by_pair, 0),
                ):
                    assert number.value is not None or number.reason, column.name


def nothing_is_no_crash(metric: Metric) -> None:
    """No clips, and no reference, are a reason and no crash."""
    _result(metric, [], reference())
    _result(metric, reference(), [])


def measures_the_same_twice(metric: Metric) -> None:
    """The same clips give the same numbers under the same recipe."""
    assert content_hash(metric.recipe) == content_hash(metric.recipe), "its recipe changes"
    clips = [shifted(clip) for clip in reference()[:1]]
    first, second = (metric.score(clips, reference()) for _ in range(2))
    assert first == second, "its numbers change"


def vectors_as_declared(embedding: Embedding) -> None:
    """Vectors are float32 and as wide as declared, and do not depend on their batch."""
    n = math.ceil(embedding.min_seconds * embedding.sample_rate)
    waves = [0.1 * np.ones(n, np.float32), speechlike(n / RATE + 1, 0)[: n + 4000]]
    for wave, vectors in zip(waves, embedding.embed(waves), strict=True):
        assert np.ndim(vectors) == 2, f"a shape of {np.shape(vectors)}"
        assert len(vectors) >= 1, "no vector"
        assert vectors.shape[1] == embedding.dim, f"a shape of {np.shape(vectors)}"
        assert vectors.dtype == np.float32, f"vectors are {vectors.dtype}"
        np.testing.assert_allclose(embedding.embed([wave])[0], vectors, atol=1e-4)


CHECKS: dict[str, tuple[Callable[[Any], None], ...]] = {
    "system": (
        *(shapes, prompts_stay, seed_decides, cold_is_fixed, rows_are_alone),
        *(streams_the_same, says_how_it_samples),
    ),
    "codec": (whole_clips, frame_by_frame, is_causal),
    "metric": (numbers_or_reasons, nothing_is_no_crash, measures_the_same_twice),
    "embedding": (vectors_as_declared,),
}
