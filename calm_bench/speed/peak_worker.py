"""A process that loads one row, generates at each batch size, and says how much memory it took.

`python -m calm_bench.speed.peak_worker` reads its task from standard input and prints one line of
JSON. On a processor that is resident memory beyond that of a process that has imported everything;
the kernel's high-water mark is set back after loading, and where that is not allowed, loading
counts too. On a GPU it is what torch had allocated at most, and beside it what it had reserved.
"""

import json
import sys
from pathlib import Path
from typing import Any

from calm_bench.speed.frames import Clock
from calm_bench.speed.protocol import Arm, peak_allocated, time_arm
from calm_bench.speed.timetable import Request, expand
from calm_bench.speed.timing import arm_of, kernels_of, open_row

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
    row = next(row for row in plan.rows if row.cell_id == task["cell_id"])
    import calm_bench.systems.loading  # noqa: F401  # what it imports is no memory of the row

    before = _memory("VmRSS")
    system, prompts = open_row(plan, row, kernels_of(plan))
    found: dict[int, dict[str, Any]] = {}
    for batch in plan.setting.batch:
        arm = arm_of(row, system, prompts, batch)
        reserved = None
        if plan.request.device.startswith("cuda"):
            size: int | None = peak_allocated(arm, task["n_frames"])
            reserved = torch.cuda.max_memory_reserved(plan.request.device)
        else:
            size = _peak_resident(arm, task["n_frames"], before)
        reason = UNKNOWN if size is None else None
        found[batch] = {"peak_bytes": size, "peak_reason": reason, "reserved_bytes": reserved}
    return found


def _peak_resident(arm: Arm, n_frames: int, before: int | None) -> int | None:
    """The most memory of the process during a generation, beyond what it was `before`."""
    _reset_peak()
    time_arm(arm, n_frames, Clock())
    peak = _memory("VmHWM")
    return None if peak is None or before is None else peak - before


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
