"""What has to hold on a GPU before any number of it is believed: eleven steps, a process for each.

    python benchmarks/gpu.py [--out FOLDER] [--only STEP ...] [--rehearse] [--fresh]

Every step adds a line to FOLDER/gpu.jsonl: its verdict and numbers, with the device, the versions
and what nvidia-smi tells. A step that was passed is not taken again, so that the same command goes
on where it was cut off. `--rehearse` takes the same steps on a processor with debug models, where
captured functions are called instead of replayed: it shows that the script runs, and measures
nothing. Exit code 1: a step failed, or there was no time for it.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from calm_bench.codecs.trunk import TrunkConfig
from calm_bench.codecs.vae import VaeCodec, VaeConfig
from calm_bench.core.device import describe_gpu, device_name
from calm_bench.nn.adaln import AdaLnConfig, AdaLnMlp
from calm_bench.nn.transformer import TransformerConfig
from calm_bench.speed.footprint import ReadProbe
from calm_bench.speed.frames import clock_for, marked_frame, quiet
from calm_bench.speed.protocol import Arm, time_arm
from calm_bench.systems import engine
from calm_bench.systems.base import Prompt
from calm_bench.systems.loading import load_system
from calm_bench.systems.streaming import StreamingSystem
from calm_bench.training.language import CalmObjective, LanguageTraining
from calm_bench.training.objective import TrainingConfig
from calm_bench.types import SamplingParams

BUDGET = 470.0  # seconds of all steps together
KINDS = ("calm", "calm-music", "musicgen", "rq", "rq-levels", "trigflow")
DEBUG = tuple(f"{kind}-debug" for kind in KINDS)
SAMPLING = SamplingParams(temperature=0.9, text_temperature=0.8, head_steps=3, top_k=9)
Found = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where steps run, and at which size."""

    device: str
    rehearsal: bool

    def size(self, real: int, rehearsed: int) -> int:
        """A size, which is smaller in a rehearsal."""
        return rehearsed if self.rehearsal else real

    def captured(self, system: StreamingSystem) -> StreamingSystem:
        """A system in mode eager on steps that are captured."""
        assert system.steps is not None
        engine.install(system, engine.CapturedSteps(system.steps, self.runner))
        return system

    def runner(self, function: Callable[..., Any], changed: Iterable[Tensor]) -> Any:
        """Captures a function; in a rehearsal it is called."""
        return function if self.rehearsal else engine.Graph(function, changed)

    def wait(self) -> None:
        """Return when the device is idle."""
        if not self.rehearsal:
            torch.cuda.synchronize()

    def open(self, name: str, **options: Any) -> StreamingSystem:
        """A system on the device."""
        system = load_system(name, self.device, **options)
        assert isinstance(system, StreamingSystem)
        return system


def prompts_of(system: StreamingSystem, lengths: Iterable[float]) -> list[Prompt]:
    """Quiet noise of so many frames each."""
    source = torch.Generator().manual_seed(0)
    sizes = [int(frames * system.codec.hop_length) for frames in lengths]
    return [Prompt(wave=0.1 * torch.randn(size, generator=source)) for size in sizes]


def generators_of(rows: int) -> list[torch.Generator]:
    """What each clip draws from."""
    return [torch.Generator().manual_seed(row) for row in range(rows)]


