"""Records as tests make them: what is not told is that of a run of speech."""

from collections.abc import Callable
from typing import Any

from calm_bench.core.audio import audio_hash, write_flac
from calm_bench.store.records import LatencyRecord, Manifest, Row, TrialRecord
from calm_bench.store.results import Results, Value
from calm_bench.store.run_store import RunStore
from calm_bench.types import Wave

RUN_ID = "speech-0123abcd"


def manifest(**changes: Any) -> Manifest:
    """The manifest of a run."""
    fields = {
        "run_id": RUN_ID,
        "benchmark": "speech",
        "version": 1,
        "created": "2026-11-22T12:00:00+00:00",
        "plan_hash": "0123abcd",
        "environment": {"device": "cpu", "torch": "2.13.0"},
    }
    return Manifest.model_validate(fields | changes)


def system(model: str, label: str, temp: float = 1.0, *, steps: int = 1, **changes: Any) -> Row:
    """The row of a system."""
    fields = {
        "cell_id": f"{model}-t{temp:g}-s{steps}",
        "label": label,
        "kind": "system",
        "model": model,
        "temperature": temp,
        "temperature_kind": "noise_variance",
        "text_temperature": temp,
        "head_steps": steps,
    }
    return Row.model_validate(fields | changes)


def results(**changes: Any) -> Results:
    """The results of a run."""
    fields = {"run_id": RUN_ID, "benchmark": "speech", "benchmark_version": 1}
    nothing: dict[str, Any] = {"cells": (), "columns": (), "rows": ()}
    return Results.model_validate(fields | nothing | changes)


def with_values(found: Results, which: Callable[[Value], bool], **update: Any) -> Results:
    """The results with some of their values changed."""
    rows = (value.model_copy(update=update) if which(value) else value for value in found.rows)
    return found.model_copy(update={"rows": tuple(rows)})


def trial(cell_id: str = "c", prompt_id: str = "p", **changes: Any) -> TrialRecord:
    """A clip that was made."""
    fields = {
        "trial_id": f"{cell_id}/{prompt_id}",
        "cell_id": cell_id,
        "prompt_id": prompt_id,
        "seed_index": 0,
        "seed": 0,
        "status": "ok",
        "clip": f"clips/{cell_id}/{prompt_id}.flac",
        "clip_id": "0" * 16,
        "sample_rate": 16_000,
        "prompt_seconds": 1.0,
        "prompt_text_source": "given",
    }
    return TrialRecord.model_validate(fields | changes)


def failed(cell_id: str, prompt_id: str, error: str, **changes: Any) -> TrialRecord:
    """A clip that could not be made."""
    nothing = dict.fromkeys(("clip", "clip_id", "sample_rate"))
    return trial(cell_id, prompt_id, status="failed", error=error, **nothing, **changes)


def one_round(
    number: int, cell_id: str, *stages: int, lost: int = 0, frames: int = 4, **changes: Any
) -> LatencyRecord:
    """One round: each frame takes so many ns of backbone, head and codec, and some of no stage."""
    parts = (*stages, sum(stages) + lost)
    names = ("backbone", "head", "codec", "total")
    fields = {
        "round": number,
        "cell_id": cell_id,
        "order": 0,
        "stage_ns": {name: (ns,) * frames for name, ns in zip(names, parts, strict=True)},
        "first_audio_ns": 2 * sum(stages),
        "frame_ns": 80_000_000,
        "device": "a processor",
        "dtype": "float32",
        "threads": 1,
    }
    return LatencyRecord.model_validate(fields | changes)


def keep_clip(store: RunStore, wave: Wave, *about: str, **changes: Any) -> TrialRecord:
    """Write a clip into a run's folder and record it."""
    made = trial(*about, **changes)
    assert made.sample_rate is not None
    kept = write_flac(store.path(str(made.clip)), wave, made.sample_rate)
    made = made.model_copy(update={"clip_id": audio_hash(kept, made.sample_rate)})
    store.append(made)
    return made
