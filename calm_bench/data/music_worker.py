"""Play one chunk of music; run as a subprocess by `calm-bench data music`, a line per recording.

A performance is a score with instruments, key, tempo and touch drawn from a seed. Notation does not
say how fast music goes: a madrigal's minim is a reel's quaver. The tempo is therefore drawn as note
onsets per second, which puts every era in the same range.

The job comes on standard input. A recording depends on its work, its seed and the settings alone:
not on the chunk it is in, nor on what was played before it. One that cannot be used gets a line
with the reason and no audio.
"""

import bisect
import io
import json
import math
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from calm_bench.core.audio import resample, write_flac
from calm_bench.core.waves import integrated_loudness
from calm_bench.data.music_scores import Note, Score, kept_score
from calm_bench.errors import InputError
from calm_bench.types import Wave

LOUDNESS_LUFS = -20.0
PEAK = 0.891
"""-1 dBFS: where a recording at the loudness aimed for would pass it, it stays below that."""
MIN_SECONDS = 14.0
"""A clip of 12 s and a little: what is shorter gives no prompt and hardly a training crop."""
MAX_PAUSE_SECONDS = 2.0
SILENT_DB = -50.0
FADE_SECONDS = 0.05


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
SHORTEST_SECONDS = 0.05

Played = tuple[float, float, int, int]
"""Of one note its start and end in seconds, its pitch and its velocity."""

PERFORMANCE = 2
"""Grows when the same score and seed are played otherwise: then recordings are made anew."""


class Unusable(Exception):
    """Why a recording is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """What was drawn for one rendering, and the notes that follow from it.

    Attributes:
        ensemble: A name in `ENSEMBLES`.
        quarters_per_minute: The tempo.
        start: Where in the score it begins, in quarter notes.
        parts: Per part its MIDI program and its notes.
    """

    ensemble: str
    quarters_per_minute: float
    transpose: int
    start: float
    parts: tuple[tuple[int, tuple[Played, ...]], ...]

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
    pitches = [pitch for part in score.parts for _, _, pitch in part]
    lowest, highest = PITCHES[0] - min(pitches), PITCHES[1] - max(pitches)
    transpose = rng.choice([t for t in TRANSPOSE if lowest <= t <= highest] or [0])
    programs, n_parts = ENSEMBLES[ensemble], max(1, len(score.parts) - 1)
    parts = []
    for index, part in enumerate(score.parts):
        heard = [note for note in part if start <= note[0] < start + longest]
        touch = _Touch(rng)
        notes = apart(
            touch.note(note, start, start + longest, quarters_per_second, transpose)
            for note in heard
        )
        if notes:  # the top part has the first instrument, the lowest of several the last
            parts.append((programs[round(index * (len(programs) - 1) / n_parts)], notes))
    return Performance(
        ensemble=ensemble,
        quarters_per_minute=60 * quarters_per_second,
        transpose=transpose,
        start=start,
        parts=tuple(parts),
    )


class _Touch:
    """How one part is played: its loudness, which swells and fades, its articulation, its haste."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.velocity = rng.uniform(72, 100)
        self.swell = rng.uniform(4, 14)
        self.period, self.phase = rng.uniform(6, 20), rng.uniform(0, 2 * math.pi)
        self.hold = rng.uniform(0.85, 0.99)

    def note(self, note: Note, start: float, stop: float, speed: float, transpose: int) -> Played:
        onset, length, pitch = note
        begin = max(0.0, (onset - start) / speed + self.rng.gauss(0, 0.005))
        held = max(SHORTEST_SECONDS, (min(onset + length, stop) - onset) * self.hold / speed)
        swell = self.swell * math.sin(2 * math.pi * begin / self.period + self.phase)
        velocity = round(self.velocity + swell + self.rng.uniform(-5, 5))
        return begin, begin + held, pitch + transpose, min(120, max(30, velocity))


def apart(notes: Iterable[Played]) -> tuple[Played, ...]:
    """The notes of a part by onset, none beginning before the last of its pitch has ended.

    MIDI's note-off names a pitch alone, and would silence the later of two. A note ends where the
    next of its pitch begins; two that begin together, as of voices in unison, are one.
    """
    found: list[Played] = []
    sounding: dict[int, int] = {}  # pitch to the place in `found` of its last note
    for begin, end, pitch, velocity in sorted(notes):
        place = sounding.get(pitch)
        if place is not None and begin < found[place][1]:
            first, last, _, loud = found[place]
            if begin - first < SHORTEST_SECONDS:
                found[place] = (first, max(last, end), pitch, max(loud, velocity))
                continue
            found[place] = (first, begin, pitch, loud)
        sounding[pitch] = len(found)
        found.append((begin, end, pitch, velocity))
    return tuple(found)


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


