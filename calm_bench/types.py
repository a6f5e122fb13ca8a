"""The records that cross module boundaries. No torch here: plan, store and report read them too."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class StrictModel(BaseModel):
    """A frozen record that refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Shape(StrictModel):
    """What a model's `architecture` says of it, or of a part of it."""

    @property
    def own_numbers(self) -> int:
        """How many numbers its matrices have at least, those of its parts apart."""
        return 0

    @property
    def numbers(self) -> int:
        """How many numbers its matrices have at least; nothing is built for it."""
        parts = (getattr(self, name) for name in type(self).model_fields)
        return self.own_numbers + sum(part.numbers for part in parts if isinstance(part, Shape))


def problem(error: ValidationError) -> str:
    """The first thing that is wrong with a record, on one line, with its field."""
    first = error.errors()[0]
    field = "".join(f"{part}." for part in first["loc"])[:-1]
    return f"{field + ': ' if field else ''}{first['msg'].removeprefix('Value error, ')}"


Size = Annotated[int, Field(ge=1, le=1 << 20)]
"""In a model's shape: a width, or how many entries a table has."""
Count = Annotated[int, Field(ge=1, le=1000)]
"""In a model's shape: how many layers, heads, blocks or taps."""
Floats = NDArray[np.float64]
Wave = NDArray[np.float32]
"""Mono samples in [-1, 1], shape [S]."""
TemperatureKind = Literal["noise_variance", "softmax_divisor", "none"]
"""What a temperature means: CALM scales the variance of its noise, token models divide logits."""
Precision = Literal["fp32", "fp16", "bf16", "int8"]
"""What weights are kept and multiplied in: float32; float16 and multiplied as float32; bfloat16; or
int8 with activations quantised on the fly. Between the products all numbers are float32."""
Mode = Literal["plain", "eager", "graph", "compile"]
"""How a step runs: the modules as they are trained, always float32, which the others are checked
against; the flat step; the flat step captured as CUDA graphs; the flat step through
torch.compile."""
KernelsOf = Literal["fixed", "measured"]
"""Which kernels products of packed weights take: by constants, or as measured on the machine."""
Aggregate = Literal["mean", "share", "exp_mean", "ratio", "exp_ratio", "median", "set"]
"""How clip values become one number: mean x; share: the mean of x that is 0 or 1; exp(mean x);
sum a / sum b; exp(sum a / sum b); median x; set: the metric's own estimate, because no clip values
give it (FAD, VERT)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How a system draws: both temperatures, head evaluations per frame, and top-k (0 = off)."""

    temperature: float
    text_temperature: float
    head_steps: int = 1
    top_k: int = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedWord:
    """A word with its start and end in seconds from the clip's start."""

    word: str
    start: float
    end: float


WordTimes = tuple[str, float, float]
"""The same as files have it: [word, start, end]."""


