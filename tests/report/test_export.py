"""Exports are read back by what they are for: `datasets`, pandas and duckdb, where installed."""

import importlib
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from rows import with_values

from calm_bench.core import files
from calm_bench.errors import InputError, MissingExtraError
from calm_bench.report import export as module
from calm_bench.report.build import build_site
from calm_bench.report.export import export
from calm_bench.store.records import ScoreRecord, TrialRecord
from calm_bench.store.run_store import RunStore


def metadata(folder: Path) -> list[dict[str, object]]:
    text = (folder / "metadata.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_every_clip_is_there_with_what_is_known_of_it(run_store: RunStore, tmp_path: Path) -> None:
    out, n = export(run_store.root, "audiofolder", tmp_path / "out")
    lines = metadata(out)
    made = {t.trial_id: t for t in run_store.read(TrialRecord) if t.clip}
    assert len(lines) == n == len(made)
    for line in lines:
        trial = made[str(line["trial_id"])]
        copy, clip = out / str(line["file_name"]), run_store.root / str(trial.clip)
        assert copy.read_bytes() == clip.read_bytes()
        assert (line["prompt_id"], line["cell_id"]) == (trial.prompt_id, trial.cell_id)
    assert len({frozenset(line) for line in lines}) == 1
    with pytest.raises(InputError, match="is there already"):
        export(run_store.root, "audiofolder", out)


def test_numbers_by_two_recipes_share_no_column(copied: RunStore, tmp_path: Path) -> None:
    results = copied.read_results()
    other = {"recipe_id": "wer-other"}
    moved = "wer", "calm-t1"
    recipes = results.recipes | {"wer-other": {"metric": "wer", "version": 2}}
    results = with_values(results, lambda v: (v.metric, v.cell_id) == moved, **other)
    copied.write_results(results.model_copy(update={"recipes": recipes}))
    scores = [s for s in copied.read(ScoreRecord) if (s.metric, s.cell_id) == moved]
    copied.append(*(score.model_copy(update=other) for score in scores))
    lines = metadata(export(copied.root, "audiofolder", tmp_path / "out")[0])
    names = {"wer@wer-recipe", "wer@wer-other"}
    assert all(names <= line.keys() and "wer" not in line for line in lines)
    wer = 100 * 2.0 / 4.0
    assert [lines[0][name] for name in sorted(names)] == [None, wer]


def test_a_clip_that_is_not_what_its_record_says_is_refused_before_any_is_copied(
    copied: RunStore, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made = [copied.root / str(t.clip) for t in copied.read(TrialRecord) if t.clip]
    made[-1].write_bytes(made[0].read_bytes())
    with pytest.raises(InputError, match="not the clip that the run made"):
        export(copied.root, "audiofolder", out)
    made[-1].unlink()
    with pytest.raises(InputError, match=re.escape(str(made[-1]))):
        export(copied.root, "audiofolder", out)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_is_whole_or_not_there(
    run_store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    theirs = tmp_path / ".out.unfinished"
    theirs.mkdir()
    (tmp_path / ".out.999999999-0123abcd-0.unfinished/clips").mkdir(parents=True)  # was killed
    with monkeypatch.context() as broken:
        broken.setattr(module.files, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            export(run_store.root, "audiofolder", out)
    assert not out.exists()
    assert export(run_store.root, "audiofolder", out)[1] == len(metadata(out))
    assert {path.name for path in tmp_path.iterdir()} == {"out", theirs.name}


def test_two_exports_to_one_place_do_not_mix(run_store: RunStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = files.replacing_folder(out)
    (first.__enter__() / "half").touch()
    export(run_store.root, "audiofolder", out)
    with pytest.raises(InputError, match="cannot write"):
        first.__exit__(None, None, None)
    assert len(metadata(out)) == len([*out.glob("clips/*")])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_there_is_on_the_disk(
    run_store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync = set(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda n: (synced.add(os.fstat(n).st_ino), sync(n)))
    out, _ = export(run_store.root, "audiofolder", tmp_path / "out")
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 1
    assert {path.stat().st_ino for path in files} <= synced


@pytest.mark.parametrize("name", ["scores.jsonl", "trials.jsonl"])
def test_records_that_are_lost_are_named(
    copied: RunStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    path = copied.root / name
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[::2]))
    told = rf"{name} has \d+ of \d+ clips"
    with pytest.raises(InputError, match=told):
        export(copied.root, "audiofolder", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    build_site([copied.root], tmp_path / "site", 1)
    assert re.search(told, caplog.messages[-1])


def test_a_page_says_what_it_goes_without(
    copied: RunStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_site([copied.root], tmp_path / "site", 1)
    assert not caplog.messages
    clips = sorted((copied.root / "clips").rglob("*.flac"))
    clips[0].unlink()
    (copied.root / "scores.jsonl").write_bytes(b"")
    build_site([copied.root], tmp_path / "site", 1)
    lost, numbers = caplog.messages
    assert f"has lost 1 of {len(clips)} clips: clips/" in lost
    assert "scores.jsonl has 0 of" in numbers


@pytest.mark.filterwarnings("ignore")
def test_datasets_reads_an_audiofolder_back(
    run_store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    try:
        importlib.import_module("torchcodec")
    except (ImportError, OSError):  # datasets 5.2 asks for its classes even to list a folder
        for name, kind in (("encoders", "AudioEncoder"), ("decoders", "AudioDecoder")):
            stands_in = ModuleType(f"torchcodec.{name}")
            setattr(stands_in, kind, type(kind, (), {}))
            monkeypatch.setitem(sys.modules, stands_in.__name__, stands_in)
        monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    out, n = export(run_store.root, "audiofolder", tmp_path / "out")
    cache = str(tmp_path / "cache")
    found = datasets.load_dataset("audiofolder", data_dir=str(out), split="train", cache_dir=cache)
    lines = {str(out / str(line.pop("file_name"))): line for line in metadata(out)}
    assert found.num_rows == n
    for row in found.data.table.to_pylist():
        assert lines[row.pop("audio")["path"]] == row


@pytest.mark.extra("export")
def test_every_number_is_a_line_of_one_table(run_store: RunStore, tmp_path: Path) -> None:
    out, n = export(run_store.root, "parquet", tmp_path / "all.parquet")
    table, results = pd.read_parquet(out), run_store.read_results()
    assert len(table) == n
    rows = table[table.level == "row"]
    assert len(rows) == len(results.rows)
    for value in results.rows:
        (line,) = rows[(rows.cell_id == value.cell_id) & (rows.metric == value.metric)].itertuples()
        assert np.isclose(
            line.value, value.value if value.value is not None else np.nan, equal_nan=True
        )
        assert line.n_samples == value.n
        if value.low is not None and value.high is not None and value.n > 1:
            assert value.low == line.ci_lower
            assert 0 <= line.stderr <= (value.high - value.low) / 2
    clips = table[table.level == "clip"]
    assert set(clips.trial_id) <= {trial.trial_id for trial in run_store.read(TrialRecord)}
    assert len(clips) > len(rows) / 4


@pytest.mark.extra("export")
def test_an_error_is_of_prompts_and_not_of_their_draws(copied: RunStore, tmp_path: Path) -> None:
    two = [t for t in copied.read(TrialRecord) if t.cell_id == "calm-t0.8"][:2]
    copied.append(*(trial.model_copy(update={"group": "one recording"}) for trial in two))
    table = pd.read_parquet(export(copied.root, "parquet", tmp_path / "all.parquet")[0])
    found = table[(table.level == "row") & (table.metric == "wer")].set_index("cell_id")
    for cell_id, student in (("calm-t0.8", 12.7062), ("rq-t0.8", 4.3027)):  # of 1, and of 2
        line = found.loc[cell_id]
        assert line.n_samples == 3
        assert line.stderr == pytest.approx((line.ci_upper - line.ci_lower) / 2 / student, rel=1e-4)


@pytest.mark.extra("export")
def test_duckdb_reads_the_table(run_store: RunStore, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    out, n = export(run_store.root, "parquet", tmp_path / "all.parquet")
    assert duckdb.sql(f"select count(*) from '{out}'").fetchall() == [(n,)]


def test_a_package_that_is_missing_is_named(
    run_store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"calm-bench\[export\]"):
        export(run_store.root, "parquet", tmp_path / "all.parquet")
    assert not (tmp_path / "all.parquet").exists()