def render(midi: bytes, soundfont: bytes, seconds: float) -> tuple[Wave, int]:
    """A MIDI file as sound, [S] and its rate: the mean of both channels, cut `seconds` in.

    Raises:
        Unusable: If the renderer had to clip it.
    """
    import midirenderer
    import soundfile

    file = io.BytesIO(midirenderer.render_wave_from(soundfont, midi))
    stereo, rate = soundfile.read(file, dtype="int16", always_2d=True)  # [S, 2]
    clipped = int(np.count_nonzero(np.abs(stereo.astype(np.int32)) >= 32767))
    if clipped:
        raise Unusable(f"clipped: {clipped} samples at full scale in the rendering")
    wave = stereo.mean(axis=1, dtype=np.float32)[: round(seconds * rate)] / np.float32(32768)
    fade = min(len(wave), round(FADE_SECONDS * rate))
    wave[len(wave) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return wave, rate


def level(wave: Wave, sample_rate: int) -> tuple[Wave, dict[str, float]]:
    """The wave at -20 LUFS, or as near below as leaves its peak at -1 dBFS; and what was done.

    Raises:
        Unusable: If there is nothing to be heard.
    """
    loudness = integrated_loudness(wave, sample_rate)
    peak = float(np.abs(wave).max(initial=0.0))
    if loudness is None or peak == 0.0:
        raise Unusable("silent: no part of it is louder than -70 LUFS")
    gain = min(10.0 ** ((LOUDNESS_LUFS - loudness) / 20.0), PEAK / peak)
    gain_db = 20.0 * float(np.log10(gain))
    facts = {"gain_db": round(gain_db, 2), "loudness": round(loudness + gain_db, 2)}
    return (wave * np.float32(gain)).astype(np.float32), facts


def longest_pause(wave: Wave, sample_rate: int) -> float:
    """The longest stretch of 20 ms frames below -50 dBFS, in seconds."""
    size = round(0.02 * sample_rate)
    frames = wave[: len(wave) // size * size].reshape(-1, size).astype(np.float64)
    silent = np.square(frames).mean(axis=1) < 10.0 ** (SILENT_DB / 10.0)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], silent, [False]]).astype(np.int8)))
    return float((edges[1::2] - edges[::2]).max(initial=0)) * 0.02


def _play(recording: dict[str, Any], job: dict[str, Any], soundfont: bytes) -> dict[str, Any]:
    score = kept_score(recording["path"], Path(job["scores"]))
    performance = perform(score, recording["seed"])
    rate = int(job["sample_rate"])
    wave, rendered_at = render(as_midi(performance), soundfont, performance.seconds + TAIL_SECONDS)
    wave, facts = level(resample(wave, rendered_at, rate), rate)
    seconds = len(wave) / rate
    if seconds < MIN_SECONDS:
        raise Unusable(f"too short: {seconds:.1f} s, less than {MIN_SECONDS:g} s")
    pause = longest_pause(wave, rate)
    if pause > MAX_PAUSE_SECONDS:
        raise Unusable(f"silent for {pause:.1f} s of it, more than {MAX_PAUSE_SECONDS:g} s")
    path = Path(job["folder"]) / f"{recording['id']}.flac"
    write_flac(path, wave, rate)
    known = {"audio": path.name, "sample_rate": rate, "seconds": round(seconds, 4)}
    return known | {"title": score.title} | performance.facts() | facts


def main(source: TextIO, out: TextIO) -> None:
    """Play the job's recordings in order, a JSON line each."""
    job = json.load(source)
    soundfont = Path(job["soundfont"]).read_bytes()
    for recording in job["recordings"]:
        try:
            known = _play(recording, job, soundfont)
        except (InputError, Unusable) as error:
            known = {"reason": str(error)}
        out.write(json.dumps({"id": recording["id"], "key": recording["key"], **known}) + "\n")
        out.flush()


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
