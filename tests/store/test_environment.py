from pathlib import Path

import pytest
import torch

from calm_bench.core import paths
from calm_bench.core.device import resolve_device
from calm_bench.errors import InputError, MachineError
from calm_bench.store.environment import code_hashes, describe_environment, hash_of
from calm_bench.store.records import CONCERNS


def test_auto_takes_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == "cuda"


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "mps"])
def test_names_of_no_device_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        resolve_device(name)


def test_a_device_this_machine_lacks_is_the_machines_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda:0") == "cuda:0"
    with pytest.raises(MachineError, match="no device cuda:1: this machine has 1 CUDA devices"):
        resolve_device("cuda:1")


def test_the_environment_names_what_decides_the_clips() -> None:
    found = describe_environment("cpu")
    assert found["device"] == "cpu"
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["device_name"]


TOUCHES = {
    "asr.faster_whisper": {"clips", "times", "scores"},  # prompts' words, and those of clips
    "asr.words": {"clips", "times", "scores"},
    "cli.run": set(),
    "codecs.vae": {"clips", "times"},
    "core.audio": {"clips", "times", "scores"},
    "core.code": set(),
    "core.device": set(),
    "core.progress": set(),
    "core.stats": {"times", "scores"},
    "data.music": set(),
    "data.prompts": {"clips", "times"},
    "embeddings.mel": {"scores"},
    "gate.check": set(),
    "generate.clips": {"clips"},
    "generate.noise": {"clips"},
    "listening.tally": set(),
    "metrics.fidelity": {"scores"},
    "metrics.wer": {"scores"},
    "nn.transformer": {"clips", "times"},
    "numbers.speed": {"times"},
    "plan.plan": {"clips", "times"},
    "report.page": set(),
    "score.held_out": {"clips"},
    "score.scorer": {"scores"},
    "score.summary": {"scores"},
    "seeds": {"clips", "times", "scores"},
    "speed.timing": {"times"},
    "speed.peak_worker": {"times"},
    "speed.protocol": {"times"},
    "speed.tidy": {"times"},
    "systems.calm": {"clips", "times"},
    "training.loop": set(),
    "types": {"clips", "times", "scores"},
}
"""Which change touches which hash."""


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> dict[Path, bytes]:
    """What is read of source files in place of what they hold."""
    read, texts = Path.read_bytes, dict[Path, bytes]()
    monkeypatch.setattr(Path, "read_bytes", lambda path: texts.get(path) or read(path))
    return texts


def source_of(name: str) -> Path:
    return paths.package_dir() / f"{name.replace('.', '/')}.py"


def test_a_change_touches_what_depends_on_it(changed: dict[Path, bytes]) -> None:
    known = code_hashes()
    assert known.keys() == set(CONCERNS)
    touched = {}
    for name in TOUCHES:
        path = source_of(name)
        changed[path] = path.read_bytes() + b"\nMORE = 1\n"
        touched[name] = {concern for concern, value in known.items() if hash_of(concern) != value}
        changed.clear()
    assert touched == TOUCHES


def test_words_about_code_touch_nothing(changed: dict[Path, bytes]) -> None:
    for name in TOUCHES:
        path = source_of(name)
        changed[path] = b'"""Other words."""\n' + path.read_bytes() + b"\n# and more\n"
    assert {concern: hash_of(concern) for concern in CONCERNS} == code_hashes()
