"""One run of `speed`: plan, measure what is missing, and write the tidy rows."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from calm_bench import paths, registry
from calm_bench.config import load_model_config
from calm_bench.environment import describe_environment
from calm_bench.report.paper.names import UNFIT
from calm_bench.speed.measure import measure
from calm_bench.speed.plan import SpeedPlan
from calm_bench.speed.tidy import tidy
from calm_bench.store import Cell, Manifest, Results, RunStore

__all__ = ["is_fit", "run_speed", "speed_folder"]


def speed_folder(plan: SpeedPlan, out: Path | None) -> Path:
    """Where a plan's run is written."""
    return paths.runs_dir() / plan.run_id if out is None else out


def run_speed(
    plan: SpeedPlan, *, out: Path | None = None, fresh: bool = False, command: Sequence[str] = ()
) -> Results:
    """Time what a plan says, or what is left of it, and write results.json.

    Raises:
        BenchError: If something the user can mend stands in the way.
    """
    cells = [_with_kind(cell) for cell in plan.cells]
    store = RunStore(speed_folder(plan, out))
    store.refuse_foreign()
    with store.lock():
        if fresh:
            store.clear()
        manifest = store.begin(_manifest(plan, cells, command))
        measure(plan, store)
        results = tidy(plan, cells, store)
        store.write_results(results)
        store.write_manifest(manifest.model_copy(update={"status": "finished"}))
    return results


def is_fit(results: Results) -> bool:
    """Whether the baseline took as long as itself, so that ratios can be believed."""
    return not any(note.startswith(UNFIT) for note in results.notes)


def _with_kind(cell: Cell) -> Cell:
    """A row with what its temperature means, which only the system's class knows."""
    cls = registry.load("system", load_model_config(str(cell.model))[0].type)
    return cell.model_copy(update={"temperature_kind": cls.temperature_kind})


def _manifest(plan: SpeedPlan, cells: Sequence[Cell], command: Sequence[str]) -> Manifest:
    return Manifest(
        run_id=plan.run_id,
        benchmark=plan.spec.name,
        version=plan.spec.version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=tuple(command),
        plan_hash=plan.plan_hash,
        options={
            "request": plan.request.model_dump(mode="json"),
            "setting": plan.setting.model_dump(mode="json"),
            "cells": [cell.model_dump(mode="json") for cell in cells],
            "notes": list(plan.notes),
        },
        environment=describe_environment(plan.request.device),
        weights=dict(plan.weights),
    )
