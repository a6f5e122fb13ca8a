"""The probe, what a state holds, and the frames timed along a long generation."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from calm_bench.core.device import cache_of, describe_gpu, gpu_state
from calm_bench.speed import footprint as probes
from calm_bench.speed.footprint import ReadProbe, held_bytes
from calm_bench.speed.frames import Clock
from calm_bench.speed.generations import time_growth
from calm_bench.speed.protocol import Arm
from calm_bench.speed.timetable import Growth, SpeedPlan
from calm_bench.speed.timing import missing_generations
from calm_bench.store.records import GenerationRecord
from calm_bench.store.run_store import RunStore
from calm_bench.systems.base import Prompt
from calm_bench.systems.loading import load_system
from calm_bench.types import SamplingParams

SAMPLING = SamplingParams(temperature=1.0, text_temperature=1.0)


def test_the_probe_reads_more_than_the_caches_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "cache_of", lambda device: 400_000)
    probe = ReadProbe("cpu", 1, Clock())
    probe.warm_up()
    probe.read()
    probe.read()
    record = probe.record(0)
    assert record.n_bytes == 8 * 400_000
    assert len(record.read_ns) == 2
    assert min(record.read_ns) > 0
    assert probe.record(1).read_ns == ()


def test_the_largest_cache_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calm_bench.core.device.CACHES", tmp_path)
    assert cache_of("cpu") is None
    for index, size in enumerate(("32K", "1024K", "16M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert cache_of("cpu") == 16 << 20


class Gpu:
    """In the place of torch's properties of a GPU."""

    uuid = "1234"
    L2_cache_size = 50 << 20


def answered(tmp_path: Path, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program in the place of nvidia-smi."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + lines)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: Gpu())


def test_a_gpu_s_state_is_told_as_far_as_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu_state("cpu") is None
    answered(tmp_path, "exit 9\n", monkeypatch)
    assert set(gpu_state("cuda").values()) == {None}
    # before driver 535 the reasons had another name, and one that is not known fails the query
    old = 'case "$*" in *clocks_event*) exit 2;; esac\n[ "$1" = --id=GPU-1234 ] || exit 3\n'
    told = "echo '1980, 1980, 2619, [N/A], 700.00, 41, 0x0000000000000004, 535.10'\n"
    answered(tmp_path, old + told, monkeypatch)
    state = gpu_state("cuda:0")
    assert state["sm_mhz"] == "1980"
    assert state["watts"] is None
    assert state["throttled"] == "0x0000000000000004"
    assert describe_gpu("cuda")["driver"] == "535.10"
    assert describe_gpu("cuda")["tf32_products"] is False
    assert cache_of("cuda") == 50 << 20


def test_a_state_holds_each_storage_once_and_no_weights() -> None:
    @dataclass
    class State:
        cache: list[Any]
        view: torch.Tensor
        module: torch.nn.Module
        weight: torch.Tensor

    module = torch.nn.Linear(5, 5)
    table = torch.zeros(10, 10)
    state = State(cache=[table, {"k": torch.zeros(3)}], view=table[2], module=module,
                  weight=module.weight)  # fmt: skip
    assert held_bytes(state, table, apart=module) == 4 * (100 + 3)


@pytest.mark.parametrize("model", ["musicgen-debug", "calm-debug", "rq-debug"])
def test_growth_decodes_whole_frames_of_every_kind_of_system(model: str) -> None:
    system = load_system(model)
    prompt = Prompt(wave=torch.zeros(4 * system.codec.hop_length))
    arm = Arm(cell_id="a", system=system, sampling=SAMPLING, prompts=(prompt,))
    records = time_growth(arm, 0, Growth(seconds=(0.4, 1.2), frames=2), Clock())
    assert [len(record.stage_ns["total"]) for record in records] == [2, 2]


def test_sessions_count_their_repeats_apart(
    expanded: Callable[..., SpeedPlan], tmp_path: Path
) -> None:
    plan = expanded(generation=True)
    store = RunStore(tmp_path / "run")
    assert missing_generations(plan, {"a"}, 0, store) == [0, 1, 2, 3, 4]
    store.append(GenerationRecord(cell_id="a", repeat=1, batch=1, seconds=1.0, taken_ns=1))
    assert missing_generations(plan, {"a"}, 0, store) == [0, 2, 3, 4]
    assert missing_generations(plan, {"a", "b"}, 1, store) == [5, 6, 7, 8, 9]
    assert missing_generations(expanded(), {"a"}, 0, store) == []
