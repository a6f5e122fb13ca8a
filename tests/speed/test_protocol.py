import gc
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from calm_bench.config import LatencySpec
from calm_bench.speed import timing
from calm_bench.speed.frames import Clock, InGroups, clock_for, marked_frame
from calm_bench.speed.generations import time_growth
from calm_bench.speed.protocol import Arm, measure, time_arm, unfinished, warm_up
from calm_bench.speed.timetable import Growth
from calm_bench.store.records import LatencyRecord, Row
from calm_bench.store.run_store import RunStore
from calm_bench.systems.base import Prompt
from calm_bench.systems.loading import OpenModels, load_system
from calm_bench.types import Mode, SamplingParams

SAMPLING = SamplingParams(temperature=1.0, text_temperature=1.0)


class FakeClock(Clock):
    """Time that passes only when a stage says so."""

    def __init__(self) -> None:
        self.now = 0

    def mark(self) -> int:
        return self.now


class FakeSystem(torch.nn.Module):
    """A system whose stages take a known time on the fake clock."""

    def __init__(self, clock: FakeClock, log: list[str], name: str, head: int = 30) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.codec = SimpleNamespace(hop_length=1280, sample_rate=16000, frame_rate=12.5)
        self.clock, self.log, self.name, self.head = clock, log, name, head

    def spend(self, what: str, time: int) -> None:
        self.clock.now += time
        self.log.append(what)

    def start(self, prompts: Any, sampling: Any, generators: Any, n_frames: int) -> int:
        assert not gc.isenabled()
        assert torch.is_inference_mode_enabled()
        assert len(prompts) == len(generators) == 1
        self.spend(f"start {self.name}", 1000)
        return n_frames

    def start_decoding(self, batch_size: int) -> None:
        assert batch_size == 1

    def backbone_step(self, state: int) -> str:
        self.spend("backbone", 100)
        return "z"

    def head_step(self, state: int, z: str) -> str:
        assert z == "z"
        self.spend("head", self.head)
        return "frame"

    def push(self, state: int, frame: str) -> None:
        self.spend("push", 7)

    def decode_step(self, frame: str, decoder: None) -> None:
        assert frame == "frame"
        self.spend("decode", 50)


def arm(
    clock: FakeClock, log: list[str], name: str, *, control: bool = False, head: int = 30
) -> Arm:
    system: Any = FakeSystem(clock, log, name, head)
    prompt: Any = object()
    return Arm(cell_id=name, system=system, sampling=SAMPLING, prompts=(prompt,), control=control)


def test_each_stage_gets_its_own_time_and_push_belongs_to_the_backbone() -> None:
    clock = FakeClock()
    times = time_arm(arm(clock, [], "a"), 3, clock)
    assert times.stage_ns == {
        "backbone": (107, 107, 107),
        "head": (30, 30, 30),
        "codec": (50, 50, 50),
        "total": (187, 187, 187),
    }
    assert times.first_audio_ns == 1000 + 187
    assert gc.isenabled()


def test_stages_run_in_the_order_in_which_clips_are_made() -> None:
    clock, log = FakeClock(), list[str]()
    time_arm(arm(clock, log, "a"), 2, clock)
    assert log == ["start a", *["backbone", "head", "push", "decode"] * 2]


@pytest.mark.parametrize("lead", [0, 2])
def test_growth_draws_only_the_frames_it_times_and_takes_every_step(
    monkeypatch: pytest.MonkeyPatch, lead: int
) -> None:
    monkeypatch.setattr("calm_bench.speed.generations.state_bytes", lambda arm, n_frames: n_frames)
    clock, log = FakeClock(), list[str]()
    grown = arm(clock, log, "a")
    grown.system.lead = lead  # by so many steps a frame is complete late
    records = time_growth(grown, 0, Growth(seconds=(1.6, 0.4), frames=3), clock)
    assert [(record.seconds, record.state_bytes) for record in records] == [(0.4, 8), (1.6, 23)]
    assert {record.stage_ns["backbone"] for record in records} == {(107,) * 3}
    assert {record.stage_ns["total"] for record in records} == {(187,) * 3}
    # Frames 5 to 7 and 20 to 22 are timed; the first one has to be drawn as well, and so do those
    # whose steps have a part in the timed ones.
    steps = "".join(word[0] for word in log[1:]).replace("d", "d ").split()
    assert [step.replace("h", "") for step in steps] == ["bpd"] * 23
    drawn = [index for index, step in enumerate(steps) if "h" in step]
    assert drawn == [0, *range(5 - lead, 8), *range(20 - lead, 23)]


