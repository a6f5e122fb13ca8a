"""What a run writes down as it goes: its rows, trials, times, transcripts and scores.

All that a table, plot or page shows is rebuilt from these records.
"""

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from statistics import median
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from calm_bench.core.paths import FileName, RelativePath
from calm_bench.seeds import training_of
from calm_bench.types import (
    Estimate,
    Mode,
    Precision,
    StrictModel,
    TemperatureKind,
    Transcript,
    WordTimes,
    timed,
)

Stage = Literal["backbone", "head", "codec", "total"]
CONCERNS = ("clips", "times", "scores")


class Record(StrictModel):
    """One line of a .jsonl file; `file` names it, `key_fields` say which record replaces which."""

    model_config = ConfigDict(allow_inf_nan=False)

    file: ClassVar[str]
    key_fields: ClassVar[tuple[str, ...]]

    @property
    def key(self) -> tuple[Any, ...]:
        """What this record is about; of two records with one key, the later one counts."""
        return tuple(getattr(self, name) for name in self.key_fields)


class Row(StrictModel):
    """One row of the table: a system at one temperature, or a reference row.

    Attributes:
        training_step: After how many steps the weights were taken; None for the final ones.
        training: The seed that the weights were trained from, where rows differ in it. Label and
            model name it, too.
        levels: Codebooks that a round trip keeps; None for all.
        precision, mode: How its frame step runs, where rows differ in it.
        codec_frames: How many frames its codec decodes at a time, once the first is heard.
    """

    cell_id: str
    label: str
    kind: Literal["system", "reference", "round_trip", "silence", "noise"]
    model: str | None = None
    temperature: float | None = None
    temperature_kind: TemperatureKind = "none"
    text_temperature: float | None = None
    head_steps: int | None = None
    top_k: int | None = None
    training_step: int | None = None
    training: int | None = None
    levels: int | None = None
    precision: Precision | None = None
    mode: Mode | None = None
    codec_frames: int = 1
    baseline: bool = False

    @property
    def system(self) -> tuple[str, str]:
        """Model and label without what names a training: rows that share them are one system."""
        return training_of(self.model or "")[0], self.label.removesuffix(trained(self.training))


def trained(training: int | None) -> str:
    """What a label says of a training."""
    return "" if training is None else f", training {training}"


def temperature_text(value: float | None) -> str:
    """A temperature as one writes it (0.8, 1.0); nothing where there is none."""
    return "" if value is None else str(float(value))


def row_title(row: Row, several: Container[str] = ()) -> str:
    """A row's name where it must stand alone: label, temperature and, for some labels, steps."""
    parts = [system_title(row, several)]
    if row.training_step is not None:
        parts.append(f"training step {row.training_step}")
    if row.temperature is not None:
        parts.append(f"temp {temperature_text(row.temperature)}")
    if row.text_temperature not in (None, row.temperature):
        parts.append(f"text {temperature_text(row.text_temperature)}")
    return ", ".join(parts)


def system_title(row: Row, several: Container[str]) -> str:
    """A system's name at any temperature: its label and, for these labels, its head steps."""
    if row.head_steps is None or row.label not in several:
        return row.label
    return f"{row.label}, {row.head_steps} step{'s' if row.head_steps != 1 else ''}"


def swept(rows: Iterable[Row]) -> set[str]:
    """The labels of the systems that stand in the table with more than one number of head steps."""
    steps: dict[str, set[int | None]] = defaultdict(set)
    for row in rows:
        steps[row.label].add(row.head_steps)
    return {label for label, found in steps.items() if len(found) > 1}


class TrialRecord(Record):
    """One clip that was tried: where it lies, or why there is none.

    Attributes:
        clip: Path of the audio relative to the run folder, prompt included.
        clip_id: Content hash of the audio: what a clip's `audio_id` is.
        group: The recording that its prompt was cut from, where several prompts were.
        prompt_seconds: Where the continuation starts in this clip.
        words: Prompt text and inner monologue (or the true text), as (word, start, end).
        bit_rate: Of the codec behind a round trip, which no clip can tell; older runs keep it in
            cell_scores.jsonl.
    """

    file = "trials.jsonl"
    key_fields = ("trial_id",)

    trial_id: str
    cell_id: str
    prompt_id: str
    group: str | None = None
    seed_index: int
    seed: int
    status: Literal["ok", "failed"]
    error: str | None = None
    clip: RelativePath | None = None
    clip_id: str | None = None
    sample_rate: int | None = None
    prompt_seconds: float
    prompt_text_source: Literal["given", "estimated", "transcribed", "none"]
    words: tuple[WordTimes, ...] | None = None
    bit_rate: Estimate | None = None

    @model_validator(mode="after")
    def _clip_or_error(self) -> Self:
        if self.status == "ok" and None in (self.clip, self.clip_id, self.sample_rate):
            raise ValueError("an ok trial needs clip, clip_id and sample_rate")
        if self.status == "failed" and not self.error:
            raise ValueError("a failed trial needs its error")
        return self