def off(a: Tensor, b: Tensor) -> float:
    """The largest difference as a share of the largest entry."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))


def forced(
    plain: StreamingSystem, other: StreamingSystem, lengths: list[float], new: int
) -> tuple[float, float, float]:
    """How far contexts, frames and streamed audio of a system are off where it is fed the plain's.

    The worst of all frames; of codes, which jump, the share of all that differs.
    """
    pair = (plain, other)
    states = [
        s.start(prompts_of(s, lengths), SAMPLING, generators_of(len(lengths)), new) for s in pair
    ]
    decoders = [s.start_decoding(len(lengths)) for s in pair]
    worst, differ = [0.0, 0.0, 0.0], 0.0
    for _ in range(new):
        for name in ("text", "stream"):
            if (theirs := getattr(states[1], name)) is not None:
                theirs.copy_(getattr(states[0], name))
        z = [s.backbone_step(state).clone() for s, state in zip(pair, states, strict=True)]
        frames = [s.head_step(x, z[0]).clone() for s, x in zip(pair, states, strict=True)]
        for system, state in zip(pair, states, strict=True):
            system.push(state, frames[0])
        waves = [s.decode_step(frames[0], d).clone() for s, d in zip(pair, decoders, strict=True)]
        codes = not frames[0].is_floating_point()
        differ += float((frames[0] != frames[1]).float().mean()) / new
        now = (off(*z), 0.0 if codes else off(*frames), float((waves[0] - waves[1]).abs().max()))
        worst = [max(both) for both in zip(worst, now, strict=True)]
    return worst[0], differ if codes else worst[1], worst[2]


@torch.inference_mode()
def systems(bench: Bench) -> Found:
    """Every debug system, captured against plain, alone and ragged, twice on the same memory."""
    torch.backends.cudnn.allow_tf32 = False
    engine.SMALLEST = 8  # several buckets in a short clip
    found: Found = {}
    for name in DEBUG:
        plain = bench.open(name, mode="plain")
        fixed = bench.captured(bench.open(name))
        for lengths in ([4.0], [6.0, 1.5, 3.0]):
            for turn in range(2):
                context, frame, wave = forced(plain, fixed, lengths, bench.size(22, 12))
                found[f"{name}, {len(lengths)} clips, {turn}"] = [context, frame, wave]
                assert context < engine.TOLERANCES["fp32"], f"{name}: contexts off by {context}"
                limit = engine.TOLERANCES["fp32"] if plain.codec.continuous else 0.02
                assert frame <= limit, f"{name}: frames off by {frame}"
                assert wave < 1e-3, f"{name}: audio off by {wave}"
    return found


@torch.inference_mode()
def codec(bench: Bench) -> Found:
    """A captured codec with a Transformer, streamed beyond the 2,048 positions of its table."""
    torch.backends.cudnn.allow_tf32 = False
    transformer = TransformerConfig(dim=32, layers=2, heads=2, mlp_dim=64, context=100)
    trunk = TrunkConfig(
        sample_rate=1000, front_end="waveform", ratios=(2,), transformer=transformer,
        encoder_dims=(16, 32), encoder_blocks=(0, 0), decoder_dims=(16, 32), decoder_blocks=(1, 0),
    )  # fmt: skip
    torch.manual_seed(0)
    made = VaeCodec(VaeConfig(trunk=trunk, latent_channels=8)).to(bench.device).eval()
    made.prepare()
    frames = torch.randn(bench.size(2100, 20), 2, 8, device=bench.device)
    eager, fixed = made.start_decoding(2), engine.FixedStream(made, bench.runner, frames[0])
    worst = 0.0
    for index, frame in enumerate(frames):
        a, b = made.decode_step(frame, eager), fixed.step(frame)
        worst = max(worst, off(a, b))
        if bench.rehearsal and index == 0:
            for key, cache in fixed.caches.items():
                cache.position = eager[key].position = 2040
    assert worst < 1e-4, f"off by {worst}"
    assert all(cache.position > 2048 for cache in fixed.caches.values())
    return {"off": worst, "steps": len(frames), "captured": len(fixed.captured)}


@torch.inference_mode()
def poison(bench: Bench) -> Found:
    """A clip of NaN, then a sound one on its memory: the same as on memory that is new."""
    found: Found = {}
    for name in DEBUG:
        used, fresh = (bench.captured(bench.open(name)) for _ in range(2))

        def clip(system: StreamingSystem, broken: bool) -> Tensor:
            state = system.start(prompts_of(system, [6.0, 3.0]), SAMPLING, generators_of(2), 9)
            decoder, streamed = system.start_decoding(2), []
            if broken:
                state.cache.buffer.fill_(torch.nan)
            for _ in range(9):
                frame = system.head_step(state, system.backbone_step(state)).clone()
                system.push(state, frame)
                streamed.append(system.decode_step(frame, decoder).clone())
            return torch.cat(streamed, 1)

        assert clip(used, True).isnan().any(), f"{name}: nothing was broken"
        found[name] = off(clip(fresh, False), clip(used, False))
        assert found[name] < 1e-6, f"{name}: off by {found[name]}"
    return found


@torch.inference_mode()
def clocks(bench: Bench) -> Found:
    """The sum of the times that events tell against the host's, where the device is kept busy."""
    name = "calm-debug" if bench.rehearsal else "rq-speech-tiny"
    system, clock, n = bench.open(name), clock_for(bench.device), bench.size(300, 10)
    arm = Arm(cell_id=name, system=system, sampling=SAMPLING, prompts=(prompts_of(system, [4])[0],))
    time_arm(arm, n, clock)
    shares = []
    for _ in range(3):
        with quiet():
            state, decoder = arm.begin(n, arm.generators())
            clock.wait()
            start, marks = time.perf_counter_ns(), []
            for _ in range(n):
                marks.append(marked_frame(system, state, decoder, clock.mark)[1])
            clock.wait()
            taken = time.perf_counter_ns() - start
        shares.append(sum(clock.between(a, e) for a, *_, e in marks) / taken)
    share = median(shares)
    assert bench.rehearsal or abs(share - 1) < 0.03, f"events tell {share:.3f} of the host's time"
    return {"share": shares}


