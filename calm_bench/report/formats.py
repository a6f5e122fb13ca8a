"""Tables as Markdown, as LaTeX (booktabs) and on the terminal, and a run's numbers as CSV."""

import io
import re
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from calm_bench.report.columns import shown_columns
from calm_bench.report.tables import Table, Text, difference_tables, main_tables
from calm_bench.store.results import Results

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~#])")
_TEXT = {"\\": "textbackslash", "~": "textasciitilde", "^": "textasciicircum", "…": "dots"}
_TEXT |= {"<": "textless", ">": "textgreater"}
_MATH = {"×": "times", "±": "pm", "↑": "uparrow", "↓": "downarrow", "→": "to", "†": "dagger"}
_MATH |= {"∞": "infty", "√": "surd", "τ": "tau", "≤": "leq", "≥": "geq"}
_LATEX = {"−": "$-$", "—": "---", "–": "--", "\u00a0": "~", **{c: f"\\{c}" for c in "&%$#_{}"}}
_LATEX |= {sign: f"\\{name}{{}}" for sign, name in _TEXT.items()}
_LATEX |= {sign: f"$\\{name}$" for sign, name in _MATH.items()}


def one_line(text: str) -> str:
    """The text with line breaks and runs of spaces as single spaces."""
    return " ".join(text.split())


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown."""
    marks = table.footnotes

    def escaped(text: str) -> str:
        return _MARKDOWN.sub(r"\\\1", one_line(text).replace("&", "&amp;"))

    def shown(text: Text) -> str:
        mark = f" <sup>{marks[text.footnote]}</sup>" if text.footnote else ""
        return escaped(text.text) + mark

    def line(fields: Sequence[str]) -> str:
        return f"| {' | '.join(fields)} |"

    lines = [f"### {escaped(table.title)}", "", line([shown(text) for text in table.headings])]
    lines.append(line([":--" if left else "--:" for left in table.left]))
    lines += [line([shown(text) for text in row]) for row in table.rows]
    below = [f"<sup>{mark}</sup> {escaped(note)}" for note, mark in marks.items()]
    below += [escaped(note) for note in table.notes]
    for text in below:
        lines += ["", text]
    return "\n".join(lines) + "\n"


def to_latex(table: Table, label: str) -> str:
    """The table as a LaTeX float, shrunk to the line if wider; needs booktabs and graphicx."""
    marks = table.footnotes

    def escaped(text: str) -> str:
        return "".join(_LATEX.get(c, c) for c in one_line(text))

    def shown(text: Text) -> str:
        mark = f"\\textsuperscript{{{marks[text.footnote]}}}" if text.footnote else ""
        # A row that begins with "[" would be read as the optional argument of the \\ before it.
        return ("{}" if text.text.startswith("[") else "") + escaped(text.text) + mark

    def line(fields: Sequence[Text]) -> str:
        return "    " + " & ".join(shown(text) for text in fields) + r" \\"

    columns = "".join("l" if left else "r" for left in table.left)
    lines = ["% needs \\usepackage{booktabs,graphicx}", r"\begin{table}", r"  \centering"]
    label = re.sub(r"[^A-Za-z0-9:-]+", "-", label).strip("-")
    lines += [f"  \\caption{{{escaped(table.title)}}}", f"  \\label{{tab:{label}}}"]
    lines.append(r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%")
    lines += [f"  \\begin{{tabular}}{{{columns}}}", r"    \toprule", line(table.headings)]
    lines.append(r"    \midrule")
    for index, row in enumerate(table.rows):
        lines += [r"    \midrule"] * (index in table.groups)
        lines.append(line(row))
    lines += [r"    \bottomrule", r"  \end{tabular}}"]
    below = [f"\\textsuperscript{{{mark}}}\\,{escaped(note)}" for note, mark in marks.items()]
    below += [escaped(note) for note in table.notes]
    lines += [f"  \\par\\footnotesize {text}" for text in below]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


DRAWN = ("temperature", "temperature_kind", "text_temperature", "head_steps")
"""What every line says of how a row was drawn."""


def to_csv(results: Results) -> str:
    """All numbers of the run, unrounded: per column value, interval, n, reason and recipe."""
    from pandas import DataFrame, concat

    rows = results.cells
    settings = list(DRAWN)
    extra = ("training", "training_step", "precision", "mode")
    settings += [n for n in extra if any(getattr(row, n) is not None for row in rows)]
    columns = {
        "cell_id": [row.cell_id for row in rows],
        "system": [row.label for row in rows],
        **{name: [getattr(row, name) for row in rows] for name in ("kind", "baseline", *settings)},
    }
    counts = [results.trials.get(row.cell_id) for row in rows]
    columns["n_ok"] = [count and count.ok for count in counts]
    columns["n_tried"] = [count and count.ok + count.failed for count in counts]
    for shown in shown_columns(results, everything=True):
        found = [shown.values.get(row.cell_id) for row in rows]
        columns[shown.key] = [getattr(value, "value", None) for value in found]
        for part in ("low", "high", "n", "reason", "method", "marked", "recipe_id"):
            columns[f"{shown.key}_{part}"] = [getattr(value, part, None) for value in found]
    # Objects, because a column of integers with a gap would turn into floats.
    frame = DataFrame(columns, dtype=object)
    if results.pooled:
        frame = concat([frame, DataFrame(_pooled_lines(results), dtype=object)])
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def _pooled_lines(results: Results) -> list[dict[str, object]]:
    """A line for each mean over trainings: its cell_id names them, `least` and `greatest` too."""
    keys = {(s.column.name, s.recipe_id): s.key for s in shown_columns(results, everything=True)}
    rows = {row.cell_id: row for row in results.cells}
    lines: dict[tuple[str, ...], dict[str, object]] = {}
    for pool in results.pooled:
        first = rows[pool.cell_ids[0]]
        about = {"cell_id": " ".join(pool.cell_ids), "system": first.system[1], "kind": "trainings"}
        drawn = {name: getattr(first, name) for name in DRAWN}
        line = lines.setdefault(pool.cell_ids, about | drawn)
        key = keys[pool.metric, pool.recipe_id]
        line[key] = pool.value
        for part in ("low", "high", "least", "greatest", "n", "reason", "recipe_id"):
            line[f"{key}_{part}"] = getattr(pool, part)
    return list(lines.values())


_COLUMN, _TABLE = 3, 1  # what rich draws around each column and around the table
_NOTE_WIDTH = 100
_FEW_ROWS = 2  # that can be read side by side
_KEY_WIDTHS = (24, 20, 16, 14, 12, 10)
"""Of names in a table that has no room, till a number is let in."""
_TEXT_WIDTH = 30  # of words there that are no names
_ELSEWHERE = "a wider terminal, or a pipe, shows them"


def print_table(results: Results, console: "Console", where: str = _ELSEWHERE) -> None:
    """Print the benchmark's table and what temperature and system change.

    A pipe or file has no width to fit: it gets each table of many rows in one piece.
    """
    print_tables([*main_tables(results), *difference_tables(results)], console, where)


def print_tables(tables: Sequence[Table], console: "Console", where: str = _ELSEWHERE) -> None:
    """Print tables, on a terminal the columns that fit; `where` says where the others are."""
    for table in tables:
        _print(table, console, console.width if console.is_terminal else None, where)


def _print(table: Table, console: "Console", width: int | None, where: str) -> None:
    from rich.text import Text as Rich

    table = _upright(table, width or _NOTE_WIDTH)
    console.print(Rich(table.title, style="bold"))
    whole = width is None or _whole_width(table) <= width
    columns, limit = ([], None) if whole else _columns(table, width or 0)
    left_out = [text.text for i, text in enumerate(table.headings) if columns and i not in columns]
    table = table.cut(columns) if columns else table
    grid = _grid(table, limit)
    if width is None:
        _print_unwrapped(grid, console, _whole_width(table))
    else:
        console.print(grid)
    below = [f"no room for {', '.join(left_out)}: {where}"] if left_out else []
    below += [f"{mark}  {note}" for note, mark in table.footnotes.items()]
    below += table.notes
    room = min(_NOTE_WIDTH, console.width)
    for text in below:
        # Where a note goes on it stands further in, so that many do not run into one another.
        lines = wrap(
            *(one_line(text), room),
            initial_indent="  ",
            subsequent_indent="     ",
            break_on_hyphens=False,
        )
        console.print(Rich("\n".join(lines), style="dim"), soft_wrap=True)
    console.print()


def _upright(table: Table, width: int) -> Table:
    """A table of few rows that is too wide, with a line for each column, if that fits."""
    if len(table.rows) > _FEW_ROWS or _whole_width(table) <= width:
        return table
    turned = Table(title=table.title, notes=table.notes)
    turned.add_column("", left=True, rank=0)
    for row in table.rows:
        pairs = list(zip(table.headings, row, strict=True))[1 : table.keys]
        names = (f"{key.text} {text.text}" for key, text in pairs if text.text)
        turned.add_column(", ".join([row[0].text, *names]), rank=1)
    for line in list(zip(table.headings, *table.rows, strict=True))[table.keys :]:
        turned.add_row(*line)
    return turned if _whole_width(turned) <= width else table


def _whole_width(table: Table) -> int:
    return _TABLE + sum(_width(table, column) for column in range(len(table.headings)))


def _print_unwrapped(grid: "Grid", console: "Console", width: int) -> None:
    """Print wider than the console thinks it is: it takes 80 columns where there is no terminal."""
    from rich.console import Console
    from rich.text import Text as Rich

    wide = Console(file=io.StringIO(), width=width, color_system=None)
    with wide.capture() as captured:
        wide.print(grid)
    lines = (line.rstrip() for line in captured.get().splitlines())
    console.print(Rich("\n".join(lines)), soft_wrap=True)


def _width(table: Table, column: int, limit: int | None = None) -> int:
    from rich.cells import cell_len

    marks, fields = table.footnotes, (table.headings[column], *(row[column] for row in table.rows))
    texts = (one_line(t.text) + (f" {marks[t.footnote]}" if t.footnote else "") for t in fields)
    widest = max(map(cell_len, texts))
    return _COLUMN + (widest if limit is None else min(widest, limit))


def _columns(table: Table, width: int) -> tuple[list[int], int]:
    """The columns that fit, by rank, and how wide names may be there; at least one is no name.

    Names are as narrow as it takes for the first, and for those of a rank of their own.
    """
    keys, others = range(table.keys), range(table.keys, len(table.headings))
    order = sorted(others, key=lambda column: (table.ranks[column], column))
    widths = {c: _width(table, c, _TEXT_WIDTH if table.left[c] else None) for c in order}
    chosen: list[int] = []
    for limit in _KEY_WIDTHS:
        room = width - _TABLE - sum(_width(table, column, limit) for column in keys)
        if sum(widths[c] for c in order if c == order[0] or table.ranks[c] < 2) <= room:
            break
    for column in order:
        if widths[column] <= room or not chosen:
            chosen.append(column)
            room -= widths[column]
    return [*keys, *sorted(chosen)], limit


def _grid(table: Table, limit: int | None) -> "Grid":
    """The table as rich draws it; with a limit, names are no wider."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text as Rich

    marks = table.footnotes

    def shown(text: Text) -> Rich:
        out = Rich(one_line(text.text))
        return out.append(f" {marks[text.footnote]}", style="dim") if text.footnote else out

    grid = Grid(box=box.SIMPLE_HEAD)
    for column, (heading, left) in enumerate(zip(table.headings, table.left, strict=True)):
        is_key = column < table.keys
        grid.add_column(
            shown(heading),
            justify="left" if left else "right",
            no_wrap=not is_key and not (left and limit),  # only words may wrap
            overflow="fold",
            max_width=limit and (limit if is_key else _TEXT_WIDTH if left else None),
        )
    for index, row in enumerate(table.rows):
        if index in table.groups:
            grid.add_section()
        grid.add_row(*map(shown, row))
    return grid
