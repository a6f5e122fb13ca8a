from typing import Any

import pytest
import torch

from calm_bench.nn.kernels import pack
from calm_bench.nn.product import Split
from calm_bench.speed.counts import StageCounts, Tally, count_frame
from calm_bench.store.records import Stage
from calm_bench.systems.loading import load_system
from calm_bench.types import Mode, Precision, SamplingParams

SYSTEMS = ["calm-debug", "calm-music-debug", "musicgen-debug", "rq-debug", "trigflow-debug"]


def counted(
    name: str, steps: int | None = None, mode: Mode = "plain"
) -> tuple[Any, dict[Stage, StageCounts]]:
    system = load_system(name, mode=mode)
    steps = steps or system.default_head_steps
    sampling = SamplingParams(temperature=1.0, text_temperature=1.0, head_steps=steps)
    return system, count_frame(system, sampling)


@pytest.mark.parametrize("name", SYSTEMS)
def test_counts_are_the_same_every_time(name: str) -> None:
    assert counted(name)[1] == counted(name)[1]


def test_the_calm_head_multiplies_every_weight_twice_per_step_and_reads_it_once() -> None:
    system, counts = counted("calm-debug")
    linears = [m for m in system.mlp.modules() if isinstance(m, torch.nn.Linear)]
    head = counts["head"]
    assert head.calls == 1
    assert head.flops == sum(2 * linear.weight.numel() for linear in linears)
    assert head.parameters == sum(p.numel() for p in system.mlp.parameters())
    assert head.bytes_read == 4 * head.parameters


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_prepared_frame_costs_no_more_than_the_plain_one(name: str) -> None:
    plain, fast = counted(name)[1], counted(name, mode="eager")[1]
    for stage in ("backbone", "head", "total"):
        for count in ("operators", "flops", "bytes_read"):
            assert getattr(fast[stage], count) <= getattr(plain[stage], count), (stage, count)
    assert fast["head"].operators < plain["head"].operators
    assert fast["head"].parameters is None
    assert fast["total"].parameters == plain["total"].parameters


def test_a_codec_that_decodes_several_frames_a_call_reads_its_weights_once_for_them() -> None:
    system, one = counted("calm-debug", mode="eager")
    sampling = SamplingParams(temperature=1.0, text_temperature=1.0, head_steps=1)
    four = count_frame(system, sampling, 4)
    assert four["codec"].bytes_read == -(-one["codec"].bytes_read // 4)
    assert four["codec"].operators < one["codec"].operators / 3
    assert abs(four["codec"].flops / one["codec"].flops - 1) < 0.1
    assert four["head"] == one["head"]
    assert four["backbone"].operators == one["backbone"].operators


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_products_on_packed_weights_have_flops(precision: Precision) -> None:
    product = pack(torch.ones(1024, 512), None, precision)
    with torch.inference_mode(), Tally(torch.nn.Module()) as tally:
        product(torch.ones(8, 512))
    assert tally.counts["flops"] == 2 * 8 * 512 * 1024


def test_split_weights_are_multiplied_part_by_part() -> None:
    product = Split(torch.ones(1024, 512), None)
    with torch.inference_mode(), Tally(torch.nn.Module()) as tally:
        product(torch.ones(3, 512))
    assert tally.counts["flops"] == 2 * (2 * 3 * 512 * 1024)


def test_more_head_steps_cost_more_in_the_head_alone() -> None:
    one, four = counted("calm-debug", 1)[1], counted("calm-debug", 4)[1]
    assert four["head"].calls == 4
    assert four["head"].parameters == one["head"].parameters
    # What depends on the context alone is computed once.
    assert 3 * one["head"].flops < four["head"].flops < 4 * one["head"].flops
    assert {s: four[s] for s in ("backbone", "codec")} == {s: one[s] for s in ("backbone", "codec")}


@pytest.mark.weights
def test_a_depth_transformer_reads_its_shared_weights_once_per_level() -> None:
    system, counts = counted("rq-speech-tiny")
    depth, K = system.depth, system.frame_width
    layer_bytes = sum(
        4 * p[0].numel() for layer in depth.layers for p in layer.parameters() if p.ndim == 3
    )
    assert counts["head"].calls == K == 8
    assert counts["head"].bytes_read > K * layer_bytes
    assert counts["head"].parameters < counts["head"].bytes_read / 4


def test_tables_count_the_rows_they_are_asked_for() -> None:
    table = torch.nn.Embedding(100, 8)
    with torch.inference_mode(), Tally(table) as tally:
        table(torch.tensor([3, 4]))
    assert (tally.parameters(tally.counts), tally.counts["bytes_read"]) == (800, 2 * 8 * 4)


def test_a_view_is_dispatched_and_reads_nothing() -> None:
    module = torch.nn.Linear(4, 6, bias=False)
    with torch.inference_mode(), Tally(module) as tally:
        module.weight.t()
    assert (tally.counts["operators"], tally.counts["bytes_read"]) == (1, 0)


def test_attention_on_a_processor_has_flops() -> None:
    q = torch.zeros(1, 2, 1, 8)
    keys = torch.zeros(1, 2, 5, 8)
    with torch.inference_mode(), Tally(torch.nn.Module()) as tally:
        torch.nn.functional.scaled_dot_product_attention(q, keys, keys)
    assert tally.counts["flops"] == 2 * 2 * (2 * 1 * 5 * 8)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_total_is_the_stages(name: str) -> None:
    system, counts = counted(name)
    stages = [counts[stage] for stage in ("backbone", "head", "codec")]
    total = counts["total"]
    assert total.operators == sum(s.operators for s in stages)
    assert total.flops == sum(s.flops for s in stages)
    assert total.bytes_read == sum(s.bytes_read for s in stages)
    assert total.parameters == sum(p.numel() for p in system.parameters())


def test_a_system_that_packed_its_weights_says_what_it_reads() -> None:
    system = load_system("calm-debug")
    system.weight_bytes = lambda sampling: {"head": 7, "backbone": 11}  # type: ignore[operator,assignment]
    sampling = SamplingParams(temperature=1.0, text_temperature=1.0)
    counts = count_frame(system, sampling)
    assert (counts["head"].bytes_read, counts["backbone"].bytes_read) == (7, 11)
    assert counts["codec"].bytes_read > 0
