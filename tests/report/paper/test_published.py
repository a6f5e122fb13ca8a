"""The paper's tables: fed with its numbers they show its cells, and ours never in their place."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from rows import system
from stored_runs import make_run

from calm_bench.errors import InputError
from calm_bench.report.formats import to_latex
from calm_bench.report.paper.published import ColumnSpec, PaperTable, load_tables, number_text
from calm_bench.report.paper.runs import StoredRun
from calm_bench.report.tables import Table
from calm_bench.store.results import Value

# The published cells as they were printed, row by row; "–" where the paper has none.
PUBLISHED = {
    "speech": [
        "– | – | – | 20.2 | 25.2 | 4.02 ± 0.11 | 2180 ± 30 | –",
        "×1.0 | ×1.0 | 26.7 % | 52.4 | 36.3 | 2.42 ± 0.12 | 1841 ± 25 | 4",
        "×1.0 | ×1.0 | 26.7 % | 26.8 | 33.1 | 2.75 ± 0.14 | 1870 ± 30 | 3",
        "×1.3 | ×12.3 | 2.9 % | 42.9 | 34.3 | 2.82 ± 0.13 | 1947 ± 28 | 2",
        "×1.3 | ×12.3 | 2.9 % | 23.8 | 31.2 | 3.45 ± 0.14 | 2023 ± 27 | 1",
    ],
    "music": [
        "– | – | – | – | 3.84 ± 0.08 | 2166 ± 33 | –",
        "×1.0 | ×1.0 | 57.7 % | 1.06 ± 0.06 | 2.85 ± 0.07 | 1824 ± 29 | 4",
        "×1.5 | ×2.2 | 38.0 % | 1.43 ± 0.07 | 2.76 ± 0.07 | 1781 ± 29 | 5",
        "×2.2 | ×19.3 | 6.6 % | 0.83 ± 0.04 | 2.90 ± 0.07 | 1857 ± 28 | 2",
        "×1.9 | ×5.4 | 20.1 % | 0.71 ± 0.05 | 3.07 ± 0.07 | 1847 ± 24 | 3",
        "×0.3 | ×0.2 | 86.6 % | 0.64 ± 0.04 | 3.12 ± 0.07 | 1921 ± 29 | 1",
        "×1.3 | – | 0.0 % | 1.72 ± 0.12 | 2.62 ± 0.07 | 1761 ± 33 | 6",
    ],
    "ablations": ["0.93 ± 0.06", "1.32 ± 0.09", "1.63 ± 0.11", "4.03 ± 0.16", "8.38 ± 0.17"],
    "steps": [
        "16.7 | 0.56 | – | 0.83 ± 0.04",
        "20.4 | 0.68 | 28.83 ± 0.20 | 0.71 ± 0.05",
        "27.7 | 0.92 | 4.62 ± 0.07 | 0.73 ± 0.05",
        "46.1 | 1.54 | 0.79 ± 0.04 | 0.96 ± 0.06",
        "76.8 | 2.56 | 0.74 ± 0.05 | 1.46 ± 0.06",
        "136.4 | 4.55 | 0.64 ± 0.04 | 2.05 ± 0.07",
    ],
    "short-context": ["0.85 ± 0.05", "0.76 ± 0.04", "0.73 ± 0.04", "0.78 ± 0.04"],
    "speech-codecs": [
        "1.1 | 3.11 | 9.4 % | 2.13 | 0.87 | 57.7 ± 1.3",
        "– | 3.15 | 8.1 % | 2.42 | 0.90 | 66.0 ± 1.4",
    ],
    "music-codecs": [
        "2.2 | 2.41 | 5.62",
        "8.8 | 3.63 | 9.61",
        "– | 2.23 | 5.51",
        "– | 3.65 | 9.76",
        "– | 4.01 | 10.3",
    ],
}
SPECS = {spec.name: spec for spec in load_tables()}


def cells(table: Table, row: int) -> list[str]:
    return [text.text for text in table.rows[row][table.keys :]]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cells_are_reproduced(name: str) -> None:
    table = PaperTable.of(SPECS[name], []).table()
    assert [" | ".join(cells(table, i)) for i in range(len(table.rows))] == PUBLISHED[name]
    assert any("not measured in any stored run" in note for note in table.notes)


def test_a_table_of_nothing_is_no_table() -> None:
    assert not PaperTable.of(SPECS["multiplier"], []).blocks


def test_ours_stand_below_the_published_rows(music: StoredRun) -> None:
    table = PaperTable.of(SPECS["music"], [music]).table()
    assert [row[0].text for row in table.rows] == ["paper"] * 7 + ["here, tiny"] * 6
    headings = [text.text for text in table.headings]
    for row in table.rows[:7]:
        assert row[headings.index("FAD ↓ (ours: FAD∞) (mel)")].text == "–"
    four = next(row for row in table.rows[7:] if row[1].text == "CALM consistency, 4 steps")
    assert four[headings.index("FAD ↓ (ours: FAD∞) (mel)")].text == "5.90 ± 0.35"
    assert four[headings.index("FAD ↓ (ours: FAD∞) (whisper v1)")].text == "5.90 ± 0.35"
    assert four[headings.index("FAD ↓ (ours: FAD∞) (VGGish)")].text == "—"
    assert "the run did not measure by VGGish" in table.footnotes


def test_thirty_seconds_follow_from_the_rtf(music: StoredRun) -> None:
    lines = PaperTable.of(SPECS["steps"], [music]).csv().splitlines()
    values = {}
    for line in lines:
        source, _, row, _, _, column, value, *_ = line.split(",")
        if source == "music-1":
            values[row, column] = float(value)
    assert values["10", "seconds_for_30s"] == pytest.approx(30 * values["10", "rtf"])


def test_systems_of_one_and_of_several_trainings_are_ranked_together() -> None:
    rows = []
    for name, seed, elo in (("calm", 0, 1900.0), ("calm", 1, 1880.0), ("rq32", 0, 1850.0)):
        at = f"@seed{seed}" if seed else ""
        row = system(f"{name}-music-tiny{at}", name, steps=4, training=seed)
        rows.append((row, {"elo_enjoyment": elo, "overall_speedup": 2.0}))
    table = PaperTable.of(SPECS["music"], [make_run(rows)]).table()
    ours = {row[0].text: row[-1].text for row in table.rows if row[0].text != "paper"}
    assert ours == {"here, tiny, mean of trainings": "1", "here, tiny, one training": "2"}
    assert table.notes == ["times of a: CPU, float32"]


def test_a_small_number_keeps_two_significant_figures() -> None:
    value = Value(cell_id="a", system="a", metric="si_sdr", value=0.0123, low=0.01, high=0.0146)
    column = ColumnSpec(metric="si_sdr", heading="SI-SNR", significant=3)
    assert number_text(value, column) == "0.012 ± 0.002"
    longer = value.scaled(100.0)
    assert number_text(longer, column) == "1.23 ± 0.23"


def test_the_ablation_table_shows_first_and_last_segment(ablations: StoredRun) -> None:
    table = PaperTable.of(SPECS["ablations"], [ablations]).table()
    headings = [text.text for text in table.headings]
    none = next(r for r in table.rows if r[0].text != "paper" and r[1].text == "without all three")
    assert none[headings.index("FAD ↓, first segment (mel)")].text == "8.00 ± 0.80"
    assert none[headings.index("FAD ↓, last segment (mel)")].text == "80.00 ± 8.00"


def latex(runs: list[StoredRun]) -> str:
    tables = [PaperTable.of(spec, runs) for spec in SPECS.values()]
    body = "\n".join(to_latex(t.table(), t.spec.name) for t in tables if t.blocks)
    head = "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n"
    return f"{head}{body}\\end{{document}}\n"


def test_latex_escapes_what_would_break_it(music: StoredRun) -> None:
    text = latex([music])
    assert re.search(r"(?<![\\{])%(?! needs)", text) is None
    assert "26.7 \\%" in text
    assert "4.02 $\\pm$ 0.11" in text
    assert "elo\\_enjoyment" in text
    bare = text.replace("\\{", "").replace("\\}", "")
    for table in bare.split("\\end{table}"):
        assert table.count("{") == table.count("}"), table
    for table in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.DOTALL):
        columns = len(re.match(r"\\begin\{tabular\}\{([lr]+)\}", table)[1])  # type: ignore[index]
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {columns}
    assert all(ord(c) < 128 for c in text), {c for c in text if ord(c) >= 128}


@pytest.mark.skipif(
    not (shutil.which("tectonic") or shutil.which("pdflatex")), reason="no LaTeX on this machine"
)
def test_latex_compiles(tmp_path: Path, music: StoredRun, ablations: StoredRun) -> None:
    path = tmp_path / "tables.tex"
    path.write_text(latex([music, ablations]), encoding="utf-8")
    tectonic = ["tectonic", path.name]
    pdflatex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", path.name]
    command = pdflatex if shutil.which("pdflatex") else tectonic
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert path.with_suffix(".pdf").stat().st_size > 1000


def test_a_value_without_a_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "published.yaml"
    table = {
        "name": "a",
        "title": "A",
        "source": "here",
        "command": "calm-bench run a",
        "columns": [{"metric": "fad", "heading": "FAD", "decimals": 2}],
        "rows": [{"label": "x", "model": "x", "values": {"fda": 1.0}}],
    }
    path.write_text(yaml.safe_dump({"tables": [table]}))
    with pytest.raises(InputError, match="row 'x' has a value for 'fda', no column does"):
        load_tables(path)
