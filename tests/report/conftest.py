"""A small finished run with everything a report must cope with: gaps, failures, hostile names."""

from pathlib import Path

import numpy as np
import pytest
import records
from records import keep_clip, manifest

from calm_bench.store.records import (
    LatencyRecord,
    Row,
    ScoreRecord,
    TranscriptRecord,
)
from calm_bench.store.results import Difference, Results, TrialCount, Value
from calm_bench.store.run_store import RunStore
from calm_bench.types import Column

RATE = 16000
PROMPT_SECONDS = 1.04
FEW = "fewer than 2 shared prompts"
WORDS = (
    ("Once", 0.1, 0.4),
    ("upon", 0.5, 0.9),
    ("a", 1.1, 1.2),
    ("time,", 1.25, 1.5),
    ("a", 1.55, 1.6),
    ("dog", 1.65, 1.8),
)
HEARD = (*WORDS[:3], ("time", *WORDS[3][1:]), WORDS[4], ("frog", *WORDS[5][1:]))
HEARD += (("<b>sang</b>", 1.85, 1.95),)


def make_cells() -> tuple[Row, ...]:
    def system(label: str, temperature: float, kind: str, baseline: bool) -> Row:
        name = label.split()[0].lower()
        return Row(
            cell_id=f"{name}-t{temperature:g}",
            label=label,
            kind="system",
            model=f"{name}-speech-tiny",
            temperature=temperature,
            temperature_kind=kind,
            text_temperature=temperature,
            head_steps=1,
            top_k=250,
            baseline=baseline,
        )

    return (
        Row(cell_id="reference", label="Reference", kind="reference"),
        Row(cell_id="vae_round_trip", label="VAE round trip", kind="round_trip", model="vae"),
        Row(cell_id="silence", label="Silence", kind="silence"),
        system("RQ 8 & <i>codebooks</i>", 0.8, "softmax_divisor", True),
        system("RQ 8 & <i>codebooks</i>", 1.0, "softmax_divisor", True),
        system("CALM 1 step", 0.8, "noise_variance", False),
        system("CALM 1 step", 1.0, "noise_variance", False),
    )


COLUMNS = (
    Column(name="overall_speedup", label="overall", unit="×", higher_is_better=True),
    Column(name="head_speedup", label="head", unit="×", higher_is_better=True, decimals=1),
    Column(name="head_share", label="time in head", unit="%", higher_is_better=False),
    Column(
        name="ppx_geo",
        label="PPX",
        higher_is_better=False,
        metric="perplexity",
        aggregate="exp_mean",
        fields=("nll",),
    ),
    Column(name="vert", label="VERT", higher_is_better=False, metric="vert"),
    Column(
        name="wer",
        label="WER",
        unit="%",
        higher_is_better=False,
        decimals=1,
        metric="wer",
        aggregate="ratio",
        fields=("errors", "words"),
        scale=100.0,
    ),
    Column(name="dnsmos", label="DNSMOS", higher_is_better=True, metric="dnsmos"),
    Column(name="rtf", label="RTF", higher_is_better=False),
)

# By cell: overall, head, share, PPX, VERT, WER, DNSMOS; with half-widths where they have one.
VALUES: dict[str, tuple[float | None, ...]] = {
    "reference": (None, None, None, 61.2, 25.2, 4.4, 3.31),
    "vae_round_trip": (None, None, None, 63.9, 25.3, 7.2, 2.93),
    "silence": (None, None, None, None, None, 100.0, 1.12),
    "rq-t0.8": (1.0, 1.0, 26.7, 88.1, 33.1, 18.8, 2.75),
    "rq-t1": (1.0, 1.0, 26.9, 152.4, 36.3, 31.0, 2.42),
    "calm-t0.8": (1.31, 12.3, 2.9, 82.9, 31.2, 16.1, 2.84),
    "calm-t1": (1.30, 12.2, 2.9, 131.7, 34.3, 24.7, 2.61),
}


def make_row(cell: Row, column: Column, value: float | None) -> Value:
    common = {
        "cell_id": cell.cell_id,
        "system": cell.label,
        "temperature": cell.temperature,
        "temperature_kind": cell.temperature_kind,
        "text_temperature": cell.text_temperature,
        "head_steps": cell.head_steps,
        "metric": column.name,
        "unit": column.unit,
        "recipe_id": None if value is None else f"{column.name}-recipe",
    }
    n = 2 if cell.cell_id == "calm-t1" else 3
    if value is None:
        silent = "every transcript is empty" if cell.kind == "silence" else "not a system"
        return Value.model_validate(common | {"value": None, "reason": silent})
    width = 0.06 * value
    high = value + (2 * width if column.name == "wer" else width)
    return Value.model_validate(
        common | {"value": value, "low": value - width, "high": high, "n": n}
    )


