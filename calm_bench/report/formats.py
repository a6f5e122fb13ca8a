"""Tables as Markdown, as LaTeX (booktabs), and their numbers as CSV."""

import re
from collections.abc import Sequence

from calm_bench.report.columns import shown_columns
from calm_bench.report.tables import Table, Text
from calm_bench.store.results import Results

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~#])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "×": r"$\times$",
    "±": r"$\pm$",
    "−": r"$-$",
    "—": "---",
    "–": "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\to$",
    "√": r"$\surd$",
    "τ": r"$\tau$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "…": r"\dots{}",
    "\u00a0": "~",
}


def footnote_mark(index: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return letters


def marks(text: Text) -> str:
    """The footnote marks of a field."""
    return ",".join(footnote_mark(index) for index in text.footnotes)


def one_line(text: str) -> str:
    """The text with line breaks and runs of spaces as single spaces."""
    return " ".join(text.split())


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown."""

    def escaped(text: str) -> str:
        return _MARKDOWN.sub(r"\\\1", one_line(text).replace("&", "&amp;"))

    def shown(text: Text) -> str:
        mark = f" <sup>{marks(text)}</sup>" if text.footnotes else ""
        return escaped(text.text) + mark

    def line(fields: Sequence[str]) -> str:
        return f"| {' | '.join(fields)} |"

    lines = [f"### {escaped(table.title)}", "", line([shown(text) for text in table.headings])]
    lines.append(line([":--" if left else "--:" for left in table.left]))
    lines += [line([shown(text) for text in row]) for row in table.rows]
    below = [f"<sup>{footnote_mark(i)}</sup> {escaped(t)}" for i, t in enumerate(table.footnotes)]
    below += [escaped(note) for note in table.notes]
    for text in below:
        lines += ["", text]
    return "\n".join(lines) + "\n"


def to_latex(table: Table, label: str) -> str:
    """The table as a LaTeX float, shrunk to the line if wider; needs booktabs and graphicx."""

    def escaped(text: str) -> str:
        return "".join(_LATEX.get(c, c) for c in one_line(text))

    def shown(text: Text) -> str:
        mark = f"\\textsuperscript{{{marks(text)}}}" if text.footnotes else ""
        # A row that begins with "[" would be read as the optional argument of the \\ before it.
        return ("{}" if text.text.startswith("[") else "") + escaped(text.text) + mark

    def line(fields: Sequence[Text]) -> str:
        return "    " + " & ".join(shown(text) for text in fields) + r" \\"

    columns = "".join("l" if left else "r" for left in table.left)
    lines = ["% needs \\usepackage{booktabs,graphicx}", r"\begin{table}", r"  \centering"]
    lines += [f"  \\caption{{{escaped(table.title)}}}", f"  \\label{{tab:{_label(label)}}}"]
    lines.append(r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%")
    lines += [f"  \\begin{{tabular}}{{{columns}}}", r"    \toprule", line(table.headings)]
    lines.append(r"    \midrule")
    for index, row in enumerate(table.rows):
        lines += [r"    \midrule"] * (index in table.groups)
        lines.append(line(row))
    lines += [r"    \bottomrule", r"  \end{tabular}}"]
    marked = enumerate(table.footnotes)
    below = [f"\\textsuperscript{{{footnote_mark(i)}}}\\,{escaped(t)}" for i, t in marked]
    below += [escaped(note) for note in table.notes]
    lines += [f"  \\par\\footnotesize {text}" for text in below]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9:-]+", "-", text).strip("-")


def to_csv(results: Results) -> str:
    """All numbers of the run, unrounded: per column value, low, high, n, reason and recipe."""
    from pandas import DataFrame

    rows = results.cells
    settings = ["temperature", "temperature_kind", "text_temperature", "head_steps"]
    extra = ("training_step", "precision", "mode")
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
        for part in ("low", "high", "n", "reason", "recipe_id"):
            columns[f"{shown.key}_{part}"] = [getattr(value, part, None) for value in found]
    # Objects, because a column of integers with a gap would turn into floats.
    text: str = DataFrame(columns, dtype=object).to_csv(index=False, lineterminator="\n")
    return text