@torch.inference_mode()
def replays(bench: Bench) -> Found:
    """One capture, replayed 20 times with other inputs: what the functions give when called."""
    found: Found = {}
    for name in DEBUG:
        system = bench.open(name)
        steps = system.steps
        assert steps is not None
        cache = system.allocate(2, 32)
        head = steps.new_head(SAMPLING, 2, cache.buffer)
        fixed = bench.runner(lambda z, draws, text=None, head=head: head(z, draws, text), [])
        worst = 0.0
        for seed in range(20):
            source = torch.Generator().manual_seed(seed)
            z = torch.randn(2, system.backbone.config.dim, generator=source).to(bench.device)
            draws = torch.stack([system.draw(1, SAMPLING, source)[0] for _ in range(2)])
            text = () if system.text_size is None else (torch.tensor([1, seed], device=z.device),)
            wanted = head(z, draws.to(z.device), *(text or (None,))).clone()
            made = fixed(z, draws.to(z.device), *text)
            worst = max(worst, off(wanted.float(), made.float()))
        found[name] = worst
        assert worst < 1e-5, f"{name}: off by {worst}"
    return found


def timed(bench: Bench, names: dict[str, int], modes: Iterable[str], frames: int) -> Found:
    """Milliseconds of a frame by stage, median of rounds: every row in turn, the first twice."""
    arms: list[tuple[str, Arm]] = []
    for mode in modes:
        for name, steps in names.items():
            rehearsed = bench.rehearsal and mode in ("graph", "compile")
            precision = "fp32" if bench.rehearsal else "bf16"
            system = bench.open(
                name,
                mode="eager" if rehearsed else mode,
                precision=precision,
                random_weights=True,
            )
            if rehearsed:
                bench.captured(system)
            sampling = SamplingParams(temperature=1.0, text_temperature=1.0, head_steps=steps)
            for batch in (1, bench.size(16, 2)):
                given = tuple(prompts_of(system, [8.0] * batch))
                arm = Arm(cell_id=name, system=system, sampling=sampling, prompts=given)
                arms.append((f"{name}, {steps} steps, {mode} {precision}, batch {batch}", arm))
    arms.append((f"{arms[0][0]}, again", arms[0][1]))
    clock, rounds, warm = clock_for(bench.device), bench.size(3, 1), {}
    for label, arm in arms:
        start = time.perf_counter()
        time_arm(arm, frames, clock)  # captures or compiles
        warm[label] = round(time.perf_counter() - start, 2)
    times: dict[str, list[dict[str, float]]] = {label: [] for label, _ in arms}
    for _ in range(rounds):
        for label, arm in arms:
            stages = time_arm(arm, frames, clock).stage_ns
            times[label].append({stage: median(ns) / 1e6 for stage, ns in stages.items()})
    rows = {
        label: {stage: round(median(x[stage] for x in found), 4) for stage in found[0]}
        for label, found in times.items()
    }
    return {"frames": frames, "rounds": rounds, "ms": rows, "first_s": warm}


def speech(bench: Bench) -> Found:
    """The paper's speech shapes: plain, eager and captured, batch 1 and 16."""
    pair = {"rq-speech-paper": 8, "calm-speech-paper": 1}
    debug = {"rq-debug": 3, "calm-debug": 1}
    return timed(bench, debug if bench.rehearsal else pair, ("plain", "eager", "graph"), 12)


def music(bench: Bench) -> Found:
    """The paper's music shapes: eager and captured, batch 1 and 16."""
    shapes = {
        "rq32-music-paper": 32,
        "rq16-music-paper": 16,
        "calm-music-paper": 4,
        "trigflow-music-paper": 100,
        "musicgen-music-paper": 1,
    }
    debug = {"rq-levels-debug": 2, "calm-music-debug": 4, "trigflow-debug": 9, "musicgen-debug": 1}
    return timed(bench, debug if bench.rehearsal else shapes, ("eager", "graph"), 8)


def compiled(bench: Bench) -> Found:
    """torch.compile: CALM's speech shape beside its captured step."""
    name = "calm-debug" if bench.rehearsal else "calm-speech-paper"
    return timed(bench, {name: 1}, ("graph", "compile"), 12)