class LatencyRecord(Record):
    """One timed arm: a row in one round, per stage one time per frame, in nanoseconds.

    Attributes:
        order: Position of the arm in its round; rounds run the rows in random order.
        control: The second run of the baseline in this round (A/A).
        frame_ns: How much audio one frame holds.
        batch: Clips that share each step; a frame's time is that of the step.
        dtype: What weights and products are in.
    """

    file = "latency.jsonl"
    key_fields = ("round", "cell_id", "control", "mode", "batch")

    round: int
    cell_id: str
    order: int
    control: bool = False
    batch: int = 1
    stage_ns: dict[Stage, tuple[int, ...]]
    first_audio_ns: int
    frame_ns: int
    device: str
    dtype: str
    threads: int
    mode: Mode = "eager"
    peak_bytes: int | None = None


class BandwidthRecord(Record):
    """How fast memory was read during one round: a buffer beyond the caches, read several times.

    Attributes:
        gpu: A GPU's clocks, power, heat and throttling after the round.
    """

    file = "bandwidth.jsonl"
    key_fields = ("round",)

    round: int
    n_bytes: int
    read_ns: tuple[int, ...]
    threads: int
    gpu: dict[str, str | None] | None = None


class FootprintRecord(Record):
    """What a row needs at one batch size: memory, and what a step reads.

    Attributes:
        peak_bytes: The most memory held at once, weights included; None with `peak_reason`.
        reserved_bytes: The most that torch took of a GPU's memory, what it held free counted.
        state_bytes: Of that, what cache, frames and decoder keep between steps.
        read_bytes: By stage, weights and cache that a step of one clip reads.
        operators: By stage, operators dispatched in a step of one clip.
    """

    file = "footprints.jsonl"
    key_fields = ("cell_id", "batch")

    cell_id: str
    batch: int
    peak_bytes: int | None = None
    peak_reason: str | None = None
    reserved_bytes: int | None = None
    state_bytes: int
    read_bytes: dict[Stage, int] = Field(default_factory=dict)
    operators: dict[Stage, int] = Field(default_factory=dict)


class GrowthRecord(Record):
    """Times of a few frames in the midst of a long generation, and the memory it has come to.

    Attributes:
        seconds: Audio generated before them.
        state_bytes: What a generation that ends here keeps between steps.
    """

    file = "growth.jsonl"
    key_fields = ("cell_id", "repeat", "seconds")

    cell_id: str
    repeat: int
    seconds: float
    stage_ns: dict[Stage, tuple[int, ...]]
    state_bytes: int | None = None


class GenerationRecord(Record):
    """How long a whole generation took, from a batch of prompts in hand to finished clips.

    Attributes:
        seconds: Audio generated in each of the clips.
    """

    file = "generations.jsonl"
    key_fields = ("cell_id", "repeat")

    cell_id: str
    repeat: int
    batch: int
    seconds: float
    taken_ns: int


class TranscriptRecord(Record):
    """What one recogniser heard in one clip."""

    file = "transcripts.jsonl"
    key_fields = ("clip_id", "recipe_id")

    clip_id: str
    recipe_id: str
    text: str
    words: tuple[WordTimes, ...] = ()
    flags: tuple[str, ...] = ()
    language: str = "en"

    @classmethod
    def of(cls, clip_id: str, recipe_id: str, heard: Transcript) -> Self:
        """The record of a transcript."""
        words = tuple((w.word, w.start, w.end) for w in heard.words)
        rest: dict[str, Any] = {"flags": heard.flags, "language": heard.language}
        return cls(clip_id=clip_id, recipe_id=recipe_id, text=heard.text, words=words, **rest)

    @property
    def transcript(self) -> Transcript:
        """The transcript that this record holds."""
        words = timed(self.words)
        return Transcript(text=self.text, words=words, flags=self.flags, language=self.language)


class ScoreRecord(Record):
    """What one metric found in one clip; a field is None where undefined, and `note` says why."""

    file = "scores.jsonl"
    key_fields = ("metric", "recipe_id", "trial_id")

    metric: str
    recipe_id: str
    cell_id: str
    trial_id: str
    clip_id: str
    values: dict[str, float | None]
    note: str | None = None


class RowScore(Record):
    """What a set metric found in one row, by column name, and the counts beside it."""

    file = "cell_scores.jsonl"
    key_fields = ("metric", "recipe_id", "cell_id")

    metric: str
    recipe_id: str
    cell_id: str
    estimates: dict[str, Estimate] = Field(default_factory=dict)
    counts: dict[str, float] = Field(default_factory=dict)


_CARRIED_DB, _CARRIED_STOI, _CARRIED_BANDWIDTH = 10.0, 0.75, 0.5


