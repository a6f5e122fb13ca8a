import subprocess
import sys

import pytest

COUNT = """
import resource
import numpy as np
from calm_bench.core.allocator import keep_freed_memory

kept = {keep} and keep_freed_memory()
np.ones(1 << 24)  # 128 MB, whose pages are faulted in once in any case
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    np.ones(1 << 24)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, keep: bool) -> tuple[bool, int]:
    """Whether freed memory is kept, and the page faults of four large arrays made one by one."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(keep=keep)], capture_output=True, text=True, check=True
    )
    kept, count = map(int, done.stdout.split())
    return bool(kept), count


def test_large_blocks_are_used_again_without_page_faults() -> None:
    kept, count = faults(keep=True)
    if not kept:
        pytest.skip("this C library has no mallopt")
    _, without = faults(keep=False)
    assert count < 100
    assert count < without / 4


RETURN = """
from pathlib import Path
import numpy as np
from calm_bench.core.allocator import keep_freed_memory, return_freed_memory

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) // 1024

keep_freed_memory()
blocks = [np.ones(1 << 17) for _ in range(200)]  # 1 MB each
last = np.ones(1)
del blocks
before = resident()
print(int(return_freed_memory()), before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is looked up in Linux's /proc")
def test_freed_blocks_go_back_to_the_system_when_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RETURN], capture_output=True, text=True, check=True
    )
    returned, megabytes = map(int, done.stdout.split())
    if not returned:
        pytest.skip("this C library has no malloc_trim")
    assert megabytes > 150
