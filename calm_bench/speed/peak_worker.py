"""A process that loads one row, generates at each batch size, and says how much memory it took.

`python -m calm_bench.speed.peak_worker` reads its task from standard input and prints one line of
JSON. On a processor that is resident memory beyond that of a process that has imported everything;
the kernel's high-water mark is set back after loading, and where that is not allowed, loading
counts too. On a GPU it is what torch had allocated at most.
"""

import json
import sys
from pathlib import Path
from typing import Any

from calm_bench.clocks import HostClock
from calm_bench.latency import time_arm
from calm_bench.speed.arms import load_row, row_arms
from calm_bench.speed.plan import Request, expand

__all__ = ["main"]

STATUS = Path("/proc/self/status")
UNKNOWN = "the system does not say how much memory a process held at most"


def main() -> None:
    """Measure what standard input asks for."""
    task = json.loads(sys.stdin.read())
    sys.stdout.write(json.dumps(_peaks(task)) + "\n")


def _peaks(task: dict[str, Any]) -> dict[int, dict[str, Any]]:
    import torch

    plan = expand(Request.model_validate(task["request"]))
    if plan.request.threads is not None:
        torch.set_num_threads(plan.request.threads)
    cell = next(cell for cell in plan.cells if cell.cell_id == task["cell_id"])
    import calm_bench.systems.loading  # noqa: F401  # what it imports is no memory of the row

    before = _memory("VmRSS")
    system = load_row(plan, cell)
    found: dict[int, dict[str, Any]] = {}
    for arm in row_arms(plan, cell, system, task["n_frames"]):
        on_gpu = plan.request.device.startswith("cuda")
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            _reset_peak()
        time_arm(arm, task["n_frames"], HostClock())
        peak = torch.cuda.max_memory_allocated() if on_gpu else _memory("VmHWM")
        empty = 0 if on_gpu else before
        size = None if peak is None or empty is None else peak - empty
        found[len(arm.prompts)] = {"bytes": size, "reason": UNKNOWN if size is None else None}
    return found


def _memory(name: str) -> int | None:
    """A size from the kernel's account of this process, in bytes."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else None


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


if __name__ == "__main__":
    main()
