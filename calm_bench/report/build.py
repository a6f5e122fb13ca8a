"""A run's tables, plots and listening page, rebuilt from its records alone.

A page of several runs, in a folder of its own, can be published as it is. It is made anew each
time: what an earlier one has left in the folder is removed first, and nothing is written into the
folders of the runs.
"""

import base64
import json
import logging
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

from calm_bench.core import files, paths
from calm_bench.core.progress import waiting
from calm_bench.core.recordings import few
from calm_bench.errors import InputError
from calm_bench.report.columns import shown_recipes
from calm_bench.report.formats import to_csv, to_latex, to_markdown
from calm_bench.report.page import SITE_MARK, Section, write_page, write_site
from calm_bench.report.players import ClipLookup
from calm_bench.report.plots import render_plots
from calm_bench.report.tables import (
    Table,
    counts_table,
    difference_tables,
    held_out_table,
    main_tables,
)
from calm_bench.store.records import GrowthRecord
from calm_bench.store.results import Results
from calm_bench.store.run_store import RunStore

logger = logging.getLogger(__name__)

_OURS = re.compile(r"run-\d+")
_WRITTEN = tuple(
    f"run-[0-9]*/{name}"
    for name in (
        *("plots/*.svg", "plots/*.png"),
        *(f"prompts/{number}.opus" for number in files.NUMBERED),
        *(f"{kind}/{'[0-9a-f]' * 16}.*" for kind in ("clips", "spectrograms")),
    )
)
_SOURCE = re.compile(r'(src|data-image)="(run-[^"]+)"')
_KINDS = {".opus": "audio/ogg", ".png": "image/png", ".svg": "image/svg+xml"}


def build_report(run_dir: Path) -> None:
    """Write tables/, plots/ and, of a run with clips, page/; the same records give the same bytes.

    Raises:
        InputError: If the folder is no finished run, or the report cannot be written.
    """
    section = read_section(_clips_of(RunStore(run_dir)))
    files.sweep(run_dir)
    store = section.store
    _write_tables(store, section.results, section.tables)
    for name, data in section.plots.items():
        files.replace(store.path(f"plots/{name}"), data)
    if section.clips.trials:
        write_page(section)


def _clips_of(store: RunStore) -> ClipLookup:
    with waiting("reading the run's records"):
        return ClipLookup(store)


def read_section(clips: ClipLookup) -> Section:
    """What there is to show of a finished run, whose clips are these; nothing is written.

    Raises:
        InputError: If the folder is no finished run.
    """
    store = clips.store
    with waiting("reading the run's results"):
        results = store.read_results()
        tables = [*main_tables(results), *difference_tables(results)]
        tables += [held_out_table(results), counts_table(results)]
    plots = render_plots(results, store.read(GrowthRecord))
    tables = [table for table in tables if table.rows]
    _say_lost(clips, results)
    return Section(clips=clips, results=results, tables=tables, plots=plots)


def _say_lost(records: ClipLookup, results: Results) -> None:
    """Say which clips, and numbers of clips, a page goes without; a run without clips has none."""
    store, clips = records.store, [trial.clip for trial in records.trials if trial.clip]
    gone = [clip for clip in clips if not paths.inside(store.root, clip).is_file()]
    if clips and len(gone) == len(clips):
        return
    if gone:
        logger.warning(
            "%s has lost %s of %s clips: %s", store.root, len(gone), len(clips), few(gone)
        )
    if lost := store.lost(results, records.trials, records.scores):
        logger.warning("%s", lost)


def _write_tables(store: RunStore, results: Results, tables: Sequence[Table]) -> None:
    name = results.benchmark
    parts = [to_markdown(table) for table in tables]
    if recipes := shown_recipes(results):
        text = json.dumps(recipes, indent=1, ensure_ascii=False, default=str)
        parts.append(f"### Recipes\n\n```json\n{text}\n```\n")
    store.write_text(f"tables/{name}.md", "\n".join(parts))
    store.write_text(f"tables/{name}.csv", to_csv(results))
    latex = (to_latex(table, f"{name}-{i}" if i else name) for i, table in enumerate(tables))
    store.write_text(f"tables/{name}.tex", "\n".join(latex))