def make_results() -> Results:
    cells = make_cells()
    rows = [
        make_row(cell, column, value)
        for cell in cells
        for column, value in zip(COLUMNS, VALUES[cell.cell_id], strict=False)
    ]
    differences = [
        Difference(
            cell_id=a, baseline_cell_id=b, metric=metric, recipe_id=f"{metric}-recipe", **found
        )
        for a, b, metric, found in (
            ("rq-t1", "rq-t0.8", "ppx_geo", {"value": 64.3, "low": 21.0, "high": 110.9, "n": 3}),
            ("calm-t1", "calm-t0.8", "wer", {"value": 8.6, "low": -1.4, "high": 18.6, "n": 2}),
            ("calm-t0.8", "rq-t0.8", "wer", {"value": -2.7, "low": -6.0, "high": -0.1, "n": 3}),
            ("calm-t0.8", "rq-t0.8", "vert", {"value": None, "reason": FEW}),
        )
    ]
    return records.results(
        cells=cells,
        columns=COLUMNS,
        table=("ppx_geo", "vert", "wer", "dnsmos"),
        recipes={f"{c.name}-recipe": {"metric": c.name, "version": 1} for c in COLUMNS},
        rows=tuple(rows),
        differences=tuple(differences),
        trials={c.cell_id: TrialCount(ok=3) for c in cells}
        | {"calm-t1": TrialCount(ok=2, failed=1)},
        counts={"silence": {"perplexity.n_empty": 3.0}},
    )


def make_run(root: Path, prompts: tuple[str, ...] = ("dog", "odd <&\"' id", "cat")) -> RunStore:
    store = RunStore(root)
    store.begin(
        manifest(
            command=("calm-bench", "run", "speech", "--temps", "0.8", "1.0"),
            environment={"device": "cpu", "torch": "2.13.0", "device_name": "2 cores"},
            weights={"calm-speech-tiny": "ab" * 32, "rq-debug": None},
        )
    )
    store.write_results(make_results())
    rng = np.random.default_rng(0)
    for cell_index, cell in enumerate(make_cells()):
        for index, prompt in enumerate(prompts):
            time = np.arange(2 * RATE) / RATE
            wave = 0.1 * np.sin(2 * np.pi * (220 + 40 * index) * time) * (cell.kind != "silence")
            wave = (wave + 1e-3 * rng.standard_normal(len(wave))).astype(np.float32)
            failed = cell.cell_id == "calm-t1" and index == 2
            trial = keep_clip(
                store,
                cell.cell_id,
                prompt,
                None if failed else wave,
                RATE,
                trial_id=f"{cell.cell_id}/{index}",
                seed=index,
                error="RuntimeError: <out of memory>" if failed else None,
                prompt_seconds=PROMPT_SECONDS,
                prompt_text_source="transcribed" if index == 1 else "given",
                words=None if failed or cell.kind == "silence" else WORDS,
            )
            if failed:
                continue
            heard = () if cell.kind == "silence" else HEARD
            store.append(
                TranscriptRecord(
                    clip_id=trial.clip_id,
                    recipe_id="asr",
                    text=" ".join(word for word, _, _ in heard),
                    words=heard,
                    flags=("silent",) if cell.kind == "silence" else (),
                )
            )
            for metric, column, values in (
                ("wer", "wer", {"errors": 2.0, "words": 4.0 + cell_index}),
                ("perplexity", "ppx_geo", {"nll": None if cell.kind == "silence" else 4.0}),
            ):
                store.append(
                    ScoreRecord(
                        metric=metric,
                        recipe_id=f"{column}-recipe",
                        cell_id=cell.cell_id,
                        trial_id=trial.trial_id,
                        clip_id=trial.clip_id,
                        values=values,
                        note="empty transcript" if None in values.values() else None,
                    )
                )
    for number in range(5):
        arms = (("rq-t0.8", 5_000_000), ("calm-t0.8", 400_000))
        for order, (cell_id, head) in enumerate(arms):
            stages = {"backbone": 9_000_000 + 100_000 * number, "head": head, "codec": 3_000_000}
            stages["total"] = sum(stages.values()) + 50_000
            store.append(
                LatencyRecord(
                    round=number,
                    cell_id=cell_id,
                    order=order,
                    stage_ns={stage: (value,) * 8 for stage, value in stages.items()},
                    first_audio_ns=60_000_000,
                    frame_ns=80_000_000,
                    device="cpu",
                    dtype="float32",
                    threads=2,
                )
            )
    return store


@pytest.fixture
def results() -> Results:
    return make_results()


@pytest.fixture(scope="session")
def run_store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return make_run(tmp_path_factory.mktemp("runs") / "speech-0123abcd")