class CodecCheck(Record):
    """One prompt beside what a codec returns of it.

    A system hears a prompt as its codec renders it. Where that is nearly mute or says nothing, the
    row continues something else than the recording. The shipped speech codecs return their own
    benchmark's prompts 1 to 2 dB quieter at a STOI above 0.85; of telephone voices at 16 kHz, those
    that come back with a STOI below 0.75 are misheard in two of five words.

    Attributes:
        recipe_id: Hash of the prompt, the codec and what is compared.
        level_db, returned_level_db: Mean square, dB of full scale.
        bandwidth_hz, returned_bandwidth_hz: The highest frequency within 50 dB of the strongest.
        stoi: None for what is no speech, or where it is not defined.
    """

    file = "codec_checks.jsonl"
    key_fields = ("prompt_id", "codec")

    prompt_id: str
    codec: str
    recipe_id: str
    level_db: float
    returned_level_db: float
    bandwidth_hz: float
    returned_bandwidth_hz: float
    stoi: float | None = None

    @property
    def change_db(self) -> float:
        """How much louder the prompt comes back."""
        return self.returned_level_db - self.level_db

    @property
    def is_carried(self) -> bool:
        """Whether what comes back is still the recording."""
        return (
            abs(self.change_db) <= _CARRIED_DB
            and (self.stoi is None or self.stoi >= _CARRIED_STOI)
            and self.returned_bandwidth_hz >= _CARRIED_BANDWIDTH * self.bandwidth_hz
        )


def carried_text(checks: Sequence[CodecCheck]) -> str:
    """Level, STOI and bandwidth of what comes back; of several prompts the medians."""
    heard = [check.stoi for check in checks if check.stoi is not None]
    parts = [f"{median(check.change_db for check in checks):+.1f} dB".replace("-", "−")]
    parts += [f"STOI {median(heard):.2f}"] if heard else []
    before, after = (
        median(values) / 1000
        for values in zip(*((c.bandwidth_hz, c.returned_bandwidth_hz) for c in checks), strict=True)
    )
    parts.append(f"bandwidth {after:.1f} kHz (before {before:.1f} kHz)")
    return ", ".join(parts) + (", medians" if len(checks) > 1 else "")


class Weights(StrictModel):
    """Which weights a number comes from: their hash, None for random ones, and their release."""

    sha256: str | None
    release: int | None = None

    @property
    def short(self) -> str:
        """As a reader tells them apart; those that another package fetches go by their own name."""
        if self.sha256 is None:
            return "random"
        return self.sha256[:8] if _SHA256.fullmatch(self.sha256) else self.sha256


_SHA256 = re.compile(r"[0-9a-f]{64}")


def weights_text(weights: Mapping[str, Weights]) -> str:
    """Every model that was trained with its release and hash; nothing where none was."""
    parts = [
        f"{name} {'' if own.release is None else f'release {own.release} '}{own.short}"
        for name, own in sorted(weights.items())
        if own.sha256 is not None
    ]
    return ", ".join(parts)


class Manifest(StrictModel):
    """What was asked and where it ran.

    `weights` are the sha256 of each model's, None for random ones, and `releases` the versions
    that their configurations give; older runs have none of these. `environment` must name `device`
    (its type: cpu, cuda, ...) and `torch` (its version): these decide the clips, so a run never
    goes on under others. Its `code` holds a hash for each concern.
    """

    run_id: FileName
    benchmark: FileName
    version: int
    created: str
    command: tuple[str, ...] = ()
    plan_hash: str
    options: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any]
    weights: dict[str, str | None] = Field(default_factory=dict)
    releases: dict[str, int] = Field(default_factory=dict)
    status: Literal["running", "finished", "partial"] = "running"

    @field_validator("environment")
    @classmethod
    def _names_device_and_torch(cls, value: dict[str, Any]) -> dict[str, Any]:
        if missing := {"device", "torch"} - value.keys():
            raise ValueError(f"environment lacks {', '.join(sorted(missing))}")
        return value

    @property
    def named_weights(self) -> dict[str, Weights]:
        """By model, which weights made the clips."""
        return {
            name: Weights(sha256=sha256, release=self.releases.get(name))
            for name, sha256 in self.weights.items()
        }

    @property
    def code(self) -> dict[str, str]:
        """By concern, the code that made it; of an older run, what it said of all its code."""
        known = self.environment.get("code")
        if isinstance(known, dict):
            return {concern: str(known.get(concern)) for concern in CONCERNS}
        known = known or self.environment.get("commit") or self.environment.get("calm_bench")
        return dict.fromkeys(CONCERNS, str(known))

    @property
    def latency(self) -> Any:
        """How its systems are timed; None if they are not, and for runs of another kind."""
        spec = self.options.get("spec")
        return spec.get("latency") if isinstance(spec, dict) else None

    def timed_by(self, later: Self) -> Self:
        """This manifest, where a later command is the first to time its systems.

        The environment is that of the times from then on; `clips_made_on` keeps the other machine.
        """
        told = {"code": {**later.code, "clips": self.code["clips"]}}
        if made_on := self.environment.get("device_name"):
            told["clips_made_on"] = made_on
        return self.model_copy(
            update={
                "environment": {**later.environment, **told},
                "command": later.command,
                "options": {**self.options, "spec": later.options["spec"]},
            }
        )

    def scored_by(self, code: Mapping[str, str]) -> Self:
        """This manifest after its clips were scored by the code of these hashes."""
        made = {**self.code, "scores": code["scores"]}
        return self.model_copy(update={"environment": {**self.environment, "code": made}})