@pytest.mark.parametrize(
    ("at_once", "calls"), [(2, [1, 2, 2, 2]), (3, [1, 3, 3]), (4, [1, 4, 2]), (9, [1, 6])]
)
def test_the_first_frame_is_decoded_alone_and_then_so_many_and_what_is_left(
    at_once: int, calls: list[int]
) -> None:
    clock, sizes = FakeClock(), list[int]()
    grouped = replace(arm(clock, [], "a"), codec_frames=at_once)

    def decode_steps(frames: torch.Tensor, decoder: None) -> None:
        sizes.append(frames.shape[1])
        clock.now += 40 + 10 * frames.shape[1]

    grouped.system.codec.decode_steps = decode_steps  # type: ignore[method-assign]
    grouped.system.head_step = lambda *_: torch.zeros(1, 4)  # type: ignore[method-assign]
    times = time_arm(grouped, 7, clock)
    assert sizes == calls
    assert times.first_audio_ns == 1000 + 107 + 50
    assert sum(times.stage_ns["codec"]) == 40 * len(calls) + 10 * 7
    assert times.stage_ns["codec"][:2] == (50, 0)
    assert sum(times.stage_ns["total"]) == 107 * 7 + sum(times.stage_ns["codec"])


@pytest.mark.parametrize("at_once", [2, 4])
@pytest.mark.parametrize("name", ["calm-debug", "musicgen-debug", "rq-debug", "trigflow-debug"])
@pytest.mark.parametrize("mode", ["plain", "eager"])
def test_frames_decoded_several_at_a_time_give_the_audio_of_one_by_one(
    name: str, mode: Mode, at_once: int
) -> None:
    system = load_system(name, mode=mode)
    wave = 0.1 * torch.randn(5 * system.codec.hop_length, generator=torch.manual_seed(0))
    heard = []
    for stepped in (system, InGroups(system, at_once, 7)):
        with torch.inference_mode():
            generator = torch.Generator().manual_seed(0)
            state = system.start([Prompt(wave=wave)], SAMPLING, [generator], 7)
            decoder, parts = system.start_decoding(1), []
            decode = stepped.decode_step
            stepped.decode_step = lambda *of, to=parts, by=decode: to.append(by(*of))
            for _ in range(7):
                marked_frame(stepped, state, decoder, lambda: 0)
        heard.append(torch.cat([part for part in parts if part is not None], 1))
    assert heard[0].shape[1] == 7 * system.codec.hop_length
    torch.testing.assert_close(*heard, atol=1e-4, rtol=0)


def test_garbage_collection_comes_back_after_an_error() -> None:
    clock = FakeClock()
    broken = arm(clock, [], "a")
    broken.system.push = None  # type: ignore[method-assign,assignment]
    with pytest.raises(TypeError):
        time_arm(broken, 1, clock)
    assert gc.isenabled()


def test_warming_up_ends_when_three_medians_agree() -> None:
    clock = FakeClock()
    assert warm_up(arm(clock, [], "a"), LatencySpec(frames=4, warmup=1), clock) == 3
    assert warm_up(arm(clock, [], "a"), LatencySpec(frames=4, warmup=5), clock) == 5


def test_warming_up_gives_a_restless_machine_up() -> None:
    clock = FakeClock()

    class Restless(FakeSystem):
        def head_step(self, state: int, z: str) -> str:
            self.head += 100
            return super().head_step(state, z)

    system: Any = Restless(clock, [], "a")
    prompt: Any = object()
    restless = Arm(cell_id="a", system=system, sampling=SAMPLING, prompts=(prompt,))
    assert warm_up(restless, LatencySpec(frames=4, warmup=3), clock) == 12


def missing(store: RunStore) -> list[int]:
    done = ((r.round, (r.cell_id, r.control)) for r in store.read(LatencyRecord))
    return unfinished(range(SPEC.rounds), WANTED, done)


SPEC = LatencySpec(frames=4, warmup=1, rounds=6)
WANTED = {("a", False), ("b", False), ("a", True)}


def measured(root: Path, rounds: list[int]) -> tuple[RunStore, list[str]]:
    clock, log, store = FakeClock(), list[str](), RunStore(root)
    arms = [arm(clock, log, "a"), arm(clock, log, "b"), arm(clock, log, "a", control=True)]
    measure(arms, SPEC, store, rounds, seed=7, clock=clock)
    return store, log


