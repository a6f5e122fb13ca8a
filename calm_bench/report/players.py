"""What the listening page shows of each clip: its source, its picture, its words and its scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from calm_bench.core import audio, files, paths
from calm_bench.report.clips import ClipLookup, Word, mark_differences
from calm_bench.report.columns import Shown, shown_columns
from calm_bench.report.numbers import plain_number
from calm_bench.report.sound import outline, spectrogram_png
from calm_bench.store.records import (
    CodecCheck,
    Row,
    TrialRecord,
    carried_text,
    row_title,
    steps_vary,
)
from calm_bench.store.results import Results
from calm_bench.store.run_store import RunStore
from calm_bench.types import Wave


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A heading and a number under it, or why there is none."""

    label: str
    text: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is drawn of a clip.

    Attributes:
        path: The outline, the `d` of an SVG path of 160 by 100.
        seconds: Length of the clip.
        spectrogram: Path of an image beside the page.
    """

    path: str
    seconds: float
    spectrogram: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PageClip:
    """One player: its source and what stands under it; no source means `problem` says why.

    Attributes:
        values: What rows are sorted by: a number for each of the row builder's metrics.
    """

    name: str
    source: str | None = None
    picture: Picture | None = None
    start: float = 0.0
    heard: Sequence[Word] = ()
    meant: Sequence[Word] = ()
    scores: Sequence[Score] = ()
    values: Sequence[float | None] = ()
    flags: Sequence[str] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRow:
    """A prompt with what every column made of it."""

    prompt_id: str
    seed_index: int
    prompt: PageClip
    clips: Sequence[PageClip]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFolder:
    """Where the page of a run lies, and how it reaches what it plays and shows.

    Attributes:
        root: The folder of index.html, inside of the run's folder or on its own.
        prefix: What this run's files are below, where a page shows several runs.
        alone: Whether the page does not lie in the run, so that it has copies of all of it.
    """

    store: RunStore
    root: Path
    prefix: str = ""
    alone: bool = False

    def clip(self, trial: TrialRecord, wave: Wave, sample_rate: int) -> str:
        """How the page refers to a trial's clip, which holds this wave."""
        if not self.alone:
            return f"../{quote(trial.clip or '')}"
        # Named by content: in blind mode, the name of a file does not give its system away.
        return self.sound(f"clips/{trial.clip_id}", wave, sample_rate)

    def sound(self, name: str, wave: Wave, sample_rate: int) -> str:
        """Write a sound of the page's own, small where it is to be published, and refer to it."""
        name += ".opus" if self.alone else ".flac"
        write = audio.write_opus if self.alone else audio.write_flac
        write(self.path(name), wave, sample_rate)
        return self.own(name)

    def plot(self, name: str, data: bytes) -> str:
        """How the page refers to a plot, which lies in the run already or is written here."""
        if not self.alone:
            return f"../plots/{quote(name)}"
        files.replace(self.path(f"plots/{name}"), data)
        return self.own(f"plots/{name}")

    def path(self, name: str) -> Path:
        """Where a file of this run's page is written; its folder is made."""
        path = paths.inside(self.root, self.prefix + name)
        with files.disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def own(self, name: str) -> str:
        """How the page refers to a file of its own."""
        return quote(self.prefix + name)


