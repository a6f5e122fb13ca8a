"""What doctor says of models, extras and names: every finding comes with something to do."""

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from calm_bench import registry
from calm_bench.cli import doctor
from calm_bench.seeds import file_hash

CONFIG = "kind: codec\ntype: vae\ndescription: a codec\n"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder of a model that is found by the name `mine`."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    return folder


def check_of(name: str) -> doctor.Check:
    return next(check for check in doctor._models() if check.name == f"model {name}")


def test_a_model_without_weights_is_well(model: Path) -> None:
    (model / "config.yaml").write_text(CONFIG + "seed: 3\n")
    assert check_of("mine").status == "ok"
    assert "seed 3" in check_of("mine").detail


def test_weights_are_missing_damaged_or_well(model: Path) -> None:
    path = model / "weights.safetensors"
    path.write_bytes(b"weights")
    (model / "config.yaml").write_text(CONFIG + f"weights: {{sha256: {file_hash(path)}}}\n")
    assert check_of("mine").status == "ok"
    path.write_bytes(b"weight5")
    assert check_of("mine").status == "broken"
    path.unlink()
    assert check_of("mine").status == "missing"
    assert check_of("mine").remedy == "calm-bench train mine"


def test_weights_that_the_config_does_not_name_are_broken(model: Path) -> None:
    (model / "weights.safetensors").write_bytes(b"weights")
    (model / "config.yaml").write_text(CONFIG)
    assert check_of("mine").status == "broken"
    assert "weights.safetensors lies beside a config.yaml" in check_of("mine").detail
    assert "calm-bench train mine" in str(check_of("mine").remedy)


def test_a_bad_config_is_broken(model: Path) -> None:
    (model / "config.yaml").write_text(CONFIG + "colour: blue\n")
    assert check_of("mine").status == "broken"
    assert "colour" in check_of("mine").detail


def test_weights_outside_of_the_folder_are_refused(model: Path) -> None:
    secret = model.parent.parent / "secret"
    secret.write_bytes(b"x")
    (model / "config.yaml").write_text(CONFIG + "weights: {file: ../../secret, sha256: 'a'}\n")
    assert check_of("mine").status == "broken"
    assert "weights.file" in check_of("mine").detail


def test_an_extra_is_missing_well_broken_or_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = {"none": ("no_such_module_here",), "good": ("json",), "bad": ("antigravity_bad",)}
    monkeypatch.setattr(doctor, "EXTRAS", extras)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if "no_such" in name else object())
    assert doctor._extra("none").status == "missing"
    assert "calm-bench[none]" in doctor._extra("none").remedy
    assert doctor._extra("good").status == "ok"
    assert doctor._extra("bad").status == "broken"
    assert "antigravity_bad" in doctor._extra("bad").detail
    monkeypatch.setattr(doctor, "IMPORT_SECONDS", 0.2)
    problem, _ = doctor._python("import time; time.sleep(60)")
    assert problem == "still importing after 0.2 s"


def test_imports_are_tried_with_hubs_switched_off() -> None:
    _, said = doctor._python("import os; print(os.environ['HF_HUB_OFFLINE'])")
    assert said == "1"


def test_a_home_that_cannot_be_written_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALM_BENCH_HOME", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(doctor, "FREE_GB", 0.0)
    assert doctor._disk().status == "ok"
    monkeypatch.setattr(doctor, "FREE_GB", 1e9)
    assert doctor._disk().status == "broken"
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert "not writable" in doctor._disk().detail


def test_missing_is_no_fault_and_broken_is() -> None:
    checks = [doctor.Check("a", "ok", "")]
    checks.append(doctor.Check("b", "missing", ""))
    assert doctor.healthy(checks)
    assert not doctor.healthy([*checks, doctor.Check("c", "broken", "")])


@pytest.mark.parametrize("answer", [("", "cpu"), ("ImportError: no", "")])
def test_whatever_is_not_well_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, answer: tuple[str, str]
) -> None:
    # What other processes answer: importing every extra for this takes most of ten seconds.
    monkeypatch.setattr(doctor, "_python", lambda code: answer)
    checks = doctor.collect()
    assert {"packages", "device", "home", "speech recogniser"} <= {check.name for check in checks}
    assert {f"extra {name}" for name in doctor.EXTRAS} <= {check.name for check in checks}
    assert [check.name for check in checks if check.status != "ok" and not check.remedy] == []
    device = next(check for check in checks if check.name == "device")
    assert (device.status, device.detail) == (("broken" if answer[0] else "ok"), "".join(answer))


def test_the_device_is_asked_of_torch() -> None:
    found = doctor._device()
    assert found.status == "ok"
    assert "cpu, 1 threads" in found.detail


def test_the_listing_has_every_name_with_a_sentence() -> None:
    found = doctor.listing()
    kinds: tuple[registry.Kind, ...] = ("system", "codec", "metric", "embedding")
    for kind in kinds:
        assert list(found[f"{kind}s"]) == registry.names(kind)
    assert set(found) == {"systems", "codecs", "metrics", "embeddings", "models", "benchmarks"}
    assert all(all(summaries.values()) for summaries in found.values())


def test_a_compiled_class_of_another_package_is_listed_and_declares_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "compiled_elsewhere"
    (tmp_path / f"{module}{EXTENSION_SUFFIXES[0]}").write_bytes(b"\x7fELF\x00\xff")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "target", lambda kind, name: f"{module}:Theirs")
    assert doctor._class_summary("system", "theirs") == f"defined in {module}"
    assert not registry.declares("system", "theirs", "any_head_steps")
