"""`calm-bench paper`: from stored runs to ledger, tables and figures; and whether they still hold.

    ledger.md  ledger.csv  ledger.json     a line a claim with its verdict, and its evidence below
    tables/NAME.md .csv .tex               the paper's tables, published and measured
    figures/NAME.png .svg                  the paper's figures
    README.md                              what is where, and what could not be drawn

The same runs give the same bytes. Nothing here needs the clips, or torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from calm_bench.core import files
from calm_bench.core.files import disk_errors
from calm_bench.core.progress import waiting
from calm_bench.errors import InputError
from calm_bench.report.formats import to_latex, to_markdown
from calm_bench.report.paper.claims import load_claims
from calm_bench.report.paper.figures import FIGURES, FigureSpec, draw_figures
from calm_bench.report.paper.ledger import (
    Ledger,
    build_ledger,
    ledger_csv,
    ledger_tables,
    other_verdicts,
)
from calm_bench.report.paper.published import PaperTable, TableSpec, load_tables
from calm_bench.report.paper.runs import StoredRun, find_stored, read_stored
from calm_bench.types import problem

_HEAD = (
    "Rebuilt by `calm-bench paper` from the stored runs {runs}; nothing here is written by hand. "
    "How a verdict is reached: docs/claims.md.\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """What was rebuilt, and the figures that no stored run has the data of."""

    folder: Path
    ledger: Ledger
    not_drawn: tuple[str, ...] = ()


def build_paper(names: Sequence[str], folder: Path) -> Paper:
    """Write ledger, tables and figures of these runs (by default all that are kept in ./results).

    Raises:
        InputError: If a run is missing or damaged, runs do not go together, or nothing can be
            written.
    """
    runs = _read(names)
    ledger, texts = _texts(runs)
    figures = draw_figures(runs)
    missing = tuple(spec.name for spec in FIGURES if f"{spec.name}.png" not in figures)
    texts["README.md"] = _index(ledger, texts, missing)
    data = {name: text.encode() for name, text in texts.items()}
    _write(folder, data | {f"figures/{name}": image for name, image in figures.items()})
    return Paper(folder=folder, ledger=ledger, not_drawn=missing)


def verify_paper(names: Sequence[str], folder: Path) -> list[str]:
    """What the stored runs say otherwise than the ledger and tables in a folder; writes nothing.

    Raises:
        InputError: If the folder holds no ledger, or a run is missing or damaged.
    """
    path = folder / "ledger.json"
    try:
        committed = Ledger.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} does not exist: `calm-bench paper` writes it") from error
    except ValidationError as error:
        raise InputError(f"{path}: {problem(error)}; write it anew") from error
    ledger, texts = _texts(_read(names))
    if found := other_verdicts(committed, ledger):
        return found
    written = {folder / name: text.encode() for name, text in sorted(texts.items())}
    return [
        f"{path} is not what the stored runs give"
        for path, data in written.items()
        if not path.is_file() or path.read_bytes() != data
    ]


def _read(names: Sequence[str]) -> list[StoredRun]:
    with waiting("reading stored runs"):
        return read_stored(find_stored(names))


def _texts(runs: Sequence[StoredRun]) -> tuple[Ledger, dict[str, str]]:
    with waiting("judging claims"):
        ledger = build_ledger(load_claims(), runs)
    head = f"{ledger.summary}.\n\n{_HEAD.format(runs=', '.join(run.name for run in runs))}"
    tables = "\n".join(to_markdown(table) for table in ledger_tables(ledger))
    texts = {
        "ledger.json": ledger.model_dump_json(indent=1) + "\n",  # first: whose folder it is
        "ledger.md": f"# Claims ledger\n\n{head}\n{tables}",
        "ledger.csv": ledger_csv(ledger),
    }
    for spec in load_tables():
        filled = PaperTable.of(spec, runs)
        if filled.blocks:
            texts[f"tables/{spec.name}.md"] = to_markdown(filled.table())
            texts[f"tables/{spec.name}.tex"] = to_latex(filled.table(), spec.name)
            texts[f"tables/{spec.name}.csv"] = filled.csv()
    return ledger, texts


def _index(ledger: Ledger, texts: Mapping[str, str], missing: Sequence[str]) -> str:
    """The folder's README: verdicts in one line, then every table and figure."""
    lines = ["# The paper, rebuilt", "", f"[The ledger](ledger.md) has {ledger.summary}.", ""]
    lines += [_HEAD.format(runs=", ".join(ledger.runs)), "## Tables", ""]
    for spec in load_tables():
        path = f"tables/{spec.name}.md"
        shown = f"* [{spec.title}]({path}), {spec.source}"
        lines.append(shown if path in texts else _not_measured(spec))
    lines += ["", "## Figures", ""]
    for figure in FIGURES:
        path = f"figures/{figure.name}.png"
        shown = f"* {figure.title}\n\n  ![{figure.title}]({path})\n"
        lines.append(_not_measured(figure) if figure.name in missing else shown)
    return "\n".join(lines).rstrip() + "\n"


def _not_measured(spec: TableSpec | FigureSpec) -> str:
    return f"* {spec.title}: not measured; `{spec.command}` measures it"


def _refuse_foreign(folder: Path) -> None:
    """Write into a folder of ours or an empty one, never among someone's files.

    The ledger tells it, which is the first file of a build.
    """
    path = folder / "ledger.json"
    if path.is_file():
        known = files.json_value(path.read_bytes(), path)
        if not isinstance(known, dict) or "runs" not in known:
            raise InputError(f"{path} is no ledger of ours: choose another --out")
    elif folder.is_dir() and not all(map(files.is_unfinished, folder.iterdir())):
        raise InputError(f"{folder} holds something that is not ours: choose another --out")


def _write(folder: Path, data: Mapping[str, bytes]) -> None:
    """Write all files, and remove what an earlier build wrote and this one does not."""
    _refuse_foreign(folder)
    ours = {f"tables/{spec.name}.{end}" for spec in load_tables() for end in ("md", "csv", "tex")}
    ours |= {f"figures/{spec.name}.{end}" for spec in FIGURES for end in ("png", "svg")}
    files.sweep(folder)
    with disk_errors(folder):
        for name in ours - data.keys():
            (folder / name).unlink(missing_ok=True)
    for name, content in data.items():
        files.replace(folder / name, content)
