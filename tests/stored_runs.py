"""Stored runs with made-up numbers of the shape that real ones have."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from records import manifest
from rows import system

from calm_bench.numbers.speed import value_of
from calm_bench.report.paper.runs import StoredRun
from calm_bench.store.records import Row
from calm_bench.store.results import Difference, Results, Value
from calm_bench.types import Column, Estimate

Number = float | tuple[float, float, float] | None
"""A value alone, or with its interval."""

Numbers = list[tuple[Row, Mapping[str, Number]]]
Differences = Iterable[tuple[Row, Row, str, tuple[float, float, float]]]

SPEED = ("overall_speedup", "head_speedup", "head_share", "rtf")
SPEED += ("frame_ms", "backbone_ms", "head_ms", "codec_ms")
LABELS = {"fad": "FAD", "ppx_geo": "PPX", "vert": "VERT", "wer": "WER", "mos": "MOS"}


def around(value: float, share: float = 0.06) -> tuple[float, float, float]:
    return value, value * (1 - share), value * (1 + share)


def recipe_of(metric: str, instrument: str | None = None) -> str:
    if metric in SPEED:
        return "speed-recipe"
    return "-".join((*(["fad"] if metric.startswith("fad") else [metric]), instrument or "recipe"))


def value_from(cell: Row, metric: str, number: Number, *, instrument: str | None, n: int) -> Value:
    value, low, high = number if isinstance(number, tuple) else (number, None, None)
    found = Estimate(value=None, reason="nobody measured it")
    if value is not None:
        found = Estimate(value=value, low=low, high=high, n=n)
    unit = {"head_share": "%", "wer": "%", "overall_speedup": "×"}.get(metric, "")
    return value_of(cell, metric, unit, found, recipe_of(metric, instrument))


def column_of(metric: str) -> Column:
    span = re.findall(r"@(\d)-(\d)s", metric)
    return Column(
        name=metric,
        label=LABELS.get(metric.partition("@")[0], metric),
        higher_is_better=False,
        metric=None if metric in SPEED else metric,
        span=tuple(map(float, span[0])) if span else None,
    )


def _with_limit(values: Mapping[str, Number]) -> dict[str, Number]:
    """FAD∞ beside every FAD, and equal to it."""
    return {**values, **({"fad_inf": values["fad"]} if "fad" in values else {})}


def make_results(
    name: str,
    benchmark: str,
    numbers: Numbers,
    *,
    differences: Differences = (),
    instruments: Iterable[str] = ("mel",),
    n: int = 64,
) -> Results:
    """Results of these numbers; metrics that look through an instrument come once for each."""
    instruments = list(instruments)
    rows, recipes = [], {}
    for instrument in instruments:
        for cell, values in numbers:
            for metric, number in _with_limit(values).items():
                embedded = metric.startswith("fad")
                if instrument != instruments[0] and not embedded:
                    continue
                by = instrument if embedded else None
                clips = 12 if metric in SPEED else 64
                rows.append(value_from(cell, metric, number, instrument=by, n=clips))
                recipe = {"metric": metric} | ({"embedding": by} if by else {})
                if metric in SPEED:
                    recipe = {"metric": "latency", "device": "CPU", "dtype": "float32"}
                recipes[recipe_of(metric, by)] = recipe
    metrics = dict.fromkeys(row.metric for row in rows)
    return Results(
        run_id=name,
        benchmark=benchmark,
        benchmark_version=1,
        cells=tuple(cell for cell, _ in numbers),
        columns=tuple(map(column_of, metrics)),
        recipes=recipes,
        rows=tuple(rows),
        differences=tuple(
            Difference(
                cell_id=a.cell_id,
                baseline_cell_id=b.cell_id,
                metric=metric,
                recipe_id=recipe_of(metric, instruments[0]),
                value=value,
                low=low,
                high=high,
                n=n,
            )
            for a, b, named, (value, low, high) in differences
            for metric in ((named, "fad_inf") if named == "fad" else (named,))
        ),
    )


def stored(
    results: Results,
    weights: Mapping[str, str | None] = {},
    environment: Mapping[str, Any] = {},
    **more: Any,
) -> StoredRun:
    models = {cell.model: "0" * 64 for cell in results.cells if cell.model is not None}
    made_on = {"device": "cpu", "torch": "2", "calm_bench": "0.1", "commit": "abc", **environment}
    about = {"run_id": results.run_id, "benchmark": results.benchmark}
    told = manifest(**about, weights={**models, **weights}, environment=made_on, **more)
    return StoredRun(name=results.run_id, results=results, manifest=told)


def make_run(
    numbers: Numbers,
    differences: Differences = (),
    *,
    name: str = "a",
    benchmark: str = "music",
    environment: Mapping[str, str] = {},
    **how: Any,
) -> StoredRun:
    results = make_results(name, benchmark, numbers, differences=differences, **how)
    return stored(results, environment=environment)


def speed_of(overall: float, head: float, ms: tuple[float, float, float]) -> dict[str, Number]:
    total = sum(ms) + 0.1
    return {
        "overall_speedup": around(overall, 0.03) if overall != 1.0 else 1.0,
        "head_speedup": around(head, 0.03) if head != 1.0 else 1.0,
        "head_share": around(100 * ms[1] / total, 0.02),
        "rtf": around(total / 40, 0.02),
        "frame_ms": around(total, 0.02),
        "backbone_ms": around(ms[0], 0.02),
        "head_ms": around(ms[1], 0.02),
        "codec_ms": around(ms[2], 0.02),
    }


REFERENCE = Row(cell_id="reference", label="Reference", kind="reference")
RQ32 = system("rq32-music-tiny", "RQ-Transformer 32 RVQ", steps=32, baseline=True)
RQ16 = system("rq16-music-tiny", "RQ-Transformer 16 RVQ", steps=16)
MUSICGEN = system("musicgen-music-tiny", "MusicGen, retrained")
CALM = {n: system("calm-music-tiny", "CALM consistency", steps=n) for n in (1, 4, 10, 25, 50, 100)}
TRIGFLOW = {n: system("trigflow-music-tiny", "CALM TrigFlow", steps=n) for n in CALM}


def music_results(name: str = "music-1") -> Results:
    """A run of all music rows with a sweep of head steps, through two embeddings."""
    numbers: Numbers = [
        (REFERENCE, {"fad": None}),
        (RQ32, {"fad": around(9.2)} | speed_of(1.0, 1.0, (2.0, 6.0, 1.5))),
        (RQ16, {"fad": around(11.4)} | speed_of(1.5, 2.0, (2.0, 3.0, 1.5))),
        (MUSICGEN, {"fad": around(14.6)} | speed_of(1.3, 4.0, (4.0, 0.4, 3.0))),
    ]
    curves = {4: (64.8, 5.9), 10: (6.3, 6.0), 25: (6.1, 7.4), 50: (5.7, 9.6), 100: (5.2, 12.8)}
    fads = dict.fromkeys(CALM, (180.0, 6.9)) | curves
    for place, cells in ((1, CALM), (0, TRIGFLOW)):
        for n, cell in cells.items():
            head = 0.3 * n + 0.1
            speed = speed_of(9.6 / (3.8 + head), 6 / head, (2.2, head, 1.5))
            numbers.append((cell, {"fad": around(fads[n][place])} | speed))
    differences = [(CALM[4], RQ32, "fad", (-3.3, -4.1, -2.5))]
    return make_results(
        name, "music", numbers, differences=differences, instruments=("mel", "whisper v1")
    )


ABLATED = {
    "calm-music-no-multiplier-tiny": ("No head-batch multiplier", (6.1, 7.0, 7.6)),
    "calm-music-no-noise-tiny": ("No noise injection", (5.6, 8.2, 12.5)),
    "calm-music-no-short-tiny": ("No short context", (11.0, 19.0, 31.0)),
    "calm-music-none-tiny": ("None of the three", (8.0, 29.0, 80.0)),
}
SEGMENTS = ("fad@0-3s", "fad@3-6s", "fad@6-9s")


def ablation_results() -> Results:
    """A run of the ablations with FAD over time and kept checkpoints."""
    ours = CALM[4].model_copy(update={"label": "Ours", "baseline": True})
    rows = {"calm-music-tiny": ("Ours", (5.2, 5.6, 6.0))} | ABLATED
    numbers: Numbers = []
    for model, (label, fads) in rows.items():
        cell = ours if model == "calm-music-tiny" else system(model, label, steps=4)
        over_time = {name: around(fad, 0.1) for name, fad in zip(SEGMENTS, fads, strict=True)}
        fades = around(40.0 if "short" in model else 5.0, 0.3)
        numbers.append((cell, {"fad": around(sum(fads) / 3), "fades_out": fades} | over_time))
    for step, fads in {500: (21.0, 30.0), 1000: (12.0, 21.0), 2000: (8.0, 13.0)}.items():
        for name, fad in zip(list(rows)[:2], fads, strict=True):
            at = system(f"{name}@{step}", rows[name][0], steps=4)
            numbers.append((at.model_copy(update={"training_step": step}), {"fad": around(fad)}))
    return make_results("ablations-1", "ablations", numbers)
