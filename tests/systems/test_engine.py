"""The flat steps against the modules they stand for, teacher-forced, at every precision."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from calm_bench.codecs.trunk import TrunkConfig
from calm_bench.codecs.vae import VaeCodec, VaeConfig
from calm_bench.errors import InputError
from calm_bench.nn.depth import DepthCache, DepthConfig, DepthTransformer, FlatDepth
from calm_bench.nn.transformer import KvCache, TransformerConfig
from calm_bench.systems.base import Prompt
from calm_bench.systems.engine import TOLERANCES, CapturedSteps, FixedStream, install
from calm_bench.systems.loading import load_system
from calm_bench.systems.streaming import StreamingSystem, StreamState
from calm_bench.types import Precision, SamplingParams, TimedWord

TYPES = ("calm", "calm-music", "musicgen", "rq", "rq-levels", "trigflow")
NAMES = [f"{name}-debug" for name in TYPES]
NEW = 22  # more than twice the window of calm-music-debug's backbone
PRECISIONS: list[Precision] = ["fp32", "fp16", "bf16", "int8"]


def load(name: str, precision: Precision = "fp32", mode: str = "eager") -> StreamingSystem:
    system = load_system(name, precision=precision, mode=mode)  # type: ignore[arg-type]
    assert isinstance(system, StreamingSystem)
    return system


def prompts(system: StreamingSystem, lengths: list[float]) -> list[Prompt]:
    made = []
    for seed, frames in enumerate(lengths):
        samples = int(frames * system.codec.hop_length)
        wave = torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1
        made.append(Prompt(wave=wave, words=(TimedWord(word="Hi", start=0.0, end=0.1),)))
    return made


def begun(
    system: StreamingSystem, lengths: list[float], sampling: SamplingParams, n_frames: int
) -> StreamState:
    """A generation from prompts of these lengths in frames, each row of its own seed."""
    generators = [torch.Generator().manual_seed(row) for row in range(len(lengths))]
    return system.start(prompts(system, lengths), sampling, generators, n_frames)


def forced(
    plain: StreamingSystem, other: StreamingSystem, lengths: list[float], sampling: SamplingParams
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Contexts and frames of both systems, the second one fed with what the first one drew."""
    states = [begun(system, lengths, sampling, NEW) for system in (plain, other)]
    contexts: tuple[list[Tensor], list[Tensor]] = ([], [])
    frames: tuple[list[Tensor], list[Tensor]] = ([], [])
    for _ in range(NEW):
        for name in ("text", "stream"):  # as the steps before drew them, or `start` the leading
            if (theirs := getattr(states[1], name)) is not None:
                theirs.copy_(getattr(states[0], name))
        for i, (system, state) in enumerate(zip((plain, other), states, strict=True)):
            contexts[i].append(system.backbone_step(state))
            z = contexts[0][-1].to(contexts[i][-1].dtype)
            frames[i].append(system.head_step(state, z))
            system.push(state, frames[0][-1])
    a, b, c, d = (torch.stack(x, 1) for x in (*contexts, *frames))
    return a, b, c, d


def deviation(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / a.double().abs().max())


