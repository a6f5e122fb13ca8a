"""Play one chunk of music; run as a subprocess by `calm-bench data music`, a line per recording.

The job comes on standard input. A recording depends on its work, its seed and the settings alone:
not on the chunk it is in, nor on what was played before it. One that cannot be used gets a line
with the reason and no audio.
"""

import io
import json
import sys
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from calm_bench.core.audio import resample, write_flac
from calm_bench.core.loudness import integrated_loudness
from calm_bench.data.performance import TAIL_SECONDS, as_midi, perform
from calm_bench.data.scores import kept_score
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


class Unusable(Exception):
    """Why a recording is left out."""


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
    """Play one recording into its file and return what is known about it."""
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
