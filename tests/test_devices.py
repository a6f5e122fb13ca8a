"""No step mixes devices, as far as a machine without a GPU can tell.

Tensors on a GPU are played by tensors of the processor that say they are on `cuda:0`. They compute
what the processor computes, and refuse what CUDA refuses: an operator over both devices, a
generator of the other one, `numpy`. (torch's FakeTensorMode cannot be indexed without CUDA, knows
no values to branch on, and lets pass a convolution with the processor's weights and the processor's
generators.) What kernels do, and CUDA graphs, is not looked at.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from calm_bench.codecs.checkpoints import load_codec
from calm_bench.data.prompts import LoadedPrompt
from calm_bench.score.held_out import text_losses
from calm_bench.systems.base import Prompt
from calm_bench.systems.engine import RUNNERS
from calm_bench.systems.loading import load_system
from calm_bench.systems.streaming import StreamingSystem
from calm_bench.training.codec import CodecObjective, CodecTraining
from calm_bench.training.language import (
    VALIDATION_STEP,
    CalmObjective,
    FlowObjective,
    LanguageObjective,
    LanguageTraining,
    MusicGenObjective,
    RqObjective,
)
from calm_bench.training.objective import TrainingConfig
from calm_bench.training.text import TokenTexts, plain_text_loss
from calm_bench.types import Mode, Precision, SamplingParams, TimedWord

CUDA = torch.device("cuda:0")


class OnGpu(Tensor):
    """A tensor that is said to be on a GPU."""


class GpuGenerator(torch.Generator):
    """A generator that is said to be of a GPU."""

    device = property(lambda self: CUDA)  # type: ignore[assignment]


def on_gpu(x: Any) -> Any:
    if not isinstance(x, Tensor) or isinstance(x, OnGpu):
        return x
    return x.as_subclass(OnGpu)


def is_cuda(device: object) -> bool:
    return device is not None and torch.device(device).type == "cuda"  # type: ignore[arg-type]


TOLD = {
    Tensor.device.__get__: CUDA,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: False,  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__: True,  # type: ignore[attr-defined]
}
CROSSES = {"copy_", "__setitem__", "set_data", "__set__"}
"""What may have its operands on two devices."""


class Machine(TorchFunctionMode):
    """Tells tensors of the two devices apart, and what may be done with both."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [x for x in leaves if isinstance(x, OnGpu)]
        if func in TOLD and there:
            return TOLD[func]
        name = getattr(func, "__name__", "")
        if name in ("numpy", "data_ptr", "__array__") and there:
            assert name == "data_ptr", f"{name} of a tensor on a GPU"
        if name in ("to", "cpu", "cuda"):
            return self._moved(func, args, kwargs)
        device = kwargs.get("device")
        gpu = is_cuda(device) if device is not None else bool(there)
        self._refuse_mixing(name, leaves, there, kwargs.get("generator"), gpu)
        if device is not None:
            kwargs["device"] = "cpu" if is_cuda(device) else device
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*args, **kwargs)
            return tree_map(on_gpu, made) if gpu else made

    def _refuse_mixing(
        self, name: str, leaves: list[Tensor], there: list[Tensor], generator: Any, gpu: bool
    ) -> None:
        if generator is not None:
            assert isinstance(generator, GpuGenerator) == gpu, f"{name}: generator elsewhere"
        here = [x for x in leaves if not isinstance(x, OnGpu) and plain_dim(x) > 0]
        if there and here and name not in CROSSES:
            raise AssertionError(
                f"{name} over two devices: {[tuple(plain_shape(x)) for x in here]}"
            )

    def _moved(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        name, source = func.__name__, args[0]
        asked = [
            x for x in (*args[1:], *kwargs.values()) if isinstance(x, str | torch.device | Tensor)
        ]
        target = asked[0] if asked else None
        if isinstance(target, Tensor):
            target = CUDA if isinstance(target, OnGpu) else torch.device("cpu")
        gpu = isinstance(source, OnGpu) if target is None else is_cuda(target)
        gpu = {"cpu": False, "cuda": True}.get(name, gpu)
        with torch._C.DisableTorchFunctionSubclass():
            rest = ["cpu" if isinstance(x, str | torch.device) else x for x in args[1:]]
            if "device" in kwargs:
                kwargs["device"] = "cpu"
            made = source if name != "to" else func(source, *rest, **kwargs)
            if isinstance(source, OnGpu) == gpu:
                return on_gpu(made) if gpu else made
            return made.clone().as_subclass(OnGpu if gpu else Tensor)


def plain_dim(x: Tensor) -> int:
    with torch._C.DisableTorchFunctionSubclass():
        return x.dim()


def plain_shape(x: Tensor) -> torch.Size:
    with torch._C.DisableTorchFunctionSubclass():
        return x.shape


def moved(self: nn.Module, device: Any = None, *_: Any, **__: Any) -> nn.Module:
    """`Module.to`, which without CUDA swaps tensors that cannot be swapped."""
    for part in self.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                there = nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
                part._parameters[name] = there
        for name, buffer in list(part._buffers.items()):
            part._buffers[name] = None if buffer is None else buffer.to(device)
    return self


def both(velocity: Callable[..., Tensor], at: Any, along: Any) -> tuple[Tensor, Tensor]:
    """In the place of `torch.func.jvp`, whose tensors cannot be told apart: any tangent will do."""
    assert all(isinstance(x, OnGpu) for x in (*at, *along))
    value = velocity(*at)
    return value, value.detach()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that has one."""
    real = torch.Generator

    def generator(device: Any = "cpu") -> torch.Generator:
        return GpuGenerator() if is_cuda(device) else real()

    monkeypatch.setattr(torch, "Generator", generator)
    monkeypatch.setattr(torch.func, "jvp", both)
    monkeypatch.setattr(nn.Module, "to", moved)
    with Machine():
        yield


@pytest.mark.usefixtures("gpu")
def test_the_machine_refuses_what_cuda_refuses() -> None:
    x, y = torch.ones(2, 3, device="cuda:0"), torch.ones(2, 3)
    assert x.device == CUDA
    assert y.device.type == (x + 1).cpu().device.type == "cpu"
    assert x[:, 1:].device == torch.zeros_like(x).device == y.to(x).device == CUDA
    assert (x * torch.tensor(2.0)).sum().item() == 12
    for mixed in (
        lambda: x + y,
        lambda: torch.cat([x, y]),
        lambda: nn.Conv1d(3, 3, 1)(x.T[None]),
        lambda: torch.rand(2, generator=torch.Generator(), device=CUDA),
        lambda: torch.rand(2, generator=torch.Generator(CUDA)),
        lambda: x.numpy(),
        lambda: y[x[0].long()],
    ):
        with pytest.raises(AssertionError):
            mixed()
    moving: Callable[..., nn.Module] = nn.Conv1d(3, 3, 1).to
    assert moving(CUDA)(x.T[None]).device == CUDA


KINDS = ("calm", "calm-music", "musicgen", "rq", "rq-levels", "trigflow")
SYSTEMS = [f"{kind}-debug" for kind in KINDS]
STEPS: list[tuple[Mode, Precision]] = [
    ("plain", "fp32"),
    ("plain", "bf16"),
    ("eager", "fp32"),
    ("graph", "bf16"),
]


def clips(name: str, device: str, mode: Mode, precision: Precision) -> tuple[Tensor, Tensor]:
    """Audio of two ragged clips, decoded whole and as it streams."""
    system = load_system(name, device, mode=mode, precision=precision)
    sampling = SamplingParams(temperature=0.8, text_temperature=0.8, head_steps=3, top_k=5)
    hop, source = system.codec.hop_length, torch.Generator().manual_seed(0)
    words = (TimedWord(word="Hi", start=0.0, end=0.1),)
    given = [
        Prompt(wave=torch.randn(int(n * hop), generator=source).to(device), words=words)
        for n in (4.5, 2)
    ]
    generators = [torch.Generator().manual_seed(row) for row in range(2)]
    with torch.inference_mode():
        state = system.start(given, sampling, generators, 5)
        decoder, streamed = system.start_decoding(2), []
        for _ in range(5):
            frame = system.head_step(state, system.backbone_step(state))
            system.push(state, frame)
            streamed.append(system.decode_step(frame, decoder).clone())
        return system.finish(state).wave, torch.cat(streamed, 1)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_stays_on_its_device(
    name: str, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNNERS, "graph", lambda function, changed: function)
    sound = clips(name, "cpu", "plain", "fp32")
    for mode, precision in STEPS:
        made = clips(name, "cuda:0", mode, precision)
        assert all(wave.device == CUDA for wave in made)
        if precision == "fp32":
            for wave, expected in zip(made, sound, strict=True):
                assert (wave.cpu() - expected).abs().max() < 1e-4


OBJECTIVES: dict[str, type[LanguageObjective]] = {
    "calm-debug": CalmObjective,
    "calm-music-debug": CalmObjective,
    "musicgen-debug": MusicGenObjective,
    "rq-debug": RqObjective,
    "trigflow-debug": FlowObjective,
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_training_step_of_a_system_stays_on_its_device(name: str, gpu: None) -> None:
    system = load_system(name, "cuda:0", mode="plain")
    assert isinstance(system, StreamingSystem)
    system.requires_grad_(True).train()
    system.codec.requires_grad_(False)
    cls = OBJECTIVES[name]
    objective = cls.__new__(cls)  # without a corpus
    objective.system, objective.config = system, LanguageTraining(frames=6)
    objective.recipe = TrainingConfig(corpus="none", steps=2, batch_size=2, learning_rate=1e-3)
    B, T = 2, 6
    frames = torch.randn(B, T, system.frame_width)
    batch = {
        "frames": frames if system.codec.continuous else (frames.abs() * 3).long().clamp_max(9),
        "mask": torch.ones(B, T, dtype=torch.bool),
        "seen": torch.rand(B, T) > 0.3,
    }
    if name != "musicgen-debug":
        batch["chosen"] = torch.tensor([1, 3, 4, 9])
    if system.text_size is not None:
        batch["text"] = torch.randint(system.text_size, (B, T + system.lead))
    there = {key: value.to("cuda:0") for key, value in batch.items()}
    with torch.no_grad():
        assert objective.loss(there, VALIDATION_STEP).loss.device == CUDA
    loss = objective.loss(there, 0).loss
    loss.backward()
    assert loss.device == CUDA
    assert all(p.grad is not None for p in system.backbone.parameters())


@pytest.mark.parametrize("name", ["vae-debug", "rvq-debug"])
def test_a_training_step_of_a_codec_stays_on_its_device(name: str, gpu: None) -> None:
    codec = load_codec(name, "cuda:0").requires_grad_(True).train()
    config = CodecTraining(
        seconds=0.64, adversarial=1.0, adversarial_start=0, complex=0.1, time=0.1,
        spectral_sizes=(128, 256), discriminator_sizes=(128,), discriminator_width=4,
    )  # fmt: skip
    silent: Any = SimpleNamespace()
    objective = CodecObjective(codec, config, silent, silent, 0)  # type: ignore[arg-type]
    assert objective.adversary is not None
    objective.adversary.to("cuda:0")
    wave = torch.randn(2, objective.samples).to("cuda:0") * 0.1
    loss = objective.loss({"wave": wave}, 0).loss
    loss.backward()
    judged = objective.second_loss()
    assert judged is not None
    judged.backward()
    assert loss.device == judged.device == CUDA


@pytest.mark.parametrize("name", ["calm-debug", "rq-debug"])
def test_text_losses_stay_on_their_device(name: str, gpu: None) -> None:
    system = load_system(name, "cuda:0", mode="plain")
    assert isinstance(system, StreamingSystem)
    assert system.text_stream is not None
    texts = TokenTexts(["low tone", "high"], system.text_stream.tokenizer)
    assert plain_text_loss(system, texts) > 0
    rate, words = system.codec.sample_rate, (TimedWord(word="Hi", start=0, end=1),)
    wave = np.zeros(rate, np.float32)
    prompt = LoadedPrompt(
        id="a", wave=wave, sample_rate=rate, sha256="", words=words, text_source="given"
    )
    assert text_losses(system, [prompt], 0.2)


@pytest.mark.parametrize("name", ["vae-debug", "rvq-debug"])
def test_a_codec_s_round_trip_stays_on_its_device(name: str, gpu: None) -> None:
    codec = load_codec(name, "cuda:0")
    wave = torch.randn(2, 3 * codec.hop_length + 5).to("cuda:0")
    with torch.inference_mode():
        codec.prepare()
        assert codec.decode(codec.encode(wave)).device == CUDA
