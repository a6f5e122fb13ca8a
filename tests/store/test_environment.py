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


_TOUCHES: dict[str, set[str]] = {
    # Of the recognisers: prompts' words, and those of clips.
    "asr.faster_whisper asr.words core.audio seeds types": {"clips", "times", "scores"},
    "codecs.vae data.prompts nn.transformer plan.plan systems.calm": {"clips", "times"},
    "generate.clips generate.noise score.held_out": {"clips"},
    "core.stats": {"times", "scores"},
    "numbers.speed speed.timing speed.peak_worker speed.protocol speed.tidy": {"times"},
    "embeddings.mel metrics.fidelity metrics.wer score.scorer score.summary": {"scores"},
    "cli.run core.code core.device core.progress data.music gate.check": set(),
    "listening.tally report.page training.loop": set(),
}
TOUCHES = {name: touched for names, touched in _TOUCHES.items() for name in names.split()}
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
