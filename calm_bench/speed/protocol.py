"""How long a frame takes, stage by stage, by the same methods that made the clips.

Timed: `backbone` is backbone_step and push (text stream included), `head` is head_step, `codec` is
the streaming decoder's decode_step, `total` the whole frame on the same clock; first audio runs
from the prompt in hand to the first frame's samples (encoding and prefill included). Excluded:
loading, the recogniser, writing files, and the prompt's own audio, which a product would not play
again.

Every system runs once per round, in random order, and so does the baseline a second time (A/A):
what the machine does over minutes then meets all systems alike, and the A/A ratio shows what is
left of it. Ratios are medians over rounds of a round's ratio, so they say what a user of either
system would see on this machine. They say nothing of another machine, batch size or a compiled
model. At a batch of several prompts, a frame is one step of all of them.
"""

import gc
import random
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from calm_bench.core.device import device_name
from calm_bench.core.progress import stage
from calm_bench.seeds import derive_seed
from calm_bench.speed.frames import Clock, InGroups, by_stage, marked_frame, quiet
from calm_bench.store.records import LatencyRecord, Stage
from calm_bench.store.run_store import RunStore
from calm_bench.types import SamplingParams

if TYPE_CHECKING:
    import torch

    from calm_bench.config import LatencySpec
    from calm_bench.speed.footprint import ReadProbe
    from calm_bench.speed.timetable import Setting
    from calm_bench.systems.base import Prompt, System

WARM_UP_NS = 30_000_000_000
WARM_UP_TIMES = 4
WARM_UP_AGREEMENT = 0.02
Timed = TypeVar("Timed")
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What is timed once per round: a system continuing prompts, under the id of its row.

    Attributes:
        n_frames: How many frames, where not the benchmark's: a codec of a higher frame rate takes
            more of them for the same stretch of audio.
        codec_frames: How many the codec decodes at a time, once the first is heard.
        peak_bytes: The most GPU memory it held at once, weights included, where that was looked at.
    """

    cell_id: str
    system: "System"
    sampling: SamplingParams
    prompts: tuple["Prompt", ...]
    control: bool = False
    n_frames: int | None = None
    codec_frames: int = 1
    peak_bytes: int | None = None

    def generators(self) -> "list[torch.Generator]":
        """What the clips draw from, the same numbers every time."""
        import torch

        return [torch.Generator().manual_seed(row) for row in range(len(self.prompts))]

    def begin(self, n_frames: int, generators: "Sequence[torch.Generator]") -> tuple[Any, Any]:
        """State and decoder of a generation whose prompts are encoded and prefilled."""
        state = self.system.start(self.prompts, self.sampling, generators, n_frames)
        return state, self.system.start_decoding(len(self.prompts))


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmTimes:
    """Nanoseconds of one generation: per stage one number per frame, and to the first audio."""

    stage_ns: dict[Stage, tuple[int, ...]]
    first_audio_ns: int


def unfinished(
    rounds: Iterable[int], wanted: Set[Timed], done: Iterable[tuple[int, Timed]]
) -> list[int]:
    """The rounds that lack something of what is wanted; `done` is what was timed in which round.

    A round that was cut short is measured again as a whole, so that its arms share one state of the
    machine.
    """
    found: dict[int, set[Timed]] = {}
    for number, what in done:
        found.setdefault(number, set()).add(what)
    return [number for number in rounds if not wanted <= found.get(number, set())]


@contextmanager
def nothing_to_collect() -> Iterator[None]:
    """What is there now is no garbage: looking at all of it before each generation takes 0.1 s."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@nothing_to_collect()
