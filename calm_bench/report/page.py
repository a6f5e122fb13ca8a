"""The listening page: a static HTML file beside the clips, with a column per row of the table.

It needs no server and no network. All text is escaped by the template; paths are quoted and
relative, so a run folder can be moved or published as it is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from calm_bench import audio, paths
from calm_bench.report.clips import ClipLookup, Word, mark_differences
from calm_bench.report.columns import Shown, shown_columns, shown_recipes, steps_vary
from calm_bench.report.formats import footnote_mark
from calm_bench.report.numbers import (
    TEMPERATURE_KINDS,
    cell_name,
    plain_number,
    temperature_text,
    value_text,
)
from calm_bench.report.tables import Table
from calm_bench.store import Cell, Results, RunStore, TrialRecord

__all__ = ["MAX_ROWS", "write_page"]

MAX_ROWS = 100
"""Rows of players on the page; more would make it too heavy to open."""

_FOLDER = "page"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A heading and a number under it, or why there is none."""

    label: str
    text: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PageColumn:
    """The heading of one column of players."""

    name: str
    details: str
    scores: Sequence[Score]
    is_system: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PageClip:
    """One player: its source and what stands under it; no source means `problem` says why."""

    name: str
    source: str | None = None
    start: float = 0.0
    heard: Sequence[Word] = ()
    meant: Sequence[Word] = ()
    scores: Sequence[Score] = ()
    flags: Sequence[str] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRow:
    """A prompt with what every column made of it."""

    prompt_id: str
    seed_index: int
    prompt: PageClip
    clips: Sequence[PageClip]


def write_page(
    store: RunStore, results: Results, tables: Sequence[Table], plots: Sequence[str]
) -> None:
    """Write page/index.html and the prompts it plays.

    Args:
        store: The run; its clips are played from where they lie.
        results: The run's numbers.
        tables: Shown below the players.
        plots: Paths of images, relative to the run folder.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    lookup, manifest = ClipLookup(store), store.read_manifest()
    # Systems first: that is what one came to hear.
    cells = sorted(results.cells, key=lambda cell: cell.kind != "system")
    pairs = lookup.pairs()
    builder = _RowBuilder(store, lookup, results, cells)
    environment = Environment(
        loader=PackageLoader("calm_bench", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["mark"] = footnote_mark
    text = environment.get_template("page.html.j2").render(
        results=results,
        manifest=manifest,
        columns=[_column(results, cell) for cell in cells],
        rows=[builder.row(index, *pair) for index, pair in enumerate(pairs[:MAX_ROWS])],
        n_pairs=len(pairs),
        several_seeds=len({seed for _, seed in pairs}) > 1,
        tables=tables,
        plots=plots,
        recipes=_json(shown_recipes(results)),
        environment=_json(manifest.model_dump(include={"environment", "weights", "options"})),
    )
    store.write_text(f"{_FOLDER}/index.html", text)


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, default=str) if data else ""


def _column(results: Results, cell: Cell) -> PageColumn:
    details = []
    if cell.temperature is not None:
        kind = TEMPERATURE_KINDS[cell.temperature_kind]
        details.append(f"temp {temperature_text(cell.temperature)}")
        details += [kind] if kind else []
    if cell.text_temperature not in (None, cell.temperature):
        details.append(f"text temp {temperature_text(cell.text_temperature)}")
    if cell.baseline:
        details.append("baseline")
    scores = []
    for shown in shown_columns(results):
        row = shown.rows.get(cell.cell_id)
        if row is not None and not (shown.is_speed and row.value is None):
            text = value_text(row, shown.column, shown.decimals)
            scores.append(Score(label=shown.heading, text=text, reason=row.reason))
    steps = steps_vary(results.cells) and cell.head_steps is not None
    name = f"{cell.label}, {cell.head_steps} steps" if steps else cell.label
    system = cell.kind == "system"
    return PageColumn(name=name, details=" · ".join(details), scores=scores, is_system=system)


class _RowBuilder:
    """Gathers the players of a row."""

    def __init__(
        self, store: RunStore, lookup: ClipLookup, results: Results, cells: Sequence[Cell]
    ) -> None:
        self.store, self.lookup, self.cells = store, lookup, cells
        self.columns = [shown for shown in shown_columns(results) if not shown.is_speed]
        several = steps_vary(results.cells)
        self.names = {c.cell_id: cell_name(c, several_steps=several) for c in results.cells}

    def row(self, index: int, prompt_id: str, seed_index: int) -> PageRow:
        trials = [self.lookup.trial(cell.cell_id, prompt_id, seed_index) for cell in self.cells]
        pairs = zip(self.cells, trials, strict=True)
        return PageRow(
            prompt_id=prompt_id,
            seed_index=seed_index,
            prompt=self._prompt(index, trials),
            clips=[self._clip(self.names[cell.cell_id], trial) for cell, trial in pairs],
        )

    def _prompt(self, index: int, trials: Sequence[TrialRecord | None]) -> PageClip:
        """The prompt alone, cut from the real recording or else from a clip that begins with it."""
        order = sorted(self.cells, key=lambda cell: cell.kind != "reference")
        by_cell = {trial.cell_id: trial for trial in trials if trial is not None}
        for cell in order:
            trial = by_cell.get(cell.cell_id)
            if trial is None or cell.kind == "silence" or not self._exists(trial):
                continue
            end = trial.prompt_seconds
            wave, rate = audio.read_audio(paths.inside(self.store.root, trial.clip or ""))
            name = f"prompts/{index:03d}.flac"
            path = self.store.path(f"{_FOLDER}/{name}")
            audio.write_flac(path, wave[: round(end * rate)], rate)
            words = [Word(text=word) for word, start, _ in trial.words or () if start < end]
            flags = [] if cell.kind == "reference" else [f"as {cell.label} renders it"]
            if trial.prompt_text_source == "transcribed":
                flags.append("text transcribed, not given")
            return PageClip(name="the prompt", source=name, heard=words, flags=flags)
        return PageClip(name="the prompt", problem="no clip holds it")

    def _exists(self, trial: TrialRecord) -> bool:
        return trial.clip is not None and paths.inside(self.store.root, trial.clip).is_file()

    def _clip(self, name: str, trial: TrialRecord | None) -> PageClip:
        if trial is None:
            return PageClip(name=name, problem="not generated yet")
        if trial.status == "failed" or trial.clip is None:
            return PageClip(name=name, problem=f"failed: {trial.error}")
        if not self._exists(trial):
            return PageClip(name=name, problem=f"the file {trial.clip} is missing")
        transcript = self.lookup.transcript(trial)
        heard_words = transcript.words if transcript else ()
        meant, heard = mark_differences(trial.words, heard_words, trial.prompt_seconds)
        return PageClip(
            name=name,
            source=f"../{quote(trial.clip)}",
            start=trial.prompt_seconds,
            heard=heard,
            meant=meant if any(w.differs for w in (*meant, *heard)) else (),
            scores=[score for shown in self.columns if (score := self._score(trial, shown))],
            flags=transcript.flags if transcript else (),
        )

    def _score(self, trial: TrialRecord, shown: Shown) -> Score | None:
        value, note = self.lookup.score(trial, shown)
        unit = f" ({shown.column.unit})" if shown.column.unit else ""
        label = shown.column.label + unit
        if value is not None:
            return Score(label=label, text=plain_number(value, shown.decimals))
        return Score(label=label, text="—", reason=note) if note else None