def memory(bench: Bench) -> Found:
    """Bytes before, with a system, after its capture, and when it is gone."""
    found: Found = {}

    def note(when: str) -> int:
        gc.collect()
        if bench.rehearsal:
            return 0
        found[f"{when}, reserved"] = torch.cuda.memory_reserved()
        found[when] = torch.cuda.memory_allocated()
        return int(found[when])

    before = note("before")
    name = "calm-debug" if bench.rehearsal else "calm-speech-paper"
    system: StreamingSystem | None = bench.open(name, precision="bf16", random_weights=True)
    assert system is not None
    bench.captured(system)
    loaded = note("loaded") - before
    system.generate(prompts_of(system, [8.0]), SAMPLING, generators_of(1), 6)
    note("captured")
    del system
    gc.collect()
    if not bench.rehearsal:
        torch.cuda.empty_cache()
    left = note("released") - before
    # Workspaces of libraries stay, some 32 MB for each stream.
    assert left <= 0.05 * loaded, f"{left / 1e6:.0f} MB are left of a system that is gone"
    return found


def bandwidth(bench: Bench) -> Found:
    """How fast memory is read."""
    clock = clock_for(bench.device)
    probe = ReadProbe(bench.device, bench.size(4000, 1), clock)
    probe.warm_up()
    for _ in range(bench.size(20, 2)):
        probe.read()
    record = probe.record(0)
    return {"bytes": record.n_bytes, "gbs": [record.n_bytes / ns for ns in record.read_ns]}


def tf32(bench: Bench) -> Found:
    """Error and time of float32 products and convolutions, TF32 off and on."""
    n, clock, found = bench.size(4096, 64), clock_for(bench.device), {}
    torch.manual_seed(0)
    x, w = (torch.randn(n, n, device=bench.device) for _ in range(2))
    image = torch.randn(8, 64, n, device=bench.device)
    taps = torch.randn(64, 64, 7, device=bench.device)
    exact = {
        "product": (x[:64].double() @ w.double()).float(),
        "convolution": torch.conv1d(image.double(), taps.double()).float(),
    }
    for on in (False, True):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
        calls = {"product": lambda: x @ w, "convolution": lambda: torch.conv1d(image, taps)}
        for name, call in calls.items():
            made = call()
            made = made[:64] if name == "product" else made
            taken = []
            for _ in range(5):
                clock.wait()
                start = clock.mark()
                call()
                end = clock.mark()
                clock.wait()
                taken.append(clock.between(start, end) / 1e6)
            found[f"{name}, {'on' if on else 'off'}"] = [off(exact[name], made), median(taken)]
            assert on or found[f"{name}, off"][0] < 1e-4, f"{name}: {found}"
    return found


def jvp(bench: Bench) -> Found:
    """The tangent that consistency training takes, against central differences in float64."""
    torch.manual_seed(0)
    net = AdaLnMlp(AdaLnConfig(blocks=3, width=64, start_closed=False), 8, 32)
    found: Found = {}
    for dtype, limit in ((torch.float64, 1e-7), (torch.float32, 1e-3)):
        mlp = net.to(bench.device, dtype)
        z, x, along = (torch.randn(16, n, device=bench.device, dtype=dtype) for n in (32, 8, 8))
        t = torch.rand(16, device=bench.device, dtype=dtype) + 0.2
        embedded = mlp.condition(z)

        def velocity(
            x: Tensor, t: Tensor, mlp: AdaLnMlp = mlp, embedded: Tensor = embedded
        ) -> Tensor:
            return mlp.velocity(x, t, embedded)

        _, tangent = torch.func.jvp(velocity, (x, t), (along, torch.ones_like(t)))
        wide = net.double()
        h = 1e-5
        at, by, times = x.double(), along.double(), t.double()
        condition = wide.condition(z.double())
        ahead = wide.velocity(at + h * by, times + h, condition)
        behind = wide.velocity(at - h * by, times - h, condition)
        name = str(dtype).removeprefix("torch.")
        found[name] = off((ahead - behind) / (2 * h), tangent)
        assert found[name] < limit, f"{name}: off by {found[name]}"
    return found


