"""Speak one chunk of texts with flite, in the protocol of `piper_worker` but without word times.

The job comes on standard input; a line per text goes to standard output. Flite draws nothing: the
same text in the same voice gives the same samples.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import soundfile

LEVEL_RMS = 0.07  # that of piper_worker


def speak(text: str, voice: str) -> tuple[np.ndarray, int]:
    """A text spoken by a voice of flite: audio [S] and its rate."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spoken.wav"
        done = subprocess.run(
            ["flite", "-voice", voice, "-t", text, "-o", str(path)],
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        if done.returncode or not path.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SystemExit(f"flite -voice {voice} (exit code {done.returncode}): {last}")
        wave, rate = soundfile.read(path, dtype="float32")
    level = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))) if len(wave) else 0.0
    if level == 0:
        raise SystemExit(f"flite -voice {voice} spoke nothing of: {text[:60]}")
    return np.clip(wave * (LEVEL_RMS / level), -1, 1), rate


def run_job(job: dict[str, Any], out: TextIO) -> None:
    """Speak every text of the job into its folder, one JSON line per text."""
    for story in job["stories"]:
        text = " ".join(story["sentences"])
        wave, rate = speak(text, job["voice"])
        path = Path(job["folder"]) / f"{story['id']}.flac"
        soundfile.write(path, wave, rate, subtype="PCM_16")
        words = [{"word": word} for word in text.split()]
        out.write(json.dumps({"id": story["id"], "audio": path.name, "words": words}) + "\n")
        out.flush()


if __name__ == "__main__":
    run_job(json.load(sys.stdin), sys.stdout)