class Tape(TorchDispatchMode):
    """The operators that are called while it is on, with what they were given and gave."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, made))
        return made


class Replayed:
    """What a CUDA graph does, on a CPU: the operators of one call, again on the same memory.

    Everything that Python decided, every number that it passed and every tensor that it held at the
    first call stays as it was. So what changes from step to step must be in tensors that stay where
    they are, and a tensor put in the place of another is seen no more.
    """

    def __init__(self, function: Callable[..., Any], changed: Iterable[Tensor] = ()) -> None:
        self.function, self.changed = function, list(changed)
        self.tape: Tape | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        if self.tape is None:
            self._capture(inputs)
        for held, given in zip(self.inputs, inputs, strict=True):
            held.copy_(given)
        assert self.tape is not None
        now: dict[int, Any] = {}
        for func, args, kwargs, made in self.tape.calls:
            args, kwargs = tree_map(lambda x: now.get(id(x), x), (args, kwargs))
            again = func(*args, **kwargs)
            for before, after in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(before, Tensor):
                    now[id(before)] = after
        return tree_map(lambda x: now.get(id(x), x), self.outputs)

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = [given.clone() for given in inputs]
        before = [tensor.clone() for tensor in self.changed]
        for _ in range(3):
            self.function(*self.inputs)
        self.tape = Tape()
        with self.tape:
            self.outputs = self.function(*self.inputs)
        for tensor, value in zip(self.changed, before, strict=True):
            tensor.copy_(value)


def captured(name: str) -> StreamingSystem:
    """A system on steps of fixed shapes, replayed as a GPU would."""
    system = load(name)
    assert system.steps is not None
    install(system, CapturedSteps(system.steps, Replayed))
    return system


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lengths", [[4.0], [6.0, 1.5, 3.0]], ids=["one", "ragged"])
@pytest.mark.parametrize("opened", [load, captured])
@torch.inference_mode()
def test_fp32_steps_are_the_plain_ones(
    name: str,
    lengths: list[float],
    opened: Callable[[str], StreamingSystem],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("calm_bench.systems.engine.SMALLEST", 8)  # several buckets in a short clip
    plain, flat = load(name, mode="plain"), opened(name)
    sampling = SamplingParams(temperature=0.9, text_temperature=0.8, head_steps=3, top_k=9)
    for _ in range(2):  # the second time on memory that was used before
        z, fast_z, frames, fast_frames = forced(plain, flat, lengths, sampling)
        assert deviation(z, fast_z) < TOLERANCES["fp32"]
        if plain.codec.continuous:
            assert deviation(frames, fast_frames) < TOLERANCES["fp32"]
        else:
            assert torch.equal(frames, fast_frames)
        streams = [system.start_decoding(len(lengths)) for system in (plain, flat)]
        for frame in frames.unbind(1):
            a, b = (
                system.decode_step(frame, stream)
                for system, stream in zip((plain, flat), streams, strict=True)
            )
            torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_two_clips_at_once_do_not_share_memory() -> None:
    system = captured("calm-debug")
    sampling = SamplingParams(temperature=1.0, text_temperature=1.0)
    alone = system.generate(prompts(system, [4.0]), sampling, [torch.Generator().manual_seed(0)], 6)
    states = [
        system.start(prompts(system, [4.0]), sampling, [torch.Generator().manual_seed(seed)], 6)
        for seed in (0, 1)
    ]
    for _ in range(6):
        for state in states:
            z = system.backbone_step(state).clone()
            system.push(state, system.head_step(state, z).clone())
    torch.testing.assert_close(states[0].frames, alone.frames, atol=1e-5, rtol=0)
    held = {state.cache.buffer.data_ptr() for state in states}
    del states, state
    again = begun(system, [4.0], sampling, 6)
    assert again.cache.buffer.data_ptr() in held


@pytest.mark.parametrize("positions", [1, 3])
@torch.inference_mode()
def test_a_captured_codec_goes_on_beyond_its_table(positions: int) -> None:
    trunk = TrunkConfig(
        sample_rate=1000,
        front_end="waveform",
        ratios=(2,),
        encoder_dims=(8, 8),
        encoder_blocks=(0, 0),
        decoder_dims=(8, 8),
        decoder_blocks=(1, 0),
        resample=positions,
        transformer=TransformerConfig(dim=8, layers=2, heads=2, mlp_dim=16, context=5),
    )
    torch.manual_seed(0)
    codec = VaeCodec(VaeConfig(trunk=trunk, latent_channels=4)).eval()
    codec.prepare()
    eager, fixed = codec.start_decoding(2), FixedStream(codec, Replayed, torch.zeros(2, 4))
    for index in range(24):
        frame = torch.randn(2, 4)
        a, b = codec.decode_step(frame, eager), fixed.step(frame)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
        if index == 0:  # as after so many frames
            for key, cache in fixed.caches.items():
                assert cache.position == eager[key].position == positions
                cache.position = eager[key].position = 2048 - 6 * positions
    assert cache.position > 2048
    assert len(fixed.captured) > 1


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_a_clip_does_not_poison_the_next_on_its_memory(name: str) -> None:
    used, fresh = captured(name), captured(name)
    sampling = SamplingParams(temperature=0.9, text_temperature=1.0, top_k=9)

    def clip(system: StreamingSystem, broken: bool) -> tuple[Tensor, Tensor, int]:
        state = begun(system, [6.0, 3.0], sampling, 9)
        decoder = system.start_decoding(2)
        if broken:
            state.cache.buffer.fill_(torch.nan)
        wave = []
        for _ in range(9):
            frame = system.head_step(state, system.backbone_step(state))
            system.push(state, frame)
            frame = frame * torch.nan if broken and frame.is_floating_point() else frame
            wave.append(system.decode_step(frame, decoder).clone())
        return system.made(state).clone(), torch.cat(wave, 1), state.cache.buffer.data_ptr()

    _, spoilt, where = clip(used, True)
    assert spoilt.isnan().any()
    made, wave, again = clip(used, False)
    assert where == again
    expected, sound, _ = clip(fresh, False)
    assert torch.equal(made, expected)
    assert torch.equal(wave, sound)


@pytest.mark.usefixtures("packs_all")
@pytest.mark.parametrize("name", ["calm-debug", "calm-music-debug", "musicgen-debug", "rq-debug"])
@pytest.mark.parametrize("precision", PRECISIONS[1:])
@torch.inference_mode()
def test_fewer_bits_stay_within_what_is_stated(name: str, precision: Precision) -> None:
    plain, flat = load(name, mode="plain"), load(name, precision)
    sampling = SamplingParams(temperature=1.0, text_temperature=1.0)
    z, fast_z, frames, fast_frames = forced(plain, flat, [6.0, 1.5], sampling)
    off = deviation(z, fast_z)
    assert TOLERANCES["fp32"] < off < TOLERANCES[precision]
    if plain.codec.continuous:
        assert deviation(frames, fast_frames) < TOLERANCES[precision]


class Matrices(TorchDispatchMode):
    """The dtypes of all matrices that are multiplied while it is on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("mm", "addmm", "bmm", "linear", "matmul"):
            dtypes.update(x.dtype for x in tree_leaves(args) if isinstance(x, Tensor))
        return func(*args, **(kwargs or {}))


