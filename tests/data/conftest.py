"""Where sources lie, and a synthesiser's stand-in."""

from pathlib import Path
from typing import Any

import pytest

from calm_bench.data import chunks

# Speaks the workers' protocol: a seeded noise per story, a word every tenth of a second.
WORKER = """
import json, sys
from pathlib import Path
import numpy as np, soundfile
job = json.load(sys.stdin)
rng = np.random.default_rng(job["seed"])
for story in job["stories"]:
    words = " ".join(story["sentences"]).split()
    wave = 0.1 * rng.standard_normal(800 * len(words))
    soundfile.write(Path(job["folder"]) / f"{story['id']}.flac", wave, 8000)
    timed = [{"word": w, "start": i / 10, "end": i / 10 + 0.1} for i, w in enumerate(words)]
    print(json.dumps({"id": story["id"], "audio": story["id"] + ".flac", "words": timed}))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The folder of recordings that a corpus is made of, still to be made."""
    return tmp_path / "source"


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    """The script of a worker that needs no synthesiser."""
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """By chunk, in the order in which they are spoken, what its worker is asked for."""
    jobs: dict[str, Any] = {}
    run_worker = chunks.run_worker

    def seen(worker: Any, job: Any, path: Path, *rest: Any) -> None:
        jobs[path.stem] = job
        run_worker(worker, job, path, *rest)

    monkeypatch.setattr(chunks, "run_worker", seen)
    return jobs