def training(bench: Bench) -> Found:
    """Steps of a tiny CALM on made-up latents, in mixed precision, with their optimiser."""
    name = "calm-debug" if bench.rehearsal else "calm-speech-tiny"
    system = bench.open(name, mode="plain")
    system.requires_grad_(True).train()
    system.codec.requires_grad_(False)
    objective = CalmObjective.__new__(CalmObjective)  # without a corpus
    B, T = bench.size(16, 2), bench.size(100, 6)
    objective.system, objective.config = system, LanguageTraining(frames=T)
    objective.recipe = TrainingConfig(corpus="none", steps=2, batch_size=B, learning_rate=1e-3)
    assert system.text_size is not None
    batch = {
        "frames": torch.randn(B, T, system.frame_width, device=bench.device),
        "mask": torch.ones(B, T, dtype=torch.bool, device=bench.device),
        "text": torch.randint(system.text_size, (B, T + system.lead), device=bench.device),
    }
    optimiser = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], 1e-3)
    losses, start, warm, steps = [], 0.0, bench.size(10, 1), bench.size(60, 3)
    for step in range(warm + steps):
        if step == warm:
            bench.wait()
            start = time.perf_counter()
        with torch.autocast(torch.device(bench.device).type, torch.bfloat16):
            loss = objective.loss(batch, step).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    bench.wait()
    taken = time.perf_counter() - start
    assert all(loss.isfinite() for loss in losses), "a loss is not finite"
    return {"steps_per_s": steps / taken, "frames_per_s": steps * B * T / taken}


STEPS: dict[str, tuple[Callable[[Bench], Found], int]] = {  # and after how many seconds it is ended
    "systems": (systems, 90),
    "codec": (codec, 60),
    "poison": (poison, 60),
    "clocks": (clocks, 60),
    "replays": (replays, 60),
    "bandwidth": (bandwidth, 45),
    "tf32": (tf32, 45),
    "jvp": (jvp, 45),
    "training": (training, 60),
    "memory": (memory, 60),
    "speech": (speech, 120),
    "music": (music, 180),
    "compile": (compiled, 120),
}


def take(name: str, bench: Bench) -> Found:
    """A step's line: what it found, or why it failed."""
    start = time.perf_counter()
    try:
        found: Found = {"status": "passed", "found": STEPS[name][0](bench)}
    except Exception as error:  # whatever a step may meet is its result
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        at = "" if where is None else f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}: "
        found = {"status": "failed", "error": f"{at}{type(error).__name__}: {error}"[:2000]}
    return {
        "step": name,
        **found,
        "seconds": round(time.perf_counter() - start, 2),
        "rehearsal": bench.rehearsal,
        "device": device_name(bench.device),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "gpu": describe_gpu(bench.device),
    }


def run_step(name: str, rehearse: bool, seconds: float) -> Found:
    """A step in a process of its own, which ends with it."""
    command = [sys.executable, str(Path(__file__).resolve()), "--take", name]
    limit = None if rehearse else min(seconds, STEPS[name][1])
    try:
        done = subprocess.run(
            [*command, *(["--rehearse"] if rehearse else [])],
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {
            "step": name,
            "status": "failed",
            "error": f"no end after {limit} s",
            "rehearsal": rehearse,
        }
    lines = done.stdout.strip().splitlines()
    try:
        found: Found = json.loads(lines[-1])
    except (IndexError, ValueError):
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        error = f"exit code {done.returncode}: {said}"[:2000]
        return {"step": name, "status": "failed", "error": error, "rehearsal": rehearse}
    return found


def main(arguments: list[str]) -> int:
    """Take the steps that have not been passed yet."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=Path("results/runs/gpu"))
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--take", choices=STEPS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if not given.rehearse and not torch.cuda.is_available():
        sys.stderr.write("there is no GPU here: --rehearse takes the steps on the processor\n")
        return 2
    if given.take:
        bench = Bench(device="cpu" if given.rehearse else "cuda:0", rehearsal=given.rehearse)
        sys.stdout.write(json.dumps(take(given.take, bench)) + "\n")
        return 0
    file, begun, failed = given.out / "gpu.jsonl", time.monotonic(), False
    file.parent.mkdir(parents=True, exist_ok=True)
    if given.fresh:
        file.unlink(missing_ok=True)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    known = [json.loads(line) for line in lines if line.endswith("}")]
    passed = {
        line["step"]
        for line in known
        if line["status"] == "passed" and line["rehearsal"] == given.rehearse
    }
    for name in given.only:
        left = BUDGET - (time.monotonic() - begun)
        if name in passed:
            line: Found = {"status": "passed before"}
        elif left < 15 and not given.rehearse:
            line = {"status": "left out: no time"}
        else:
            line = run_step(name, given.rehearse, left)
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
        failed |= not line["status"].startswith("passed")
        told = f"{name:10} {line['status']}  {line.get('seconds', '')}  {line.get('error', '')}"
        sys.stdout.write(told.rstrip() + "\n")
        sys.stdout.flush()
    sys.stdout.write(f"lines: {file}\n")
    return int(failed)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    raise SystemExit(main(sys.argv[1:]))