def build_site(runs: Sequence[Path], root: Path, max_rows: int) -> int:
    """Write index.html and all that it plays and shows, and return how many bytes that is.

    Args:
        runs: Folders of finished runs, in the order of the page.
        root: Where the page is written.
        max_rows: Rows of players a run.

    Raises:
        InputError: If a run is not finished, is named twice or has no clips on disk, or if the
            folder cannot be written, holds someone's page or has to do with a run's folder.
    """
    _refuse_folder(root, runs)
    lookups = [_clips_of(RunStore(run)) for run in runs]
    for clips in lookups:
        _refuse_silent(clips)
    sections = [read_section(clips) for clips in lookups]
    _clear(root)
    write_site(sections, root, max_rows)
    written = [path for name in ("index.html", *_WRITTEN) for path in root.glob(name)]
    return sum(path.stat().st_size for path in written)


def build_file(runs: Sequence[Path], path: Path, max_rows: int) -> int:
    """Write the page as one HTML file that holds all it plays and shows; its size in bytes.

    Raises:
        InputError: As of `build_site`; or if the file is someone else's.
    """
    _refuse_places(path, runs)
    if path.exists() and not _is_ours(path):
        raise InputError(f"{path} holds something that is not ours: choose another --out")
    with TemporaryDirectory() as folder:
        root = Path(folder, "page")
        build_site(runs, root, max_rows)
        text = (root / "index.html").read_text(encoding="utf-8")
        data = _SOURCE.sub(lambda found: _inlined(root, *found.groups()), text).encode()
    with files.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, data)
    return len(data)


def _inlined(root: Path, name: str, source: str) -> str:
    file = root / unquote(source)
    data = base64.b64encode(file.read_bytes()).decode()
    return f'{name}="data:{_KINDS[file.suffix]};base64,{data}"'


def _refuse_places(root: Path, runs: Sequence[Path]) -> None:
    resolved = [run.resolve() for run in runs]
    for i, (run, place) in enumerate(zip(runs, resolved, strict=True)):
        if place in resolved[:i]:
            raise InputError(f"{run} is named twice")
        if root.resolve().is_relative_to(place) or place.is_relative_to(root.resolve()):
            raise InputError(f"--out {root} and the run {run} lie in each other: choose another")


def _refuse_folder(root: Path, runs: Sequence[Path]) -> None:
    _refuse_places(root, runs)
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file: --out names a folder, or a file that ends in .html")
    if _is_ours(root / "index.html"):
        return
    parts = any(_OURS.fullmatch(path.name) for path in root.glob("run-*"))
    if (root / "index.html").exists() or parts:
        raise InputError(f"{root} holds something that is not ours: choose another --out")


def _refuse_silent(records: ClipLookup) -> None:
    """A page without a clip is none."""
    store, clips = records.store, [trial.clip for trial in records.trials if trial.clip]
    results = store.read_results()
    if not clips:
        raise InputError(f"{store.root} ({results.benchmark}) made no clips: nothing to listen to")
    if not any(paths.inside(store.root, clip).is_file() for clip in clips):
        command = shlex.join(store.read_manifest().command)
        raise InputError(
            f"{store.root}: none of its {len(clips)} clips are on disk; they are made by: {command}"
        )


def _is_ours(index: Path) -> bool:
    return index.is_file() and SITE_MARK in index.read_text(encoding="utf-8", errors="replace")


def _clear(root: Path) -> None:
    """An empty page in place of an earlier one, marked as ours, should a kill leave it so.

    Files of names that no page has are someone's, and stay.
    """
    with files.disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        files.sweep(root)
        files.replace(root / "index.html", f"<!doctype html>{SITE_MARK}not finished".encode())
        files.remove(root, *_WRITTEN)