def measure(
    arms: Sequence[Arm],
    spec: "LatencySpec | Setting",
    store: RunStore,
    rounds: Sequence[int],
    *,
    seed: int,
    clock: Clock,
    probe: "ReadProbe | None" = None,
) -> None:
    """Time every arm once in each of these rounds, in an order drawn from the seed.

    With a probe, memory's bandwidth is read before each arm.
    """
    with stage("latency, warming up", len(arms)) as advance:
        for arm in arms:
            if not arm.control:
                warm_up(arm, spec, clock)
            advance(1)
    if probe:
        probe.warm_up()
    with stage("latency, rounds", spec.rounds, spec.rounds - len(rounds)) as advance:
        for number in rounds:
            order = random.Random(derive_seed(seed, number)).sample(arms, len(arms))
            times = []
            for arm in order:
                if probe:
                    probe.read()
                times.append(time_arm(arm, arm.n_frames or spec.frames, clock))
            records = [_record(number, i, order[i], times[i]) for i in range(len(order))]
            store.append(*([probe.record(number)] if probe else []), *records)
            advance(1)


def warm_up(arm: Arm, spec: "LatencySpec | Setting", clock: Clock) -> int:
    """Generate until three medians in a row agree within 2 %.

    A machine that does not settle is given up on after four times the benchmark's `warmup`, or
    after half a minute; its restlessness shows in the intervals and in the A/A ratio.

    Returns:
        How many generations it took; at least the benchmark's `warmup`.
    """
    medians: list[float] = []
    spent = 0
    while len(medians) < spec.warmup or (
        spent < WARM_UP_NS and len(medians) < WARM_UP_TIMES * spec.warmup
    ):
        times = time_arm(arm, arm.n_frames or spec.frames, clock)
        medians.append(median(times.stage_ns["total"]))
        spent += times.first_audio_ns + sum(times.stage_ns["total"])
        last = medians[-3:]
        steady = len(last) == 3 and max(last) <= (1 + WARM_UP_AGREEMENT) * min(last)
        if steady and len(medians) >= spec.warmup:
            break
    return len(medians)


def time_arm(arm: Arm, n_frames: int, clock: Clock) -> ArmTimes:
    """One generation, marked around every stage; marks are read when it is over."""
    import torch

    generators, mark, marks = arm.generators(), clock.mark, []
    system: Any = arm.system
    if arm.codec_frames > 1:
        system = InGroups(system, arm.codec_frames, n_frames)
    with quiet(), torch.inference_mode():
        clock.wait()
        begin = mark()
        state, decoder = arm.begin(n_frames, generators)
        for _ in range(n_frames):
            marks.append(marked_frame(system, state, decoder, mark)[1])
        clock.wait()
    return ArmTimes(
        stage_ns=by_stage(marks, clock.between),
        first_audio_ns=clock.between(begin, marks[0][-1]),
    )


def time_call(call: Callable[[], object], clock: Clock) -> int:
    """Nanoseconds of one call, everything that it asked for included."""
    clock.wait()
    begin = clock.mark()
    call()
    end = clock.mark()
    clock.wait()
    return clock.between(begin, end)


def peak_allocated(arm: Arm, n_frames: int, others: int = 0) -> int:
    """The most GPU memory in tensors during an arm's first generation, the `others`' left out.

    The first, because what a step packs or captures when it first runs is the system's from then
    on, and memory that was there before the counter is set back could not be told from others'.
    """
    import torch

    device = arm.system.device
    torch.cuda.reset_peak_memory_stats(device)
    time_arm(arm, n_frames, Clock())  # torch counts on the host: no need to wait
    peak: int = torch.cuda.max_memory_allocated(device) - others
    return peak


def _record(number: int, order: int, arm: Arm, times: ArmTimes) -> LatencyRecord:
    import torch

    parameter = next(arm.system.parameters())
    codec = arm.system.codec
    precision = str(getattr(arm.system, "precision", ""))
    return LatencyRecord(
        round=number,
        cell_id=arm.cell_id,
        order=order,
        control=arm.control,
        stage_ns=times.stage_ns,
        first_audio_ns=times.first_audio_ns,
        frame_ns=round(codec.hop_length / codec.sample_rate * 1e9),
        device=device_name(str(parameter.device)),
        dtype=DTYPES.get(precision, str(parameter.dtype).removeprefix("torch.")),
        mode=getattr(arm.system, "mode", "eager"),
        batch=len(arm.prompts),
        threads=torch.get_num_threads(),
        peak_bytes=arm.peak_bytes,
    )
