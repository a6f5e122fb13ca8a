"""Tables, plots and the listening page of a run, rebuilt from its records alone."""

import json
from collections.abc import Sequence
from pathlib import Path

from calm_bench.core import files
from calm_bench.report.columns import shown_recipes
from calm_bench.report.differences import difference_tables, held_out_table
from calm_bench.report.formats import to_csv, to_latex, to_markdown
from calm_bench.report.growth import render_growth
from calm_bench.report.page import Section, write_page
from calm_bench.report.plots import render_plots, stage_times
from calm_bench.report.tables import Table, counts_table, main_tables
from calm_bench.report.terminal import print_table
from calm_bench.store.records import GrowthRecord, LatencyRecord, TrialRecord
from calm_bench.store.results import Results
from calm_bench.store.run_store import RunStore

__all__ = ["build_report", "print_table", "read_section"]


def build_report(run_dir: Path) -> None:
    """Write tables/, plots/ and, of a run with clips, page/; the same records give the same bytes.

    Raises:
        InputError: If the folder is no finished run, or the report cannot be written.
    """
    section = read_section(RunStore(run_dir))
    store = section.store
    _write_tables(store, section.results, section.tables)
    for name, data in section.plots.items():
        files.replace(store.path(f"plots/{name}"), data)
    if store.read(TrialRecord):
        write_page(section)


def read_section(store: RunStore) -> Section:
    """What there is to show of a finished run; nothing is written.

    Raises:
        InputError: If the folder is no finished run.
    """
    results = store.read_results()
    tables = [*main_tables(results), *difference_tables(results)]
    tables += [held_out_table(results), counts_table(results)]
    plots = render_plots(results, stage_times(results.cells, store.read(LatencyRecord)))
    plots |= render_growth(results, store.read(GrowthRecord))
    tables = [table for table in tables if table.rows]
    return Section(store=store, results=results, tables=tables, plots=plots)


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
