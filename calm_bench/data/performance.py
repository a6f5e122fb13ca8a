"""One performance of a score: instruments, key, tempo and touch drawn from a seed, as a MIDI file.

Notation does not say how fast music goes: a madrigal's minim is a reel's quaver. The tempo is
therefore drawn as note onsets per second, which puts every era in the same range.
"""

import bisect
import io
import math
import random
from dataclasses import dataclass
from typing import Any

from calm_bench.data.scores import Note, Score

ENSEMBLES: dict[str, tuple[int, ...]] = {
    "piano": (0,),
    "electric piano": (4,),
    "harpsichord": (6,),
    "vibraphone": (11,),
    "marimba": (12,),
    "church organ": (19,),
    "reed organ": (20,),
    "accordion": (21,),
    "guitar": (24,),
    "harp": (46,),
    "string quartet": (40, 40, 41, 42),
    "string ensemble": (48,),
    "choir": (52,),
    "brass": (56, 60, 57, 58),
    "saxophones": (64, 65, 66, 67),
    "woodwinds": (73, 68, 71, 70),
    "recorders": (74,),
    "broken consort": (73, 40, 24, 42),
    "concert band": (71, 56, 60, 70),
    "fiddle and strings": (110, 40, 41, 43),
}
"""General MIDI programs, counted from 0, from the top part to the lowest."""

MAX_SECONDS = 90.0
ONSETS_PER_SECOND = (2.0, 4.5)
TRANSPOSE = range(-5, 7)
PITCHES = (33, 93)  # beyond these the soundfont's samples are stretched far
TAIL_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """What was drawn for one rendering, and the notes that follow from it.

    Attributes:
        ensemble: A name in `ENSEMBLES`.
        quarters_per_minute: The tempo.
        start: Where in the score it begins, in quarter notes.
        parts: Per part its MIDI program and its notes (start and end in seconds, pitch, velocity).
    """

    ensemble: str
    quarters_per_minute: float
    transpose: int
    start: float
    parts: tuple[tuple[int, tuple[tuple[float, float, int, int], ...]], ...]

    @property
    def seconds(self) -> float:
        """Until the last note ends."""
        return max(end for _, notes in self.parts for _, end, _, _ in notes)

    def facts(self) -> dict[str, Any]:
        """What was drawn, without the notes."""
        return {
            "ensemble": self.ensemble,
            "programs": [program for program, _ in self.parts],
            "quarters_per_minute": round(self.quarters_per_minute, 2),
            "transpose": self.transpose,
            "start": self.start,
        }


def perform(score: Score, seed: int) -> Performance:
    """Draw a performance; works that would last longer than 90 s are entered at a drawn onset."""
    rng = random.Random(seed)
    ensemble = rng.choice(sorted(ENSEMBLES))
    onsets = sorted({onset for part in score.parts for onset, _, _ in part})
    end = max(onset + length for part in score.parts for onset, length, _ in part)
    per_second = math.exp(rng.uniform(*map(math.log, ONSETS_PER_SECOND)))
    quarters_per_second = per_second * (end - onsets[0]) / len(onsets)
    longest = MAX_SECONDS * quarters_per_second
    latest = max(onsets[0], end - longest)
    start = onsets[bisect.bisect_left(onsets, rng.uniform(onsets[0], latest))]
    transpose = rng.choice(_transpositions(score))
    parts = []
    for index, part in enumerate(score.parts):
        heard = [note for note in part if start <= note[0] < start + longest]
        touch = _Touch(rng)
        notes = tuple(
            touch.note(note, start, start + longest, quarters_per_second, transpose)
            for note in heard
        )
        if notes:
            parts.append((_program(ensemble, index, len(score.parts)), notes))
    return Performance(
        ensemble=ensemble,
        quarters_per_minute=60 * quarters_per_second,
        transpose=transpose,
        start=start,
        parts=tuple(parts),
    )


def _program(ensemble: str, index: int, n_parts: int) -> int:
    """The instrument of a part: the top part has the first, the lowest of several the last."""
    programs = ENSEMBLES[ensemble]
    return programs[round(index * (len(programs) - 1) / max(1, n_parts - 1))]


def _transpositions(score: Score) -> list[int]:
    """By how many semitones the work can be moved and stay playable; 0 if it is not as it is."""
    pitches = [pitch for part in score.parts for _, _, pitch in part]
    low, high = min(pitches), max(pitches)
    return [t for t in TRANSPOSE if low + t >= PITCHES[0] and high + t <= PITCHES[1]] or [0]


class _Touch:
    """How one part is played: its loudness, which swells and fades, its articulation, its haste."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.velocity = rng.uniform(72, 100)
        self.swell = rng.uniform(4, 14)
        self.period, self.phase = rng.uniform(6, 20), rng.uniform(0, 2 * math.pi)
        self.hold = rng.uniform(0.85, 0.99)

    def note(
        self, note: Note, start: float, stop: float, speed: float, transpose: int
    ) -> tuple[float, float, int, int]:
        """Start and end in seconds, pitch and velocity."""
        onset, length, pitch = note
        begin = max(0.0, (onset - start) / speed + self.rng.gauss(0, 0.005))
        held = max(0.05, (min(onset + length, stop) - onset) * self.hold / speed)
        swell = self.swell * math.sin(2 * math.pi * begin / self.period + self.phase)
        velocity = round(self.velocity + swell + self.rng.uniform(-5, 5))
        return begin, begin + held, pitch + transpose, min(120, max(30, velocity))


def as_midi(performance: Performance) -> bytes:
    """A standard MIDI file, one track a part."""
    import pretty_midi

    midi = pretty_midi.PrettyMIDI(resolution=480, initial_tempo=120.0)
    for program, notes in performance.parts:
        track = pretty_midi.Instrument(program=program)
        track.notes = [
            pretty_midi.Note(velocity=velocity, pitch=pitch, start=start, end=end)
            for start, end, pitch, velocity in notes
        ]
        midi.instruments.append(track)
    out = io.BytesIO()
    midi.write(out)
    return out.getvalue()