dtypes: set[torch.dtype] = set()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("random_weights", [False, True])
@torch.inference_mode()
def test_plain_bf16_is_a_model_in_bf16(name: str, random_weights: bool) -> None:
    options: dict[str, Any] = {"mode": "plain", "random_weights": random_weights}
    plain, half = load_system(name, **options), load_system(name, precision="bf16", **options)
    assert isinstance(plain, StreamingSystem)
    assert isinstance(half, StreamingSystem)
    assert (half.precision, half.mode) == ("bf16", "plain")
    sampling = SamplingParams(temperature=1.0, text_temperature=1.0, head_steps=3)
    z, half_z, frames, half_frames = forced(plain, half, [6.0, 1.5], sampling)
    assert TOLERANCES["fp32"] < deviation(z, half_z) < 2 * TOLERANCES["bf16"]
    assert half_frames.dtype == frames.dtype
    state = begun(half, [3.0], sampling, 4)
    half.push(state, half.head_step(state, half.backbone_step(state)))
    dtypes.clear()
    with Matrices():
        x = torch.zeros(1, half.backbone.config.dim)
        half.step(x, state.cache, sampling, torch.rand(1, 1) if half.text_size else None)
        if not plain.codec.continuous:  # times are embedded in float32
            half.head_step(state, half.backbone_step(state))
    assert dtypes == {torch.bfloat16}


@pytest.mark.usefixtures("packs_all")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rank", [None, 8])
@torch.inference_mode()
def test_depth_logits_given_the_same_codes(precision: Precision, rank: int | None) -> None:
    torch.manual_seed(0)
    config = DepthConfig(
        dim=32, layers=2, heads=4, mlp_dim=64, schedule=(0, 1, 1, 2), table_rank=rank
    )
    module = DepthTransformer(config, 24, 40, 11)
    z, codes, text = torch.randn(5, 24), torch.randint(40, (5, 4)), torch.randint(11, (5,))
    seen: list[Tensor] = []

    def follow(logits: Tensor, draws: Tensor) -> Tensor:
        seen.append(logits)
        return codes[:, len(seen) - 1]

    flat = FlatDepth(module, precision)
    cache = DepthCache(config, 5, z)
    for _ in range(2):  # a cache serves frame after frame
        seen.clear()
        assert torch.equal(flat.sample(z, text, torch.rand(5, 4), cache, follow), codes)
    assert deviation(module(z, codes, text), torch.stack(seen, 1)) < TOLERANCES[precision]


