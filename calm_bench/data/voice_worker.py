"""Speak one chunk of stories, as a subprocess; the package never imports it.

The job comes on standard input, a JSON line per story goes to standard output. A voice with
settings is Piper's, which is GPL-3.0 and stays in this process; another is one of flite's.

Piper's word times come from the synthesiser itself: the voice's phoneme durations are exposed as a
second model output, so they are exact to one hop (256 samples). Groups of phonemes are matched to
words by edit distance, because espeak joins some neighbours ("in the" is one group).

The voice draws its noise from onnxruntime's seeded generator. A chunk is therefore the unit of
reproducibility: it is spoken whole, in order, on one thread, or not at all. Flite times no words
and draws nothing: the same text in the same voice gives the same samples.
"""

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import soundfile

LEVEL_RMS = 0.07  # about -23 dBFS, the level of broadcast speech
SKIPPED_SYMBOLS = set("^$_")  # Piper's sentence marks and padding
PUNCTUATION = set(",.!?;:")

Spoken = tuple[np.ndarray, int, list[dict[str, Any]]]
"""Audio [S], its rate, and the words, timed from its start if times are known."""


def load_voice(model_path: Path, seed: int) -> Any:
    """Load the voice on one thread, with phoneme durations as an output and its noise seeded."""
    import onnx
    import onnxruntime
    from piper import PiperVoice
    from piper.config import PiperConfig
    from piper.patch_voice_with_alignment import add_alignment_output

    onnxruntime.set_seed(seed)
    model = onnx.load(str(model_path))
    add_alignment_output(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
    )
    config = json.loads(Path(f"{model_path}.json").read_text(encoding="utf-8"))
    return PiperVoice(session=session, config=PiperConfig.from_dict(config))


def _edit_distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, char in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (char != other))
    return row[-1]


def match_groups(groups: list[str], words: list[str]) -> list[int]:
    """How many words each phoneme group covers, at most four, the cheapest way by edit distance.

    Groups are phonemes as they were spoken, words those of each word spoken alone.

    Raises:
        ValueError: If no division of the words into the groups exists.
    """
    best: dict[tuple[int, int], tuple[int, list[int]]] = {(0, 0): (0, [])}
    for g, group in enumerate(groups):
        for w in range(len(words) + 1):
            if (g, w) not in best:
                continue
            cost, path = best[g, w]
            for n in range(1, min(4, len(words) - w) + 1):
                total = cost + _edit_distance(group, "".join(words[w : w + n]))
                if total < best.get((g + 1, w + n), (1 << 30, []))[0]:
                    best[g + 1, w + n] = (total, [*path, n])
    if (len(groups), len(words)) not in best:
        raise ValueError(f"{len(words)} words cannot be divided into {len(groups)} groups")
    return best[len(groups), len(words)][1]


class Speaker:
    """Speaks sentences and returns their audio with word times."""

    def __init__(self, voice: Any, settings: dict[str, float]) -> None:
        from piper import SynthesisConfig

        self.voice = voice
        self.pause_seconds = settings["pause_seconds"]
        self.config = SynthesisConfig(
            noise_scale=settings["noise_scale"],
            noise_w_scale=settings["noise_w_scale"],
            length_scale=settings["length_scale"],
            normalize_audio=False,
        )
        self.phonemes_of: dict[str, str] = {}

    def word_phonemes(self, word: str) -> str:
        """The phonemes of one word spoken alone."""
        if word not in self.phonemes_of:
            spoken = "".join(p for part in self.voice.phonemize(word) for p in part)
            self.phonemes_of[word] = "".join(c for c in spoken if c not in PUNCTUATION)
        return self.phonemes_of[word]

    def sentence(self, text: str) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Speak one sentence: audio [S] at the voice's rate, and its words, timed in seconds."""
        audio, groups = [], []
        offset, phonemes, start = 0, "", 0
        for chunk in self.voice.synthesize(text, self.config, include_alignments=True):
            if chunk.phoneme_alignments is None:
                raise ValueError(f"the voice gave no durations for {text!r}")
            for item in chunk.phoneme_alignments:
                if item.phoneme == " " or item.phoneme in PUNCTUATION:
                    if phonemes:
                        groups.append((phonemes, start, offset))
                    phonemes = ""
                elif item.phoneme not in SKIPPED_SYMBOLS:
                    if not phonemes:
                        start = offset
                    phonemes += item.phoneme
                offset += int(item.num_samples)
            audio.append(chunk.audio_float_array)
        if phonemes:
            groups.append((phonemes, start, offset))
        return np.concatenate(audio), self._words(text.split(), groups)

    def _words(self, words: list[str], groups: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
        alone = [self.word_phonemes(word) for word in words]
        rate = self.voice.config.sample_rate
        timed: list[dict[str, Any]] = []
        counts = match_groups([phonemes for phonemes, _, _ in groups], alone)
        for (_, start, end), count in zip(groups, counts, strict=True):
            first = len(timed)
            lengths = np.array([max(1, len(p)) for p in alone[first : first + count]])
            edges = start + (end - start) * np.concatenate([[0], lengths.cumsum() / lengths.sum()])
            for k in range(count):
                onset, stop = (round(edge / rate, 4) for edge in edges[k : k + 2])
                timed.append({"word": words[first + k], "start": onset, "end": stop})
        return timed


def speak_with_piper(speaker: Speaker, sentences: list[str]) -> Spoken:
    """Speak one story, a pause after each sentence."""
    rate = speaker.voice.config.sample_rate
    pause = np.zeros(round(speaker.pause_seconds * rate), np.float32)
    pieces: list[np.ndarray] = []
    words: list[dict[str, Any]] = []
    for sentence in sentences:
        offset = sum(len(piece) for piece in pieces) / rate
        audio, timed = speaker.sentence(sentence)
        for word in timed:
            words.append(word | {k: round(word[k] + offset, 4) for k in ("start", "end")})
        pieces += [audio, pause]
    return np.concatenate(pieces), rate, words


def speak_with_flite(voice: str, sentences: list[str]) -> Spoken:
    """Speak one story as one text."""
    text = " ".join(sentences)
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
    if not wave.any():
        raise SystemExit(f"flite -voice {voice} spoke nothing of: {text[:60]}")
    return wave, rate, [{"word": word} for word in text.split()]


def run_job(job: dict[str, Any], out: TextIO) -> None:
    """Speak every story of the job into its folder, one JSON line per story."""
    if settings := job.get("settings"):
        speaker = Speaker(load_voice(Path(job["voice"]), job["seed"]), settings)
        speak = partial(speak_with_piper, speaker)
    else:
        speak = partial(speak_with_flite, job["voice"])
    for story in job["stories"]:
        wave, rate, words = speak(story["sentences"])
        wave = wave * (LEVEL_RMS / float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))))
        path = Path(job["folder"]) / f"{story['id']}.flac"
        soundfile.write(path, np.clip(wave, -1, 1), rate, subtype="PCM_16")
        line = {"id": story["id"], "audio": path.name, "words": words}
        out.write(json.dumps(line) + "\n")
        out.flush()


if __name__ == "__main__":
    run_job(json.load(sys.stdin), sys.stdout)
