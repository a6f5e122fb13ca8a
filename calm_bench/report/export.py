"""A run for other tools: its clips as an audiofolder of Hugging Face, its numbers as one table.

The table has a line for each number of a row and for each number of a clip; `level` tells which.
Names are those of inspect_ai and lm-eval where they have one: `task_name`, `model`, `n_samples`,
`stderr`, `higher_is_better`. `stderr` is the interval's half width over Student's quantile, which
is of as many prompts or recordings as the clips are of.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from calm_bench.core import files, paths
from calm_bench.core.inference import ALPHA, quantile
from calm_bench.core.sounds import sounds_of
from calm_bench.errors import InputError, MissingExtraError
from calm_bench.report.columns import shown_columns
from calm_bench.report.tables import is_of_votes
from calm_bench.store.records import Row, ScoreRecord, TrialRecord
from calm_bench.store.results import Results
from calm_bench.store.run_store import RunStore
from calm_bench.types import Column

Form = Literal["audiofolder", "parquet"]
Line = dict[str, Any]


def export(folder: Path, form: Form, out: Path | None) -> tuple[Path, int]:
    """Write a finished run in another form: where to, and of how many clips or lines.

    Raises:
        InputError: If the run is not finished, has no clips, or something lies where it would go.
        MissingExtraError: If Parquet cannot be written here.
    """
    store = RunStore(folder)
    results = store.read_results()
    suffix = ".parquet" if form == "parquet" else "-audiofolder"
    out = Path(f"{results.run_id}{suffix}") if out is None else out
    if out.exists():
        raise InputError(f"{out} is there already: name another place with --out")
    if form == "audiofolder":
        return out, _audiofolder(results, store, out)
    if find_spec("pyarrow") is None:
        raise MissingExtraError("a Parquet file", "export", "pyarrow")
    import pandas as pd

    tried = store.read(TrialRecord)
    lines = [*_of_rows(results, tried), *_of_clips(results, store, tried)]
    with files.disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(out) as file:
            pd.DataFrame(lines).to_parquet(file, index=False)
    return out, len(lines)


def _audiofolder(results: Results, store: RunStore, out: Path) -> int:
    """Clips by their numbers: of names of rows and prompts (`test-…`) splits would be made."""
    numbers: defaultdict[str, Line] = defaultdict(dict)
    # Numbers by different recipes are not comparable, and have columns of their own.
    shown = [s for s in shown_columns(results, everything=True) if s.column.fields]
    keys = {(s.column.name, s.recipe_id): s.key for s in shown}
    tried = store.read(TrialRecord)
    for line in _of_clips(results, store, tried):
        if key := keys.get((line["metric"], line.get("recipe_id"))):
            numbers[line["trial_id"]][key] = line["value"]
    names = dict.fromkeys(keys.values())
    cells = {row.cell_id: row for row in results.cells}
    made = [trial for trial in tried if trial.clip and trial.cell_id in cells]
    clips = _whole_clips(store, made)
    lines = []
    with files.replacing_folder(out) as unfinished:
        for number, (trial, clip) in enumerate(zip(made, clips, strict=True)):
            name = f"clips/{number:05}.flac"
            files.replace(unfinished / name, clip.read_bytes())  # on the disk before `out` is
            words = " ".join(word for word, *_ in trial.words or ())
            about = trial.model_dump(include={"prompt_seconds", "sample_rate"})
            about |= {"text": words or None, **_of(results, cells[trial.cell_id]), **_drawn(trial)}
            lines.append({"file_name": name, **about, **names, **numbers[trial.trial_id]})
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        files.replace(unfinished / "metadata.jsonl", text.encode())
    return len(lines)


def _whole_clips(store: RunStore, made: Sequence[TrialRecord]) -> list[Path]:
    """Where the clips of a run lie, each looked at before any of them is copied.

    Raises:
        InputError: If the run has none here, or one is not what its record says.
    """
    clips = [paths.inside(store.root, str(trial.clip)) for trial in made]
    if not any(clip.is_file() for clip in clips):
        raise InputError(f"{store.root} holds no clips of its own: nothing can be exported of them")
    for trial, clip, sound in zip(made, clips, sounds_of(clips, "reading clips"), strict=True):
        if isinstance(sound, InputError):
            raise sound
        if sound.audio_id != trial.clip_id:
            raise InputError(
                f"{clip} is not the clip that the run made: repeat the command that made it"
            )
    return clips


def _of(results: Results, row: Row) -> Line:
    """What a line says of its run and row."""
    return {
        "run_id": results.run_id,
        "task_name": results.benchmark,
        "task_version": results.benchmark_version,
        **row.model_dump(
            include={"cell_id", "kind", "label", "model", "temperature", "head_steps", "precision"}
        ),
    }


def _drawn(trial: TrialRecord) -> Line:
    return trial.model_dump(include={"trial_id", "prompt_id", "seed_index", "seed", "group"})


def _measured(column: Column, value: float | None, reason: str | None, n: int) -> Line:
    about = column.model_dump(include={"unit", "higher_is_better"})
    return {"metric": column.name, **about, "value": value, "reason": reason, "n_samples": n}


def _of_rows(results: Results, tried: Sequence[TrialRecord]) -> Iterator[Line]:
    cells = {row.cell_id: row for row in results.cells}
    columns = {column.name: column for column in results.columns}
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for trial in tried:
        if trial.clip:
            groups[trial.cell_id].add(trial.group or trial.prompt_id)
    for value in results.rows:
        if value.cell_id in cells and value.metric in columns:
            stderr, n = None, value.n
            if columns[value.metric].metric is not None and not is_of_votes(results, value):
                n = min(n, len(groups[value.cell_id]) or n)
            if value.low is not None and value.high is not None and n > 1:
                stderr = (value.high - value.low) / 2 / quantile(1 - ALPHA / 2, n - 1)
            yield {
                "level": "row",
                **_of(results, cells[value.cell_id]),
                **_measured(columns[value.metric], value.value, value.reason, value.n),
                "stderr": stderr,
                "ci_lower": value.low,
                "ci_upper": value.high,
                "recipe_id": value.recipe_id,
            }


def _of_clips(results: Results, store: RunStore, tried: Sequence[TrialRecord]) -> Iterator[Line]:
    """What is on record of single clips; one that was not made has a line with its error."""
    trials = {trial.trial_id: trial for trial in tried}
    cells = {row.cell_id: row for row in results.cells}
    of_metric = defaultdict(list)
    for column in results.columns:
        if column.fields:
            of_metric[column.metric].append(column)
    scores = store.read(ScoreRecord)
    if lost := store.lost(results, tried, scores):
        raise InputError(lost)
    for score in scores:
        trial = trials.get(score.trial_id)
        if trial is None or trial.cell_id not in cells or score.recipe_id not in results.recipes:
            continue  # of an earlier scoring, which the results are not of
        for column in of_metric[score.metric]:
            found = column.clip_value(score.values)
            reason = score.note if found is None else None
            about = {"level": "clip", **_of(results, cells[trial.cell_id]), **_drawn(trial)}
            yield about | _measured(column, found, reason, 1) | {"recipe_id": score.recipe_id}
    for trial in trials.values():
        if trial.status == "failed" and trial.cell_id in cells:
            about = {"level": "clip", **_of(results, cells[trial.cell_id]), **_drawn(trial)}
            yield about | {"metric": None, "value": None, "reason": trial.error, "n_samples": 0}
