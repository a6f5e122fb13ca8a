"""Records as tests make them."""

from calm_bench.core.audio import audio_hash, write_flac
from calm_bench.store.records import Manifest, TrialRecord
from calm_bench.store.results import Results
from calm_bench.store.run_store import RunStore
from calm_bench.types import Wave

RUN = {"run_id": "speech-0123abcd", "benchmark": "speech"}


def manifest(**changes: object) -> Manifest:
    """The manifest of a run of speech, in all else as told."""
    fields: dict[str, object] = {
        "version": 1,
        "created": "2026-11-22T12:00:00+00:00",
        "plan_hash": "0123abcd",
        "environment": {"device": "cpu", "torch": "2.13.0"},
    }
    return Manifest.model_validate(RUN | fields | changes)


def results(**changes: object) -> Results:
    """The results of a run of speech: none but those told."""
    fields = {"benchmark_version": 1, "cells": (), "columns": (), "rows": ()}
    return Results.model_validate(RUN | fields | changes)


def keep_clip(
    store: RunStore, cell_id: str, prompt_id: str, wave: Wave | None, rate: int, **about: object
) -> TrialRecord:
    """Write a clip and its record, as told; without samples it has failed."""
    fields: dict[str, object] = {
        "trial_id": f"{cell_id}/{prompt_id}",
        "seed_index": 0,
        "seed": 0,
        "status": "failed" if wave is None else "ok",
        "error": "out of memory" if wave is None else None,
        "sample_rate": rate,
        "prompt_text_source": "given",
    }
    fields |= {"cell_id": cell_id, "prompt_id": prompt_id, **about}
    if wave is not None:
        clip = str(fields.setdefault("clip", f"clips/{fields['trial_id']} #1.flac"))
        fields["clip_id"] = audio_hash(write_flac(store.path(clip), wave, rate), rate)
    record = TrialRecord.model_validate(fields)
    store.append(record)
    return record