def test_training_is_left_as_it_was() -> None:
    plain, flat = load("calm-debug", mode="plain"), load("calm-debug")
    frames = torch.randn(2, 5, plain.frame_width, generator=torch.Generator().manual_seed(0))
    text = torch.zeros(2, 5 + plain.lead, dtype=torch.long)
    assert torch.equal(plain.contexts(frames, text), flat.contexts(frames, text))
    assert plain.state_dict().keys() == flat.state_dict().keys()


@pytest.mark.parametrize(
    ("precision", "mode", "words"),
    [("int8", "plain", "needs mode eager"), ("fp32", "graph", "is for CUDA devices")],
)
def test_what_a_device_cannot_do_is_one_line(precision: Precision, mode: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load("calm-debug", precision, mode)


@pytest.mark.usefixtures("packs_all")
@pytest.mark.parametrize("name", NAMES)
def test_a_system_knows_what_a_frame_reads(name: str) -> None:
    full, half = load(name), load(name, "bf16")
    assert (full.precision, full.mode, half.precision) == ("fp32", "eager", "bf16")
    weights = full.weight_bytes()
    assert weights["backbone"] > 4 * sum(
        p.numel() for layer in full.backbone.layers for p in layer.parameters() if p.ndim == 2
    )
    assert half.weight_bytes()["backbone"] < 0.75 * weights["backbone"]
    assert half.weight_bytes()["head"] < 0.75 * weights["head"]
    held = [full.kv_bytes(at)["backbone"] for at in (0, 3, 10_000)]
    context = full.backbone.config.context
    assert held[1] == 4 * held[0]
    assert held[2] == held[0] * (context or 10_001)
    assert load(name, mode="plain").weight_bytes() == {}


@pytest.mark.usefixtures("packs_all")
@pytest.mark.parametrize("name", ["calm-music-debug", "musicgen-debug", "rq-debug"])
@torch.inference_mode()
def test_random_weights_run_at_every_precision_and_leave_one_copy(name: str) -> None:
    for precision in PRECISIONS:
        system = load_system(name, precision=precision, random_weights=True)
        assert isinstance(system, StreamingSystem)
        again = load_system(name, precision=precision, random_weights=True)
        sampling = SamplingParams(temperature=1.0, text_temperature=1.0)
        made = [
            each.generate(
                prompts(system, [3.0]), sampling, [torch.Generator().manual_seed(0)], 5
            ).wave
            for each in (system, again)
        ]
        assert made[0].isfinite().all()
        assert torch.equal(*made)
        packed = [p for layer in system.backbone.layers for p in layer.parameters() if p.ndim == 2]
        assert all(p.is_meta for p in packed)
        assert sum(p.numel() for p in system.parameters()) == sum(
            p.numel() for p in load(name).parameters()
        )


def three(system: StreamingSystem, monkeypatch: pytest.MonkeyPatch, broken: int | None) -> Tensor:
    """Three clips, of which one reads NaN from its prompt."""
    read = system.read

    def spoiled(x: Tensor, cache: KvCache) -> None:
        x = x.clone()
        x[[] if broken is None else broken, -1] = torch.nan
        read(x, cache)

    with monkeypatch.context() as patch:
        patch.setattr(system, "read", spoiled)
        sampling = SamplingParams(temperature=0.9, text_temperature=1.0, top_k=9)
        generators = [torch.Generator().manual_seed(row) for row in range(3)]
        return system.generate(prompts(system, [6.0, 5.0, 3.0]), sampling, generators, 8).wave


@pytest.mark.usefixtures("packs_all")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["plain", *PRECISIONS])
def test_a_broken_clip_fails_alone(
    name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = precision == "plain"
    system = load(name, "fp32" if plain else precision, "plain" if plain else "eager")  # type: ignore[arg-type]
    sound, made = three(system, monkeypatch, None), three(system, monkeypatch, 1)
    assert sound.isfinite().all()
    assert not made[1].isfinite().all()
    exact = precision != "int8"  # there a clip's last digits depend on who is beside it
    assert torch.equal(made[::2], sound[::2]) if exact else made[::2].isfinite().all()
