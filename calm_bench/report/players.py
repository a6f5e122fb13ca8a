"""What the listening page shows of each clip: its source, its picture, its words and its scores."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self
from urllib.parse import quote

import numpy as np

from calm_bench.asr.words import align
from calm_bench.core import audio, files, paths
from calm_bench.report.columns import Shown, plain_number, shown_columns
from calm_bench.store.records import (
    CodecCheck,
    Row,
    ScoreRecord,
    TranscriptRecord,
    TrialRecord,
    carried_text,
    row_title,
    swept,
)
from calm_bench.store.results import Results
from calm_bench.store.run_store import RunStore
from calm_bench.types import Wave, WordTimes

COLUMNS = 160
"""Bars of an outline, which is as wide as this and 100 high."""

SPECTROGRAM = (400, 96)
"""Width and height of a spectrogram in pixels."""

_FLOOR_DB = -90.0
_CEILING_DB = -10.0
# Matplotlib's magma at 16 even steps: readable in grey, and 4 bits a pixel.
_PALETTE = (
    "000004 0b0924 20114b 3b0f70 57157e 721f81 8c2981 a8327d "
    "c43c75 de4968 f1605d fa7f5e fe9f6d febf84 fddea0 fcfdbf"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word of a transcript or of the text that was meant.

    Attributes:
        given: It belongs to the prompt.
        differs: It has no equal on the other side.
    """

    text: str
    given: bool = False
    differs: bool = False


class ClipLookup:
    """Trials, transcripts and per-clip scores of a run, by what the page asks for.

    Attributes:
        store: Where they were read.
        trials: All of them, in the order of the run.
        scores: Likewise.
    """

    def __init__(self, store: RunStore) -> None:
        """Read the run's records once."""
        self.store = store
        self.trials, self.scores = store.read(TrialRecord), store.read(ScoreRecord)
        self._trials = {(t.cell_id, t.prompt_id, t.seed_index): t for t in self.trials}
        self._transcripts = {t.clip_id: t for t in store.read(TranscriptRecord)}
        self._scores = {(s.trial_id, s.metric, s.recipe_id): s for s in self.scores}

    def pairs(self) -> list[tuple[str, int]]:
        """Every prompt and seed index that was tried, in the order of the run."""
        return list(dict.fromkeys((prompt, seed) for _, prompt, seed in self._trials))

    def trial(self, cell_id: str, prompt_id: str, seed_index: int) -> TrialRecord | None:
        """What became of one trial; None if the run did not get to it."""
        return self._trials.get((cell_id, prompt_id, seed_index))

    def transcript(self, trial: TrialRecord) -> TranscriptRecord | None:
        """What was heard in a clip; None if nobody listened."""
        return self._transcripts.get(trial.clip_id) if trial.clip_id else None

    def score(self, trial: TrialRecord, shown: Shown) -> tuple[float | None, str | None]:
        """What a column says of one clip, and its metric's note; neither if it says nothing."""
        key = (trial.trial_id, shown.column.metric or "", shown.recipe_id or "")
        score = self._scores.get(key)
        if score is None:
            return None, None
        return shown.column.clip_value(score.values), score.note


def mark_differences(
    meant: Sequence[WordTimes] | None, heard: Sequence[WordTimes], prompt_seconds: float
) -> tuple[list[Word], list[Word]]:
    """The words that were meant and those that were heard, aligned by least edits and marked.

    Case and punctuation do not count. Nothing is marked in the prompt, or where nothing was meant.
    """
    texts = [[word for word, _, _ in side] for side in (meant or (), heard)]
    sides: tuple[list[Word], list[Word]] = ([], [])
    for words, matched, side in zip((meant or (), heard), _equal_words(*texts), sides, strict=True):
        for index, (text, start, _) in enumerate(words):
            given = start < prompt_seconds
            differs = meant is not None and index not in matched and bool(_plain(text))
            side.append(Word(text=text.strip(), given=given, differs=differs and not given))
    return sides


def _plain(word: str) -> str:
    return "".join(c for c in word.casefold() if c.isalnum())


def _equal_words(a: Sequence[str], b: Sequence[str]) -> tuple[set[int], set[int]]:
    """Indices of the words that the alignment finds equal, on either side."""
    plain_a, plain_b = ({i: p for i, w in enumerate(side) if (p := _plain(w))} for side in (a, b))
    if not plain_a or not plain_b:
        return set(), set()
    steps = align([*plain_a.values()], [*plain_b.values()])
    equal = [step for step in steps if step.kind == "equal"]
    where_a, where_b = list(plain_a), list(plain_b)
    return {where_a[step.reference] for step in equal}, {where_b[step.heard] for step in equal}


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

    @classmethod
    def of(cls, wave: Wave, rate: int, spectrogram: str | None = None) -> Self:
        """A clip's outline and length."""
        return cls(path=outline(wave), seconds=len(wave) / rate, spectrogram=spectrogram)


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
        several = {row.label for row in results.cells} if swept(results.cells) else set()
        self.names = {row.cell_id: row_title(row, several) for row in results.cells}
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
                picture=Picture.of(wave, rate),
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
        return Picture.of(wave, rate, self.folder.own(name))

    def _score(self, trial: TrialRecord, shown: Shown) -> Score | None:
        value, note = self.lookup.score(trial, shown)
        unit = f" ({shown.column.unit})" if shown.column.unit else ""
        label = shown.label + unit
        if value is not None:
            return Score(label=label, text=plain_number(value, shown.decimals))
        return Score(label=label, text="—", reason=note) if note else None


def outline(wave: Wave) -> str:
    """The bars of a wave [S] as the `d` of an SVG path, their heights by the root of the peak."""
    edges = np.linspace(0, len(wave), COLUMNS + 1).astype(np.int64)
    peaks = [float(np.abs(wave[a : max(b, a + 1)]).max()) for a, b in pairwise(edges)]
    heights = [max(1, round(50 * min(1.0, peak) ** 0.5)) for peak in peaks]
    return "".join(f"M{x} {50 - height}V{50 + height}" for x, height in enumerate(heights))


def spectrogram_png(wave: Wave, sample_rate: int) -> bytes:
    """Decibels over time (across) and frequency (upwards, linear, to half the rate) of a wave."""
    from PIL import Image

    width, height = SPECTROGRAM
    size = 2 ** round(np.log2(sample_rate * 0.032))  # some 32 ms
    padded = np.pad(wave.astype(np.float64), size // 2)
    starts = np.linspace(0, len(padded) - size, width).astype(np.int64)
    frames = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = (np.abs(np.fft.rfft(frames, axis=1)) * 4 / size) ** 2  # [width, bins], full scale is 1
    edges = np.linspace(1, power.shape[1], height + 1).astype(np.int64)
    bands = np.maximum.reduceat(power, edges[:-1], axis=1)  # [width, height]
    decibels = 10 * np.log10(np.maximum(bands, 1e-12))
    level = (decibels - _FLOOR_DB) / (_CEILING_DB - _FLOOR_DB)
    pixels = np.clip(np.rint(level * 15), 0, 15).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels.T[::-1]))
    image.putpalette(bytes.fromhex(_PALETTE.replace(" ", "")))
    out = io.BytesIO()
    image.save(out, "PNG", bits=4)
    return out.getvalue()