class RowBuilder:
    """Gathers the players of a row.

    Attributes:
        metrics: The columns that say something of single clips; rows can be sorted by them.
    """

    def __init__(
        self, folder: PageFolder, lookup: ClipLookup, results: Results, rows: Sequence[Row]
    ) -> None:
        """Build rows of these rows, in this order."""
        self.folder, self.store = folder, folder.store
        self.lookup, self.rows = lookup, rows
        shown = (column for column in shown_columns(results) if not column.is_speed)
        self.metrics = [column for column in shown if column.column.aggregate != "set"]
        several = steps_vary(results.cells)
        self.names = {c.cell_id: row_title(c, several_steps=several) for c in results.cells}
        self.lost = [check for check in self.store.read(CodecCheck) if not check.is_carried]

    def row(self, index: int, prompt_id: str, seed_index: int) -> PageRow:
        """What every row made of one prompt."""
        trials = [self.lookup.trial(row.cell_id, prompt_id, seed_index) for row in self.rows]
        pairs = zip(self.rows, trials, strict=True)
        return PageRow(
            prompt_id=prompt_id,
            seed_index=seed_index,
            prompt=self._prompt(index, prompt_id, trials),
            clips=[self._clip(self.names[row.cell_id], trial) for row, trial in pairs],
        )

    def _prompt(self, index: int, prompt_id: str, trials: Sequence[TrialRecord | None]) -> PageClip:
        """The prompt alone, cut from the real recording or else from a clip that begins with it."""
        order = sorted(self.rows, key=lambda row: row.kind != "reference")
        by_cell = {trial.cell_id: trial for trial in trials if trial is not None}
        for row in order:
            trial = by_cell.get(row.cell_id)
            if trial is None or row.kind == "silence" or not self.exists(trial):
                continue
            end = trial.prompt_seconds
            wave, rate = self._read(trial)
            wave = wave[: round(end * rate)]
            words = [Word(text=word) for word, start, _ in trial.words or () if start < end]
            flags = [] if row.kind == "reference" else [f"as {row.label} renders it"]
            if trial.prompt_text_source == "transcribed":
                flags.append("text transcribed, not given")
            if trial.prompt_text_source == "estimated":
                flags.append("the times of its words are estimated")
            lost = (check for check in self.lost if check.prompt_id == prompt_id)
            flags += [f"{check.codec} cannot carry it: {carried_text([check])}" for check in lost]
            return PageClip(
                name="the prompt",
                source=self.folder.sound(f"prompts/{index:03d}", wave, rate),
                picture=_outlined(wave, rate),
                heard=words,
                flags=flags,
            )
        return PageClip(name="the prompt", problem="no clip holds it")

    def exists(self, trial: TrialRecord) -> bool:
        """Whether a trial's clip is there to be played."""
        return trial.clip is not None and paths.inside(self.store.root, trial.clip).is_file()

    def _read(self, trial: TrialRecord) -> tuple[Wave, int]:
        return audio.read_audio(paths.inside(self.store.root, trial.clip or ""))

    def _clip(self, name: str, trial: TrialRecord | None) -> PageClip:
        if trial is None:
            return PageClip(name=name, problem="not generated yet")
        if trial.status == "failed" or trial.clip is None:
            return PageClip(name=name, problem=f"failed: {trial.error}")
        if not self.exists(trial):
            return PageClip(name=name, problem=f"the file {trial.clip} is missing")
        wave, rate = self._read(trial)
        transcript = self.lookup.transcript(trial)
        heard_words = transcript.words if transcript else ()
        meant, heard = mark_differences(trial.words, heard_words, trial.prompt_seconds)
        return PageClip(
            name=name,
            source=self.folder.clip(trial, wave, rate),
            picture=self._picture(trial, wave, rate),
            start=trial.prompt_seconds,
            heard=heard,
            meant=meant if any(w.differs for w in (*meant, *heard)) else (),
            scores=[score for shown in self.metrics if (score := self._score(trial, shown))],
            values=[self.lookup.score(trial, shown)[0] for shown in self.metrics],
            flags=transcript.flags if transcript else (),
        )

    def _picture(self, trial: TrialRecord, wave: Wave, rate: int) -> Picture:
        # Named by content: the same clip is drawn once, however often the report is built.
        name = f"spectrograms/{trial.clip_id}.png"
        path = self.folder.path(name)
        if not path.is_file():
            files.replace(path, spectrogram_png(wave, rate))
        return Picture(
            path=outline(wave), seconds=len(wave) / rate, spectrogram=self.folder.own(name)
        )

    def _score(self, trial: TrialRecord, shown: Shown) -> Score | None:
        value, note = self.lookup.score(trial, shown)
        unit = f" ({shown.column.unit})" if shown.column.unit else ""
        label = shown.column.label + unit
        if value is not None:
            return Score(label=label, text=plain_number(value, shown.decimals))
        return Score(label=label, text="—", reason=note) if note else None


def _outlined(wave: Wave, rate: int) -> Picture:
    return Picture(path=outline(wave), seconds=len(wave) / rate)
