"""The hash of code: it changes with whatever a value is computed by, and with nothing else."""

import gc
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

import calm_bench
from calm_bench import registry
from calm_bench.core import code
from calm_bench.core.cache import ContentCache
from calm_bench.core.code import code_hash, modules_of

SOURCES = {
    "__init__.py": "SCALE = 1",
    "metric.py": """
'''A metric.'''
from typing import TYPE_CHECKING
from calm_bench.core.stats import summarise
from . import near
if TYPE_CHECKING:
    from otherpackage.hints import Hint
else:
    from otherpackage.real import Hint
class Metric:
    '''What it measures.'''
    def score(self):
        '''Score.'''
        import otherpackage.deep.inner as inner  # only when it is needed
        return inner.value() + near.VALUE
""",
    "near.py": "from .deep import inside\nVALUE = inside.VALUE",
    "hints.py": "Hint = int",
    "real.py": "Hint = str",
    "far.py": "VALUE = 3",
    "deep/__init__.py": "",
    "deep/inner.py": "from ..far import VALUE\ndef value(): return VALUE",
    "deep/inside.py": "VALUE = 4",
    "unused.py": "VALUE = 5",
}
REACHED = {
    "__init__.py", "metric.py", "near.py", "real.py", "far.py",
    "deep/__init__.py", "deep/inner.py", "deep/inside.py",
}  # fmt: skip


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Another package on the path, of which nothing is imported."""
    for name, source in SOURCES.items():
        (tmp_path / "otherpackage" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "otherpackage" / name).write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    code._folders.cache_clear()
    yield tmp_path / "otherpackage"
    assert not any(name.startswith("otherpackage") for name in sys.modules)


def test_a_change_counts_wherever_it_is_reached_and_nowhere_else(other: Path) -> None:
    before = code_hash("otherpackage.metric")
    for name, source in SOURCES.items():
        (other / name).write_text(f"{source}\nMORE = 1\n")
        assert (code_hash("otherpackage.metric") != before) == (name in REACHED), name
        (other / name).write_text(source)
    assert code_hash("otherpackage.metric") == before


def test_what_does_nothing_does_not_count(other: Path) -> None:
    before = code_hash("otherpackage.metric")
    text = (other / "metric.py").read_text()
    text = text.replace("A metric.", "A better metric.").replace("What it", "All that it")
    text = text.replace("'''Score.'''", "'''Score it.'''  # quickly")
    (other / "metric.py").write_text(f"# a comment\n\n{text}\n'a bare text'\n")
    assert code_hash("otherpackage.metric") == before
    (other / "metric.py").write_text(text.replace("+ near", "- near"))
    assert code_hash("otherpackage.metric") != before


def test_this_package_is_followed_from_anothers(other: Path) -> None:
    found = modules_of("otherpackage.metric")
    assert {"otherpackage.deep.inner", "calm_bench.core.stats", "calm_bench.types"} <= found.keys()
    assert not {"otherpackage.hints", "calm_bench.core.progress", "numpy"} & found.keys()


@pytest.mark.parametrize("name", ["fad", "fidelity", "perplexity", "wer"])
def test_a_metric_is_what_it_imports_and_no_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = registry.METRICS[name].partition(":")[0]
    paths = {
        path.relative_to(Path(calm_bench.__file__).parent).with_suffix("").as_posix(): path
        for path in Path(calm_bench.__file__).parent.rglob("*.py")
    }
    reached = set(modules_of(root).values())
    assert paths["types"] in reached
    assert paths["metrics/base"] in reached
    before, read = code_hash(root), Path.read_bytes
    changed: list[Path] = []

    def reading(path: Path) -> bytes:
        return read(path) + (b"\nMORE = 1\n" if path in changed else b"")

    monkeypatch.setattr(Path, "read_bytes", reading)
    for path in paths.values():
        changed[:] = [path]
        assert (code_hash(root) != before) == (path in reached), path
    idle = [p for n, p in paths.items() if n.startswith(("cli/", "core/progress", "report/"))]
    assert len(idle) > 20
    assert reached.isdisjoint(idle)


def test_code_is_parsed_once_per_machine_and_kept_entries_are_not_believed_when_damaged(
    other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code._code.cache_clear()
    hashes, reached = code_hash("otherpackage.metric"), modules_of("otherpackage.metric")
    parsed: list[bytes] = []
    parse = code._Code.parsed
    monkeypatch.setattr(code._Code, "parsed", lambda s: parsed.append(s) or parse(s))
    code._code.cache_clear()
    assert code_hash("otherpackage.metric") == hashes
    assert modules_of("otherpackage.metric") == reached
    assert not parsed
    for entry in ContentCache("code").folder.rglob("*.json"):
        entry.write_text(entry.read_text().replace("0", "1", 1))
    code._code.cache_clear()
    assert code_hash("otherpackage.metric") == hashes
    assert parsed


@pytest.mark.slow
def test_the_command_scores_anew_when_code_has_changed_and_only_then(tmp_path: Path) -> None:
    package = tmp_path / "code" / "calm_bench"
    shutil.copytree(Path(calm_bench.__file__).parent, package)
    rng = np.random.default_rng(0)
    for side in ("clips", "originals"):
        (tmp_path / side).mkdir()
        soundfile.write(tmp_path / side / "a.wav", 0.1 * rng.standard_normal(16000), 16000)

    def distance() -> float:
        line = ["score", tmp_path / "clips", "--reference", tmp_path / "originals"]
        line += ["--metrics", "fidelity", "--out", tmp_path / "run", "--json"]
        home = {"CALM_BENCH_HOME": str(tmp_path / "home"), "PYTHONPATH": str(package.parent)}
        start = [sys.executable, "-c", "from calm_bench.cli.app import main; main()"]
        done = subprocess.run(
            [*start, *map(str, line)],
            env={**os.environ, **home},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        rows = json.loads(done.stdout)["rows"]
        return next(r["value"] for r in rows if r["metric"] == "mel_distance" and r["value"])

    def kept() -> int:
        return sum(1 for _ in (tmp_path / "home" / "cache" / "scores").rglob("*.json"))

    first = distance()
    known = kept()
    waves, progress = package / "core/waves.py", package / "core/progress.py"
    progress.write_text(progress.read_text() + "\nMORE = 1\n")
    waves.write_text(waves.read_text() + "\n# more\n")
    assert distance() == first
    assert kept() == known
    doubled = "\n_single = mel_power\n\n\ndef mel_power(*a):\n    return 2.0 * _single(*a) ** 2\n"
    waves.write_text(waves.read_text() + doubled)
    assert distance() > 1.2 * first
    assert kept() == known + 1


def test_threads_may_hash_code_at_once() -> None:
    """The interpreter's parser takes threads that interrupt each other for one that is lost."""

    def interrupt(*_: object) -> None:
        time.sleep(0)

    sources = [
        path.read_bytes() for path in sorted(Path(code.__file__).parent.parent.rglob("*.py"))[:30]
    ]
    code._code.cache_clear()
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(interrupt)
    gc.set_threshold(50)
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(code._code, sources))
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*threshold)
        gc.callbacks.remove(interrupt)
        code._code.cache_clear()
    assert [one.hash for one in found] == [code._Code.parsed(source).hash for source in sources]