def test_every_arm_runs_once_per_round_in_shuffled_order(tmp_path: Path) -> None:
    store, _ = measured(tmp_path, list(range(6)))
    records = store.read(LatencyRecord)
    orders = []
    for number in range(6):
        arms = sorted((r for r in records if r.round == number), key=lambda r: r.order)
        assert {(r.cell_id, r.control) for r in arms} == WANTED
        assert [r.order for r in arms] == [0, 1, 2]
        orders.append([(r.cell_id, r.control) for r in arms])
    assert len({tuple(order) for order in orders}) > 1
    assert all(r.frame_ns == 80_000_000 and r.dtype == "float32" for r in records)


def test_only_missing_rounds_are_measured_again_in_the_same_order(tmp_path: Path) -> None:
    whole, _ = measured(tmp_path / "whole", list(range(6)))
    part, _ = measured(tmp_path / "part", [0, 1, 2])
    assert missing(part) == [3, 4, 5]
    records = part.root / LatencyRecord.file
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])  # killed in round 2
    assert missing(part) == [2, 3, 4, 5]
    measured(tmp_path / "part", [2, 3, 4, 5])
    assert missing(part) == []

    def orders(store: RunStore) -> set[tuple[int, int, str, bool]]:
        return {(r.round, r.order, r.cell_id, r.control) for r in store.read(LatencyRecord)}

    assert orders(part) == orders(whole)


def test_the_clock_fits_the_device() -> None:
    clock = clock_for("cpu")
    assert type(clock) is Clock
    start = clock.mark()
    assert clock.between(start, clock.mark()) >= 0
    assert type(clock_for("cuda:0")).__name__ == "CudaClock"


class FakeMemory:
    """torch's counts of GPU memory: what is taken now, and at most since the counter was set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.peak = 0
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: self.now)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.peak)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.reset)

    def take(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)

    def reset(self, device: object) -> None:
        self.peak = self.now


class GreedySystem(FakeSystem):
    """Holds `packed` bytes from its loading on, `captured` from its first step on, states while
    it generates."""

    device = torch.device("cpu")

    def __init__(self, memory: FakeMemory, packed: int, captured: int, state: int) -> None:
        super().__init__(FakeClock(), [], "greedy")
        self.memory, self.captured, self.state = memory, captured, state
        memory.take(packed)

    def start(self, prompts: Any, sampling: Any, generators: Any, n_frames: int) -> int:
        self.memory.take(self.captured)
        self.captured = 0
        self.memory.take(self.state)
        self.memory.now -= self.state
        return n_frames


def test_peak_memory_holds_what_was_packed_and_captured_and_nothing_of_other_systems(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = FakeMemory(monkeypatch)
    memory.take(5000)  # what the clips left behind
    sizes = {"big": (1000, 300, 70), "small": (200, 0, 9)}
    cells = [
        Row(cell_id=f"{name}-{steps}", label=name, kind="system", model=name, temperature=1.0,
             text_temperature=1.0, head_steps=steps)
        for name, steps in (("big", 1), ("big", 4), ("small", 1))
    ]  # fmt: skip
    monkeypatch.setattr(
        "calm_bench.systems.loading.load_system",
        lambda name, device, **options: GreedySystem(memory, *sizes[name]),
    )
    prompt = SimpleNamespace(wave=None, words=None)
    monkeypatch.setattr(timing, "load_prompt", lambda *_: prompt)
    monkeypatch.setattr(timing, "system_prompt", lambda *_: None)
    spec = SimpleNamespace(latency=SPEC, prompt_seconds=3.0)
    plan: Any = SimpleNamespace(spec=spec, prompts=[None], root=None, rows=cells)
    monkeypatch.setattr(torch, "ones", lambda *_, device: torch.zeros(1, 1))
    models: Any = defaultdict(lambda: (SimpleNamespace(codec=None), None))
    opened = OpenModels(models, "cuda")
    opened.system("big", "fp32").start([], None, [], 1)  # type: ignore[arg-type]  # its clips
    peaks = {
        (arm.cell_id, arm.control): arm.peak_bytes
        for arm in timing._with_control(timing._run_arms(plan, opened), cells[0])
    }
    assert peaks == {
        ("big-1", False): 1370,
        ("big-4", False): 1370,
        ("small-1", False): 209,
        ("big-1", True): 1370,
    }


def test_on_a_processor_nobody_counts_memory(tmp_path: Path) -> None:
    store, _ = measured(tmp_path, [0])
    assert {record.peak_bytes for record in store.read(LatencyRecord)} == {None}
