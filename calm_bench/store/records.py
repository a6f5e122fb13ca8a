"""What a run writes down as it goes: its rows, trials, times, transcripts and scores.

All that a table, plot or page shows is rebuilt from these records.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

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


def _check_relative(name: str) -> str:
    """Refuse paths that would leave the run folder when joined to it."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise ValueError(f"{name!r} is not a path inside of the run folder")
    return name


RunPath = Annotated[str, AfterValidator(_check_relative)]
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
        levels: Codebooks that a round trip keeps; None for all.
        precision, mode: How its frame step runs, where rows differ in it.
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
    levels: int | None = None
    precision: Precision | None = None
    mode: Mode | None = None
    baseline: bool = False


class TrialRecord(Record):
    """One clip that was tried: where it lies, or why there is none.

    Attributes:
        clip: Path of the audio relative to the run folder, prompt included.
        clip_id: Content hash of the audio: what a clip's `audio_id` is.
        group: The recording that its prompt was cut from, where several prompts were.
        prompt_seconds: Where the continuation starts in this clip.
        words: Prompt text and inner monologue (or the true text), as (word, start, end).
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
    clip: RunPath | None = None
    clip_id: str | None = None
    sample_rate: int | None = None
    prompt_seconds: float
    prompt_text_source: Literal["given", "estimated", "transcribed", "none"]
    words: tuple[WordTimes, ...] | None = None

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
    first_audio_ns: int | None = None
    frame_ns: int | None = None
    device: str
    dtype: str
    threads: int
    mode: Mode = "eager"
    peak_bytes: int | None = None


class BandwidthRecord(Record):
    """How fast memory was read during one round: a buffer beyond the caches, read several times."""

    file = "bandwidth.jsonl"
    key_fields = ("round",)

    round: int
    n_bytes: int
    read_ns: tuple[int, ...]
    threads: int


class FootprintRecord(Record):
    """What a row needs at one batch size: memory, and what a step reads.

    Attributes:
        peak_bytes: The most memory held at once, weights included; None with `peak_reason`.
        state_bytes: Of that, what cache, frames and decoder keep between steps.
        read_bytes: By stage, weights and cache that a step reads; None with `read_reason`.
        operators: By stage, operators dispatched in a step; None where nobody counted.
    """

    file = "footprints.jsonl"
    key_fields = ("cell_id", "batch")

    cell_id: str
    batch: int
    peak_bytes: int | None = None
    peak_reason: str | None = None
    state_bytes: int | None = None
    read_bytes: dict[Stage, int] | None = None
    read_reason: str | None = None
    operators: dict[Stage, int] | None = None


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


class Manifest(StrictModel):
    """What was asked and where it ran.

    `environment` must name `device` (its type: cpu, cuda, ...) and `torch` (its version): these
    decide the clips, so a run never goes on under others. Its `code` holds a hash for each concern.
    """

    run_id: str
    benchmark: str
    version: int
    created: str
    command: tuple[str, ...] = ()
    plan_hash: str
    options: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any]
    weights: dict[str, str | None] = Field(default_factory=dict)
    status: Literal["running", "finished", "partial"] = "running"

    @field_validator("environment")
    @classmethod
    def _names_device_and_torch(cls, value: dict[str, Any]) -> dict[str, Any]:
        if missing := {"device", "torch"} - value.keys():
            raise ValueError(f"environment lacks {', '.join(sorted(missing))}")
        return value

    @property
    def code(self) -> dict[str, str]:
        """By concern, the code that made it; of an older run, what it said of all its code."""
        known = self.environment.get("code")
        if isinstance(known, dict):
            return {concern: str(known.get(concern)) for concern in CONCERNS}
        known = known or self.environment.get("commit") or self.environment.get("calm_bench")
        return dict.fromkeys(CONCERNS, str(known))

    def scored_by(self, code: Mapping[str, str]) -> Self:
        """This manifest after its clips were scored by the code of these hashes."""
        made = {**self.code, "scores": code["scores"]}
        return self.model_copy(update={"environment": {**self.environment, "code": made}})
