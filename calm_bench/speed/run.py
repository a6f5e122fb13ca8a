"""One run of `speed`: plan, measure what is missing, and write the tidy rows."""

from collections.abc import Sequence
from pathlib import Path

from calm_bench.core import paths
from calm_bench.plan.rows import with_temperature_kind
from calm_bench.speed.tidy import tidy
from calm_bench.speed.timetable import SpeedPlan
from calm_bench.speed.timing import measure_plan
from calm_bench.store.environment import describe_environment
from calm_bench.store.results import Results
from calm_bench.store.run_store import RunStore, manifest_of


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
    rows = [with_temperature_kind(row, plan.models) for row in plan.rows]
    store = RunStore(speed_folder(plan, out))
    store.refuse_foreign()
    with store.lock():
        if fresh:
            store.clear()
        wanted = manifest_of(
            plan,
            rows,
            describe_environment(plan.request.device),
            command,
            request=plan.request.model_dump(mode="json"),
            setting=plan.setting.model_dump(mode="json"),
        )
        manifest = store.begin(wanted)
        measure_plan(plan, store)
        results = tidy(plan, rows, store)
        store.write_results(results)
        store.write_manifest(manifest.model_copy(update={"status": "finished"}))
    return results
