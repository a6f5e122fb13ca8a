"""Records as tests make them."""

from calm_bench.store.records import Manifest


def manifest(**changes: object) -> Manifest:
    """The manifest of a run of speech, in all else as told."""
    fields: dict[str, object] = {
        "run_id": "speech-0123abcd",
        "benchmark": "speech",
        "version": 1,
        "created": "2026-11-22T12:00:00+00:00",
        "plan_hash": "0123abcd",
        "environment": {"device": "cpu", "torch": "2.13.0"},
    }
    return Manifest.model_validate(fields | changes)
