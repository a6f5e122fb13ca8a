"""The listening page: a static HTML file beside the clips, with a column per row of the table.

It needs no server and no network. All text is escaped by the template; paths are quoted and
relative, so a run folder can be moved or published as it is. `write_page` makes the page of one
run, inside of its folder; `write_site` makes one that lies elsewhere, a section for each run, with
copies of what it plays: small ones, in Opus.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from calm_bench.core import files
from calm_bench.core.progress import counted
from calm_bench.report.columns import TEMPERATURE_KINDS, shown_columns, shown_recipes, value_text
from calm_bench.report.looks import Look
from calm_bench.report.players import ClipLookup, PageFolder, PageRow, RowBuilder, Score
from calm_bench.report.plots import looks_of
from calm_bench.report.tables import Table, is_of_votes, rated_text
from calm_bench.store.records import Manifest, Row, swept, system_title, temperature_text
from calm_bench.store.results import Results
from calm_bench.store.run_store import RunStore

MAX_ROWS = 100
"""Rows of players on the page of a run; more would make it too heavy to open."""

SITE_MARK = '<meta name="generator" content="calm-bench report --out">'
"""What a page that stands alone is known by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One run on a page.

    Attributes:
        clips: What its records say of its clips.
        tables: Shown below the players.
        plots: Pictures by file name; the page shows those that are SVG.
    """

    clips: ClipLookup
    results: Results
    tables: Sequence[Table] = ()
    plots: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def store(self) -> RunStore:
        """The run's folder."""
        return self.clips.store


@dataclass(frozen=True, slots=True, kw_only=True)
class PageColumn:
    """The heading of one column of players; a system has the look that plots give it."""

    name: str
    details: str
    scores: Sequence[Score]
    look: Look | None = None

    @property
    def option(self) -> str:
        """What the column is called where rows are sorted by it."""
        return f"{self.name}, {self.details.split(' · ')[0]}" if self.details else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePart:
    """All that the template shows of one run."""

    results: Results
    manifest: Manifest
    columns: Sequence[PageColumn]
    metrics: Sequence[str]
    rows: Sequence[PageRow]
    n_pairs: int
    several_seeds: bool
    tables: Sequence[Table]
    plots: Sequence[str]
    recipes: str
    environment: str

    @property
    def description(self) -> str:
        """What the benchmark does in its own words, and the lengths in this run; may be empty."""
        spec = self.manifest.options.get("spec", {})
        text = str(spec.get("description", ""))
        if text and {"seconds", "prompt_seconds"} <= spec.keys():
            text += f"; here clips of {spec['seconds']:g} s, {spec['prompt_seconds']:g} s given"
        return text[:1].upper() + text[1:]

    @property
    def has_words(self) -> bool:
        """Whether any clip on the page has words under it."""
        return any(clip.heard for row in self.rows for clip in (row.prompt, *row.clips))


def write_page(section: Section) -> None:
    """Write page/index.html into a run's folder, with the prompts and spectrograms it shows.

    Its clips and plots are taken from where they lie in the folder.
    """
    root = section.store.path("page/index.html").parent
    folder = PageFolder(store=section.store, root=root)
    _write(root, [_part(section, folder, MAX_ROWS)], alone=False)


def write_site(sections: Sequence[Section], root: Path, max_rows: int) -> None:
    """Write a page of runs that stands alone: `root` can be published as it is.

    Args:
        sections: The runs in the order of the page.
        root: The folder of index.html and, in run-1/ and so on, of all that it plays and shows.
        max_rows: Rows of players a run, spread over those that have most clips on disk.

    Raises:
        InputError: If the folder cannot be written.
    """
    parts = []
    for number, one in enumerate(sections, 1):
        folder = PageFolder(store=one.store, root=root, prefix=f"run-{number}/", alone=True)
        parts.append(_part(one, folder, max_rows))
    _write(root, parts, alone=True)


def _write(root: Path, parts: Sequence[PagePart], *, alone: bool) -> None:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("calm_bench", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    ours = resources("calm_bench.report")
    text = environment.get_template("page.html.j2").render(
        parts=parts,
        site_mark=SITE_MARK if alone else "",
        style=(ours / "page.css").read_text(encoding="utf-8"),
        script=(ours / "page.js").read_text(encoding="utf-8"),
    )
    files.replace(root / "index.html", text.encode())


def _part(section: Section, folder: PageFolder, max_rows: int) -> PagePart:
    lookup, results = section.clips, section.results
    manifest = section.store.read_manifest()
    # Systems first: that is what one came to hear.
    rows = sorted(results.cells, key=lambda row: row.kind != "system")
    builder = RowBuilder(folder, lookup, results, rows)
    pairs = lookup.pairs()
    shown = _spread(builder, pairs, max_rows) if folder.alone else pairs[:max_rows]
    players = counted(shown, len(shown), f"{results.run_id}, rows of players")
    plots = sorted(item for item in section.plots.items() if item[0].endswith(".svg"))
    environment = manifest.model_dump(include={"environment", "weights", "options"})
    return PagePart(
        results=results,
        manifest=manifest,
        columns=[_column(results, row) for row in rows],
        metrics=[shown.heading.rstrip(" ↑↓") for shown in builder.metrics],
        rows=[builder.row(index, *pair) for index, pair in enumerate(players)],
        n_pairs=len(pairs),
        several_seeds=len({seed for _, seed in pairs}) > 1,
        tables=section.tables,
        plots=[folder.plot(name, data) for name, data in plots],
        recipes=_json(shown_recipes(results)),
        environment=_json(environment),
    )


def _spread(
    builder: RowBuilder, pairs: Sequence[tuple[str, int]], n: int
) -> Sequence[tuple[str, int]]:
    """The `n` rows with the most clips on disk, in the run's order; equal ones spread over it."""
    counts = {}
    for pair in pairs:
        trials = (builder.lookup.trial(row.cell_id, *pair) for row in builder.rows)
        counts[pair] = sum(trial is not None and builder.exists(trial) for trial in trials)
    least = min(sorted(counts.values(), reverse=True)[:n], default=0)
    chosen = {pair for pair in pairs if counts[pair] > least}
    equal = [pair for pair in pairs if counts[pair] == least]
    places = min(n - len(chosen), len(equal))
    chosen |= {equal[i * len(equal) // places] for i in range(places)}
    return [pair for pair in pairs if pair in chosen]


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, default=str) if data else ""


def _column(results: Results, row: Row) -> PageColumn:
    details = []
    if row.temperature is not None:
        kind = TEMPERATURE_KINDS[row.temperature_kind]
        details.append(f"temp {temperature_text(row.temperature)}")
        details += [kind] if kind else []
    if row.text_temperature not in (None, row.temperature):
        details.append(f"text temp {temperature_text(row.text_temperature)}")
    if row.baseline:
        details.append("baseline")
    scores = []
    for shown in shown_columns(results):
        value = shown.values.get(row.cell_id)
        if value is not None and not (shown.is_speed and value.value is None):
            text, reason = value_text(value, shown.column, shown.decimals), value.reason
            if is_of_votes(results, value):
                text, reason = rated_text(value, shown)
            scores.append(Score(label=shown.heading, text=text, reason=reason))
    own_look = looks_of(results).get(system_title(row, swept(results.cells)))
    return PageColumn(
        name=system_title(row, {row.label} if swept(results.cells) else ()),
        details=" · ".join(details),
        scores=scores,
        look=own_look if row.kind == "system" else None,
    )