def timed(words: Iterable[WordTimes]) -> tuple[TimedWord, ...]:
    """Words as files have them, as `TimedWord`s."""
    return tuple(TimedWord(word=word, start=start, end=end) for word, start, end in words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What a speech recogniser heard in a whole clip, prompt included, with its health flags.

    Attributes:
        flags: Names of the alarms that rang, of `asr.recognizer.FLAGS`.
        language: In which the recogniser listened.
    """

    text: str
    words: tuple[TimedWord, ...] = ()
    flags: tuple[str, ...] = ()
    language: str = "en"


class SamplesHash:
    """The content hash of float32 samples and their rate, however they are cut into blocks."""

    def __init__(self, sample_rate: int) -> None:
        """Nothing is heard yet."""
        self._digest = hashlib.sha256(f"float32 {sample_rate} ".encode())

    def add(self, samples: Wave) -> None:
        """Go on with these samples."""
        for start in range(0, len(samples), 1 << 20):
            block = samples[start : start + (1 << 20)].astype("<f4")
            self._digest.update((block + 0.0).data)  # -0.0 is no other sound than 0.0

    @property
    def value(self) -> str:
        """The hash of what was added so far."""
        return self._digest.hexdigest()[:16]


def samples_hash(samples: Wave, sample_rate: int) -> str:
    """The content hash of float32 samples and their rate."""
    digest = SamplesHash(sample_rate)
    digest.add(samples)
    return digest.value


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """One stretch of audio and what is known about it: all that a metric may look at.

    Attributes:
        clip_id: What tells it from every other clip of a run; two of them may sound the same.
        prompt_id: The prompt it continues; clips of different rows pair by it.
        seed_index: Which draw for the prompt; clips pair by (prompt_id, seed_index).
        wave: Whole clip, prompt included, mono [S]. Where it lies in a file, it is read whenever
            somebody looks, so look once, and hold no more of them than needed.
        prompt_seconds: Length of the prompt at the head of `wave`; metrics score what follows.
        end_seconds: Where that ends in `wave`; None for the clip's end.
        words: What was meant to be said in the whole clip, timed: the real text for references and
            round trips, prompt text and inner monologue for a system. None when nothing is known.
        transcript: What the recogniser heard; None when no metric asked for it.
        group: What intervals resample: the recording that the prompt was cut from, where several
            were, or else the prompt.
    """

    clip_id: str
    prompt_id: str
    seed_index: int
    wave: Wave
    sample_rate: int
    prompt_seconds: float = 0.0
    end_seconds: float | None = None
    words: tuple[TimedWord, ...] | None = None
    transcript: Transcript | None = None
    group: str = ""

    def __post_init__(self) -> None:
        if not self.group:
            object.__setattr__(self, "group", self.prompt_id)

    @property
    def audio_id(self) -> str:
        """The content hash of samples and rate: equal for clips that sound the same."""
        return samples_hash(self.wave, self.sample_rate)

    @property
    def n_samples(self) -> int:
        """How long `wave` is; nothing is read for it."""
        return len(self.wave)

    @property
    def seconds(self) -> float:
        """How long the clip is, prompt included; nothing is read for it."""
        return self.n_samples / self.sample_rate

    @property
    def continuation_seconds(self) -> float:
        """How long `continuation` is; nothing is read for it."""
        return len(range(self.n_samples)[self._after_prompt]) / self.sample_rate

    @property
    def continuation(self) -> Wave:
        """The samples after the prompt, [S']."""
        return self.wave[self._after_prompt]

    @property
    def _after_prompt(self) -> slice:
        end = None if self.end_seconds is None else round(self.end_seconds * self.sample_rate)
        return slice(round(self.prompt_seconds * self.sample_rate), end)

    def within(self, prompt_seconds: float, end_seconds: float | None) -> Self:
        """The same clip with another stretch for its continuation; nothing is read for it."""
        return replace(self, prompt_seconds=prompt_seconds, end_seconds=end_seconds)

    @property
    def span(self) -> tuple[float, ...]:
        """Where in the clip `continuation` lies, in seconds."""
        if self.end_seconds is None:
            return (self.prompt_seconds,)
        return self.prompt_seconds, self.end_seconds

    @property
    def pair_key(self) -> str:
        """What clips of two rows have in common when they answer the same prompt and seed."""
        return f"{self.prompt_id}/{self.seed_index}"


class Column(StrictModel):
    """One number that a metric or the clock yields: how it is headed and how clips aggregate to it.

    Attributes:
        higher_is_better: None where neither direction is better (loudness).
        decimals: None lets the size of the values decide.
        metric: Whose scores hold the clip values; a metric need not name itself, results do.
        fields: Names of the per-clip values it is made of: numerator and denominator for the
            ratios, none for set, one for all else.
        span: The stretch of the continuation that it is about, in seconds after the prompt; None
            for all of it. Columns over time share the part of their names before the `@`.
        near_normal: Whether no clip lies far from all others (a skewness below about 2), so that
            intervals hold from few clips on. Word errors and perplexities are not like that.
        note: What its number and interval are about, said once under a table.
    """

    name: str
    label: str
    unit: str = ""
    higher_is_better: bool | None = None
    decimals: int | None = None
    metric: str | None = None
    aggregate: Aggregate = "set"
    fields: tuple[str, ...] = ()
    scale: float = 1.0
    span: tuple[float, float] | None = None
    near_normal: bool = False
    note: str | None = None

    @model_validator(mode="after")
    def _fields_are_enough(self) -> Self:
        n = {"set": 0, "ratio": 2, "exp_ratio": 2}.get(self.aggregate, 1)
        if len(self.fields) != n:
            raise ValueError(
                f"the column {self.name} of aggregate {self.aggregate} names {len(self.fields)} "
                f"fields, not {n}"
            )
        return self

    @classmethod
    def of(
        cls,
        name: str,
        label: str,
        unit: str,
        *fields: str,
        better: bool | None = None,
        aggregate: Aggregate = "mean",
        near_normal: bool = False,
        note: str | None = None,
    ) -> "Column":
        """A column with the usual choices: a field of its own name, and shares in per cent."""
        own = () if aggregate == "set" else (name,)
        return cls(
            name=name,
            label=label,
            unit=unit,
            higher_is_better=better,
            aggregate=aggregate,
            fields=fields or own,
            scale=100.0 if unit == "%" else 1.0,
            near_normal=near_normal,
            note=note,
        )

    def clip_value(self, values: Mapping[str, float | None]) -> float | None:
        """What the column says of one clip alone; None if a field is missing or it says nothing."""
        found = [values.get(name) for name in self.fields]
        numbers = [value for value in found if value is not None]
        if self.aggregate == "set" or len(numbers) < max(1, len(found)):
            return None
        if len(numbers) == 2 and numbers[1] == 0:
            return None
        quotient = numbers[0] / numbers[1] if len(numbers) == 2 else numbers[0]
        if self.aggregate in ("exp_mean", "exp_ratio"):
            quotient = math.exp(quotient) if quotient < 700 else math.inf
        value = quotient * self.scale
        return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval and the clips behind it; None with a reason.

    Attributes:
        method: How the interval was made.
        marked: Whether there are too few clips for it to hold its level.
        deleted: The value without each of the blocks of a jackknife.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    reason: str | None = None
    method: str | None = None
    marked: bool = False
    deleted: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Estimate":
        """What `asdict` gave, after a way through JSON."""
        return cls(**{**data, "deleted": tuple(data["deleted"])})

    @property
    def number(self) -> dict[str, Any]:
        """All that a row of results says of it."""
        return {name: value for name, value in asdict(self).items() if name != "deleted"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """What a metric found in one row.

    Attributes:
        clips: By clip id, the per-clip fields; a field is None where it is undefined for that clip.
        notes: By clip id, why fields are None (empty transcript, too short, ...).
        estimates: By column name, for `set` columns only.
        counts: What stands beside the numbers: n_empty, n_flagged, n_vectors, ...
        failed: Clips on which the metric raised, found out by the scorer; their notes say why.
    """

    clips: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()

    def with_copies(self, first_of: Mapping[str, str]) -> "MetricResult":
        """The same, with what was found in a clip said of its copies; `first_of` names it."""
        clips = {copy: self.clips[i] for copy, i in first_of.items() if i in self.clips}
        notes = {copy: self.notes[i] for copy, i in first_of.items() if i in self.notes}
        failed = frozenset(copy for copy, i in first_of.items() if i in self.failed)
        return replace(self, clips=clips, notes=notes, failed=failed)

    def to_json(self, clip_ids: Sequence[str]) -> dict[str, Any]:
        """As JSON, with the places of clips in their row for their ids, which other runs share."""
        place = {clip_id: str(index) for index, clip_id in enumerate(clip_ids)}
        clips = {place[clip_id]: dict(values) for clip_id, values in self.clips.items()}
        notes = {place[clip_id]: note for clip_id, note in self.notes.items()}
        failed = sorted(place[clip_id] for clip_id in self.failed)
        return {**asdict(self), "clips": clips, "notes": notes, "failed": failed}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], clip_ids: Sequence[str]) -> "MetricResult":
        """What `to_json` gave, for these clips."""
        clips, notes = (
            {clip_ids[int(place)]: value for place, value in data[name].items()}
            for name in ("clips", "notes")
        )
        estimates = {name: Estimate.from_json(value) for name, value in data["estimates"].items()}
        failed = frozenset(clip_ids[int(place)] for place in data["failed"])
        return cls(
            clips=clips, notes=notes, estimates=estimates, counts=data["counts"], failed=failed
        )
