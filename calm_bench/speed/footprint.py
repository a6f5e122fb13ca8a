"""What a row needs besides time: memory held between steps, peak memory, bytes that a step reads.

On a processor all rows share one process whose memory nobody keeps apart, so each row's peak is
taken in a process of its own (`peak_worker`).
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from calm_bench.core.device import cache_of, gpu_state
from calm_bench.speed.frames import Clock
from calm_bench.speed.protocol import Arm, time_call
from calm_bench.speed.timetable import SpeedPlan
from calm_bench.store.records import BandwidthRecord, FootprintRecord, Stage

if TYPE_CHECKING:
    import torch

BEYOND = 8  # times the last cache
LEAST_ON_GPU = 4_000_000_000  # what a GPU reads in a millisecond or two


class ReadProbe:
    """A buffer in a device's memory, read whole once per call."""

    def __init__(self, device: str, megabytes: int, clock: Clock) -> None:
        """Fill a buffer of so many megabytes, or more: on a GPU, and where caches are large."""
        import torch

        least = LEAST_ON_GPU if device.startswith("cuda") else megabytes * 1_000_000
        wanted = max(least, BEYOND * (cache_of(device) or 0))
        self._device = device
        self._buffer = torch.ones(wanted // 4, dtype=torch.float32, device=device)
        self._clock = clock
        self._taken: list[int] = []

    def warm_up(self) -> None:
        """Read it once, which does not count."""
        time_call(self._buffer.sum, self._clock)

    def read(self) -> None:
        """Read it whole, on the clock."""
        self._taken.append(time_call(self._buffer.sum, self._clock))

    def record(self, number: int) -> BandwidthRecord:
        """What was read in a round, after which the next one begins."""
        import torch

        taken, self._taken = tuple(self._taken), []
        return BandwidthRecord(
            round=number,
            n_bytes=self._buffer.nbytes,
            read_ns=taken,
            threads=torch.get_num_threads(),
            gpu=gpu_state(self._device),
        )


STAGES: tuple[Stage, ...] = ("backbone", "head", "codec")


def held_bytes(*values: object, apart: "torch.nn.Module | None" = None) -> int:
    """Bytes of all tensors within these values, each storage once, a module's own left out."""
    import torch

    known: set[int] = set()
    if apart is not None:
        held = [*apart.parameters(), *apart.buffers()]
        known = {tensor.untyped_storage().data_ptr() for tensor in held}
    seen: set[int] = set()
    total, todo = 0, list(values)
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, torch.nn.Module):
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            if storage.data_ptr() not in known:
                known.add(storage.data_ptr())
                total += storage.nbytes()
        else:
            todo += _parts(value)
    return total


def _parts(value: object) -> list[object]:
    """What a container or plain object holds; nothing of what is neither."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in fields(value)]
    if type(value).__module__.startswith("calm_bench."):
        slots = [getattr(value, name, None) for name in getattr(type(value), "__slots__", ())]
        return [*vars(value).values(), *slots] if hasattr(value, "__dict__") else slots
    return []


def state_bytes(arm: Arm, n_frames: int) -> int:
    """What a generation of so many frames keeps between its steps: cache, frames, decoder."""
    import torch

    with torch.inference_mode():
        return held_bytes(*arm.begin(n_frames, arm.generators()), apart=arm.system)


def reading(arm: Arm, n_frames: int) -> tuple[dict[Stage, int], dict[Stage, int]]:
    """Bytes that a step in the middle of a generation reads, and the operators that it dispatches.

    Weights and, in the backbone, keys and values; activations and what is written are left out.
    """
    from calm_bench.speed.counts import count_frame

    counts = count_frame(arm.system, arm.sampling, arm.codec_frames)
    read: dict[Stage, int] = {stage: counts[stage].bytes_read for stage in STAGES}
    position = -(-len(arm.prompts[0].wave) // arm.system.codec.hop_length) + n_frames // 2
    for stage, size in _cache_bytes(arm.system, position).items():
        read[stage] += size // (arm.codec_frames if stage == "codec" else 1)
    read["total"] = sum(read[stage] for stage in STAGES)
    return read, {stage: found.operators for stage, found in counts.items()}


def _cache_bytes(system: Any, position: int) -> dict[Stage, int]:
    """Keys and values that one step reads after so many frames.

    The plain step tells nothing of its own; it holds what the backbone's configuration says.
    """
    found: dict[Stage, int] = system.kv_bytes(position)
    config = getattr(getattr(system, "backbone", None), "config", None)
    if found or config is None:
        return found
    size = next(system.backbone.parameters()).element_size()
    held = min(position, config.context or position)
    return {"backbone": 2 * config.layers * config.dim * held * size}


def measure_peaks(plan: SpeedPlan, cell_id: str, n_frames: int) -> dict[int, dict[str, Any]]:
    """By batch size, a row's peak memory beyond an empty process's, or why there is none.

    Taken in a process of its own.
    """
    request = plan.request.model_dump(mode="json")
    task = {"request": request, "cell_id": cell_id, "n_frames": n_frames}
    done = subprocess.run(
        [sys.executable, "-m", "calm_bench.speed.peak_worker"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        failed = {"peak_bytes": None, "peak_reason": f"its process failed: {line[:200]}"}
        return dict.fromkeys(plan.setting.batch, failed)
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return {int(batch): peak for batch, peak in found.items()}


def footprint(arm: Arm, n_frames: int) -> FootprintRecord:
    """What one row holds and reads at one batch size; its peak is still to be measured."""
    alone = len(arm.prompts) == 1
    read, operators = reading(arm, n_frames) if alone else ({}, {})
    return FootprintRecord(
        cell_id=arm.cell_id,
        batch=len(arm.prompts),
        state_bytes=state_bytes(arm, n_frames),
        read_bytes=read,
        operators=operators,
    )
